"""Objects behind a profile of multi-storage-client, which comes with energon.

Where they lie, and with which credentials, its own configuration says (MSC_CONFIG).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError
from .remote_errors import MissingObjectError, PassingError, RemoteError, without_address

_Given = TypeVar("_Given")


class MscObjects:
    """Objects of one profile; see remote.Objects."""

    def __init__(self, profile: str) -> None:
        """Make a client.

        Raises:
            ConfigError: the profile is not configured, or what it needs is not installed.
        """
        try:
            from multistorageclient import StorageClient, StorageClientConfig
        except ImportError as error:
            raise ConfigError("msc:// needs multi-storage-client: pip install it") from error
        # What it would print of every failure is told by what is raised.
        logging.getLogger("multistorageclient").addHandler(logging.NullHandler())
        try:
            self._client = StorageClient(StorageClientConfig.from_file(profile=profile))
        except ImportError as error:
            raise ConfigError(
                f"msc://{profile}: its kind of storage needs another package ({error}); for S3: "
                "pip install 'neva-prep[s3]'"
            ) from error
        except Exception as error:
            raise ConfigError(
                f"msc://{profile}: is not configured ({type(error).__name__}: {error}); see "
                "MSC_CONFIG"
            ) from error

    def size(self, key: str) -> int:
        """Bytes of an object."""
        found = _told(lambda: self._client.info(key))
        if found.type != "file":
            raise MissingObjectError("there is no such object")
        return int(found.content_length)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """An object, or a range of it."""
        from multistorageclient.types import Range

        if stop is None and start:
            stop = self.size(key)
        if stop is not None and stop <= start:
            return b""
        chosen = None if stop is None else Range(offset=start, size=stop - start)
        content: bytes = _told(lambda: self._client.read(key, byte_range=chosen))
        return content

    def listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and size of each object below a prefix."""
        found = _told(lambda: iter(self._client.list_recursive(path=prefix)))
        while (entry := _told(lambda: next(found, None))) is not None:
            yield str(entry.key).lstrip("/"), int(entry.content_length)

    def upload(self, file: Path, key: str) -> None:
        """Store a file."""
        _told(lambda: self._client.upload_file(key, str(file)))

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with suppress(MissingObjectError):
            _told(lambda: self._client.delete(key))


def _told(ask: Callable[[], _Given]) -> _Given:
    """Ask, and tell what can pass from what cannot."""
    try:
        return ask()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingObjectError("there is no such object") from error
    except PermissionError as error:
        raise RemoteError("access is refused; check the profile's credentials") from error
    except Exception as error:
        raise _sorted(error) from error


def _sorted(error: Any) -> Exception:
    """Its errors carry the service's answer in their text alone."""
    # Chained: the first one is the service's.
    text = " ".join(without_address(str(each)) for each in (error, error.__cause__) if each)
    if any(mark in text for mark in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "403")):
        return RemoteError("access is refused; check the profile's credentials")
    if "NoSuchBucket" in text:
        return RemoteError("there is no such bucket; check the profile")
    return PassingError(f"the service fails ({type(error).__name__})")

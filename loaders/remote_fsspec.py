"""Objects behind any other address that fsspec knows: `gs://`, `az://`, `https://`, `memory://`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError
from .remote_errors import MissingObjectError, PassingError, RemoteError

_Given = TypeVar("_Given")


class FsspecObjects:
    """Objects of one bucket or host; see remote.Objects."""

    def __init__(self, scheme: str, bucket: str) -> None:
        """Make a client.

        Raises:
            ConfigError: fsspec does not know the scheme, or what it needs is not installed.
        """
        try:
            import fsspec

            # A file system of its own: those that fsspec keeps may belong to a parent process.
            self._files: Any = fsspec.filesystem(
                scheme, use_listings_cache=False, skip_instance_cache=True
            )
        except (ImportError, ValueError, TypeError) as error:
            raise ConfigError(
                f"{scheme}://: cannot be opened: {error}; check the address"
            ) from error
        except Exception as error:
            raise ConfigError(
                f"{scheme}://: its client cannot begin ({type(error).__name__}); check its "
                "credentials"
            ) from error
        self._root = f"{scheme}://{bucket}/"

    def size(self, key: str) -> int:
        """Bytes of an object."""
        found = _told(lambda: self._files.info(self._root + key))
        if found["type"] != "file":
            raise MissingObjectError("there is no such object")
        return int(found["size"] or 0)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """An object, or a range of it."""
        if stop is not None and stop <= start:
            return b""
        first = start or None
        content: bytes = _told(lambda: self._files.cat_file(self._root + key, first, stop))
        return content

    def listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and size of each object below a prefix, folder by folder."""
        bare = self._files._strip_protocol(self._root).rstrip("/")
        folders = _told(lambda: self._files.walk(self._root + prefix.rstrip("/"), detail=True))
        while (found := _told(lambda: next(folders, None))) is not None:
            for entry in found[2].values():
                yield entry["name"].removeprefix(bare).lstrip("/"), int(entry["size"] or 0)

    def upload(self, file: Path, key: str) -> None:
        """Store a file."""
        _told(lambda: self._files.put_file(str(file), self._root + key))

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with suppress(MissingObjectError):
            _told(lambda: self._files.rm_file(self._root + key))


def _told(ask: Callable[[], _Given]) -> _Given:
    """Ask, and tell what can pass from what cannot."""
    try:
        return ask()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise MissingObjectError("there is no such object") from error
    except PermissionError as error:
        raise RemoteError("access is refused; check the credentials") from error
    except NotImplementedError as error:
        raise RemoteError("the service cannot do this") from error
    except Exception as error:
        status = getattr(error, "status", None) or getattr(error, "code", None)
        if status in (401, 403, "401", "403"):
            raise RemoteError("access is refused; check the credentials") from error
        # Clients name their errors as they like; what cannot be told apart is tried again.
        raise PassingError(f"the service fails ({type(error).__name__})") from error

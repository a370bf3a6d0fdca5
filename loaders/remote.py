"""Objects that lie elsewhere: `s3://`, `gs://`, `msc://` or any address that fsspec knows.

Credentials are the business of each service's own client (environment, ~/.aws, the configuration of
multi-storage-client); they are never part of an address, so that addresses can be told and stored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from ..errors import ConfigError
from .remote_errors import PassingError, RemoteError, retried

_DECIDING = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "MSC_CONFIG",
)
"""Environment variables that make another client."""
# Two letters at least, as `C:/` is a folder; pathlib makes one slash of two.
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])", re.IGNORECASE)
_Given = TypeVar("_Given")


class Listed(NamedTuple):
    """An object below a prefix."""

    name: str
    """What follows the prefix and a slash."""
    size: int
    """Bytes."""


class Objects(Protocol):
    """What a service's client can do; keys have no leading slash.

    Raises:
        PassingError: trying again may help.
        RemoteError: it will not.
    """

    def size(self, key: str) -> int:
        """Bytes of an object; a MissingObjectError where there is none."""
        ...

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """An object, or the bytes of it from `start` to before `stop`."""
        ...

    def listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and size of each object whose key begins with a prefix, page by page."""
        ...

    def upload(self, file: Path, key: str) -> None:
        """Store a file as an object: all of it, or nothing under that key."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; it need not be there."""
        ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where something lies: a prefix, or one object."""

    scheme: str
    bucket: str
    """Bucket, host, or profile of multi-storage-client."""
    key: str
    """Below that; no slash at either end."""

    def __str__(self) -> str:
        return "/".join(part for part in (f"{self.scheme}://{self.bucket}", self.key) if part)

    def __truediv__(self, name: str) -> Address:
        return replace(self, key=f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2] or self.bucket

    @property
    def parent(self) -> Address:
        """The prefix that it lies under."""
        return replace(self, key=self.key.rpartition("/")[0])


def is_remote(given: str | os.PathLike[str]) -> bool:
    """Whether an address is meant, not a path.

    Example:
        >>> is_remote("s3://bucket/shards"), is_remote("C:/shards"), is_remote("shards")
        (True, False, False)
    """
    match = _ADDRESS.match(os.fspath(given))
    return match is not None and match[1].lower() != "file"


def parse_address(given: str | os.PathLike[str]) -> Address:
    """The parts of an address.

    Raises:
        ConfigError: it has credentials in it, or more than a plain prefix or key.

    Example:
        >>> str(parse_address("s3://bucket/shards/"))
        's3://bucket/shards'
    """
    text = os.fspath(given)
    match = _ADDRESS.match(text)
    if match is None:
        raise ConfigError(f"{text}: is no address such as s3://bucket/folder")
    scheme, rest = match[1].lower(), text[match.end() :]
    bucket, _, key = rest.partition("/")
    if "@" in bucket:
        # What stands before the @ is not repeated: it may be a password.
        raise ConfigError(
            f"{scheme}://...@{bucket.rpartition('@')[2]}: addresses are stored and shown, so none "
            "may hold credentials; put them where the service's own client looks for them"
        )
    if "::" in text or (scheme in ("http", "https") and ("?" in key or "#" in key)):
        raise ConfigError(
            f"{scheme}://{bucket}: give a plain address, without '::', '?' and '#': it is stored "
            "and shown"
        )
    return Address(scheme, bucket, key.strip("/"))


def name_of(given: str | os.PathLike[str]) -> str:
    """A path as it was given, or an address as it is written (a Path swallows a slash of it)."""
    return str(parse_address(given)) if is_remote(given) else os.fspath(given)


class Place:
    """A prefix of a service, or one object; what fails and may pass is tried again.

    Any thread may use it, and it can be handed to other processes.
    """

    def __init__(self, address: Address) -> None:
        """Take the address; nothing is asked yet.

        Raises:
            ConfigError: what its service needs is not installed.
        """
        self.address = address
        self._client()

    def __reduce__(self) -> tuple[type[Place], tuple[Address]]:
        return Place, (self.address,)

    def __truediv__(self, name: str) -> Place:
        return Place(self.address / name)

    def __str__(self) -> str:
        return str(self.address)

    def size(self, name: str = "") -> int:
        """Bytes of an object.

        Raises:
            MissingObjectError: there is none.
            RemoteError: the service refuses or cannot be reached.
        """
        key = self._key(name)
        return self._retried(name, lambda: self._client().size(key))

    def read(self, name: str = "", start: int = 0, stop: int | None = None) -> bytes:
        """An object, or a range of its bytes; errors as of `size`."""
        key = self._key(name)
        return self._retried(name, lambda: self._client().read(key, start, stop))

    def listed(self) -> Iterator[Listed]:
        """Every object below, in bounded memory, in no certain order.

        Raises:
            RemoteError: the service refuses or cannot be reached.
        """
        prefix = f"{self.address.key}/" if self.address.key else ""

        def begin() -> tuple[Iterator[tuple[str, int]], tuple[str, int] | None]:
            entries = iter(self._client().listed(prefix))
            return entries, next(entries, None)

        entries, entry = self._retried("", begin)
        while entry is not None:
            key, size = entry
            # Some consoles make an empty object of a folder.
            if key.startswith(prefix) and len(key) > len(prefix) and not key.endswith("/"):
                yield Listed(key[len(prefix) :], size)
            try:
                entry = next(entries, None)
            except PassingError as error:
                # It cannot go on where it stopped: what it gave would be taken for all there is.
                raise RemoteError(f"{self}: the listing broke off: {error}; run again") from error
            except RemoteError as error:
                raise RemoteError(f"{self}: {error}") from error

    def upload(self, file: Path, name: str) -> None:
        """Store a file as an object, whole or not at all; errors as of `size`."""
        key = self._key(name)
        self._retried(name, lambda: self._client().upload(file, key))

    def delete(self, name: str) -> None:
        """Remove an object, if it is there; errors as of `size`."""
        key = self._key(name)
        self._retried(name, lambda: self._client().delete(key))

    def _key(self, name: str) -> str:
        return (self.address / name).key if name else self.address.key

    def _client(self) -> Objects:
        return open_objects(self.address)

    def _retried(self, name: str, ask: Callable[[], _Given]) -> _Given:
        where = str(self.address / name) if name else str(self.address)
        return retried(where, ask)


def open_place(given: str | os.PathLike[str]) -> Place:
    """What an address leads to.

    Raises:
        ConfigError: it is no address, holds credentials, or what its service needs is not there.
    """
    return Place(parse_address(given))


def open_objects(address: Address) -> Objects:
    """A client of an address's service.

    Raises:
        ConfigError: what it needs is not installed or not configured.
    """
    # Connections are not shared with a parent process; other credentials need another client.
    about = tuple(os.environ.get(name) for name in _DECIDING)
    return _open_objects(address.scheme, address.bucket, os.getpid(), about)


@lru_cache(maxsize=32)
def _open_objects(scheme: str, bucket: str, process: int, about: object) -> Objects:
    # Each takes the better part of a second to import, and a tenth of one to make.
    if scheme in ("s3", "s3a"):
        from .remote_s3 import S3Objects

        return S3Objects(bucket)
    if scheme == "msc":
        from .remote_msc import MscObjects

        return MscObjects(bucket)
    from .remote_fsspec import FsspecObjects

    return FsspecObjects(scheme, bucket)

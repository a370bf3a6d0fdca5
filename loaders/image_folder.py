"""The image folder: files are read from inside it and from nowhere else."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from functools import lru_cache
from typing import NoReturn

from ..errors import ConfigError, DiskError, ImageError

Room = Callable[[int], memoryview]
"""Gives so many writable bytes; what it gave before is void then."""

MAX_FILE_BYTES = 512 << 20
# A FIFO named like an image would block for ever without O_NONBLOCK.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
# The usual relative path; any other is looked at closer.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
_SURE_FLAGS = _FLAGS | os.O_NOFOLLOW


class ImageFolder:
    """Opens images by the paths that records give.

    A path may use links and `..` as long as what it leads to lies inside the folder.
    """

    def __init__(self, root: str) -> None:
        if not os.path.isdir(root):
            raise ConfigError(f"--images {root}: no such folder")
        self.root = os.path.realpath(root)
        self._inside = self.root.rstrip("/") + "/"
        # Folders repeat from image to image: each is resolved once.
        self._parent = lru_cache(maxsize=65536)(self._resolve_parent)

    def __reduce__(self) -> tuple[type[ImageFolder], tuple[str]]:
        """For other processes, which resolve folders anew."""
        return ImageFolder, (self.root,)

    def open(self, path: str) -> tuple[int, int]:
        """Open an image.

        Args:
            path: as the record gives it, relative to the folder.

        Returns:
            File descriptor, which the caller closes, and size in bytes.

        Raises:
            ImageError: with the reason; the message has the path.
        """
        try:
            real = self._locate(path)
            fd = os.open(real, _SURE_FLAGS)
        except UnicodeEncodeError:
            # Half a surrogate pair: no file has such a name.
            _reject("missing_image", f"image {path[:200]!r} does not exist under {self.root}")
        except OSError as error:
            if error.errno != errno.ELOOP:
                self._reject_open(path, error)
            fd = self._open_link(path, real)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            _reject("not_a_file", f"image {path!r} is {kind}")
        if status.st_size > MAX_FILE_BYTES:
            os.close(fd)
            _reject("image_too_large", f"image {path!r} has {status.st_size:,} bytes")
        return fd, status.st_size

    def read(self, path: str) -> bytes:
        """The bytes of an image.

        Raises:
            ImageError: with the reason; the message has the path.
            DiskError: the machine cannot read it.
        """
        fd, _ = self.open(path)
        try:
            with open(fd, "rb") as file:
                return file.read()
        except OSError as error:
            raise machine_trouble(path, error) from error

    def find(self, path: str) -> None:
        """See that an image is there, without reading it.

        Raises:
            ImageError: with the reason; the message has the path.
        """
        os.close(self.open(path)[0])

    def read_into(self, path: str, room: Room) -> memoryview:
        """Read an image to where it is wanted; see dataprep.stores.store.

        Raises:
            ImageError: with the reason; the message has the path.
            DiskError: the machine cannot read it.
        """
        fd, size = self.open(path)
        try:
            # One byte more than expected: a file that grows meanwhile is noticed.
            target = room(size + 1)
            at = got = os.readv(fd, [target])
            while got and at < size:
                got = os.readv(fd, [target[at:]])
                at += got
        except OSError as error:
            raise machine_trouble(path, error) from error
        finally:
            os.close(fd)
        if at != size:
            _reject("truncated_image", f"image {path!r} had {size:,} bytes and then {at:,}")
        return target[:size]

    def size(self, path: str) -> int:
        """Bytes of an image, or 0 where there is none; for planning only."""
        try:
            return os.stat(f"{self._inside}{path}").st_size
        except (OSError, ValueError):
            return 0

    def _locate(self, path: str) -> str:
        """The path to open: its folder resolved and inside, its last part as given."""
        if not _PLAIN.fullmatch(path):
            refuse_odd_path(path)
        head, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            head, name = path, ""
        parent = self._parent(head)
        if parent is None:
            reason = "path_traversal" if ".." in path.split("/") else "symlink_outside"
            _reject(reason, f"image path {path!r} leads out of {self.root}")
        return f"{parent}/{name}" if name else parent

    def _resolve_parent(self, head: str) -> str | None:
        try:
            real = os.path.realpath(self._inside + head)
        except OSError:
            return self._inside + head
        return real if f"{real}/".startswith(self._inside) else None

    def _open_link(self, path: str, link: str) -> int:
        real = os.path.realpath(link)
        if not real.startswith(self._inside):
            _reject("symlink_outside", f"image {path!r} is a link to a place out of {self.root}")
        try:
            return os.open(real, _SURE_FLAGS)
        except OSError as error:
            self._reject_open(path, error)

    def _reject_open(self, path: str, error: OSError) -> NoReturn:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            _reject("missing_image", f"image {path[:200]!r} does not exist under {self.root}")
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM):
            # The machine's trouble, not the record's: rejecting the record would lose it.
            raise machine_trouble(path, error) from error
        _reject("unreadable_image", f"image {path!r} cannot be opened: {error.strerror}")


def machine_trouble(path: str, error: OSError) -> DiskError:
    """What to raise where an image cannot be read for a reason that lies with the machine."""
    return DiskError(
        f"image {path!r} cannot be read: {error.strerror}; see to the machine, then run the same "
        "command again with --resume"
    )


def refuse_odd_path(path: str) -> None:
    """Refuse what is no relative path at all.

    Raises:
        ImageError: with the reason; the message has the path.
    """
    if "\0" in path or not path.strip():
        _reject("bad_path", f"image path {path!r} is no path")
    if "://" in path or path.startswith("data:"):
        _reject("remote_image", f"image {path[:200]!r} is an address, not a file")
    if path.startswith("/") or path[1:3] in (":\\", ":/"):
        _reject("absolute_path", f"image path {path!r} is absolute")


def _reject(reason: str, message: str) -> NoReturn:
    raise ImageError(message, reason=reason)

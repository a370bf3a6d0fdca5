"""An archive that is open for reading by place, and what may be wrong with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from ...errors import ConfigError, ImageError
from ...loaders.image_folder import MAX_FILE_BYTES, machine_trouble


class ArchiveFile:
    """A file that is read from wherever something lies."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            ConfigError: it cannot be opened.
        """
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be opened: {error.strerror}; check the path"
            ) from error
        self.size = os.fstat(self._fd).st_size

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def read(self, offset: int, size: int) -> bytes:
        """So many bytes from a place, or fewer where the file ends."""
        try:
            return os.pread(self._fd, size, offset)
        except OSError as error:
            raise machine_trouble(os.fspath(self.path), error) from error

    def read_into(self, offset: int, target: memoryview) -> int:
        """Fill a buffer from a place; how many bytes there were."""
        at = 0
        try:
            while at < len(target) and (got := os.preadv(self._fd, [target[at:]], offset + at)):
                at += got
        except OSError as error:
            raise machine_trouble(os.fspath(self.path), error) from error
        return at


def check_size(path: str, size: int) -> None:
    """Refuse an image that is larger than any image.

    Raises:
        ImageError: it is.
    """
    if size > MAX_FILE_BYTES:
        raise ImageError(f"image {path[:200]!r} has {size:,} bytes", reason="image_too_large")


def reject_damaged(path: str, archive: Path, what: str) -> NoReturn:
    """Reject an image that an archive does not give whole."""
    raise ImageError(
        f"image {path[:200]!r} cannot be read from {archive}: {what}", reason="damaged_archive"
    )


def refuse(archive: Path, offset: int, what: str) -> NoReturn:
    """Refuse an archive as a whole."""
    raise ConfigError(
        f"{archive}: byte {offset}: {what}; the archive is damaged or cut off: copy or download it "
        "again"
    )

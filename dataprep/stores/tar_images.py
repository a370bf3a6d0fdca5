"""Images inside tars, read in place: of a tar only the headers are read beforehand."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from ...errors import ConfigError, ImageError
from ...loaders.image_folder import Room
from ..tar import BLOCK_BYTES
from .archive_file import ArchiveFile, check_size, refuse, reject_damaged
from .archive_index import Entry, Members, open_index

PREFIX = "tars="
"""What a manifest says of a folder of tars before its path."""
_LINK = 1
_OPEN = 16
_CHUNK_BYTES = 1 << 20


class TarImages:
    """Images of a tar by their names, or of a folder of tars by `TAR/NAME`."""

    def __init__(self, given: str, work: Path) -> None:
        """Open tars; see stores.open.open_images.

        Raises:
            ConfigError: one cannot be opened or is damaged.
        """
        path = Path(os.path.realpath(given.removeprefix(PREFIX)))
        self.root = f"{PREFIX if given.startswith(PREFIX) else ''}{path}"
        self._tars = list(tar_files(path).values())
        names = list(tar_files(path)) if given.startswith(PREFIX) else [""]
        self._index = open_index(work, self._tars, lambda: _members(names, self._tars))
        self._open: dict[int, ArchiveFile] = {}

    def size(self, path: str) -> int:
        """See stores.store.ImageStore."""
        try:
            return self._index.find(path, self.root).size
        except ImageError:
            return 0

    def find(self, path: str) -> Entry:
        """Where an image lies in the tars, which are not read.

        Raises:
            ImageError: with the reason; the message has the path.
        """
        entry = self._index.find(path, self.root)
        if entry.kind == _LINK:
            raise ImageError(
                f"image {path!r} is a link inside {self.root}, not a file", reason="not_a_file"
            )
        check_size(path, entry.size)
        return entry

    def read_into(self, path: str, room: Room) -> memoryview:
        """See stores.store.ImageStore.

        Raises:
            ImageError: with the reason; the message has the path.
            DiskError: the machine cannot read it.
        """
        entry = self.find(path)
        file = self._file(entry.archive)
        target = room(entry.size)
        if (got := file.read_into(entry.offset, target)) != entry.size:
            reject_damaged(path, file.path, f"it ends after {got:,} of {entry.size:,} bytes")
        return target

    def _file(self, number: int) -> ArchiveFile:
        if number not in self._open:
            if len(self._open) >= _OPEN:
                del self._open[next(iter(self._open))]
            self._open[number] = ArchiveFile(self._tars[number])
        return self._open[number]


def tar_files(path: Path) -> dict[str, Path]:
    """Tars below a folder, by their path in it; or the one tar, by its name.

    Raises:
        ConfigError: there is none, or there are too many.
    """
    if not path.is_dir():
        return {path.name: path}
    found = sorted(file for file in path.rglob("*.tar") if file.is_file())
    if not found or len(found) > 1 << 16:
        raise ConfigError(f"{path}: has {len(found):,} tars; give a folder of 1 to {1 << 16:,}")
    return {os.fspath(file.relative_to(path)): file for file in found}


def _members(names: list[str], tars: list[Path]) -> Members:
    for number, (name, path) in enumerate(zip(names, tars, strict=True)):
        for member, entry in scan_tar(path):
            yield f"{name}/{member}" if name else member, entry._replace(archive=number)


def scan_tar(path: Path) -> Iterator[tuple[str, Entry]]:
    """Members of a tar and where they lie, from the headers alone.

    Raises:
        ConfigError: it is compressed or damaged; the message names the byte.
    """
    file = ArchiveFile(path)
    if file.read(0, 2) == b"\x1f\x8b":
        raise ConfigError(
            f"{path}: is compressed, so nothing in it can be read in place; unpack it once: "
            f"gunzip {path.name}"
        )
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                # The module keeps every member that it has seen.
                tar.members.clear()  # type: ignore[attr-defined]
                if member.isreg() and not member.issparse():
                    if member.offset_data + member.size > file.size:
                        refuse(path, member.offset, f"member {member.name!r} is not all there")
                    yield member.name, Entry(member.offset_data, member.size)
                elif member.islnk() or member.issym() or member.issparse():
                    yield member.name, Entry(member.offset_data, 0, kind=_LINK)
            end = tar.offset
    except (tarfile.TarError, OSError, ValueError) as error:
        refuse(path, 0, f"cannot be read as a tar ({error})")
    _check_end(file, end)


def _check_end(file: ArchiveFile, end: int) -> None:
    """See that the tar ends where reading stopped: a damaged header ends it without a word."""
    block = file.read(end, BLOCK_BYTES)
    if len(block) < BLOCK_BYTES:
        refuse(file.path, end, "the closing zero blocks are missing")
    at = end
    while chunk := file.read(at, _CHUNK_BYTES):
        if chunk.count(0) != len(chunk):
            refuse(file.path, at, "what follows is neither a member nor the end of the tar")
        at += len(chunk)

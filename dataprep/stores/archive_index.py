"""Where the members of an archive lie: a file of 48 bytes a member, mapped by every process.

n hashes of names, sorted (uint64[n]), then n rows in the same order (ROW[n])
"""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import xxhash

from ...errors import ImageError
from ...loaders.image_folder import refuse_odd_path
from ..files import TEMPORARY_SUFFIX, told, write_file

ROW = np.dtype(
    [("check", "<u8"), ("offset", "<u8"), ("size", "<u8"), ("packed", "<u8"), ("crc", "<u4"),
     ("archive", "<u2"), ("kind", "<u2")]
)  # fmt: skip
_RAW = np.dtype([("hash", "<u8"), ("row", ROW)])
_CHUNK = 1 << 16
_VERSION = 1


class Entry(NamedTuple):
    """Where one member lies."""

    offset: int
    """Of its content in a tar, of its local header in a zip."""
    size: int
    """Bytes of the content."""
    packed: int = 0
    """Bytes that it takes in the archive, where it is compressed."""
    crc: int = 0
    archive: int = 0
    """Number of the archive, where several are one store."""
    kind: int = 0
    """What the archive's format says of how it is stored."""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the names as a whole."""

    members: int
    top: str
    """The one folder that all of them lie in, or nothing."""
    example: str


Members = Iterable[tuple[str, Entry]]
"""Names of members, and where they lie; of one name the last counts."""


class ArchiveIndex:
    """Finds members by their names."""

    def __init__(self, path: Path) -> None:
        """Map an index."""
        with told(path, "read"):
            count = os.path.getsize(path) // _RAW.itemsize
            self._hashes = _mapped(path, np.dtype("<u8"), count)
            self._rows = _mapped(path, ROW, count, offset=8 * count)
            self.about = msgspec.json.decode(_about_file(path).read_bytes(), type=About)

    def find(self, path: str, where: str) -> Entry:
        """Where the member lies that a record's path names.

        Names in archives often begin with the folder that was packed; records seldom say it.

        Args:
            path: as the record gives it.
            where: the archive, for messages.

        Raises:
            ImageError: there is none.
        """
        name = plain_name(path)
        entry = self._entry(name)
        if entry is None and self.about.top:
            entry = self._entry(f"{self.about.top}/{name}")
        if entry is None:
            refuse_odd_path(path)
            raise ImageError(
                f"image {path[:200]!r} does not exist in {where}, which has "
                f"{self.about.members:,} members such as {self.about.example[:100]!r}",
                reason="missing_image",
            )
        return entry

    def _entry(self, name: str) -> Entry | None:
        digest, check = _digest(name)
        at = int(np.searchsorted(self._hashes, np.uint64(digest), side="right")) - 1
        while at >= 0 and int(self._hashes[at]) == digest:
            row = self._rows[at].item()
            if row[0] == check:
                return Entry(*row[1:])
            at -= 1
        return None


def open_index(work: Path, archives: Iterable[Path], scan: Callable[[], Members]) -> ArchiveIndex:
    """The index of some archives: that in the work folder, or else a new one.

    Args:
        work: folder of indices.
        archives: their files.
        scan: begins to list their members.

    Raises:
        ConfigError: an archive is damaged.
        ShardError: the disk refuses.
    """
    digest = xxhash.xxh3_64(str(_VERSION).encode())
    for archive in archives:
        status = os.stat(archive)
        place = os.path.realpath(archive), status.st_size, status.st_mtime_ns
        digest.update(repr(place).encode("utf-8", "surrogateescape"))
    path = work / f"archive-{digest.hexdigest()}.index"
    if not path.exists():
        _write(path, scan())
    return ArchiveIndex(path)


def _write(path: Path, members: Members) -> None:
    """Write an index; only the hashes are ever in memory together."""
    about = _About()
    with told(path), tempfile.TemporaryFile(dir=path.parent) as file:
        buffer = bytearray()
        pack = np.zeros(1, _RAW)
        for name, entry in members:
            plain = plain_name(name)
            digest, check = _digest(plain)
            about.add(plain)
            pack[0] = (digest, (check, *entry))
            buffer += pack.tobytes()
            if len(buffer) > 1 << 20:
                file.write(buffer)
                buffer.clear()
        file.write(buffer)
        file.flush()
        raw = _mapped(file, _RAW, about.members)
        # Stable: of members with one name the last stays the last.
        order = np.argsort(raw["hash"], kind="stable")
        write_file(_about_file(path), msgspec.json.encode(about.known()))
        # A name of its own: the tasks of one conversion may do this at the same time.
        with tempfile.NamedTemporaryFile(
            dir=path.parent, suffix=TEMPORARY_SUFFIX, delete=False
        ) as whole:
            for field in ("hash", "row"):
                for at in range(0, len(order), _CHUNK):
                    whole.write(raw[order[at : at + _CHUNK]][field].tobytes())
        os.replace(whole.name, path)


def _mapped(file: Any, kind: np.dtype[Any], count: int, offset: int = 0) -> np.ndarray:
    """A part of a file as an array; nothing can be mapped of an empty one."""
    if not count:
        return np.empty(0, kind)
    return np.memmap(file, kind, "r", offset=offset, shape=(count,))


class _About:
    """What is known of the names so far."""

    def __init__(self) -> None:
        self.members = 0
        self._tops: set[str] = set()
        self._example = ""

    def add(self, name: str) -> None:
        self.members += 1
        self._example = self._example or name
        if len(self._tops) < 2:
            self._tops.add(name.partition("/")[0] if "/" in name else "")

    def known(self) -> About:
        top = self._tops.copy().pop() if len(self._tops) == 1 else ""
        return About(members=self.members, top=top, example=self._example)


def _about_file(path: Path) -> Path:
    return path.with_suffix(".json")


def plain_name(name: str) -> str:
    """A member's name as it is looked for: without `./`, and parted by `/`."""
    return posixpath.normpath(name.replace("\\", "/")) if name else name


def _digest(name: str) -> tuple[int, int]:
    digest = xxhash.xxh3_128_intdigest(name.encode("utf-8", "surrogateescape"))
    return digest >> 64, digest & (1 << 64) - 1

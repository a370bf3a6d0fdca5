"""The tar writer: kept samples are in the tar, dropped ones are not, each byte in its place."""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os
import re
import tarfile
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neva_prep.dataprep import tar_writer
from neva_prep.dataprep.tar import write_header
from neva_prep.dataprep.tar_writer import TarWriter
from neva_prep.errors import ShardError

BUFFER_BYTES = 4096
"""For these tests: a few members fill it, and single members exceed it."""

content = st.one_of(
    st.binary(max_size=700),
    st.sampled_from([0, 1, 511, 512, 513, 1024, 3071, 3584, 4095, 4096, 4097, 9000]).map(
        lambda size: bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    ),
)
member = st.tuples(st.sampled_from(["file", "bytes"]), content)
samples = st.lists(st.tuples(st.booleans(), st.lists(member, max_size=4)), max_size=14)
Samples = list[tuple[bool, list[tuple[str, bytes]]]]


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_writer, "BUFFER_BYTES", BUFFER_BYTES)


def write(path: Path, plan: Samples) -> tuple[TarWriter, int, str]:
    """Write samples; those that are False are taken back."""
    writer = TarWriter(path)
    for number, (kept, members) in enumerate(plan):
        for place, (kind, data) in enumerate(members):
            key, name = f"{number:09d}", f"{place:03d}.bin"
            if kind == "bytes":
                writer.add_bytes(name, key, data)
            else:
                # One byte to spare, as a reader that looks for the end asks for.
                writer.room(len(data) + 1)[: len(data)] = data
                writer.add_content(name, key, len(data))
        if kept:
            writer.keep_sample()
        else:
            writer.drop_sample()
    size, digest = writer.finish()
    writer.abandon()
    return writer, size, digest


@settings(max_examples=150, deadline=None)
@given(samples)
@example([(True, [("file", b"a" * 9000), ("bytes", b"b")]), (False, [("file", b"c" * 9000)])])
@example([(False, [("file", b"a" * 4097)]), (True, [("bytes", b"")]), (True, [])])
def test_a_tar_holds_the_kept_members_in_order_and_nothing_else(plan: Samples) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train-000000.tar"
        writer, size, digest = write(path, plan)
        whole = path.read_bytes()
        assert os.listdir(folder) == [path.name]
    assert (len(whole), xxhash.xxh3_128_hexdigest(whole)) == (size, digest)
    expected = [
        (f"{number:09d}.{place:03d}.bin", data)
        for number, (kept, members) in enumerate(plan)
        if kept
        for place, (_, data) in enumerate(members)
    ]
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        read = [(entry.name, tar.extractfile(entry).read()) for entry in tar]  # type: ignore[union-attr]
    assert read == expected
    _check_offsets(writer, whole, plan)


def _check_offsets(writer: TarWriter, whole: bytes, plan: Samples) -> None:
    kept = [(number, members) for number, (is_kept, members) in enumerate(plan) if is_kept]
    at, starts, parts = 0, [], []
    for index, (_, members) in enumerate(kept):
        starts.append(at)
        for place, (_, data) in enumerate(members):
            parts.append((index, f"{place:03d}.bin", at + 512, len(data)))
            assert whole[at + 512 : at + 512 + len(data)] == data
            at += 512 + len(data) + -len(data) % 512
    assert (writer.starts, writer.offset) == (starts, at)
    assert [tuple(part) for part in writer.parts] == parts


@settings(max_examples=60, deadline=None)
@given(samples)
def test_a_tar_is_what_tarfile_writes(plan: Samples) -> None:
    theirs = io.BytesIO()
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (kept, members) in enumerate(plan):
            for place, (_, data) in enumerate(members if kept else []):
                entry = tarfile.TarInfo(f"{number:09d}.{place:03d}.bin")
                entry.size, entry.mode, entry.mtime = len(data), 0o644, 0
                tar.addfile(entry, io.BytesIO(data))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train-000000.tar"
        write(path, plan)
        assert path.read_bytes() == theirs.getvalue()


def test_a_tar_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    writer = TarWriter(tmp_path / "train-000000.tar")
    writer.add_bytes("json", "000000000", b"x" * 9000)
    writer.keep_sample()
    writer.add_bytes("json", "000000001", b"x" * 9000)
    assert os.listdir(tmp_path) == ["train-000000.tar.tmp"]
    writer.abandon()
    assert os.listdir(tmp_path) == []


def test_a_tar_in_writing_never_has_its_final_name(tmp_path: Path) -> None:
    writer = TarWriter(tmp_path / "train-000000.tar")
    for number in range(9):
        writer.add_bytes("json", f"{number:09d}", b"x" * 3000)
        writer.keep_sample()
        assert os.listdir(tmp_path) == ["train-000000.tar.tmp"]
    writer.finish()
    assert os.listdir(tmp_path) == ["train-000000.tar"]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="not on this system")
@pytest.mark.parametrize("refused", [False, True])
def test_the_disk_is_asked_to_write_each_part_as_soon_as_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    path, asked = tmp_path / "a.tar", []

    def advise(fd: int, offset: int, length: int, advice: int) -> None:
        assert os.fstat(fd).st_size == offset + length
        asked.append((offset, offset + length, advice))
        if refused:
            raise OSError("as some file systems do")

    monkeypatch.setattr(os, "posix_fadvise", advise)
    _, size, _ = write(path, [(True, [("bytes", bytes(3000))])] * 9)
    assert len(asked) >= 4
    assert [begin for begin, _, _ in asked] == [0, *(end for _, end, _ in asked[:-1])]
    # What is left is less than a buffer, and synced at once.
    assert size - 2 * BUFFER_BYTES - 10_240 < asked[-1][1] < size == path.stat().st_size
    assert {advice for _, _, advice in asked} == {os.POSIX_FADV_DONTNEED}


DIRECT = getattr(os, "O_DIRECT", 0)
MANY = [(True, [("file", bytes([number]) * 3000), ("bytes", b"x")]) for number in range(9)]


def _is_direct(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & DIRECT)


@pytest.fixture
def direct_folder(tmp_path: Path) -> Path:
    """A folder whose files can pass the page cache by."""
    try:
        os.close(os.open(tmp_path / "probe", os.O_WRONLY | os.O_CREAT | DIRECT))
    except OSError:
        pytest.skip(f"the file system of {tmp_path} has no O_DIRECT")
    return tmp_path


@pytest.mark.skipif(not DIRECT, reason="not on this system")
def test_a_tar_passes_the_page_cache_by(
    direct_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = os.write, []

    def write_seen(fd: int, data: memoryview) -> int:
        seen.append((_is_direct(fd), len(data) % 4096))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write_seen)
    write(direct_folder / "a.tar", MANY)
    assert len(seen) >= 4
    assert set(seen) == {(True, 0)}


@pytest.mark.skipif(not DIRECT, reason="not on this system")
@pytest.mark.parametrize("first", [0, 3], ids=["at once", "later"])
def test_where_the_cache_cannot_be_passed_by_the_tar_goes_through_it(
    direct_folder: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    write(direct_folder / "a.tar", MANY)
    real, seen = os.write, []

    def write_or_refuse(fd: int, data: memoryview) -> int:
        seen.append(_is_direct(fd))
        if len(seen) > first and seen[-1]:
            raise OSError(errno.EINVAL, "as some file systems do")
        # As on a disk that is full soon: what follows begins within a page.
        return real(fd, data if seen[-1] else data[:1000])

    monkeypatch.setattr(os, "write", write_or_refuse)
    write(direct_folder / "b.tar", MANY)
    assert seen.count(True) == first + 1
    assert seen.index(False) == first + 1
    assert (direct_folder / "b.tar").read_bytes() == (direct_folder / "a.tar").read_bytes()


def test_a_refused_write_that_has_another_cause_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, data: memoryview) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(ShardError, match=r"a\.tar: cannot be written: Invalid argument"):
        write(tmp_path / "a.tar", MANY)


@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_write_that_fails_in_the_background_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real, calls = os.write, []

    def write_or_fail(fd: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) == number + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write_or_fail)
    writer = TarWriter(tmp_path / "a.tar")
    with pytest.raises(ShardError, match=r"a\.tar: cannot be written: No space left"):
        for place in range(9):
            writer.add_bytes("json", f"{place:09d}", bytes(5000))
            writer.keep_sample()
        writer.finish()
    assert len(calls) == number + 1
    writer.abandon()
    assert os.listdir(tmp_path) == []


def test_a_file_is_not_closed_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_real, close_real, order = os.write, os.close, []

    def write_slowly(fd: int, data: memoryview) -> int:
        order.append("write")
        time.sleep(0.2)
        order.append("written")
        return write_real(fd, data)

    def close(fd: int) -> None:
        order.append("close")
        close_real(fd)

    writer = TarWriter(tmp_path / "a.tar")
    monkeypatch.setattr(os, "write", write_slowly)
    for place in range(3):
        writer.add_bytes("json", f"{place:09d}", bytes(5000))
        writer.keep_sample()
    monkeypatch.setattr(os, "close", close)
    writer.abandon()
    assert order == ["write", "written", "close"]


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(),
    reason="skipped: this system has no large pages",
)
def test_buffers_ask_for_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_writer, "BUFFER_BYTES", 4 << 20)
    writer = TarWriter(None)
    writer.add_bytes("json", "a", b"x")
    begin = np.frombuffer(writer.room(1), np.uint8).ctypes.data
    areas = Path("/proc/self/smaps").read_text().split("VmFlags:")
    for area, flags in pairwise(areas):
        ends = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) ", area, re.M)[-1]
        if int(ends[0], 16) <= begin < int(ends[1], 16):
            assert "hg" in flags.split("\n")[0].split()
            break
    else:
        raise AssertionError("the buffer is in no area")
    writer.abandon()


def test_large_pages_are_a_wish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A kernel without them knows no such advice.
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 9999, raising=False)
    _, size, digest = write(tmp_path / "a.tar", [(True, [("bytes", b"abc")])])
    content = (tmp_path / "a.tar").read_bytes()
    assert (len(content), xxhash.xxh3_128_hexdigest(content)) == (size, digest)


@pytest.mark.parametrize(
    ("name", "size"),
    [("a", 0), ("b" * 100, 5), ("c.json", (1 << 33) - 1), ("z" * 100, (1 << 33) - 1)],
)
def test_a_header_has_names_and_sizes_up_to_their_limits(name: str, size: int) -> None:
    buffer = bytearray(b"7" * 1536)
    write_header(memoryview(buffer)[512:1024], name, size)
    entry = tarfile.TarInfo.frombuf(bytes(buffer[512:1024]), "ascii", "strict")
    assert (entry.name, entry.size, entry.mode, entry.mtime) == (name, size, 0o644, 0)
    assert entry.isreg()
    assert buffer[:512] == buffer[1024:] == b"7" * 512
    assert entry.tobuf(tarfile.USTAR_FORMAT) == buffer[512:1024]


def test_a_header_has_no_room_for_more() -> None:
    for name, size in (("d" * 101, 1), ("d", 1 << 33)):
        with pytest.raises(ValueError):
            write_header(memoryview(bytearray(512)), name, size)

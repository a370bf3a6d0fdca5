"""Samples read by number give what energon's own reader gives; damage is told, with its place."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loader_help import conversations
from megatron.energon.epathlib import EPath
from megatron.energon.flavors.webdataset.itar_reader import ShardInfosITarReader
from megatron.energon.flavors.webdataset.metadata import WebdatasetMeta

from neva_prep.errors import ShardError
from neva_prep.loaders import sample_reader
from neva_prep.loaders.sample_reader import SampleReader


def everything(name: str) -> bool:
    assert name
    return True


def readers(folder: Path, wanted: Callable[[str], bool] = everything) -> tuple[Any, Any]:
    shards = WebdatasetMeta.from_config(
        path=EPath(folder), split_part="train", split_config=None
    ).shards
    ours = SampleReader(folder, shards, wanted, open_shards=2)
    return ours, ShardInfosITarReader(EPath(folder), shards, sample_filter=wanted)


def test_every_sample_is_what_energon_reads(tmp_path: Path) -> None:
    folder = conversations(tmp_path, train=30, shards=4)
    ours, theirs = readers(folder)
    assert len(ours) == len(theirs) == 30
    order = [7, 29, 0, 15, 8, 22, *range(30)]
    for index in order:
        assert ours[index] == theirs[index]
    assert len(ours._opened) == 2
    ours.close()
    assert ours[3] == theirs[3]


def test_what_is_not_wanted_is_none(tmp_path: Path) -> None:
    folder = conversations(tmp_path, train=6, shards=2)
    first = f"{readers(folder)[0].shard_infos[0].name}/{readers(folder)[0][0]['__key__']}"
    ours, theirs = readers(folder, wanted=lambda name: name != first)
    assert ours[0] is None and theirs[0] is None
    assert ours[1] == theirs[1]


def test_a_reader_that_opened_nothing_goes_to_another_process(tmp_path: Path) -> None:
    ours, theirs = readers(conversations(tmp_path, train=6, shards=2))
    assert pickle.loads(pickle.dumps(ours))[5] == theirs[5]


# Tars of other makers.


def one_shard(folder: Path, kind: int, names: list[str], **changes: Any) -> Path:
    """A dataset's only shard with one sample of these members, and no more than a reader needs."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=kind) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            for field, value in changes.items():
                setattr(info, field, value)
            data = bytes([number]) * (700 if info.isreg() else 0)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        end = tar.offset
    data = content.getvalue()
    path = folder / "train-000000.tar"
    path.write_bytes(data)
    path.with_suffix(".tar.idx").write_bytes(struct.pack("<2Q", 0, end))
    return path


def reader_of(path: Path) -> tuple[Any, Any]:
    from megatron.energon.flavors.webdataset.structs import ShardInfo

    shards = [ShardInfo(name=path.name, path=EPath(path), count=1)]
    ours = SampleReader(path.parent, shards, everything, open_shards=1)
    return ours, ShardInfosITarReader(EPath(path.parent), shards)


LONG = "folder/" * 20 + "key.000.jpg"
NAMES = {
    "plain": ["key.jpg", "key.json"],
    "long": [LONG, LONG.replace("000.jpg", "json")],
    "letters": ["schlüssel.jpg", "schlüssel.json"],
    "folders": ["a/b.c/key.jpg", "a/b.c/key.json"],
    "meta": ["__info__/x.txt", "key.jpg", "noextension"],
    "hundred": ["k" * 96 + ".jpg", "k" * 96 + ".cls"],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_other_tars_are_read_as_energon_reads_them(
    tmp_path: Path, kind: int, names: list[str]
) -> None:
    ours, theirs = reader_of(one_shard(tmp_path, kind, names))
    assert ours[0] == theirs[0]
    assert ours[0]["jpg" if "jpg" in ours[0] else "000.jpg"][:1] in (b"\0", b"\1")


def test_the_usual_tar_needs_no_tarfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = readers(conversations(tmp_path, train=3, shards=2))
    expected = theirs[2]
    monkeypatch.setattr(sample_reader, "_any_members", lambda data: pytest.fail("not needed"))
    assert ours[2] == expected


def test_tars_of_webdataset_need_no_tarfile_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import webdataset

    path = tmp_path / "train-000000.tar"
    with webdataset.TarWriter(str(path)) as tar:
        tar.write({"__key__": "key", "jpg": bytes(700), "json": {"id": 1}})
    with tarfile.open(path) as tar:
        assert all(info.pax_headers for info in tar), "they come with times in extended headers"
        end = tar.offset
    path.with_suffix(".tar.idx").write_bytes(struct.pack("<2Q", 0, end))
    ours, theirs = reader_of(path)
    monkeypatch.setattr(sample_reader, "_any_members", lambda data: pytest.fail("not needed"))
    assert ours[0] == theirs[0]
    assert set(theirs[0]) >= {"jpg", "json"}


@pytest.mark.parametrize(
    "headers",
    [{"path": "other.jpg"}, {"mtime": "1.5", "path": "a/b.png"}, {"comment": "mtime=1\n"}],
    ids=str,
)
def test_extended_headers_that_matter_are_heeded(tmp_path: Path, headers: dict[str, str]) -> None:
    path = one_shard(tmp_path, tarfile.PAX_FORMAT, ["key.jpg"], pax_headers=headers)
    ours, theirs = reader_of(path)
    assert ours[0] == theirs[0]
    assert ours[0]["__key__"] == headers.get("path", "key.jpg").rpartition(".")[0]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_what_is_no_file_is_no_member(tmp_path: Path, kind: bytes) -> None:
    path = one_shard(tmp_path, tarfile.USTAR_FORMAT, ["key.jpg"], type=kind, linkname="/etc/passwd")
    with pytest.raises(ShardError, match=r"no member where a sample begins"):
        reader_of(path)[0][0]


# Damage.


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]


SECOND = 512 + 1024
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[:600], "tells of other samples than it can have"),
    "first name": (flip(2), "is no tar"),
    "second name": (flip(SECOND + 2), rf"header at byte {SECOND:,} is damaged"),
    "second size": (flip(SECOND + 125), rf"header at byte {SECOND:,} is damaged"),
    "zeros": (lambda data: data[:SECOND] + bytes(len(data) - SECOND), "is damaged"),
}


@pytest.mark.parametrize(("damage", "finding"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_told_with_its_shard(
    tmp_path: Path, damage: Callable[[bytes], bytes], finding: str
) -> None:
    path = one_shard(tmp_path, tarfile.USTAR_FORMAT, ["key.jpg", "key.json"])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ShardError, match=finding) as raised:
        reader_of(path)[0][0]
    assert str(path) in str(raised.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.sampled_from(sorted(NAMES)),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 255)), max_size=3),
    st.integers(0, 600),
)
def test_whatever_is_damaged_is_told_or_read_as_energon_reads_it(
    kind: int, names: str, changes: list[tuple[int, int]], missing: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = one_shard(Path(folder), kind, NAMES[names])
        data, starts = bytearray(path.read_bytes()), path.with_suffix(".tar.idx")
        for at, change in changes:
            data[at % len(data)] ^= change
        path.write_bytes(data)
        end = struct.unpack("<2Q", starts.read_bytes())[1] - missing
        starts.write_bytes(struct.pack("<2Q", 0, end))
        ours, theirs = reader_of(path)
        try:
            found = ours[0]
        except ShardError:
            return
        finally:
            ours.close()
        assert found == theirs[0]


def test_a_sparse_member_is_not_filled_with_zeros(tmp_path: Path) -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 15}
    path = one_shard(
        tmp_path, tarfile.PAX_FORMAT, ["key.jpg"], pax_headers=headers | {"GNU.sparse.name": "k.x"}
    )
    with pytest.raises(ShardError, match=r"a sample is no tar"):
        reader_of(path)[0][0]


def test_a_sample_of_two_keys_is_told(tmp_path: Path) -> None:
    path = one_shard(tmp_path, tarfile.USTAR_FORMAT, ["one.jpg", "two.json"])
    with pytest.raises(ShardError, match=r"sample one goes on with the member two\.json"):
        reader_of(path)[0][0]


def test_a_member_cannot_pass_for_what_energon_says_of_a_sample(tmp_path: Path) -> None:
    path = one_shard(tmp_path, tarfile.USTAR_FORMAT, ["key.jpg", "key.__restore_key__"])
    with pytest.raises(ShardError, match=r"name of the member key\.__restore_key__ to itself"):
        reader_of(path)[0][0]


@pytest.mark.parametrize(
    "starts", [(0,), (0, 0), (512, 0), (0, 1 << 62), (0, 2560, 2560), ()], ids=str
)
def test_an_index_of_a_stranger_is_not_believed(tmp_path: Path, starts: tuple[int, ...]) -> None:
    path = one_shard(tmp_path, tarfile.USTAR_FORMAT, ["key.jpg", "key.json"])
    path.with_suffix(".tar.idx").write_bytes(struct.pack(f"<{len(starts)}Q", *starts))
    with pytest.raises(ShardError, match=r"\.idx tells of other samples"):
        reader_of(path)[0][0]

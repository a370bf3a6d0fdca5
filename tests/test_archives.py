"""Images inside zips and tars, and WebDatasets as sources: read in place, whatever made them."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import webdataset
from convert_help import Row, read_quarantine, record
from handmade import picture
from small_source import tree, write_source
from table_help import image, said, stored

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.stores import zip_images
from neva_prep.dataprep.stores.open import open_images
from neva_prep.dataprep.stores.store import read_image
from neva_prep.errors import ConfigError, ImageError, NevaPrepError, RecordError

NAMES = {"a/1.jpg": image(0), "a/2.png": image(1), "b/3 é猫.webp": image(2), "top.jpg": image(3)}


def zipped(path: Path, files: Iterable[tuple[str, bytes]], method: int = 8) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def streamed_zip(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """As programs write it to a pipe: sizes come after the content."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.content = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.content += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    path.write_bytes(pipe.content)
    return path


def zip64(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """Every number of the directory stands in 64 bits."""
    before = zipfile.ZIP64_LIMIT, zipfile.ZIP_FILECOUNT_LIMIT
    zipfile.ZIP64_LIMIT, zipfile.ZIP_FILECOUNT_LIMIT = 10, 1  # type: ignore[misc]
    try:
        return zipped(path, files)
    finally:
        zipfile.ZIP64_LIMIT, zipfile.ZIP_FILECOUNT_LIMIT = before  # type: ignore[misc]


def behind_a_program(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    zipped(path, files)
    path.write_bytes(b"PK\x03\x04#!/bin/sh\n" + path.read_bytes() + b"")
    return path


MADE: dict[str, Callable[[Path, Iterable[tuple[str, bytes]]], Path]] = {
    "deflated": zipped,
    "stored": lambda path, files: zipped(path, files, 0),
    "streamed": streamed_zip,
    "zip64": zip64,
    "behind a program": behind_a_program,
    "tar": tarred,
    "gnu tar": lambda path, files: tarred(path, files, tarfile.GNU_FORMAT),
}


@pytest.mark.parametrize("made", MADE)
def test_image_is_read_from_an_archive_by_its_name(tmp_path: Path, made: str) -> None:
    long = {**NAMES, "long/" * 60 + "x.jpg": image(4)}
    path = MADE[made](tmp_path / "images.any", long.items())
    store = open_images(str(path), tmp_path)
    for name, content in long.items():
        assert store.size(name) == len(content)
        assert read_image(store, name) == content
        assert read_image(store, f"./{name}") == content
    with pytest.raises(ImageError, match=r"does not exist in .*5 members such as 'a/1\.jpg'"):
        read_image(store, "none.jpg")
    assert store.size("none.jpg") == 0


@pytest.mark.parametrize("made", ["deflated", "tar"])
def test_folder_that_was_packed_may_be_left_out(tmp_path: Path, made: str) -> None:
    inside = {f"images/{name}": content for name, content in NAMES.items()}
    store = open_images(str(MADE[made](tmp_path / "x", inside.items())), tmp_path)
    for name, content in NAMES.items():
        assert read_image(store, name) == read_image(store, f"images/{name}") == content


def test_names_out_of_the_archive_are_names_like_others(tmp_path: Path) -> None:
    names = {"../../etc/passwd": image(0), "/abs/1.jpg": image(1)}
    store = open_images(str(zipped(tmp_path / "x.zip", names.items())), tmp_path)
    assert read_image(store, "../../etc/passwd") == image(0)
    reasons = {"/etc/passwd": "absolute_path", "https://x/y.jpg": "remote_image", "no": ""}
    for path, reason in reasons.items():
        with pytest.raises(ImageError) as caught:
            read_image(store, path)
        assert caught.value.reason == (reason or "missing_image")


def test_of_two_members_with_one_name_the_last_counts(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        path = zipped(tmp_path / "x.zip", [("a", image(0)), ("b", image(1)), ("a", image(2))])
    assert read_image(open_images(str(path), tmp_path), "a") == image(2)
    path = tarred(tmp_path / "x.tar", [("a", image(0)), ("b", image(1)), ("a", image(2))])
    assert read_image(open_images(str(path), tmp_path), "a") == image(2)


@pytest.mark.parametrize("made", ["deflated", "stored", "tar"])
def test_archive_gives_the_same_bytes_as_its_folder(tmp_path: Path, made: str) -> None:
    source, images = write_source(tmp_path, 80, bad=(4, 12))
    files = sorted(path for path in images.rglob("*") if path.is_file())
    inside = [(os.fspath(path.relative_to(images)), path.read_bytes()) for path in files]
    path = MADE[made](tmp_path / "images.any", inside)
    found = []
    for number, (place, workers) in enumerate([(images, 1), (path, 1), (path, 2)]):
        out = tmp_path / f"out{number}"
        options = ConvertOptions(workers=workers, shard_count=9, shuffle=3)
        report = convert(source, place, out, options)
        assert report.rejections == {"missing_image": 2}
        found.append({k: v for k, v in tree(out).items() if k.endswith(".tar")})
    assert found[0] == found[1] == found[2]


def test_retry_reads_from_the_archive_that_was_put_right(tmp_path: Path) -> None:
    source, images = tmp_path / "s.json", tmp_path / "images.zip"
    source.write_text(json.dumps([record("a", "a.jpg"), record("b", "b.jpg")]))
    zipped(images, [("a.jpg", image(0))])
    out = tmp_path / "out"
    assert convert(source, images, out).rejections == {"missing_image": 1}
    zipped(images, [("a.jpg", image(0)), ("b.jpg", image(3))])
    assert retry(out / "quarantine.jsonl").rejected == 0
    assert sorted(images for _, images in stored(out)) == sorted([[image(0)], [image(3)]])


# What is refused.


def test_archive_that_cannot_be_read_in_place_says_what_to_do(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
    with pytest.raises(ConfigError, match=r"compressed.*gunzip"):
        open_images(str(tmp_path / "x.tar.gz"), tmp_path)
    (tmp_path / "x.txt").write_text("no")
    with pytest.raises(ConfigError, match="no folder, no zip archive and no tar"):
        open_images(str(tmp_path / "x.txt"), tmp_path)


def test_encrypted_archive_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", NAMES.items())
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"'a/1\.jpg' is encrypted; unpack"):
        open_images(str(path), tmp_path)


def test_method_that_is_not_read_rejects_its_images_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", image(0), zipfile.ZIP_LZMA)
        archive.writestr("b.jpg", image(3))
    store = open_images(str(path), tmp_path)
    assert read_image(store, "b.jpg") == image(3)
    with pytest.raises(ImageError, match="method 14"):
        read_image(store, "a.jpg")


def test_bomb_is_never_unpacked_beyond_its_size(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", [("bomb.jpg", bytes(50_000_000)), ("b.jpg", image(3))])
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    for claimed, reason in ((1000, "damaged_archive"), (1 << 31, "image_too_large")):
        content[place + 24 : place + 28] = claimed.to_bytes(4, "little")
        path.write_bytes(content)
        os.utime(path, (claimed, claimed))
        store = open_images(str(path), tmp_path)
        rooms: list[int] = []

        def room(size: int, rooms: list[int] = rooms) -> memoryview:
            rooms.append(size)
            return memoryview(bytearray(size))

        tracemalloc.start()
        with pytest.raises(ImageError) as caught:
            store.read_into("bomb.jpg", room)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert caught.value.reason == reason and sum(rooms) <= 1001 and most < 2_000_000
        assert read_image(store, "b.jpg") == image(3)


@pytest.mark.parametrize("made", ["deflated", "stored", "tar", "zip64"])
def test_archive_cut_anywhere_is_refused(tmp_path: Path, made: str) -> None:
    path = MADE[made](tmp_path / "x", NAMES.items())
    content = path.read_bytes()
    last = len(content.rstrip(b"\0")) if made == "tar" else len(content)
    for stop in sorted({*range(300, last, 97), last - 1}):
        path.write_bytes(content[:stop])
        os.utime(path, (stop, stop))
        with pytest.raises(ConfigError, match=r"/x: (byte \d+|is no)"):
            open_images(str(path), tmp_path)


def test_changed_bytes_in_an_archive_are_noticed_where_the_format_can_tell(tmp_path: Path) -> None:
    for made in ("deflated", "stored"):
        path = MADE[made](tmp_path / made, NAMES.items())
        content = bytearray(path.read_bytes())
        content[60] ^= 0xFF
        path.write_bytes(content)
        store = open_images(str(path), tmp_path)
        with pytest.raises(ImageError, match=made) as caught:
            read_image(store, "a/1.jpg")
        assert caught.value.reason == "damaged_archive"
        assert read_image(store, "a/2.png") == NAMES["a/2.png"]


def test_damaged_header_in_a_tar_does_not_hide_what_follows(tmp_path: Path) -> None:
    path = tarred(tmp_path / "x.tar", NAMES.items())
    content = bytearray(path.read_bytes())
    second = content.index(b"a/2.png")
    content[second + 150] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"byte {second}: what follows is neither"):
        open_images(str(path), tmp_path)


def test_mutated_archives_never_crash(tmp_path: Path) -> None:
    chance = random.Random(7)
    for trial in range(200):
        made = chance.choice(list(MADE))
        path = tmp_path / f"{trial}"
        content = bytearray(MADE[made](path, NAMES.items()).read_bytes())
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            store = open_images(str(path), tmp_path)
            for name in NAMES:
                store.size(name)
                read_image(store, name)
        except NevaPrepError as error:
            assert str(path) in str(error) or "byte" in str(error), error


# WebDatasets.


def write_webdataset(folder: Path, samples: list[Row], each: int = 10) -> Path:
    folder.mkdir()
    pattern = os.fspath(folder / "%05d.tar")
    with webdataset.ShardWriter(pattern, maxcount=each, verbose=0) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


def img2dataset(count: int) -> list[Row]:
    """Samples as img2dataset writes them."""
    return [
        {
            "__key__": f"{n:09d}",
            "jpg": picture(16 + n, 16),
            "txt": f"a thing {n} é",
            "json": {"caption": f"a thing {n} é", "url": f"http://x/{n}", "key": f"{n:09d}",
                     "status": "success", "width": 16 + n},
        }
        for n in range(count)
    ]  # fmt: skip


def test_output_of_img2dataset_becomes_captions(tmp_path: Path) -> None:
    folder = write_webdataset(tmp_path / "laion", img2dataset(25))
    report = convert(folder, None, tmp_path / "out")
    assert report.samples == 25 and not report.repairs and "3 tars" in report.format_why
    for n, (row, images) in enumerate(stored(tmp_path / "out")):
        assert images == [picture(16 + n, 16)] and row["url"] == f"http://x/{n}"
        assert said(row) == [
            ("human", "<image>\nDescribe the image."), ("gpt", f"a thing {n} é"),
        ]  # fmt: skip
    one = convert(folder / "00001.tar", None, tmp_path / "one")
    assert one.samples == 10
    assert stored(tmp_path / "one")[0][1] == [picture(26, 16)]


def test_conversations_in_json_members_keep_their_texts_and_images(tmp_path: Path) -> None:
    samples: list[Row] = []
    for n in range(12):
        row = record(f"id {n}", f"somewhere/{n}.jpg", extra=[n])
        samples.append({"__key__": f"s{n}", "json": row, "jpg": picture(16 + n, 16)})
    samples[3]["json"] = {"id": "t", "conversations": record("")["conversations"]}
    samples[3]["json"]["conversations"][0]["value"] = "no image"
    del samples[3]["jpg"]
    samples[5] |= {"0.png": image(1), "1.webp": image(2)}
    samples[5]["json"]["conversations"][0]["value"] = "<image><image><image>"
    folder = write_webdataset(tmp_path / "wds", samples)
    trees = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        options = ConvertOptions(workers=workers, shard_count=4)
        assert convert(folder, None, out, options).samples == 12
        trees.append(tree(out))
    assert trees[0] == trees[1]
    for n, (row, images) in enumerate(stored(tmp_path / "out1")):
        given = samples[n]
        assert said(row) == [(t["from"], t["value"]) for t in given["json"]["conversations"]]
        members = [given[name] for name in ("0.png", "1.webp", "jpg") if name in given]
        assert sorted(images) == sorted(members)
        assert n == 3 or (row["extra"] == [n] and row["source_image"] == f"somewhere/{n}.jpg")


def test_members_that_are_no_conversation_are_quarantined_or_named(tmp_path: Path) -> None:
    samples = [
        {"__key__": "a", "txt": "fine", "jpg": image(0), "cls": b"7"},
        {"__key__": "b", "txt": "a film", "mp4": b"x"},
        {"__key__": "c", "jpg": image(0), "json": b"{broken"},
        {"__key__": "d", "jpg": b"no image", "txt": "x"},
    ]
    folder = write_webdataset(tmp_path / "wds", samples)
    report = convert(folder, None, tmp_path / "out")
    assert report.rejections == {"video_record": 1, "missing_conversations": 1, "not_an_image": 1}
    assert stored(tmp_path / "out")[0][0]["other_members"] == ["a.cls"]
    assert "{broken" in json.dumps(read_quarantine(tmp_path / "out"))


def test_caption_in_a_tar_needs_its_image(tmp_path: Path) -> None:
    members = [("a.jpg", image(0)), ("a.txt", b"red"), ("b.heic", b"x"), ("b.txt", b"green")]
    path = tarred(tmp_path / "s.tar", [*members, ("c.txt", b"blue")])
    report = convert(path, None, tmp_path / "out")
    assert (report.samples, report.rejections) == (1, {"missing_image": 2})


def test_text_of_a_tar_that_is_no_utf8_costs_its_record_alone(tmp_path: Path) -> None:
    texts = {"a": "\ufeffcafé".encode(), "b": "café".encode("latin-1"), "c": b"\xff\xfer\0"}
    members = [
        member
        for key, text in texts.items()
        for member in ((f"{key}.jpg", image(0)), (f"{key}.json", b'{"x": 1}'), (f"{key}.txt", text))
    ]
    report = convert(tarred(tmp_path / "s.tar", members), None, tmp_path / "out")
    assert (report.samples, report.rejections) == (1, {"invalid_utf8": 2})
    assert said(stored(tmp_path / "out")[0][0])[1] == ("gpt", "café")
    text = read_quarantine(tmp_path / "out")[0]["record_text"]
    assert r"caf\xe9" in text and "s.tar/b.jpg" in text
    members[1] = ("a.json", b'{"x": "\\ud800"}')
    members[2] = ("a.txt", texts["b"])
    report = convert(tarred(tmp_path / "t.tar", members), None, tmp_path / "none")
    assert (report.samples, report.rejections) == (0, {"invalid_utf8": 3})


def test_text_member_is_the_caption_whatever_the_json_says(tmp_path: Path) -> None:
    members = [("a.jpg", image(0)), ("a.json", b'\xef\xbb\xbf{"caption": "old", "n": 1}')]
    members += [("a.cap", b"other"), ("a.txt", b"new"), ("a.note.txt", b"hm")]
    convert(tarred(tmp_path / "s.tar", members), None, tmp_path / "out")
    (row, _), *_ = stored(tmp_path / "out")
    assert said(row)[1] == ("gpt", "new") and row["n"] == 1 and row["note"] == "hm"
    assert row["source_caption"] == "old" and row["member_cap"] == "other"


@pytest.mark.parametrize("again", ["k1", "./k1", ".//k1"])
def test_tar_with_two_images_of_one_name_is_refused(tmp_path: Path, again: str) -> None:
    folder = tmp_path / "wds"
    folder.mkdir()
    members = [("k1.jpg", image(0)), ("k1.txt", b"red"), ("k2.jpg", image(3)), ("k2.txt", b"2")]
    more = [(f"{again}.jpg", image(6)), (f"{again}.txt", b"blue")]
    tarred(folder / "1.tar", [*members, *more])
    with pytest.raises(RecordError, match=r"1\.tar: has two members named 'k1\.jpg'; write"):
        convert(folder, None, tmp_path / "out")
    tarred(folder / "1.tar", members)
    tarred(folder / "2.tar", [("k1.jpg", image(6)), ("k1.txt", b"blue")])
    convert(folder, None, tmp_path / "out", ConvertOptions(overwrite=True))
    found = [(said(row)[1][1], images) for row, images in stored(tmp_path / "out")]
    assert found == [("red", [image(0)]), ("2", [image(3)]), ("blue", [image(6)])]


def test_cut_tar_of_a_webdataset_is_refused(tmp_path: Path) -> None:
    folder = write_webdataset(tmp_path / "wds", img2dataset(12))
    path = folder / "00001.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ConfigError, match=r"00001\.tar: byte \d+.*copy or download it again"):
        convert(folder, None, tmp_path / "out")


# Memory.

_PEAK = """
import sys
from pathlib import Path
from neva_prep.dataprep.stores.open import open_images
store = open_images(sys.argv[1], Path(sys.argv[2]))
assert store.size("f/123.jpg") == 1
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("made", ["stored", "tar"])
def test_memory_of_an_index_stays_flat(tmp_path: Path, made: str) -> None:
    peaks = []
    for count in (1000, 10_000):
        path = MADE[made](tmp_path / f"{count}", ((f"f/{n}.jpg", b"x") for n in range(count)))
        command = [sys.executable, "-c", _PEAK, str(path), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) // 1024)
    assert peaks[1] - peaks[0] < 4, peaks


def test_index_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "x.zip", NAMES.items())
    open_images(str(path), tmp_path)
    monkeypatch.setattr(zip_images, "scan_zip", lambda file: pytest.fail("read again"))
    assert read_image(open_images(str(path), tmp_path), "top.jpg") == NAMES["top.jpg"]

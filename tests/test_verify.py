"""Every kind of damage to a dataset is found, and its place is named."""

import json
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from handmade import members, valid_shards, write_dataset, write_source

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.verify import VerifyReport, verify
from neva_prep.dataprep.verify_shard import ShardTask, verify_shard
from neva_prep.errors import ConfigError, ShardError
from neva_prep.loaders.format import read_manifest


def found(report: VerifyReport) -> list[str]:
    return [str(finding) for finding in report.findings]


def test_a_converted_dataset_is_whole(tmp_path: Path) -> None:
    source, images = write_source(tmp_path, 30)
    options = ConvertOptions(shard_count=4, split={"train": 0.75, "val": 0.25}, shuffle=1)
    made = convert(source, images, tmp_path / "out", options)
    report = verify(tmp_path / "out")
    assert found(report) == []
    assert report.is_whole and report.exit_code == 0
    assert (report.samples, report.images, report.turns) == (30, 30, 60)
    assert (report.shards, report.bytes) == (made.shards, made.bytes)


def test_a_dataset_stays_whole_when_a_retry_adds_to_it(tmp_path: Path) -> None:
    source, images = write_source(tmp_path, 12)
    fixed = (images / "7-0.jpg").read_bytes()
    (images / "7-0.jpg").unlink()
    convert(source, images, tmp_path / "out", ConvertOptions(shard_count=4))
    before = verify(tmp_path / "out")
    assert (found(before), before.samples) == ([], 11)
    (images / "7-0.jpg").write_bytes(fixed)
    retry(tmp_path / "out" / "quarantine.jsonl")
    after = verify(tmp_path / "out")
    assert (found(after), after.samples) == ([], 12)


def test_a_dataset_without_samples_is_told_as_such(tmp_path: Path) -> None:
    source, images = write_source(tmp_path, 2)
    for image in images.iterdir():
        image.unlink()
    convert(source, images, tmp_path / "out")
    with pytest.raises(ShardError, match="holds no samples: every record was rejected"):
        verify(tmp_path / "out")


def test_images_that_were_never_looked_at_are_not_held_against_sizes(tmp_path: Path) -> None:
    source, images = write_source(tmp_path, 2)
    (images / "0-0.jpg").write_bytes(b"no image at all")
    convert(source, images, tmp_path / "out", ConvertOptions(check="none"))
    assert found(verify(tmp_path / "out")) == []


def test_a_handmade_dataset_is_whole_with_any_number_of_workers(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    reports = [verify(path, workers=workers) for workers in (1, 2, 9)]
    assert reports[0].is_whole and reports[0] == reports[1] == reports[2]


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x20
    path.write_bytes(data)


def part(path: Path, key: str, name: str) -> tuple[int, int]:
    """Offset and size of a member's content."""
    database = sqlite3.connect(path / ".nv-meta/index.sqlite")
    row = database.execute(
        "SELECT content_byte_offset, content_byte_size FROM sample_parts"
        " JOIN samples USING (tar_file_id, sample_index) WHERE sample_key=? AND part_name=?",
        (key, name),
    ).fetchone()
    database.close()
    return int(row[0]), int(row[1])


def change_index(path: Path, statement: str) -> None:
    database = sqlite3.connect(path / ".nv-meta/index.sqlite")
    database.execute(statement)
    database.commit()
    database.close()


def change_json(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip_pixels(path: Path) -> None:
    offset, size = part(path, "000000001", "001.png")
    flip(path / "train-000000.tar", offset + size // 2)


def flip_image_header(path: Path) -> None:
    flip(path / "train-000000.tar", part(path, "000000001", "001.png")[0] + 18)


def flip_jpeg_width(path: Path) -> None:
    shard = path / "train-000001.tar"
    frame = shard.read_bytes().index(b"\xff\xc0", part(path, "000000004", "000.jpg")[0])
    flip(shard, frame + 8)


def flip_json_syntax(path: Path) -> None:
    flip(path / "train-000001.tar", part(path, "000000004", "json")[0])


def flip_json_text(path: Path) -> None:
    shard = path / "train-000001.tar"
    flip(shard, shard.read_bytes().index(b"Answer 4"))


def flip_tar_header(path: Path) -> None:
    flip(path / "train-000001.tar", part(path, "000000004", "000.jpg")[0] - 512)


def flip_padding(path: Path) -> None:
    offset, size = part(path, "000000004", "json")
    flip(path / "train-000001.tar", offset + size + 1)


def flip_closing_zeros(path: Path) -> None:
    flip(path / "train-000001.tar", (path / "train-000001.tar").stat().st_size - 1)


def truncate_between_blocks(path: Path) -> None:
    shard = path / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[: part(path, "000000004", "json")[0] - 512])


def truncate_in_a_member(path: Path) -> None:
    shard = path / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[: part(path, "000000004", "000.jpg")[0] + 100])


def swap_two_shards(path: Path) -> None:
    first, second = path / "train-000001.tar", path / "val-000000.tar"
    first_bytes = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(first_bytes)


def add_a_shard(path: Path) -> None:
    (path / "train-000002.tar").write_bytes((path / "train-000001.tar").read_bytes())


def wrong_idx(path: Path) -> None:
    idx = path / "train-000000.tar.idx"
    entries = list(struct.unpack("<4Q", idx.read_bytes()))
    entries[1] += 512
    idx.write_bytes(struct.pack("<4Q", *entries))


def short_idx(path: Path) -> None:
    idx = path / "train-000000.tar.idx"
    idx.write_bytes(idx.read_bytes()[:-8])


def lose_rows(path: Path) -> None:
    change_index(path, "DELETE FROM samples WHERE sample_key = '000000004'")


def overwrite_sqlite(path: Path) -> None:
    (path / ".nv-meta/index.sqlite").write_bytes(b"no database" * 100)


def damage_sqlite_pages(path: Path) -> None:
    index = path / ".nv-meta/index.sqlite"
    data = bytearray(index.read_bytes())
    data[4096 * 2 : 4096 * 2 + 64] = b"\xff" * 64
    index.write_bytes(data)


def manifest(change: Callable[[Any], None]) -> Callable[[Path], object]:
    return lambda path: change_json(path / "neva-prep.json", change)


def info(change: Callable[[Any], None]) -> Callable[[Path], object]:
    return lambda path: change_json(path / ".nv-meta/.info.json", change)


def replace(name: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda path: (
        (path / name).write_text((path / name).read_text().replace(old, new)) and None
    )


def remove(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).unlink()


SPLIT, INFO, SQLITE = ".nv-meta/split.yaml", ".nv-meta/.info.json", ".nv-meta/index.sqlite"
DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    # damage -> what does it, the place that must be named, what must be said of it
    "pixels flipped": (
        flip_pixels,
        "train-000000.tar, sample 000000001, byte 4,096",
        "001.png: cannot be decoded",
    ),
    "pixels flipped (hash)": (flip_pixels, "train-000000.tar", "its bytes have changed"),
    "image header flipped": (
        flip_image_header,
        "train-000000.tar, sample 000000001, byte 4,096",
        "001.png is 8225 x 25 pixels, its record says 33 x 25",
    ),
    "image width flipped": (
        flip_jpeg_width,
        "train-000001.tar, sample 000000004, byte 1,024",
        "000.jpg is 4 x 24 pixels, its record says 36 x 24",
    ),
    "JSON syntax flipped": (
        flip_json_syntax,
        "train-000001.tar, sample 000000004, byte 2,560",
        "is no valid JSON",
    ),
    "JSON text flipped": (flip_json_text, "train-000001.tar", "its bytes have changed"),
    "tar header flipped": (
        flip_tar_header,
        "train-000001.tar, byte 1,024",
        "the tar header is damaged",
    ),
    "padding flipped": (flip_padding, "train-000001.tar", "its bytes have changed"),
    "closing zeros flipped": (
        flip_closing_zeros,
        "train-000001.tar, byte 3,584",
        "zero blocks that close a tar are missing or damaged",
    ),
    "tar cut between members": (
        truncate_between_blocks,
        "train-000001.tar, byte 2,560",
        "without its closing zero blocks",
    ),
    "tar cut in a member": (
        truncate_in_a_member,
        "train-000001.tar, byte 1,024",
        "but the tar ends 100 bytes after its header",
    ),
    "tar emptied": (
        lambda path: (path / "train-000001.tar").write_bytes(b""),
        "train-000001.tar, byte 0",
        "the tar ends here",
    ),
    "shards swapped": (swap_two_shards, "val-000000.tar", "its bytes have changed"),
    "shard missing": (remove("val-000000.tar"), "val-000000.tar", "is missing"),
    "shard too many": (add_a_shard, "train-000002.tar", "is no shard of this dataset"),
    "idx wrong": (wrong_idx, "train-000000.tar.idx, byte 8", "entry 1 is 3072, but the tar says"),
    "idx short": (short_idx, "train-000000.tar.idx, byte 24", "3 entries for 4"),
    "idx missing": (remove("train-000000.tar.idx"), "train-000000.tar.idx", "cannot be read"),
    "idx too many": (
        lambda path: (path / "x.tar.idx").write_bytes(b""),
        "x.tar.idx",
        "is no shard",
    ),
    "sample row changed": (
        lambda path: change_index(
            path, "UPDATE samples SET byte_offset=512 WHERE sample_key='000000004'"
        ),
        "train-000001.tar, sample 000000004",
        "table samples of index.sqlite has ('000000004', 1, 512, 2560), but the tar says",
    ),
    "part row changed": (
        lambda path: change_index(
            path, "UPDATE sample_parts SET part_name='x.jpg' WHERE part_name='001.png'"
        ),
        "train-000000.tar, sample 000000001",
        "table sample_parts of index.sqlite has (1, 'x.jpg', ",
    ),
    "sample row missing": (
        lose_rows,
        "train-000001.tar, sample 000000004",
        "index.sqlite has None",
    ),
    "row of no shard": (
        lambda path: change_index(path, "INSERT INTO samples VALUES (9, 'x', 0, 0, 0)"),
        SQLITE,
        "table samples has 1 rows of no shard",
    ),
    "table missing": (
        lambda path: change_index(path, "DROP TABLE sample_parts"),
        SQLITE,
        "cannot be read (no such table: sample_parts)",
    ),
    "sqlite missing": (remove(SQLITE), SQLITE, "is missing"),
    "sqlite overwritten": (overwrite_sqlite, SQLITE, "cannot be read (file is not a database)"),
    "sqlite page damaged": (damage_sqlite_pages, SQLITE, "is damaged"),
    "manifest: samples": (
        manifest(lambda content: content["shards"][1].update(samples=3)),
        "train-000001.tar",
        "has 2 samples, the manifest says 3",
    ),
    "manifest: images": (
        manifest(lambda content: content["shards"][0].update(images=3)),
        "train-000000.tar",
        "has 4 images, the manifest says 3",
    ),
    "manifest: bytes": (
        manifest(lambda content: content["shards"][0].update(bytes=1)),
        "train-000000.tar",
        "has 10,240 bytes, the manifest says 1",
    ),
    "manifest: hash": (
        manifest(lambda content: content["shards"][2].update(xxh3_128="0" * 32)),
        "val-000000.tar",
        "its bytes have changed",
    ),
    "manifest: total": (
        manifest(lambda content: content["report"].update(turns=15)),
        "neva-prep.json",
        "its report says 15 turns, there are 14",
    ),
    "manifest: shard forgotten": (
        manifest(lambda content: content["shards"].pop()),
        "val-000000.tar",
        "is no shard of this dataset",
    ),
    "quarantine: row lost": (
        manifest(lambda content: content["report"].update(rejected=2)),
        "quarantine.jsonl",
        "has 0 rows, the manifest says 2",
    ),
    "quarantine: broken row": (
        lambda path: (path / "quarantine.jsonl").write_text('{}\n{"index": \n'),
        "quarantine.jsonl",
        "line 2 is no valid JSON",
    ),
    "split.yaml names a missing shard": (
        replace(SPLIT, "val-000000", "val-000007"),
        SPLIT,
        "names val-000007.tar, which the manifest does not know",
    ),
    "split.yaml forgets a shard": (
        replace(SPLIT, "  - val-000000.tar\n", "  - train-000001.tar\n"),
        SPLIT,
        "does not name val-000000.tar",
    ),
    "split.yaml moves a shard": (
        replace(SPLIT, "  val:", "  test:"),
        SPLIT,
        "says split 'test' of val-000000.tar, the manifest says 'val'",
    ),
    "split.yaml missing": (remove(SPLIT), SPLIT, "is missing"),
    "split.yaml leaves samples out": (
        replace(SPLIT, "exclude: []", "exclude: [val-000000.tar/000000005]"),
        SPLIT,
        "leaves out 1 samples",
    ),
    "dataset.yaml runs code": (
        replace(".nv-meta/dataset.yaml", "CrudeWebdataset", "Evil"),
        ".nv-meta/dataset.yaml",
        "asks energon to import megatron.energon.Evil",
    ),
    ".info.json missing": (remove(INFO), INFO, "conversion is not finished"),
    ".info.json cut": (
        lambda path: (path / INFO).write_text('{"shard'),
        INFO,
        "cannot be read",
    ),
    ".info.json counts wrong": (
        info(lambda content: content["shard_counts"].update({"train-000001.tar": 5})),
        INFO,
        "says samples 5 of train-000001.tar, the manifest says 2",
    ),
    ".info.json in another order": (
        info(
            lambda content: content["shard_counts"].update(
                {"train-000000.tar": content["shard_counts"].pop("train-000000.tar")}
            )
        ),
        INFO,
        "not in the order of the index",
    ),
    "uuid missing": (remove(".nv-meta/index.uuid"), ".nv-meta/index.uuid", "is missing"),
    "journal left": (
        lambda path: (path / ".journal").mkdir(),
        ".journal",
        "left over from a conversion that did not finish",
    ),
    "temporary file left": (
        lambda path: (path / "train-000009.tar.tmp").write_bytes(b""),
        "train-000009.tar.tmp",
        "left over",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_its_place_named(damage: str, tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    harm, place, what = DAMAGES[damage]
    harm(path)
    report = verify(path)
    assert report.exit_code == 3
    matches = [
        finding for finding in report.findings if finding.place == place and what in finding.what
    ]
    assert len(matches) == 1, "\n".join(found(report))
    assert matches[0].fix


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "size": (
        lambda record: record["images"][0].update(width=99),
        "000.jpg is 32 x 24 pixels, its record says 99 x 24",
    ),
    "placeholders": (
        lambda record: record["conversations"][0].update(value="no mark"),
        "0 '<image>' in its user turns but 1 images",
    ),
    "image list": (
        lambda record: record["images"].clear(),
        "members that 'images' does not list: 000.jpg",
    ),
    "no conversation": (lambda record: record.pop("conversations"), "has no 'conversations'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_sample_that_was_wrong_from_the_start_is_found(fault: str, tmp_path: Path) -> None:
    shards = valid_shards()
    change, what = FAULTS[fault]
    (image, (name, data)) = shards["train-000000.tar"]["000000000"]
    record = json.loads(data)
    change(record)
    shards["train-000000.tar"]["000000000"] = [image, (name, json.dumps(record).encode())]
    report = verify(write_dataset(tmp_path / "ds", shards))
    assert [finding.key for finding in report.findings] == ["000000000"]
    assert what in report.findings[0].what


def test_members_in_another_order_are_found(tmp_path: Path) -> None:
    shards = valid_shards()
    first, second, record = members(1, images=2)
    shards["train-000000.tar"]["000000001"] = [second, first, record]
    shards["train-000001.tar"]["000000004"].reverse()
    report = verify(write_dataset(tmp_path / "ds", shards))
    assert [(finding.key, finding.what) for finding in report.findings] == [
        ("000000001", "its images are not in the order of 'images'"),
        ("000000004", "does not end with exactly one .json"),
    ]


def test_everything_that_is_off_is_reported_at_once(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    (path / SPLIT).unlink()
    flip_json_syntax(path)
    (path / "val-000000.tar").unlink()
    wrong_idx(path)
    report = verify(path, workers=2)
    files = {finding.file for finding in report.findings}
    assert files == {SPLIT, "train-000001.tar", "val-000000.tar", "train-000000.tar.idx"}
    assert report == verify(path), "in the same order with any number of workers"


def test_findings_are_counted_beyond_those_kept(tmp_path: Path) -> None:
    shards = {
        "train-000000.tar": {f"{number:09d}": [("json", b"{}")] for number in range(20)},
        "train-000001.tar": {f"{number:09d}": [("json", b"{}")] for number in range(20, 40)},
    }
    path = write_dataset(tmp_path / "ds", shards)
    report = verify(path, max_findings=5)
    assert (len(report.findings), report.found) == (5, 40)
    assert report.to_dict()["found"] == 40
    entry = read_manifest(path).shards[0]
    task = ShardTask(dataset=path, number=0, entry=entry, has_index=True, max_findings=5)
    facts = verify_shard(task)
    assert (len(facts.findings), facts.found) == (5, 20), "nor are they kept in memory"


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    seen: list[tuple[int, int]] = []
    verify(path, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(10_240, 30_720), (20_480, 30_720), (30_720, 30_720)]


def test_the_report_as_a_dict_can_be_written_as_json(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    flip_json_syntax(path)
    content = json.loads(json.dumps(verify(path).to_dict()))
    assert content["schema_version"] == 1
    assert content["is_whole"] is False
    assert {tuple(sorted(finding)) for finding in content["findings"]} == {
        ("file", "fix", "key", "offset", "what")
    }


def test_without_a_manifest_there_is_nothing_to_verify(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    (path / "neva-prep.json").unlink()
    with pytest.raises(ShardError, match=r"no neva-prep.json here") as caught:
        verify(path)
    assert caught.value.exit_code == 3
    with pytest.raises(ConfigError, match="must be 1 or more"):
        verify(path, workers=0)


def test_verifying_imports_neither_torch_nor_energon(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    code = (
        "import sys; from neva_prep.dataprep.verify import verify; verify(sys.argv[1], workers=2);"
        " assert not {'torch', 'megatron'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_what_an_overwrite_leaves_that_was_killed_at_once_goes_with_resume(tmp_path: Path) -> None:
    source, images = write_source(tmp_path)
    out = tmp_path / "out"
    convert(source, images, out)
    (out / ".journal").mkdir()
    for name in ("lock", "overwrite.tmp"):
        (out / ".journal" / name).touch()
    (finding,) = verify(out).findings
    assert finding.fix == "run the same command with --resume"
    convert(source, images, out, ConvertOptions(resume=True))
    assert verify(out).findings == ()

"""Parquet and what `datasets` saves become shards: texts, order and image bytes as they are."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from convert_help import Row, files_of, read_quarantine, run_cli
from handmade import picture
from small_source import NEVA_PREP, tree
from table_help import given_images, image, llava_rows, llava_table, said, stored

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.retry import retry
from neva_prep.errors import ConfigError, NevaPrepError, RecordError

COUNT = 60


def check_llava(out: Path, rows: list[Row]) -> None:
    """See that a dataset holds these rows, and nothing else of them."""
    found = stored(out)
    assert len(found) == len(rows)
    for (record, images), row in zip(found, rows, strict=True):
        assert record["id"] == row["id"] and record["data_source"] == row["data_source"]
        assert said(record) == [(t["from"], t["value"]) for t in row["conversations"]]
        assert images == given_images(row)


@pytest.mark.parametrize("given", ["auto", "parquet", "arrow"])
def test_report_names_the_kind_of_table_that_was_read_whatever_it_is_called(
    tmp_path: Path, given: str
) -> None:
    llava_table(3).to_parquet(tmp_path / "table.bin")
    llava_table(3).save_to_disk(tmp_path / "saved")
    kinds = {"table.bin": ("parquet", "a Parquet table"), "saved/*.arrow": ("arrow", "an Arrow")}
    for number, (name, (kind, why)) in enumerate(kinds.items()):
        options = ConvertOptions(format=given)
        report = convert(tmp_path / name, None, tmp_path / f"out{number}", options)
        assert report.format == f"llava-{kind}" and report.format_why.startswith(why)


@pytest.mark.parametrize("row_group", [1, 7, 1000])
def test_parquet_of_datasets_round_trips(tmp_path: Path, row_group: int) -> None:
    llava_table(COUNT).to_parquet(tmp_path / "t.parquet", batch_size=row_group)
    report = convert(tmp_path / "t.parquet", None, tmp_path / "out")
    check_llava(tmp_path / "out", llava_rows(COUNT))
    assert not report.rejected and not report.repairs
    assert "Parquet" in report.format_why and "image" in report.format_why


def test_what_save_to_disk_wrote_round_trips_in_the_order_of_its_files(tmp_path: Path) -> None:
    table = llava_table(COUNT)
    table.save_to_disk(tmp_path / "saved", num_shards=12)
    convert(tmp_path / "saved", None, tmp_path / "out")
    check_llava(tmp_path / "out", llava_rows(COUNT))
    both = datasets.DatasetDict(train=table)
    both.save_to_disk(tmp_path / "dict")
    convert(tmp_path / "dict", None, tmp_path / "out2")
    check_llava(tmp_path / "out2", llava_rows(COUNT))


def test_folder_of_parquet_files_is_one_source_and_splits_are_not_mixed(tmp_path: Path) -> None:
    table = llava_table(COUNT)
    data = tmp_path / "hub" / "data"
    data.mkdir(parents=True)
    for part in range(3):
        chosen = table.select(range(part * 20, part * 20 + 20))
        chosen.to_parquet(data / f"train-{part:05d}-of-00003.parquet")
    convert(tmp_path / "hub", None, tmp_path / "out")
    check_llava(tmp_path / "out", llava_rows(COUNT))
    table.select([0]).to_parquet(data / "test-00000-of-00001.parquet")
    with pytest.raises(RecordError, match="splits test, train; give one"):
        convert(tmp_path / "hub", None, tmp_path / "out2")
    convert(data / "train-*", None, tmp_path / "out2")
    assert files_of(tmp_path / "out2").keys() == files_of(tmp_path / "out").keys()
    check_llava(tmp_path / "out2", llava_rows(COUNT))


def test_lists_of_images_and_pairs_of_texts_as_the_cauldron_has_them(tmp_path: Path) -> None:
    rows = [
        {
            "images": [{"bytes": image(10 * n + m), "path": None} for m in range(n % 3)],
            "texts": [
                {"user": f"ask {n}", "assistant": f"say {n}", "source": "x"},
                {"user": "and?", "assistant": "no", "source": "x"},
            ],
        }
        for n in range(9)
    ]
    text = datasets.Value("string")
    pair = [{"user": text, "assistant": text, "source": text}]
    features = datasets.Features(images=[datasets.Image()], texts=pair)
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "c.parquet")
    report = convert(
        tmp_path / "c.parquet", None, tmp_path / "out", ConvertOptions(placeholder="insert")
    )
    assert report.samples == 9
    for n, (record, images) in enumerate(stored(tmp_path / "out")):
        assert images == given_images(rows[n])
        text = "".join(value for _, value in said(record))
        assert text.count("<image>") == len(images)
        assert [v.replace("<image>\n", "") for _, v in said(record)] == [
            f"ask {n}", f"say {n}", "and?", "no",
        ]  # fmt: skip


ROWS: dict[str, tuple[Row, list[tuple[str, str]]]] = {
    "caption": (
        {"caption": "a cat"}, [("human", "<image>\nDescribe the image."), ("gpt", "a cat")],
    ),
    "text of img2dataset": (
        {"text": "a cat"}, [("human", "<image>\nDescribe the image."), ("gpt", "a cat")],
    ),
    "question and answer": (
        {"question": "what?", "answer": "cat"}, [("human", "<image>\nwhat?"), ("gpt", "cat")],
    ),
    "answers": (
        {"question": "what?", "answers": ["dog", "cat", "cat"]},
        [("human", "<image>\nwhat?"), ("gpt", "cat")],
    ),
    "messages": (
        {"messages": [{"role": "user", "content": "<image>hi"},
                      {"role": "assistant", "content": "yo"}]},
        [("human", "<image>hi"), ("gpt", "yo")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_columns_of_the_usual_names_are_understood(tmp_path: Path, name: str) -> None:
    fields, expected = ROWS[name]
    rows = [{"id": n, "image": {"bytes": image(n), "path": f"{n}"}, **fields} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    report = convert(tmp_path / "t.parquet", None, tmp_path / "out")
    assert report.samples == 3, report.examples
    for n, (record, images) in enumerate(stored(tmp_path / "out")):
        assert said(record) == expected and images == [image(n)] and record["id"] == n


ODD: list[Row] = [
    {"question": "plain?", "answer": "yes", "answers": None},
    {"question": "what <image1> is [this]?", "answer": "a < b", "answers": None},
    {"question": "<image>where?", "answer": "there", "answers": None},
    {"question": "many?", "answer": None, "answers": ["one", "two", "two"]},
    {"question": None, "answer": "lost", "answers": None},
    {"question": "empty?", "answer": " ", "answers": None},
]


def test_plain_rows_become_what_their_form_makes_of_them(tmp_path: Path) -> None:
    rows = [{"id": f"{n}", "image": {"bytes": image(n)}, **row} for n, row in enumerate(ODD)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    found = []
    for form in ("auto", "vqa"):
        report = convert(tmp_path / "t.parquet", None, tmp_path / form, ConvertOptions(format=form))
        lost = [(row["id"], row["reason"]) for row in read_quarantine(tmp_path / form)]
        kept = [
            ({k: v for k, v in record.items() if k != "conversations"}, said(record), images)
            for record, images in stored(tmp_path / form)
        ]
        found.append((report.samples, report.rejections, report.repairs, lost, kept))
    assert found[0] == found[1] and found[0][0] == 4


def test_bare_bytes_and_other_types_of_arrow_are_read(tmp_path: Path) -> None:
    shape = pa.schema(
        {
            "jpg": pa.large_binary(),
            "caption": pa.large_string(),
            "vector": pa.list_(pa.float32()),
            "thumb": pa.binary(),
            "when": pa.timestamp("s"),
        }
    )
    rows = [
        {"jpg": image(n), "caption": f"n {n}", "vector": [0.5, n], "thumb": b"x", "when": n}
        for n in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=shape), tmp_path / "t.parquet")
    report = convert(tmp_path / "t.parquet", None, tmp_path / "out")
    found = stored(tmp_path / "out")
    assert [images for _, images in found] == [[image(n)] for n in range(4)]
    assert [record["vector"] for record, _ in found] == [[0.5, n] for n in range(4)]
    assert "left out" in report.format_why and "thumb" in report.format_why


def of_type(kind: pa.DataType, *values: int) -> pa.Array:
    whole = pa.int32() if kind == pa.date32() else pa.int64()
    return pa.array([*values, None], whole).cast(kind)


NANO = 1_700_000_000_123_456_789
SAID = "2023-11-14T22:13:20.123456789"
TIMES: dict[str, tuple[pa.Array, Any]] = {
    "nanoseconds": (of_type(pa.timestamp("ns"), NANO), SAID),
    "nanoseconds of a zone": (of_type(pa.timestamp("ns", "+05:30"), NANO),
                              "2023-11-15T03:43:20.123456789+05:30"),
    "microseconds": (of_type(pa.timestamp("us", "UTC"), NANO // 1000), f"{SAID[:-3]}Z"),
    "duration": (of_type(pa.duration("ns"), -1_500_000_001), "-PT1.500000001S"),
    "long duration": (of_type(pa.duration("s"), 10**15), f"PT{10**15}S"),
    "time of day": (of_type(pa.time64("ns"), 1500), "00:00:00.000001500"),
    "list": (pa.array([[NANO], None], pa.list_(pa.timestamp("ns"))), [SAID]),
    "object": (pa.array([{"a": NANO, "b": 1}, None],
                        pa.struct({"a": pa.timestamp("ns"), "b": pa.int8()})),
               {"a": SAID, "b": 1}),
    "dictionary": (of_type(pa.timestamp("ns"), NANO).dictionary_encode(), SAID),
}  # fmt: skip


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_times_are_kept_as_texts(tmp_path: Path, name: str, kind: str) -> None:
    column, expected = TIMES[name]
    rows = pa.table({"when": column, "question": ["a", "b"], "answer": ["c", "d"]})
    path = tmp_path / "t.bin"
    if kind == "parquet":
        pq.write_table(rows, path)
    else:
        with pa.ipc.new_file(path, rows.schema) as writer:
            writer.write_table(rows)
    convert(path, None, tmp_path / "out", ConvertOptions(format=kind))
    assert [record["when"] for record, _ in stored(tmp_path / "out")] == [expected, None]


FAR: dict[str, pa.Array] = {
    "seconds": of_type(pa.timestamp("s"), 10**14),
    "year 20000": of_type(pa.timestamp("s"), 568_971_820_800),
    "days": of_type(pa.date32(), 2 * 10**9),
    "before the year 1": of_type(pa.date32(), -(10**6)),
    "an unknown zone": of_type(pa.timestamp("us", "Nowhere/X"), 1),
    "times by names": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.timestamp("ns"))),
}


@pytest.mark.parametrize("name", FAR)
def test_time_beyond_the_calendar_is_refused_by_its_column(tmp_path: Path, name: str) -> None:
    rows = pa.table({"when": FAR[name], "question": ["a", "b"], "answer": ["c", "d"]})
    pq.write_table(rows, tmp_path / "t.parquet")
    with pytest.raises(RecordError, match=r"t\.parquet: rows 0 .* column 'when' holds a time"):
        convert(tmp_path / "t.parquet", None, tmp_path / "out")


def test_user_names_the_columns(tmp_path: Path) -> None:
    rows = [{"pic": image(n), "ask": f"q{n}", "say": f"a{n}", "answer": "?"} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    given = {"image": "pic", "question": "ask", "answer": "say"}
    convert(tmp_path / "t.parquet", None, tmp_path / "out", ConvertOptions(columns=given))
    for n, (record, images) in enumerate(stored(tmp_path / "out")):
        assert said(record) == [("human", f"<image>\nq{n}"), ("gpt", f"a{n}")]
        assert images == [image(n)]
    with pytest.raises(ConfigError, match=r"no column 'nothing'; there are .*ask, say"):
        convert(
            tmp_path / "t.parquet", None, tmp_path / "o", ConvertOptions(columns={"id": "nothing"})
        )


def test_paths_are_looked_for_beside_the_table_or_under_images(tmp_path: Path) -> None:
    (tmp_path / "pics").mkdir()
    rows: list[Any] = []
    for n in range(4):
        (tmp_path / "pics" / f"{n}.jpg").write_bytes(image(n))
        rows.append({"image": {"bytes": None, "path": f"pics/{n}.jpg"}, "caption": f"{n}"})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "structs.parquet")
    names = [{"image": row["image"]["path"], "caption": row["caption"]} for row in rows]
    pq.write_table(pa.Table.from_pylist(names), tmp_path / "names.parquet")
    for name in ("structs", "names"):
        convert(tmp_path / f"{name}.parquet", None, tmp_path / name)
        assert [images for _, images in stored(tmp_path / name)] == [[image(n)] for n in range(4)]


def test_images_option_is_refused_where_the_table_holds_them(tmp_path: Path) -> None:
    llava_table(3).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match="holds its images itself"):
        convert(tmp_path / "t.parquet", tmp_path, tmp_path / "out")


def test_sound_is_quarantined_and_says_so(tmp_path: Path) -> None:
    talk = llava_rows(5)[4]["conversations"]
    rows = [{"id": "a", "audio": {"bytes": b"RIFF", "path": "a.wav"}, "conversations": talk}]
    noted = json.dumps({"info": {"features": {"audio": {"_type": "Audio"}}}})
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": noted})
    pq.write_table(table, tmp_path / "t.parquet")
    report = convert(tmp_path / "t.parquet", None, tmp_path / "out")
    assert report.rejections == {"audio_record": 1}


@pytest.mark.parametrize("kind", ["parquet", "saved"])
@pytest.mark.parametrize("shuffle", [None, 5])
def test_same_bytes_whatever_the_workers(tmp_path: Path, kind: str, shuffle: int | None) -> None:
    source = tmp_path / kind
    if kind == "saved":
        llava_table(COUNT).save_to_disk(source, num_shards=2)
    else:
        llava_table(COUNT).to_parquet(source, batch_size=7)
    trees = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        options = ConvertOptions(
            workers=workers, shuffle=shuffle, shard_count=9, split={"train": 0.7, "val": 0.3}
        )
        assert convert(source, None, out, options).samples == COUNT
        trees.append(tree(out))
    assert trees[0] == trees[1]
    found = {record["id"]: images for record, images in stored(tmp_path / "out1")}
    assert found == {row["id"]: given_images(row) for row in llava_rows(COUNT)}


def test_killed_conversion_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    source, flags = tmp_path / "t.parquet", ["--shard-count", "40", "--quiet"]
    llava_table(1200).to_parquet(source, batch_size=50)
    assert run_cli("convert", source, "--out", tmp_path / "whole", *flags).returncode == 0
    out = tmp_path / "out"
    command = [NEVA_PREP, "convert", str(source), "--out", str(out), *flags, "--workers", "2"]
    process = subprocess.Popen(command)
    while process.poll() is None and len(list(out.glob("*.tar"))) < 5:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / ".nv-meta" / ".info.json").exists()
    done = run_cli("convert", source, "--out", out, *flags, "--resume")
    assert done.returncode == 0, done.stderr
    assert tree(out) == tree(tmp_path / "whole")


def test_retry_converts_what_was_fixed_from_the_table(tmp_path: Path) -> None:
    rows = llava_rows(8)
    rows[2]["conversations"][1]["value"] = ""
    features = llava_table(1).features
    table = datasets.Dataset.from_list(rows, features=features)
    table.to_parquet(tmp_path / "t.parquet")
    out = tmp_path / "out"
    report = convert(tmp_path / "t.parquet", None, out)
    assert report.rejections == {"empty_value": 1}
    path = out / "quarantine.jsonl"
    row = json.loads(path.read_text())
    row["record"]["conversations"][1]["value"] = "fixed"
    path.write_text(json.dumps(row) + "\n")
    assert retry(path).rejected == 0
    found = {record["id"]: (said(record)[1][1], images) for record, images in stored(out)}
    assert found["row 2"] == ("fixed", given_images(rows[2])) and len(found) == 8


# Damage.


def write_groups(path: Path) -> None:
    pq.write_table(
        llava_table(40).with_format("arrow")[:], path, row_group_size=10, compression="none",
        use_dictionary=False, write_page_checksum=True,
    )  # fmt: skip


def test_cut_off_table_is_refused_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_groups(path)
    content = path.read_bytes()
    for stop in (4, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:stop])
        with pytest.raises(RecordError, match=r"t\.parquet.*damaged.*again"):
            convert(path, None, tmp_path / "out")


def test_damage_in_the_images_rejects_those_rows_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_groups(path)
    column = pq.ParquetFile(path).metadata.row_group(1)
    chunk = next(
        column.column(n) for n in range(column.num_columns)
        if column.column(n).path_in_schema == "image.bytes"
    )  # fmt: skip
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 12] = b"\xff" * 12
    path.write_bytes(content)
    report = convert(path, None, tmp_path / "out")
    # A text-only row needs nothing of that column.
    assert report.rejections == {"damaged_archive": 8} and report.samples == 32
    rows = read_quarantine(tmp_path / "out")
    assert [row["index"] for row in rows] == [n for n in range(10, 20) if n % 5 != 4]
    assert "t.parquet" in rows[0]["message"] and "copy or download" in rows[0]["message"]


def test_mutated_tables_never_crash(tmp_path: Path) -> None:
    path, random = tmp_path / "t.parquet", np.random.default_rng(3)
    write_groups(path)
    content = path.read_bytes()
    (tmp_path / "saved").mkdir()
    table = llava_table(40).with_format("arrow")[:]
    with (
        pa.OSFile(str(tmp_path / "s.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table, 10)
    stream = (tmp_path / "s.arrow").read_bytes()
    for trial in range(60):
        name, original = (("t.parquet", content), ("s.arrow", stream))[trial % 2]
        mutated = bytearray(original)
        for _ in range(random.integers(1, 6)):
            mutated[random.integers(8, len(mutated))] = random.integers(256)
        (tmp_path / name).write_bytes(mutated)
        try:
            report = convert(tmp_path / name, None, tmp_path / f"out{trial}")
            assert report.samples + report.rejected == report.records
        except NevaPrepError as error:
            assert name in str(error) or "records" in str(error)


# Memory.

_PEAK = """
import sys
from pathlib import Path
from neva_prep.dataprep.convert import convert
convert(Path(sys.argv[1]), None, Path(sys.argv[2]))
# Not what getrusage says, which is no less than what the parent had.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_memory_stays_flat_on_ten_times_as_much(tmp_path: Path, kind: str) -> None:
    padding = np.random.default_rng(1).bytes(500_000)
    peaks = []
    for count in (40, 400):
        rows = [
            {"image": {"bytes": picture(20, 20) + padding, "path": "a.jpg"}, "caption": f"{n}"}
            for n in range(20)
        ]
        group = pa.Table.from_pylist(rows)
        path = tmp_path / f"{count}.{kind}"
        if kind == "parquet":
            with pq.ParquetWriter(path, group.schema, compression="none") as parquet:
                for _ in range(count // 20):
                    parquet.write_table(group)
        else:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, group.schema) as arrow:
                for _ in range(count // 20):
                    arrow.write_table(group)
        command = [sys.executable, "-c", _PEAK, str(path), str(tmp_path / f"out-{count}")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) // 1024)
    assert peaks[1] < 300 and peaks[1] - peaks[0] < 60, peaks

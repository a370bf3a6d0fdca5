"""The lazy module reads LLaVA's JSON and images as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handmade import picture
from lazy_help import lazy, row
from loader_help import TILE, keys_of, signature, spell, take

from neva_prep.dataprep.source import open_source
from neva_prep.errors import ConfigError, RecordError
from neva_prep.loaders import ImageConfig, make_pixel_reader
from neva_prep.loaders.fit_image import process_image
from neva_prep.loaders.record_file import RecordFile


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """60 records, every third without image; and their images."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.jpg").write_bytes(picture(50, 30))
    file = tmp_path / "source.json"
    file.write_text(json.dumps([row(n, "a.jpg" if n % 3 else None) for n in range(60)], indent=2))
    return file


def test_training_and_validation_are_all_records_once(source: Path) -> None:
    with lazy(source, source) as data:
        val = keys_of(data.val_dataloader())
        assert val == sorted(val) and 1 <= len(val) <= 15
        train: list[str] = []
        stream = data.train_dataloader()
        while len(train) < 60 - len(val):
            train += next(stream)["__keys__"]
    assert sorted(set(train[: 60 - len(val)] + val)) == [f"{n:09d}" for n in range(60)]
    assert train != sorted(train)


def test_a_batch_is_llavas_conversation_with_its_image_padded(source: Path) -> None:
    with lazy(source, source, micro_batch_size=1, global_batch_size=1) as data:
        batch = next(batch for batch in data.train_dataloader() if len(batch["media"]))
    number = int(batch["__keys__"][0])
    text = spell(batch["tokens"][0].tolist())
    assert text.startswith("<s> A chat between a curious user and an artificial intelligence")
    assert text.endswith(f"USER: [image] \nQuestion {number}? ASSISTANT: {number}")
    assert spell(x for x in batch["labels"][0].tolist() if x != -100) == f" {number}</s>"
    data_bytes = (source.parent / "images/a.jpg").read_bytes()
    padded = process_image(data_bytes, ImageConfig(size=TILE, output="uint8", fit="pad"))
    assert torch.equal(batch["media"], padded)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_it_resumes_exactly(num_workers: int, packed: bool, source: Path) -> None:
    options: dict[str, Any] = {"num_workers": num_workers}
    if packed:
        options |= {
            "use_packed_sequence": True,
            "packed_sequence_size": 256,
            "micro_batch_size": 1,
            "packing_buffer_size": 12,
        }
    with lazy(source, source, **options) as data:
        take(data.train_dataloader(), 7)
        state = data.state_dict()
        expected = take(data.train_dataloader(), 5)
    with lazy(source, source, **options) as again:
        again.load_state_dict(state)
        assert take(again.train_dataloader(), 5) == expected


def test_two_ranks_share_an_epoch(source: Path) -> None:
    seen = []
    for rank in range(2):
        options = {"data_parallel_rank": rank, "data_parallel_size": 2, "global_batch_size": 4}
        with lazy(source, source, config={"val_fraction": 0.0}, **options) as data:
            stream = data.train_dataloader()
            seen.append({key for _ in range(15) for key in next(stream)["__keys__"]})
    assert len(seen[0]) == len(seen[1]) == 30 and len(seen[0] | seen[1]) == 60


def test_bad_records_are_skipped_by_reason(source: Path) -> None:
    rows: list[Any] = [row(n) for n in range(20)]
    rows[3] = row(3, "missing.jpg")
    rows[4] = row(4, "../source.json")
    rows[5] = row(5, ["a.jpg", "a.jpg"])
    rows[6] = {"id": 6}
    rows[7] = "text"
    file = source.parent / "bad.jsonl"
    file.write_text("\n".join(json.dumps(each) for each in rows) + "\n\n{broken\n")
    with lazy(file, source, max_skip_ratio=0.5, config={"val_fraction": 0.0}) as data:
        stream = data.train_dataloader()
        found: list[str] = []
        while len(found) < 32:
            found += next(stream)["__keys__"]
        report = data.skip_report()
    assert set(report.skipped) == {
        "missing_image",
        "path_traversal",
        "placeholder_mismatch",
        "missing_conversations",
        "not_an_object",
        "invalid_json",
    }
    assert set(found) == {f"{n:09d}" for n in range(20)} - {f"{n:09d}" for n in range(3, 8)}
    assert all("bad.jsonl:" in text or "sample " in text for text in report.examples.values())


def test_several_files_with_weights_and_a_file_of_validation(source: Path) -> None:
    other = source.parent / "other.json"
    other.write_text(json.dumps([row(n, None) for n in range(10)]))
    with lazy([source, other], source, weights=[1, 3], val_paths=other) as data:
        assert len(keys_of(data.val_dataloader())) == 10
        stream = data.train_dataloader()
        images = sum(len(next(stream)["media"]) for _ in range(200))
    assert 40 < images < 95, "about 400 x 1/4 x 2/3"


@pytest.mark.parametrize("layout", ["indent", "compact", "lines", "bom", "crlf"])
def test_records_are_found_in_every_layout(layout: str, tmp_path: Path) -> None:
    rows = [{"id": n, "text": 'a,]}\n"é' * n} for n in range(5)]
    texts = {
        "indent": json.dumps(rows, indent=4).encode(),
        "compact": json.dumps(rows, separators=(",", ":")).encode(),
        "lines": "\n".join(map(json.dumps, rows)).encode(),
        "bom": b"\xef\xbb\xbf" + json.dumps(rows).encode(),
        "crlf": "\r\n".join(map(json.dumps, rows)).encode() + b"\r\n\r\n",
    }
    file = tmp_path / "x.json"
    file.write_bytes(texts[layout])
    records = RecordFile(file)
    assert [records.read(n) for n in range(len(records))] == rows


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("name", ["conversations", "messages"])
def test_a_file_that_is_one_record_over_several_lines_is_that_record(
    mark: bytes, name: str, source: Path
) -> None:
    one = row(7)
    if name == "messages":
        turns = [{"role": "user", "content": "<image>\n?"}, {"role": "assistant", "content": "!"}]
        one = {"image": "a.jpg", "messages": turns}
    file = source.with_name("one.json")
    file.write_bytes(mark + json.dumps(one, indent=2).encode() + b"\n")
    assert [RecordFile(file).read(n) for n in range(len(RecordFile(file)))] == [one]
    with lazy(file, source, config={"val_fraction": 0}, micro_batch_size=1) as data:
        batch = next(data.train_dataloader())
    assert batch["__keys__"] == ["000000000"] and len(batch["media"]) == 1


def test_one_object_that_is_no_record_is_refused_as_convert_does(tmp_path: Path) -> None:
    file = tmp_path / "whole.json"
    for whole in ({"info": {}, "data": [row(1), row(2)]}, {"id": 1}):
        file.write_text(json.dumps(whole, indent=1))
        with pytest.raises(RecordError) as lazily:
            RecordFile(file)
        with pytest.raises(RecordError) as converted:
            list(open_source(file).spans())
        assert str(lazily.value) == str(converted.value)
        assert "whole.json: byte 0: the top level is an object" in str(lazily.value)


def test_memory_is_16_bytes_a_record(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"id":1}\n' * 50_000)
    records = RecordFile(file)
    assert records.spans.nbytes == 16 * 50_000
    assert records.spans.dtype == np.int64


def test_what_cannot_be_read_is_named(source: Path, tmp_path: Path) -> None:
    with (
        lazy(tmp_path / "none.json", source) as data,
        pytest.raises(ConfigError, match=r"none.json: cannot be read"),
    ):
        data.train_dataloader()
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds no records"):
        RecordFile(tmp_path / "empty.json")
    (tmp_path / "cut.json").write_text('[{"a": 1}, {"b"')
    with pytest.raises(RecordError, match="byte 15: record 1 is cut off"):
        RecordFile(tmp_path / "cut.json")
    with pytest.raises(ConfigError, match=r"weights=\[1\] for 2 paths"):
        lazy([source, source], source, weights=[1])
    with (
        lazy(source, source, config={"val_fraction": 0.0}) as data,
        pytest.raises(ConfigError, match="none of its 60 records is in the val split"),
    ):
        data.val_dataloader()


def test_a_place_is_saved_without_the_source_once_it_is_open(source: Path) -> None:
    with lazy(source, source) as data:
        stream = data.train_dataloader()
        next(stream)
        before = data.state_dict()
        source.rename(source.with_name("moved.json"))
        assert data.state_dict() == before
        expected = take(stream, 3)
    with lazy(source.with_name("moved.json"), source) as again:
        again.load_state_dict(before)
        assert take(again.train_dataloader(), 3) == expected


def test_a_changed_source_is_refused_on_resume(source: Path) -> None:
    with lazy(source, source) as data:
        signature(next(data.train_dataloader()))
        state = data.state_dict()
    source.write_text(source.read_text().replace("Question 5?", "Question 6?"))
    with lazy(source, source) as again, pytest.raises(ConfigError, match="file: saved"):
        again.load_state_dict(state)


class _OwnReader:
    """A reader that is none of ours."""

    config = None
    output = "uint8"

    def read(self, data: bytes, *, name: str = "image") -> torch.Tensor:
        return torch.zeros(1, 3, 8, 8, dtype=torch.uint8)

    def count_tiles(self, data: bytes, *, name: str = "image") -> int:
        return 1

    def describe(self) -> str:
        return "zeros"


def test_a_reader_of_pixels_is_an_image_processor_too(source: Path) -> None:
    crop = make_pixel_reader(ImageConfig(size=TILE, fit="crop", output="uint8", mode="fast"))
    fits = {}
    for mode in ("pad", None):
        with lazy(
            source, source, image_processor=crop, config={"image_process_mode": mode}
        ) as data:
            assert next(data.train_dataloader())["media"].dtype == torch.uint8
            fits[mode] = data.task_encoder.preparer.reader.describe()
    assert fits == {
        "pad": f"fast pad to {TILE}, by neva-prep",
        None: f"fast crop to {TILE}, by neva-prep",
    }


def test_what_reads_images_its_own_way_must_be_let(source: Path) -> None:
    with pytest.raises(ConfigError, match=r"_OwnReader .* set image_process_mode=None"):
        lazy(source, source, image_processor=_OwnReader())
    config = {"image_process_mode": None}
    with lazy(source, source, image_processor=_OwnReader(), config=config) as data:
        assert next(data.train_dataloader())["media"].shape[1:] == (3, 8, 8)

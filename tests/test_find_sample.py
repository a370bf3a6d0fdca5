"""One sample of a dataset, found by index, key or id."""

import json
from pathlib import Path

import pytest
from handmade import members, valid_shards, write_dataset, write_source

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.errors import ConfigError, RecordError, ShardError


def test_every_sample_is_found_by_index_key_and_id(tmp_path: Path) -> None:
    source, images = write_source(tmp_path)
    out = tmp_path / "out"
    convert(source, images, out, ConvertOptions(shard_count=4, split={"train": 0.5, "val": 0.5}))
    rows = json.loads(source.read_text())
    looked = open_looked(out)
    seen = set()
    for index in range(12):
        sample = looked.sample(index)
        row = rows[int(sample.key)]
        seen.add(sample.key)
        assert sample.place.index == index
        assert looked.find(key=sample.key) == index
        assert looked.find(key=sample.key.lstrip("0") or "0") == index
        assert looked.find(id=row["id"]) == index
        assert looked.messages(index) == row["conversations"]
        assert [image.data for image in sample.images] == [
            (images / name).read_bytes() for name in row.get("image", [])
        ]
        tar = (out / str(sample.place.shard)).read_bytes()
        assert tar[sample.place.offset :].startswith(f"{sample.key}.".encode())
        for image in sample.images:
            assert image.offset is not None and image.data is not None
            assert tar[image.offset : image.offset + len(image.data)] == image.data
    assert len(seen) == 12


def test_a_number_as_id_is_found(tmp_path: Path) -> None:
    shards = {"train-000000.tar": {"000000000": members(0), "000000001": members(1, id=42)}}
    assert open_looked(write_dataset(tmp_path / "ds", shards)).find(id="42") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ({"key": "000000009"}, "has no sample with key '000000009'"),
        ({"key": "x' OR 1=1 --"}, "has no sample with key"),
        ({"id": "id-99"}, "has no record with id 'id-99'; look at the source's ids"),
    ],
)
def test_what_is_not_there_is_a_usage_error(
    name: dict[str, str], message: str, tmp_path: Path
) -> None:
    looked = open_looked(write_dataset(tmp_path / "ds"))
    with pytest.raises(ConfigError, match=message):
        looked.find(**name)


@pytest.mark.parametrize("index", [7, -1])
def test_a_number_that_is_not_there_is_a_usage_error(index: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"has no sample {index}; it has 7, 0 to 6"):
        open_looked(write_dataset(tmp_path / "ds")).sample(index)


def test_a_missing_index_or_shard_says_so(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    (path / "val-000000.tar").unlink()
    with pytest.raises(ShardError, match=r"val-000000.tar: cannot be read .*neva-prep verify"):
        open_looked(path).sample(6)
    (path / ".nv-meta/index.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(ShardError, match=r"index.sqlite: cannot be read .*neva-prep verify"):
        open_looked(path)
    (path / ".nv-meta/index.sqlite").unlink()
    with pytest.raises(ShardError, match=r"index.sqlite: is missing"):
        open_looked(path)


def test_a_sample_whose_members_do_not_fit_raises_its_key(tmp_path: Path) -> None:
    shards = valid_shards()
    shards["train-000000.tar"]["000000002"].pop(0)
    with pytest.raises(RecordError, match=r"sample 000000002: its record lists 000.jpg"):
        open_looked(write_dataset(tmp_path / "ds", shards)).sample(2)

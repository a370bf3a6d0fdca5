"""Streaming through energon: every sample once, nothing lost in silence."""

import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from handmade import members, valid_shards, write_dataset, write_source

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.verify import verify
from neva_prep.errors import ConfigError, ImageError, RecordError, ShardError
from neva_prep.loaders import open_dataset

WORKERS = pytest.mark.parametrize("num_workers", [0, 2])


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("converted")
    source, images = write_source(root)
    options = ConvertOptions(shard_count=4, split={"train": 0.75, "val": 0.25})
    convert(source, images, root / "out", options)
    return root / "out"


@WORKERS
def test_every_sample_of_both_splits_comes_once(converted: Path, num_workers: int) -> None:
    train = [sample.key for sample in open_dataset(converted, num_workers=num_workers)]
    val = [sample.key for sample in open_dataset(converted, split="val", num_workers=num_workers)]
    assert sorted(train + val) == [f"{number:09d}" for number in range(12)]
    assert train and val


def many_shards(count: int = 8, samples: int = 5) -> dict[str, dict[str, list[tuple[str, bytes]]]]:
    return {
        f"train-{shard:06d}.tar": {
            f"{n:09d}": members(n, images=0) for n in range(samples * shard, samples * (shard + 1))
        }
        for shard in range(count)
    }


def test_the_order_without_shuffling_is_that_of_the_shards(tmp_path: Path) -> None:
    stream = open_dataset(write_dataset(tmp_path / "ds", many_shards()))
    keys = [sample.key for sample in stream]
    assert keys == [f"{number:09d}" for number in range(40)]
    assert [sample.key for sample in stream] == keys, "every iter() begins the same epoch"
    assert len(stream) == 40


def test_a_sample_is_the_record_and_the_bytes_of_its_images(converted: Path) -> None:
    rows = json.loads((converted.parent / "llava.json").read_text())
    for split in ("train", "val"):
        for sample in open_dataset(converted, split=split, num_workers=2):
            row = rows[int(sample.key)]
            assert sample.id == row["id"]
            assert sample.messages == row["conversations"]
            assert {name: sample.record[name] for name in row} == row
            paths = row.get("image", [])
            assert sample.images == [
                (converted.parent / "pictures" / path).read_bytes() for path in paths
            ]
            sizes = [picture.size for picture in sample.decode_images()]
            assert sizes == [(40 + int(sample.key), 30 + place) for place in range(len(paths))]


@WORKERS
def test_shuffling_loses_nothing_and_follows_the_seed(tmp_path: Path, num_workers: int) -> None:
    path = write_dataset(tmp_path / "ds", many_shards())

    def order(seed: int) -> list[str]:
        stream = open_dataset(path, shuffle_buffer_size=8, seed=seed, num_workers=num_workers)
        return [sample.key for sample in stream]

    first = order(1)
    assert sorted(first) == [f"{number:09d}" for number in range(40)]
    assert first != sorted(first)
    assert order(1) == first
    assert order(2) != first


@WORKERS
def test_repeat_goes_on_endlessly(tmp_path: Path, num_workers: int) -> None:
    path = write_dataset(tmp_path / "ds")
    seen = []
    for sample in open_dataset(path, repeat=True, num_workers=num_workers):
        seen.append(sample.key)
        if len(seen) == 15:
            break
    # With workers each repeats its own share, and the smaller share comes round sooner.
    assert set(seen) == {f"{number:09d}" for number in range(5)}
    assert {seen.count(key) for key in seen} <= ({3} if num_workers == 0 else {2, 3, 4})


def wait_for_workers_to_end() -> None:
    start = time.monotonic()
    while multiprocessing.active_children() and time.monotonic() - start < 1:
        time.sleep(0.01)
    assert not multiprocessing.active_children()


def test_leaving_the_loop_ends_the_workers_within_a_second(converted: Path) -> None:
    stream = open_dataset(converted, num_workers=2)
    for _ in stream:
        assert len(multiprocessing.active_children()) == 2
        break
    wait_for_workers_to_end()


@pytest.mark.parametrize("broken", ["record", "shard"])
def test_an_error_ends_the_workers_within_a_second(tmp_path: Path, broken: str) -> None:
    shards = many_shards(2)
    if broken == "record":
        shards["train-000001.tar"]["000000009"] = [("json", b"{")]
    path = write_dataset(tmp_path / "ds", shards)
    if broken == "shard":
        (path / "train-000001.tar").write_bytes((path / "train-000001.tar").read_bytes()[:3000])
    stream = open_dataset(path, num_workers=2)
    with pytest.raises((RecordError, ShardError)) as caught:
        list(stream)
    wait_for_workers_to_end()
    assert str(path) in str(caught.value) or "000000009" in str(caught.value)


def test_more_workers_than_samples_work(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds", {"train-000000.tar": {"000000000": members(0)}})
    assert [sample.key for sample in open_dataset(path, num_workers=2)] == ["000000000"]


def spoil(fault: str) -> dict[str, dict[str, list[tuple[str, bytes]]]]:
    """The valid shards, with sample 000000002 spoilt."""
    shards = valid_shards()
    sample = dict(shards["train-000000.tar"]["000000002"])
    record = json.loads(sample["json"])
    if fault == "too many placeholders":
        record["conversations"][0]["value"] += "<image>"
    elif fault == "no placeholder":
        record["conversations"][0]["value"] = "Question?"
    elif fault == "image not there":
        del sample["000.jpg"]
    elif fault == "image not listed":
        record["images"] = []
    elif fault == "turn without value":
        del record["conversations"][1]["value"]
    elif fault == "no id":
        del record["id"]
    sample["json"] = json.dumps(record).encode()
    if fault == "broken JSON":
        sample["json"] = sample["json"][:-1]
    elif fault == "nested JSON":
        sample["json"] = b"[" * 100_000
    elif fault == "no JSON":
        del sample["json"]
    shards["train-000000.tar"]["000000002"] = list(sample.items())
    return shards


FAULTS = {
    "too many placeholders": "2 '<image>' in its user turns but 1 images",
    "no placeholder": "0 '<image>' in its user turns but 1 images",
    "image not there": "lists 000.jpg, which the shard does not have",
    "image not listed": "members that 'images' does not list: 000.jpg",
    "turn without value": "turn 1 without 'from' and 'value'",
    "no id": "has no 'id'",
    "broken JSON": "is no valid JSON",
    "nested JSON": "is no valid JSON",
    "no JSON": "is no valid JSON",
}


@WORKERS
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_sample_raises_its_key(
    tmp_path: Path, fault: str, num_workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_dataset(tmp_path / "ds", spoil(fault))
    with pytest.raises(RecordError) as caught:
        list(open_dataset(path, num_workers=num_workers))
    assert str(caught.value).startswith("sample 000000002: ")
    assert FAULTS[fault] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == "", "energon prints to stdout, where data belongs"


def test_placeholders_in_answers_are_plain_text(tmp_path: Path) -> None:
    shards = valid_shards()
    *images, (_, data) = shards["train-000000.tar"]["000000000"]
    record = json.loads(data)
    record["conversations"][1]["value"] = "I write <image>."
    shards["train-000000.tar"]["000000000"] = [*images, ("json", json.dumps(record).encode())]
    samples = list(open_dataset(write_dataset(tmp_path / "ds", shards)))
    assert samples[0].messages[1]["value"] == "I write <image>."


@pytest.mark.filterwarnings("ignore:.*pin_memory")
def test_energon_alone_would_skip_a_wholly_broken_dataset_in_silence(tmp_path: Path) -> None:
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        get_loader,
        get_val_dataset,
        stateless,
    )

    from neva_prep.loaders.sample import cook

    shards = {"train-000000.tar": {f"{n:09d}": [("json", b"{")] for n in range(5)}}
    path = write_dataset(tmp_path / "ds", shards)

    class Encoder(DefaultTaskEncoder):  # type: ignore[misc]
        cookers = (Cooker(stateless(cook)),)
        decoder = None

    alone = get_val_dataset(
        path,
        split_part="train",
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None,
        task_encoder=Encoder(),
    )
    assert list(get_loader(alone)) == []
    with pytest.raises(RecordError, match="sample 000000000"):
        list(open_dataset(path))


def test_a_sample_that_goes_missing_on_the_way_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from megatron.energon import Cooker, SkipSample, stateless

    from neva_prep.loaders import sample, stream

    @stateless  # type: ignore[untyped-decorator]
    def skip_one(crude: dict[str, Any]) -> Any:
        if crude["__key__"] == "000000001":
            raise SkipSample
        return sample.cook_or_fail(crude)

    monkeypatch.setattr(stream.ConversationTaskEncoder, "cookers", (Cooker(skip_one),))
    with pytest.raises(ShardError, match="gave 4 samples, its index says 5"):
        list(open_dataset(write_dataset(tmp_path / "ds")))


@WORKERS
def test_a_truncated_shard_raises(tmp_path: Path, num_workers: int) -> None:
    path = write_dataset(tmp_path / "ds")
    shard = path / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:900])
    with pytest.raises(
        ShardError, match=r"train-000001\.tar: its \.idx tells .*run neva-prep verify"
    ):
        list(open_dataset(path, num_workers=num_workers))


def test_an_unfinished_conversion_is_refused(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    (path / ".nv-meta/.info.json").unlink()
    with pytest.raises(ShardError, match=r"no .nv-meta/.info.json.*--resume"):
        open_dataset(path)


def test_an_unknown_split_lists_the_known_ones(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    with pytest.raises(ConfigError, match="no split 'test'; splits with samples: train, val"):
        open_dataset(path, split="test")


def test_an_empty_split_lists_the_filled_ones(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    split = path / ".nv-meta/split.yaml"
    split.write_text("split_parts:\n  train: ['train-{000000..000001}.tar']\n  val: []\n")
    with pytest.raises(ConfigError, match="split 'val' is empty; with samples: train"):
        open_dataset(path, split="val")
    assert len(open_dataset(path)) == 5


def test_samples_that_split_yaml_leaves_out_are_refused(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    split = path / ".nv-meta/split.yaml"
    split.write_text(split.read_text().replace("[]", "['train-000000.tar/000000001']"))
    with pytest.raises(ConfigError, match="leaves single samples out"):
        open_dataset(path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://bucket/ds.yaml", "only the folder"),
        ("nowhere", "no such folder"),
        (".", "no dataset"),
    ],
)
def test_other_places_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, ShardError), match=message):
        open_dataset(path)


@pytest.mark.parametrize("settings", [{"num_workers": -1}, {"shuffle_buffer_size": 0}])
def test_impossible_settings_are_refused(tmp_path: Path, settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        open_dataset(write_dataset(tmp_path / "ds"), **settings)  # type: ignore[arg-type]


def test_the_pixel_limit_names_the_sample(tmp_path: Path) -> None:
    sample = next(iter(open_dataset(write_dataset(tmp_path / "ds"), max_pixels=32 * 24 - 1)))
    with pytest.raises(ImageError, match=r"sample 000000000, image 000.jpg: is 32 x 24 pixels"):
        sample.decode_images()
    assert len(next(iter(open_dataset(tmp_path / "ds", max_pixels=32 * 24))).decode_images()) == 1


def test_importing_the_loaders_imports_no_torch() -> None:
    code = (
        "import sys, neva_prep.loaders, neva_prep.loaders.shard, neva_prep.loaders.decode,"
        " neva_prep.loaders.trust; assert not {'torch', 'megatron'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_passes_through_convert_is_read_back(tmp_path: Path) -> None:
    # JSON allows these; msgspec does not.
    rows = [
        '{"id": "a", "extra": "\\ud800", "conversations": TURNS}',
        '{"id": "b", "extra": 1e400, "conversations": TURNS}',
    ]
    turns = '[{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]'
    source = tmp_path / "source.jsonl"
    source.write_text("\n".join(row.replace("TURNS", turns) for row in rows))
    assert convert(source, tmp_path, tmp_path / "out").samples == 2
    assert verify(tmp_path / "out").is_whole
    assert [sample.id for sample in open_dataset(tmp_path / "out")] == ["a", "b"]
    looked = open_looked(tmp_path / "out")
    assert looked.sample(looked.find(id="b")).key == "000000001"

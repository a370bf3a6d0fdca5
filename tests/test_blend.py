"""Several datasets in proportions, from Python or a metadataset file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from handmade import members, write_dataset
from loader_help import VQA_FIELDS, module, take, typed_dataset, vqa_members

from neva_prep.errors import ConfigError, ShardError
from neva_prep.loaders.blend import open_blend
from neva_prep.loaders.trust import UntrustedDatasetError


def small(root: Path, samples: int, first: int = 0) -> Path:
    names = range(first, first + samples)
    shards = {
        "train-000000.tar": {f"{n:09d}": members(n) for n in names},
        "val-000000.tar": {f"{n:09d}": members(n) for n in range(900, 902)},
    }
    return write_dataset(root, shards)


def metadataset(root: Path, split: dict[str, Any], name: str = "meta.yaml", **splits: Any) -> Path:
    file = root / name
    described = {
        "__module__": "megatron.energon",
        "__class__": "MetadatasetV2",
        "splits": {"train": split, **splits},
    }
    file.write_text(yaml.safe_dump(described))
    return file


def origins(path: Any, batches: int) -> Counter[str]:
    with module(path) as data:
        stream = data.train_dataloader()
        return Counter(
            Path(origin).name for _ in range(batches) for origin in next(stream)["__origins__"]
        )


def test_weights_from_python_are_the_proportions(tmp_path: Path) -> None:
    paths = {small(tmp_path / "a", 30): 3.0, small(tmp_path / "b", 10): 1.0}
    found = origins(paths, 400)
    assert found.total() == 800
    assert 0.70 < found["a"] / 800 < 0.80


def test_weights_of_a_metadataset_multiply(tmp_path: Path) -> None:
    for name in "abc":
        small(tmp_path / name, 10)
    metadataset(
        tmp_path,
        {"blend": [{"path": "a", "weight": 1}, {"path": "b", "weight": 3}]},
        "inner.yaml",
    )
    file = metadataset(
        tmp_path, {"blend": [{"path": "inner.yaml", "weight": 4}, {"path": "c", "weight": 1}]}
    )
    blend = open_blend(file, "train")
    assert blend.mode == "weights"
    assert [part.number for part in blend.parts] == pytest.approx([0.2, 0.6, 0.2])
    found = origins(file, 400)
    assert 0.53 < found["b"] / 800 < 0.67


def half() -> dict[str, list[str]]:
    return {"range": ["0%", "50%"]}


def test_the_same_blend_as_energon_makes_of_the_file(tmp_path: Path) -> None:
    from megatron.energon import WorkerConfig
    from megatron.energon.metadataset import load_dataset

    for name in "abc":
        small(tmp_path / name, 20)
    metadataset(
        tmp_path,
        {
            "blend": [{"path": "a", "weight": 1}, {"path": "b", "weight": 3, "subset": half()}],
            "subset": half(),
        },
        "inner.yaml",
    )
    file = metadataset(
        tmp_path, {"blend": [{"path": "inner.yaml", "weight": 4}, {"path": "c", "weight": 1}]}
    )
    loaded = load_dataset(file).get_datasets(
        training=True,
        split_part="train",
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        decoder=None,
    )
    theirs = [
        (Path(str(each.dataset.path)).name, each.weight, each.dataset.subset)
        for each in loaded.datasets
    ]
    blend = open_blend(file, "train")
    ours = [(part.name.split(",")[0].rpartition("/")[2], part.number) for part in blend.parts]
    assert [name for name, _ in ours] == [name for name, _, _ in theirs]
    assert [weight for _, weight in ours] == pytest.approx([weight for _, weight, _ in theirs])
    assert [getattr(part, "subset", None) for part in blend.parts] == [each[2] for each in theirs]
    assert [part.samples for part in blend.parts] == [10, 5, 20]


def test_repetitions_are_an_epoch(tmp_path: Path) -> None:
    small(tmp_path / "a", 4)
    small(tmp_path / "b", 4)
    file = metadataset(
        tmp_path,
        {"blend_epochized": [{"path": "a", "repetitions": 3}, {"path": "b", "repetitions": 1}]},
    )
    blend = open_blend(file, "train")
    assert (blend.mode, blend.samples) == ("repetitions", 16)
    with module(file, shuffle_buffer_size=None) as data:
        stream = data.train_dataloader()
        found = Counter(
            Path(origin).name for _ in range(8) for origin in next(stream)["__origins__"]
        )
    assert found == {"a": 12, "b": 4}


def test_a_single_dataset_in_a_metadataset_with_split_and_subflavors(tmp_path: Path) -> None:
    small(tmp_path / "a", 4)
    file = metadataset(
        tmp_path,
        {"path": "a", "subflavors": {"kind": "chat"}},
        val={"path": "a", "split_part": "train"},
    )
    (part,) = open_blend(file, "train").parts
    assert getattr(part, "dataset").subflavors == {"kind": "chat"}  # noqa: B009
    assert open_blend(file, "val").samples == 4
    with module(file) as data:
        assert len(list(data.val_dataloader())) == 2


def test_a_blend_with_a_typed_dataset(tmp_path: Path) -> None:
    typed_dataset(tmp_path / "vqa", "VQASample", VQA_FIELDS, [vqa_members(n) for n in range(5)])
    small(tmp_path / "own", 5)
    file = metadataset(tmp_path, {"blend": [{"path": "vqa"}, {"path": "own"}]})
    assert set(origins(file, 40)) == {"vqa", "own"}


def test_a_blend_resumes_and_knows_its_weights(tmp_path: Path) -> None:
    one, two = small(tmp_path / "a", 12), small(tmp_path / "b", 12)
    with module({one: 1.0, two: 2.0}) as data:
        take(data.train_dataloader(), 7)
        state = data.state_dict()
        expected = take(data.train_dataloader(), 5)
    with module({one: 1.0, two: 2.0}) as again:
        again.load_state_dict(state)
        assert take(again.train_dataloader(), 5) == expected
    with (
        module({one: 1.0, two: 3.0}) as other,
        pytest.raises(ConfigError, match=r"parts\[1\].number: saved 2.0, now 3.0"),
    ):
        other.load_state_dict(state)


def test_validation_of_a_blend_has_every_sample_once(tmp_path: Path) -> None:
    paths = {small(tmp_path / "a", 4): 5.0, small(tmp_path / "b", 4): 1.0}
    with module(paths) as data:
        found = [
            (o, k)
            for b in data.val_dataloader()
            for o, k in zip(b["__origins__"], b["__keys__"], strict=True)
        ]
    assert len(found) == len(set(found)) == 4


def test_what_cannot_be_blended_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path / "a", 4)
    with pytest.raises(ConfigError, match="weight 0 must be a number above 0"):
        open_blend({path: 0}, "train")
    with pytest.raises(ConfigError, match="names no dataset"):
        open_blend({}, "train")
    with pytest.raises(ConfigError, match="has no split 'test'"):
        open_blend(metadataset(tmp_path, {"path": "a"}), "test")
    mixed = {"blend": [{"blend_epochized": [{"path": "a"}]}]}
    with pytest.raises(ConfigError, match="mixes 'blend' with 'blend_epochized'"):
        open_blend(metadataset(tmp_path, mixed), "train")
    with pytest.raises(ShardError, match=r"subset .* is not as energon has it"):
        open_blend(metadataset(tmp_path, {"path": "a", "subset": {"range": ["x", "y"]}}), "train")


def test_a_hostile_typed_dataset_under_a_metadataset_is_refused(tmp_path: Path) -> None:
    path = typed_dataset(tmp_path / "vqa", "VQASample", VQA_FIELDS, [vqa_members(0)])
    described = yaml.safe_load((path / ".nv-meta/dataset.yaml").read_text())
    described["sample_loader"] = described.pop("field_map") and "evil.py:f"
    (path / ".nv-meta/dataset.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(UntrustedDatasetError, match="code that energon would run"):
        open_blend(metadataset(tmp_path, {"path": "vqa"}), "train")


def broken_blend(root: Path, **repetitions: float) -> Path:
    """The samples of each dataset are as many as its letter's place, times 10, in one shard."""
    for place, name in enumerate(repetitions):
        small(root / name, 10 * (place + 1), first=100 * place)
    children = [{"path": name, "repetitions": number} for name, number in repetitions.items()]
    return metadataset(root, {"blend_epochized": children})


def test_broken_repetitions_are_the_same_share_of_every_epoch(tmp_path: Path) -> None:
    file = broken_blend(tmp_path, a=1.5, b=0.25, c=0.05)  # 15, 5 and 1.5 samples.
    with module(file, shuffle_buffer_size=None, micro_batch_size=1) as data:
        stream = data.train_dataloader()
        keys = [key for _ in range(43 * 2) for key in next(stream)["__keys__"]]
    halves = [Counter(int(key) // 100 for key in half) for half in (keys[:21], keys[21:43])]
    assert halves == [{0: 15, 1: 5, 2: 1}, {0: 15, 1: 5, 2: 2}]
    times = Counter(keys)
    # Four epochs are 6 passes, 1 pass, and the first 6 samples of 30.
    assert {times[f"{n:09d}"] for n in range(10)} == {6}
    assert {times[f"{100 + n:09d}"] for n in range(20)} == {1}
    assert sum(number for key, number in times.items() if int(key) >= 200) == 6


def test_broken_repetitions_resume_exactly(tmp_path: Path) -> None:
    file = broken_blend(tmp_path, a=0.5, b=0.25)
    with module(file, micro_batch_size=1) as data:
        stream = data.train_dataloader()
        states, expected = [], []
        for _ in range(20):
            states.append(data.state_dict())
            expected += take(stream, 1)
    for place in range(3, 17, 2):
        with module(file, micro_batch_size=1) as again:
            again.load_state_dict(states[place])
            assert take(again.train_dataloader(), 4) == expected[place : place + 4]


def test_validation_knows_no_repetitions(tmp_path: Path) -> None:
    small(tmp_path / "a", 4)
    train, val = ({"blend_epochized": [{"path": "a", "repetitions": 2.5}]} for _ in range(2))
    with module(metadataset(tmp_path, train, val=val)) as data:
        assert [key for batch in data.val_dataloader() for key in batch["__keys__"]] == [
            "000000900",
            "000000901",
        ]

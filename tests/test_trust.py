"""A dataset cannot make us run code: each attack works against energon alone, none against us."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from handmade import members, write_dataset

from neva_prep.errors import ConfigError, RecordError, ShardError
from neva_prep.loaders import open_dataset
from neva_prep.loaders.metadataset import check_metadataset
from neva_prep.loaders.trust import UntrustedDatasetError, check_dataset, read_plain_yaml

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory", "ignore:.*deprecated")


class Touch:
    """Pickled, it touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def attack(name: str, root: Path, marker: Path) -> Path:
    """A dataset whose loading runs `touch marker`; what to open."""
    command = {"__module__": "os", "__function__": "system", "command": f"touch {marker}"}
    crude: dict[str, Any] = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}
    shards = {"train-000000.tar": {"000000000": members(0)}}
    if name == "pickled member":
        shards["train-000000.tar"]["000000000"].insert(0, ("pkl", pickle.dumps(Touch(marker))))
    path = write_dataset(root / "ds", shards)
    meta = path / ".nv-meta"
    evil = f"import os; os.system('touch {marker}')\ndef f(raw): return dict(text='x')\n"
    (meta / "evil.py").write_text(evil)
    (root / "evil.py").write_text(evil)
    typed = {"sample_type": {"__module__": "megatron.energon", "__class__": "TextSample"}}
    configs: dict[str, Any] = {
        "subset calls a function": {**crude, "subset": command},
        "subflavors call a function": {**crude, "subflavors": {"a": command}},
        "subflavors are a call": {**crude, "subflavors": command},
        "nested subflavors call a function": {**crude, "subflavors": {"a": [{"b": command}]}},
        "sample_loader": {**typed, "sample_loader": "evil.py:f", "part_filter": ["json"]},
        "part_filter": {**crude, "part_filter": "../../evil.py:f"},
        "another class": {
            "__module__": "subprocess",
            "__class__": "Popen",
            "args": f"touch {marker}",
            "shell": True,
        },
        "a function": command,
    }
    if name in configs:
        (meta / "dataset.yaml").write_text(yaml.safe_dump(configs[name]))
    if name == "metadataset":
        file = root / "ds" / "meta.yaml"
        split = {"path": ".", "subflavors": {"a": command}}
        file.write_text(
            yaml.safe_dump(
                {
                    "__module__": "megatron.energon",
                    "__class__": "MetadatasetV2",
                    "splits": {"train": split},
                }
            )
        )
        return file
    return path


REFUSED = {
    "subset calls a function": "subset is not on the allowlist",
    "subflavors call a function": r"subflavors.a asks energon to import and call code",
    "subflavors are a call": "subflavors asks energon to import and call code",
    "nested subflavors call a function": r"subflavors.a\[0\].b asks energon to import and call",
    "sample_loader": "asks energon to import None.None",
    "part_filter": "part_filter can name a Python file that energon would run",
    "another class": "asks energon to import subprocess.Popen",
    "a function": "asks energon to import os.system",
    "metadataset": r"splits.train.subflavors.a asks energon to import and call code",
}
WORKS_ON_ENERGON = [
    "subset calls a function",
    "subflavors call a function",
    "sample_loader",
    "part_filter",
    "metadataset",
    "pickled member",
]


def load_with_energon_alone(path: Path, *, decode: bool) -> None:
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        SampleDecoder,
        TextSample,
        WorkerConfig,
        basic_sample_keys,
        get_loader,
        get_train_dataset,
        stateless,
    )

    @stateless  # type: ignore[untyped-decorator]
    def cook(crude: dict[str, Any]) -> Any:
        return TextSample(**basic_sample_keys(crude), text=str(sorted(crude)))

    class Encoder(DefaultTaskEncoder):  # type: ignore[misc]
        cookers = (Cooker(cook),)
        decoder = SampleDecoder() if decode else None

    dataset = get_train_dataset(
        path,
        batch_size=1,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        task_encoder=Encoder(),
        repeat=False,
    )
    for _ in get_loader(dataset):
        pass


@pytest.mark.parametrize("name", WORKS_ON_ENERGON)
def test_the_attack_works_on_energon_alone(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = attack(name, tmp_path, marker)
    try:
        load_with_energon_alone(path, decode=name == "pickled member")
    except Exception as error:
        print("energon raised, after the fact:", error)
    assert marker.exists()


@pytest.mark.parametrize("name", REFUSED)
def test_the_attack_is_refused_and_nothing_runs(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = attack(name, tmp_path, marker)
    with pytest.raises(UntrustedDatasetError, match=REFUSED[name]) as caught:
        list(open_dataset(path))
    assert not marker.exists()
    assert "a dataset may not run code" in str(caught.value)


@pytest.mark.parametrize("extension", ["pkl", "pth", "pyd", "pickle", "pt"])
def test_pickled_members_stay_bytes(extension: str, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    payload = pickle.dumps(Touch(marker))
    sample = [(extension, payload), *members(0)]
    path = write_dataset(tmp_path / "ds", {"train-000000.tar": {"000000000": sample}})
    with pytest.raises(RecordError, match=f"does not list: {extension}"):
        list(open_dataset(path))
    assert not marker.exists()
    pickle.loads(payload)
    assert marker.exists(), "the payload must be a working one"


YAML_TRICKS = {
    "tag": "__module__: megatron.energon\n__class__: !!str CrudeWebdataset\n",
    "python tag": "__module__: megatron.energon\n__class__: !!python/name:os.system ''\n",
    "anchor": "__module__: &a megatron.energon\n__class__: CrudeWebdataset\nsubflavors: {x: *a}\n",
    "merge key": "<<: {__class__: CrudeWebdataset}\n__module__: megatron.energon\n",
    "repeated key": "__module__: os\n__module__: megatron.energon\n__class__: CrudeWebdataset\n",
    "repeated inner key": "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
    "subflavors: {a: 1, a: 2}\n",
    "second document": "__module__: megatron.energon\n__class__: CrudeWebdataset\n---\na: 1\n",
    "directive": "%YAML 1.1\n---\n__module__: megatron.energon\n__class__: CrudeWebdataset\n",
    "number as key": "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
    "subflavors: {1: a}\n",
}


@pytest.mark.parametrize("trick", YAML_TRICKS)
def test_yaml_that_two_parsers_may_read_differently_is_refused(trick: str, tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    (path / ".nv-meta/dataset.yaml").write_text(YAML_TRICKS[trick])
    with pytest.raises(UntrustedDatasetError, match=r"dataset.yaml: line \d+ has "):
        open_dataset(path)


@pytest.mark.parametrize("text", ["a: [1", "\0", "- " * 5000, "\tx: 1", "key: 'open"])
def test_damaged_yaml_is_an_error_of_ours(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ShardError, match=r"x.yaml: is no readable YAML"):
        read_plain_yaml(file)


OUTSIDE = [
    "../outside.tar",
    "/etc/outside.tar",
    "sub/../../outside.tar",
    "msc://elsewhere/outside.tar",
]


@pytest.mark.parametrize("name", [*OUTSIDE, "{..,x}/outside.tar"])
def test_shards_of_a_split_outside_the_dataset_are_refused(name: str, tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    (path / ".nv-meta/split.yaml").write_text(yaml.safe_dump({"split_parts": {"train": [name]}}))
    with pytest.raises(UntrustedDatasetError, match="leads out of the dataset"):
        open_dataset(path)


@pytest.mark.parametrize("name", OUTSIDE)
def test_indexed_shards_outside_the_dataset_are_refused(name: str, tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    info = path / ".nv-meta/.info.json"
    info.write_text(info.read_text().replace("val-000000.tar", name))
    with pytest.raises(UntrustedDatasetError, match="leads out of the dataset"):
        open_dataset(path)


@pytest.mark.parametrize(
    "pattern", ["x-{0..99999999999}.tar", "x-{0..9999999}.tar", "{0..9}" * 7 + ".tar"]
)
def test_absurdly_many_shards_are_refused_at_once(pattern: str, tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    (path / ".nv-meta/split.yaml").write_text(yaml.safe_dump({"split_parts": {"train": [pattern]}}))
    with pytest.raises(UntrustedDatasetError, match="more than 1,000,000 shards"):
        open_dataset(path)


def test_a_shard_that_is_not_indexed_is_an_error(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    (path / ".nv-meta/split.yaml").write_text("split_parts: {train: [train-000009.tar]}\n")
    with pytest.raises(ShardError, match=r"names train-000009.tar, which .nv-meta/.info.json does"):
        open_dataset(path)


def test_plain_subflavors_are_let_through(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    file = path / ".nv-meta/dataset.yaml"
    file.write_text(file.read_text() + "subflavors: {source: coco, weights: [1, 2.5]}\n")
    assert check_dataset(path).subflavors == {"source": "coco", "weights": [1, 2.5]}
    sample = next(iter(open_dataset(path)))
    assert sample.__subflavors__ == {"source": "coco", "weights": [1, 2.5]}


def write_metadataset(root: Path, split: dict[str, Any], name: str = "meta.yaml") -> Path:
    file = root / name
    file.write_text(
        yaml.safe_dump(
            {
                "__module__": "megatron.energon",
                "__class__": "MetadatasetV2",
                "splits": {"train": split},
            }
        )
    )
    return file


def test_a_harmless_metadataset_gives_its_folders_but_is_not_opened(tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "a")
    second = write_dataset(tmp_path / "b")
    write_metadataset(tmp_path, {"path": "b", "subset": {"range": ["0%", "50%"]}}, "inner.yaml")
    file = write_metadataset(
        tmp_path, {"blend": [{"path": "a", "weight": 2}, {"path": "inner.yaml", "weight": 1}]}
    )
    assert check_metadataset(file) == [first, second]
    with pytest.raises(ConfigError, match="is a metadataset; open_dataset reads one dataset"):
        open_dataset(file)


HOSTILE_SPLITS: dict[str, tuple[dict[str, Any], str]] = {
    "joiner": (
        {"join": [], "joiner": {"__module__": "os", "__function__": "system"}},
        "is not on the allowlist|joiner names a function",
    ),
    "elsewhere": ({"path": "../other"}, "splits.train.path leads out of"),
    "absolute": ({"path": "/etc"}, "splits.train.path leads out of"),
    "remote": ({"path": "msc://x/y"}, "splits.train.path leads out of"),
    "other dataset.yaml": ({"path": "a", "dataset_config": "../x.yaml"}, "dataset_config is not"),
    "aux": ({"path": "a", "aux": {"f": "filesystem:///etc"}}, "splits.train.aux is not"),
    "deep": (
        {"blend": [{"blend": [{"path": "a", "subflavors": {"__function__": "x"}}]}]},
        r"splits.train.blend\[0\].blend\[0\].subflavors asks energon",
    ),
    "itself": ({"path": "meta.yaml"}, "nests metadatasets more than 8 deep"),
}


@pytest.mark.parametrize("name", HOSTILE_SPLITS)
def test_a_hostile_metadataset_is_refused(name: str, tmp_path: Path) -> None:
    write_dataset(tmp_path / "a")
    split, message = HOSTILE_SPLITS[name]
    with pytest.raises(UntrustedDatasetError, match=message):
        open_dataset(write_metadataset(tmp_path, split))


def test_a_hostile_dataset_under_a_harmless_metadataset_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    attack("part_filter", tmp_path, marker)
    with pytest.raises(UntrustedDatasetError, match="part_filter"):
        open_dataset(write_metadataset(tmp_path, {"path": "ds"}))
    assert not marker.exists()


def test_a_hostile_index_can_neither_write_nor_read_elsewhere(tmp_path: Path) -> None:
    import sqlite3

    from neva_prep.dataprep.look.open import open_looked

    path = write_dataset(tmp_path / "ds")
    index = path / ".nv-meta/index.sqlite"
    database = sqlite3.connect(index)
    database.execute("UPDATE sample_parts SET content_byte_size = 1 << 60 WHERE sample_index = 0")
    database.execute("UPDATE samples SET tar_file_id = 77 WHERE sample_key = '000000006'")
    database.commit()
    database.close()
    before = index.read_bytes()
    with pytest.raises(ShardError, match="the index points to bytes"):
        open_looked(path).sample(0)
    with pytest.raises(ShardError, match="names shard 77 of 3"):
        open_looked(path).find(key="000000006")
    assert index.read_bytes() == before

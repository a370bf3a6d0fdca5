"""The data module: passes, skips, shutdown, shapes, and what is refused."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import members, write_dataset
from loader_help import (
    VQA_FIELDS,
    conversations,
    encoder,
    keys_of,
    module,
    signature,
    take,
    typed_dataset,
    vqa_members,
)

from neva_prep.errors import ConfigError, RecordError, ShardError
from neva_prep.loaders import EnergonMultiModalDataModule, MockDataModule
from neva_prep.loaders.skips import Note, SkipCounter
from neva_prep.loaders.trust import UntrustedDatasetError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conversations(tmp_path_factory.mktemp("module") / "ds")


def with_bad(root: Path, bad: int, of: int, shards: int = 1) -> Path:
    """A dataset of which the first samples of each shard have bytes for images that are none."""
    written: dict[str, dict[str, Any]] = {}
    for shard in range(shards):
        names = range(shard * of, (shard + 1) * of)
        written[f"train-{shard:06d}.tar"] = {f"{n:09d}": members(n) for n in names}
        for number in list(names)[:bad]:
            written[f"train-{shard:06d}.tar"][f"{number:09d}"][0] = ("000.jpg", b"no image")
    return write_dataset(root, written)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("num_val_workers", [0, 2])
def test_a_pass_of_validation_has_each_sample_once_in_order(
    packed: bool, num_val_workers: int, dataset: Path
) -> None:
    with module(dataset, packed=packed, num_val_workers=num_val_workers) as data:
        passes = [[signature(batch) for batch in data.val_dataloader()] for _ in range(2)]
        assert passes[0] == passes[1]
        found = [key for keys, _ in passes[0] for key in keys]
        assert sorted(found) == [f"{n:09d}" for n in range(120, 127)]
        if num_val_workers == 0 and not packed:
            assert found == sorted(found)


def test_validation_uses_its_own_number_of_workers(dataset: Path) -> None:
    with module(dataset, num_val_workers=2) as data:
        batches = iter(data.val_dataloader())
        next(batches)
        assert len(children()) == 2
        batches.close()  # type: ignore[attr-defined]
        assert not children()


@pytest.mark.parametrize("packed", [False, True])
def test_training_sees_every_sample_once_an_epoch_and_goes_on(packed: bool, dataset: Path) -> None:
    with module(dataset, packed=packed) as data:
        stream = data.train_dataloader()
        found: list[str] = []
        while len(found) < 240:
            found += next(stream)["__keys__"]
    assert {key for key in found if found.count(key) < 1} == set()
    assert len(set(found)) == 120


def test_a_left_loop_goes_on_where_it_was(dataset: Path) -> None:
    with module(dataset) as data:
        expected = take(data.train_dataloader(), 6)
    with module(dataset) as data:
        got = []
        for batch in data.train_dataloader():
            got.append(signature(batch))
            if len(got) == 3:
                break
        got += take(data.train_dataloader(), 3)
    assert got == expected


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_bad_samples_are_skipped_counted_and_logged_once(
    packed: bool, num_workers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = with_bad(tmp_path / "ds", bad=1, of=20, shards=2)
    settings: dict[str, Any] = {"max_skip_ratio": 0.2, "num_workers": num_workers}
    with module(path, packed=packed, **settings) as data, caplog.at_level(logging.WARNING):
        stream = data.train_dataloader()
        found: list[str] = []
        while len(found) < 120:
            found += next(stream)["__keys__"]
        report = data.skip_report()
    assert report.delivered == len(found)
    assert set(report.skipped) == {"not_an_image"}
    assert 2 <= report.skipped["not_an_image"] <= 10
    assert "000.jpg" not in found and "000000000" not in found and "000000020" not in found
    assert "image 0: is no image of a known format" in report.examples["not_an_image"]
    logged = [entry.message for entry in caplog.records if "skipped: " in entry.message]
    assert len(logged) == 1 and "further ones are only counted" in logged[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_skips_are_an_error_that_names_reasons(num_workers: int, tmp_path: Path) -> None:
    path = with_bad(tmp_path / "ds", bad=3, of=20, shards=2)
    with module(path, num_workers=num_workers) as data, pytest.raises(RecordError) as caught:
        take(data.train_dataloader(), 60)
    assert "more than max_skip_ratio=0.01 of 40: not_an_image " in str(caught.value)
    assert not children()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_nothing_that_comes_through_is_an_error_and_no_endless_loop(
    packed: bool, num_workers: int, tmp_path: Path
) -> None:
    path = with_bad(tmp_path / "ds", bad=10, of=10, shards=2)
    settings: dict[str, Any] = {"max_skip_ratio": 1.0, "num_workers": num_workers}
    with module(path, packed=packed, **settings) as data, pytest.raises(RecordError) as caught:
        next(data.train_dataloader())
    assert str(caught.value).startswith("no sample comes through: ")
    with (
        module(path, packed=packed, val_split="train", **settings) as data,
        pytest.raises(RecordError, match=r"no sample (comes|came) through"),
    ):
        list(data.val_dataloader())


def test_a_fault_of_the_program_is_not_a_skip(dataset: Path) -> None:
    made = encoder()

    def broken(sample: Any, rules: Any) -> Any:
        raise KeyError("a bug of the user's encoder")

    made.register_encoder("ConversationSample", broken)
    with (
        module(dataset, task_encoder=made, max_skip_ratio=1.0) as data,
        pytest.raises(KeyError, match="a bug of the user's encoder"),
    ):
        next(data.train_dataloader())


def test_a_damaged_shard_is_an_error_of_ours(tmp_path: Path) -> None:
    path = conversations(tmp_path / "ds", train=8, shards=1)
    (path / "train-000000.tar").write_bytes(b"\0" * 4096)
    with module(path) as data, pytest.raises(ShardError, match="run neva-prep verify"):
        take(data.train_dataloader(), 8)


def children() -> list[int]:
    """Processes whose parent is this one, zombies included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            command = (entry / "cmdline").read_bytes() if (entry / "cmdline").exists() else b""
            if int(fields[1]) == os.getpid() and b"resource_tracker" not in command:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_closing_ends_all_workers_at_once(start_method: Any, dataset: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    data = module(dataset, num_workers=2, start_method=start_method)
    first = take(data.train_dataloader(), 3)
    assert len(children()) == 2
    start = time.perf_counter()
    data.close()
    assert time.perf_counter() - start < 1.0
    assert not children()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    with module(dataset, num_workers=2) as again:
        assert take(again.train_dataloader(), 3) == first


def test_a_stream_is_closed_with_its_program(dataset: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {os.fspath(Path(__file__).parent)!r})\n"
        "from loader_help import module\n"
        "data = module(sys.argv[1], num_workers=int(sys.argv[2]))\n"
        "print(next(data.train_dataloader())['__keys__'])\n"
    )
    for workers in ("0", "2"):
        done = subprocess.run(
            [sys.executable, script, dataset, workers],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_importing_the_package_imports_no_torch() -> None:
    code = "import neva_prep.loaders, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there() -> None:
    import neva_prep.loaders as loaders

    assert all(getattr(loaders, name) is not None for name in loaders.__all__)
    with pytest.raises(AttributeError):
        loaders.nothing  # noqa: B018


def test_packs_are_filled_to_their_size_if_asked(dataset: Path) -> None:
    with module(dataset, packed=True, task_encoder=encoder(True, pad_packs=True)) as data:
        for _, batch in zip(range(5), data.train_dataloader(), strict=False):
            assert batch["packed_seq_params"].cu_seqlens_q_padded[-1] == 256


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "packed rows in batches": (
        {"task_encoder": encoder(True), "micro_batch_size": 2},
        "a batch is one pack",
    ),
    "ratio": ({"max_skip_ratio": 2.0}, "is the share of samples"),
    "workers": ({"num_workers": -1}, "num_workers=-1: must be 0 or more"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_cannot_work_are_refused_at_once(name: str, dataset: Path) -> None:
    options, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        module(dataset, **options)


def test_what_is_missing_is_named(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give a tokenizer and an image_processor"):
        EnergonMultiModalDataModule(dataset)
    with (
        module(dataset, val_split="test") as data,
        pytest.raises(ConfigError, match="has no split 'test'; splits with samples: train, val"),
    ):
        data.val_dataloader()
    with module(tmp_path / "none") as data, pytest.raises(ShardError, match="no such folder"):
        data.train_dataloader()
    with module("none://bucket/ds") as data, pytest.raises(ConfigError, match="Protocol not known"):
        data.train_dataloader()


CODE = "def sample_loader(raw):\n    open({marker!r}, 'w').close()\n"
CODE += "    return dict(image=raw['jpg'], context=raw['json']['question'], answers='from code')\n"
CODE += "def part_filter(part):\n    return part in ('jpg', 'json')\n"


def test_code_of_a_dataset_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    path = typed_dataset(tmp_path / "ds", "VQASample", VQA_FIELDS, [vqa_members(0)] * 3)
    marker = tmp_path / "executed"
    (path / ".nv-meta/sample_loader.py").write_text(CODE.format(marker=os.fspath(marker)))
    described = {
        "sample_type": {"__module__": "megatron.energon", "__class__": "VQASample"},
        "sample_loader": "sample_loader.py:sample_loader",
        "part_filter": "sample_loader.py:part_filter",
    }
    import yaml

    (path / ".nv-meta/dataset.yaml").write_text(yaml.safe_dump(described))
    with module(path) as data, pytest.raises(UntrustedDatasetError) as caught:
        data.train_dataloader()
    assert "trust_dataset_code=True" in str(caught.value) and not marker.exists()
    with module(path, trust_dataset_code=True) as data:
        from loader_help import spell

        batch = next(data.train_dataloader())
        assert "from code" in spell(x for x in batch["labels"][0].tolist() if x >= 0)
    assert marker.exists()


def test_hostile_descriptions_of_typed_datasets_are_refused(tmp_path: Path) -> None:
    import yaml

    path = typed_dataset(tmp_path / "ds", "VQASample", VQA_FIELDS, [vqa_members(0)] * 3)
    good = {"sample_type": {"__module__": "megatron.energon", "__class__": "VQASample"}}
    hostile: list[dict[str, Any]] = [
        {"sample_type": {"__module__": "os", "__class__": "system"}, "field_map": VQA_FIELDS},
        {"sample_type": {"__module__": "megatron.energon", "__class__": "EPath"}, "field_map": {}},
        {**good, "field_map": VQA_FIELDS, "joiner": {"__module__": "os", "__function__": "system"}},
        {**good, "field_map": VQA_FIELDS, "subflavors": {"__module__": "os", "__function__": "x"}},
        {**good, "field_map": VQA_FIELDS, "part_filter": "../x.py:f"},
        {"__module__": "os", "__class__": "VQAWebdataset", "field_map": VQA_FIELDS},
        {**good, "__function__": "system", "field_map": VQA_FIELDS},
    ]
    for described in hostile:
        (path / ".nv-meta/dataset.yaml").write_text(yaml.safe_dump(described))
        with module(path) as data, pytest.raises(UntrustedDatasetError):
            data.train_dataloader()


def test_members_of_typed_datasets_are_never_unpickled(tmp_path: Path) -> None:
    import pickle

    marker = tmp_path / "executed"

    class Touch:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {marker}",)

    for name in ("pkl", "pth", "pyd"):
        sample = [(name, pickle.dumps(Touch())), *vqa_members(0)]
        fields = {**VQA_FIELDS, "image": name}
        path = typed_dataset(tmp_path / name, "VQASample", fields, [sample] * 3)
        with module(path) as data, pytest.raises(RecordError, match="is no image of a"):
            take(data.train_dataloader(), 3)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Touch()))
    assert marker.exists(), "the payload must be a working one"


def test_mock_batches_are_full_rows_with_an_image_and_resume() -> None:
    def mock() -> MockDataModule:
        return MockDataModule(
            seq_length=64,
            micro_batch_size=2,
            global_batch_size=2,
            num_train_samples=10,
            num_val_samples=3,
            num_workers=0,
            num_image_embeddings_per_tile=4,
            image_size=(28, 28),
        )

    with mock() as data:
        batch = next(data.train_dataloader())
        assert batch["tokens"].shape == (2, 61) and (batch["tokens"][:, 2] == -200).all()
        assert batch["media"].dtype == torch.float32 and batch["media"].shape == (2, 3, 28, 28)
        assert batch["media"].min() >= 0 and batch["media"].max() < 1
        assert (batch["loss_mask"].sum(1) == 60).all()
        assert keys_of(data.val_dataloader()) == [f"{n:09d}" for n in range(3)]
        state = data.state_dict()
        expected = take(data.train_dataloader(), 7)
    with mock() as again:
        again.load_state_dict(state)
        assert take(again.train_dataloader(), 7) == expected
    with pytest.raises(ConfigError, match="a row must hold the 576 embeddings"):
        MockDataModule(seq_length=512)


def test_as_many_skips_as_the_ratio_lets_pass_do_pass() -> None:
    counter = SkipCounter(name="d", max_ratio=0.29, epoch_samples=100)
    counter.add(Note(delivered=71, skipped=Counter(bad=29), examples={"bad": "why"}))
    with pytest.raises(RecordError, match="30 of 101 samples were skipped"):
        counter.add(Note(skipped=Counter(bad=1)))


def test_skips_that_are_not_in_a_row_are_not_nothing_that_comes_through() -> None:
    from neva_prep.loaders.skips import Tally

    tally, error = Tally(patience=20), RecordError("sample k: bad", reason="bad_sample")
    for _ in range(3):
        for _ in range(19):
            tally.skip(error, "tokens")
        tally.passed("tokens")
    for stage in ("tokens", "pixels"):
        for _ in range(19):
            tally.skip(error, stage)
    with pytest.raises(RecordError, match="no sample comes through: 20 in a row"):
        tally.skip(error, "tokens")


def test_what_tarfile_notes_of_each_member_is_forgotten(dataset: Path) -> None:
    import gc
    import tarfile

    with module(dataset) as data:
        take(data.train_dataloader(), 100)
        noted = sum(type(found) is tarfile.TarInfo for found in gc.get_objects())
    assert noted < 50, "3 of each of 200 samples, if none is forgotten"


def test_memory_and_descriptors_stay(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    soak: Any = importlib.import_module("soak_loader").soak

    with module(dataset, packed=True, num_workers=0) as data:
        found = soak(data, 1500)
    assert found.growth < 0.05
    assert found.late.descriptors <= found.early.descriptors + 1

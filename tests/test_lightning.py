"""Lightning trains on a data module, and its checkpoints hold the place. Skipped without Lightning.

It is no dependency: `pip install --no-deps lightning pytorch-lightning lightning-utilities
torchmetrics` beside torch, then run this file.
"""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from loader_help import conversations, keys_of, module

from neva_prep.errors import ConfigError
from neva_prep.loaders.for_lightning import _Hooks, for_lightning


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conversations(tmp_path_factory.mktemp("lightning") / "ds")


@pytest.fixture
def lightning() -> Any:
    return pytest.importorskip("lightning.pytorch")


def model(lightning: Any) -> Any:
    class Model(lightning.LightningModule):  # type: ignore[misc]
        """Notes what it is given."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.trained: list[str] = []
            self.validated: list[str] = []

        def training_step(self, batch: Any, number: int) -> Any:
            self.trained += batch["__keys__"]
            return (self.weight * batch["loss_mask"].sum()).sum()

        def validation_step(self, batch: Any, number: int) -> None:
            self.validated += batch["__keys__"]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    return Model()


def trainer(lightning: Any, folder: Path, steps: int, **options: Any) -> Any:
    return lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_lightning_trains_validates_and_goes_on_where_it_was(
    num_workers: int, packed: bool, lightning: Any, dataset: Path, tmp_path: Path
) -> None:
    def opened() -> Any:
        return module(dataset, packed=packed, num_workers=num_workers)

    with opened() as data:
        stream = data.train_dataloader()
        expected = [next(stream)["__keys__"] for _ in range(5)]
        validated = keys_of(data.val_dataloader())
    first = model(lightning)
    fit = trainer(lightning, tmp_path, 2, val_check_interval=1, num_sanity_val_steps=1)
    fit.fit(first, datamodule=for_lightning(opened(), batches_per_epoch=3))
    assert first.trained == list(chain(*expected[:2]))
    assert first.validated[-2 * len(validated) :] == 2 * validated
    fit.save_checkpoint(tmp_path / "behind.ckpt")
    again = model(lightning)
    fit = trainer(lightning, tmp_path, 5, limit_val_batches=1)
    fit.fit(
        again,
        datamodule=for_lightning(opened(), batches_per_epoch=3),
        ckpt_path=tmp_path / "behind.ckpt",
    )
    assert again.trained == list(chain(*expected[2:]))


def test_a_checkpoint_amid_training_has_the_place_behind_its_step(
    lightning: Any, dataset: Path, tmp_path: Path
) -> None:
    class Save(lightning.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    whole = model(lightning)
    fit = trainer(lightning, tmp_path, 4, callbacks=[Save()], limit_val_batches=0)
    fit.fit(whole, datamodule=for_lightning(module(dataset), batches_per_epoch=100))
    saved = torch.load(tmp_path / "2.ckpt", weights_only=False)
    with module(dataset) as data:
        data.load_state_dict(saved["NevaLightningData"]["ranks"][0])
        assert next(data.train_dataloader())["__keys__"] == whole.trained[4:6]


def test_after_an_exception_no_worker_is_left_and_training_may_go_on(
    lightning: Any, dataset: Path, tmp_path: Path
) -> None:
    import multiprocessing

    broken = model(lightning)
    broken.training_step = lambda *_: 1 / 0
    data = for_lightning(module(dataset, num_workers=2), batches_per_epoch=100)
    with pytest.raises(ZeroDivisionError):
        trainer(lightning, tmp_path, 1, num_sanity_val_steps=1).fit(broken, datamodule=data)
    assert not multiprocessing.active_children()
    whole = model(lightning)
    trainer(lightning, tmp_path, 1, limit_val_batches=0).fit(whole, datamodule=data)
    assert len(whole.trained) == 2
    assert not multiprocessing.active_children()


def test_one_checkpoint_has_the_places_of_all_ranks(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hooks(rank: int, size: int = 2) -> _Hooks:
        ranks: dict[str, Any] = {"data_parallel_rank": rank, "data_parallel_size": size}
        return _Hooks(module(dataset, **ranks), batches_per_epoch=10)

    both = [hooks(0), hooks(1)]
    streams = [iter(each.train_dataloader()) for each in both]
    next(streams[0]), next(streams[1]), next(streams[1])
    states = [(rank, each.data.state_dict()) for rank, each in enumerate(both)]

    def gather(found: list[Any], own: Any, group: Any) -> None:
        assert len(found) == 2 and own == states[0]
        found[:] = states

    with monkeypatch.context() as patched:
        patched.setattr(torch.distributed, "is_initialized", lambda: True)
        patched.setattr(torch.distributed, "get_world_size", lambda group: 2)
        patched.setattr(torch.distributed, "all_gather_object", gather)
        saved = both[0].state_dict()
    expected = [next(stream)["__keys__"] for stream in streams]
    again = [hooks(0), hooks(1)]
    for each in again:
        each.load_state_dict(saved)
    assert [next(iter(each.train_dataloader()))["__keys__"] for each in again] == expected
    with pytest.raises(ConfigError, match="data_parallel_size: saved 2, now 3"):
        hooks(2, 3).load_state_dict(saved)
    for each in (*both, *again):
        each.teardown("fit")


def test_where_lightning_is_not_it_is_said(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="pip install lightning"):
        for_lightning(module(dataset), batches_per_epoch=1)
    with pytest.raises(ConfigError, match="batches_per_epoch=0: must be 1 or more"):
        for_lightning(module(dataset), batches_per_epoch=0)

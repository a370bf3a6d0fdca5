"""What a run begins from, and what becomes of it: adapters, image features, precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fit_help import Job, job, leave_ranks, recipe_of, run_here
from torch import Tensor

from neva_prep.errors import ConfigError
from neva_prep.trainer import fit
from neva_prep.trainer.checkpoint import checkpoints_of
from neva_prep.trainer.saved import export_run


def drawn(monkeypatch: pytest.MonkeyPatch, given: Job) -> dict[str, Tensor]:
    """The inner halves of adapters, as a run's first step meets them."""
    from neva_prep.trainer import loop

    seen: dict[str, Tensor] = {}
    step = vars(loop)["train_step"]

    def look(training: object, *args: object, **named: object) -> object:
        for name, weight in training.chunks[0].named_parameters():  # type: ignore[attr-defined]
            if "lora_a" in name:
                seen[name] = weight.detach().clone()
        return step(training, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", look)
        leave_ranks()
        torch.set_num_threads(1)
        fit(recipe_of(given, lora=True))
    return seen


def test_adapters_are_drawn_by_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again, other = (
        drawn(monkeypatch, job(tmp_path, name, seed=seed, trainer__max_steps=1))
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert len(first) > 4
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert not any(torch.equal(weight, other[name]) for name, weight in first.items())


@pytest.mark.parametrize("adapter", [False, True])
def test_a_run_in_bfloat16_is_exported_in_bfloat16(tmp_path: Path, adapter: bool) -> None:
    from safetensors.torch import load_file

    given = job(tmp_path, "run", trainer__max_steps=1, trainer__compute__precision="bf16")
    leave_ranks()
    made = fit(recipe_of(given, lora=True)).checkpoint
    assert made is not None
    export_run(made, tmp_path / "out", adapter=adapter)
    (weights,) = (tmp_path / "out").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "embeddings"),
    [({"drop_vision_class_token": False}, 37), ({"vision_feature_layer": -2}, 36)],
)
def test_weights_for_other_image_features_are_refused(
    tmp_path: Path, change: dict[str, Any], embeddings: int
) -> None:
    run_here(job(tmp_path, "first", trainer__max_steps=1))
    path = str(checkpoints_of(tmp_path / "first")[-1])
    changes: dict[str, Any] = {f"model__config__{name}": value for name, value in change.items()}
    data = {"num_image_embeddings_per_tile": embeddings}
    other = job(tmp_path, "other", data=data, resume__restore_config__path=path, **changes)
    with pytest.raises(ConfigError, match=next(iter(change))):
        run_here(other)

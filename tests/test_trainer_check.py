"""Settings that would go wrong are refused before anything is built, or set right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from trainer_help import TINY, one_rank

from neva_prep.errors import ConfigError
from neva_prep.trainer import HFCLIPVisionConfig, ParallelConfig
from neva_prep.trainer.build import build_training
from neva_prep.trainer.check import (
    check_model,
    check_optimizer,
    check_ranks,
    check_step,
    effective,
    row_multiple,
)
from neva_prep.trainer.optimizer import OptimizerSettings


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    one_rank()
    yield


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"tensor_model_parallel_size": 3}, 4, "multiple of 3 ranks, and there are 4"),
    ({"context_parallel_size": 0}, 4, "context_parallel_size=0"),
    ({"virtual_pipeline_model_parallel_size": 2}, 4, "without a pipeline"),
    (
        {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 1},
        4,
        "2 or more",
    ),
]


@pytest.mark.parametrize(("settings", "world", "message"), REFUSED)
def test_ranks_that_cannot_be_laid_out_are_refused(
    settings: dict[str, int], world: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_ranks(ParallelConfig(**settings), world)  # type: ignore[arg-type]


def test_models_that_do_not_divide_are_refused() -> None:
    three = ParallelConfig(tensor_model_parallel_size=3)
    with pytest.raises(ConfigError, match=r"num_attention_heads=8 does not divide .* use 1"):
        check_model(TINY, three)
    odd = replace(TINY.language_transformer_config, vocab_size=127)
    with pytest.raises(ConfigError, match="vocab_size=127"):
        check_model(
            replace(TINY, language_transformer_config=odd),
            ParallelConfig(tensor_model_parallel_size=2),
        )
    eight = ParallelConfig(tensor_model_parallel_size=8)
    wide = replace(TINY.language_transformer_config, num_query_groups=8)
    with pytest.raises(ConfigError, match="vision encoder's num_attention_heads=4"):
        check_model(replace(TINY, language_transformer_config=wide), eight)
    tower = HFCLIPVisionConfig(shape=TINY.vision_shape)
    check_model(
        replace(TINY, language_transformer_config=wide, vision_transformer_config=tower), eight
    )
    with pytest.raises(ConfigError, match="4 layers do not divide into 8 stages"):
        check_model(
            TINY,
            ParallelConfig(pipeline_model_parallel_size=4, virtual_pipeline_model_parallel_size=2),
        )


def test_overlaps_that_overlap_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to gather"):
        check_optimizer(OptimizerSettings(overlap_grad_reduce=True, overlap_param_gather=True))
    with pytest.raises(ConfigError, match="overlaps nothing"):
        check_optimizer(
            OptimizerSettings(use_distributed_optimizer=True, overlap_param_gather=True)
        )


def test_steps_that_a_layout_cannot_run_are_refused() -> None:
    sizes = {"num_micro_batches": 3, "seq_length": 256, "micro_batch_size": 1}
    virtual = ParallelConfig(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2)
    with pytest.raises(ConfigError, match="wait for the missing ones for ever"):
        check_step(virtual, **sizes)
    cut = ParallelConfig(
        tensor_model_parallel_size=2, context_parallel_size=2, sequence_parallel=True
    )
    with pytest.raises(ConfigError, match="multiple of 8; for example 256"):
        check_step(cut, **sizes | {"seq_length": 250})
    with pytest.raises(ConfigError, match="micro_batch_size=0"):
        check_step(cut, **sizes | {"micro_batch_size": 0})


def test_sequence_parallelism_over_one_rank_is_none() -> None:
    """Recipes have it on, whatever the tensor group's size is."""
    parallel = ParallelConfig(sequence_parallel=True)
    assert effective(parallel) == ParallelConfig()
    assert build_training(TINY, parallel=parallel).parallel == ParallelConfig()
    assert row_multiple(effective(replace(parallel, context_parallel_size=2))) == 4


def test_a_model_of_which_nothing_is_trained_is_refused() -> None:
    frozen = replace(
        TINY, freeze_language_model=True, freeze_vision_model=True, freeze_vision_projection=True
    )
    with pytest.raises(ConfigError, match="nothing is trained"):
        build_training(frozen)

"""Settings that cannot work together are refused, with what would go wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..errors import ConfigError
from .config import NevaConfig
from .optimizer import OptimizerSettings
from .parallel_config import ParallelConfig
from .vision_config import HFCLIPVisionConfig


def effective(parallel: ParallelConfig) -> ParallelConfig:
    """The layout that is run: sequence parallelism over one tensor rank is none."""
    if parallel.tensor_model_parallel_size > 1:
        return parallel
    return replace(parallel, sequence_parallel=False)


def row_multiple(parallel: ParallelConfig) -> int:
    """What lengths of padded rows and of packed samples (the loaders' `pack_alignment`) divide by.

    Context-parallel ranks hold two pieces of each sample; sequence parallelism cuts what a rank
    holds over the tensor ranks.

    Example:
        >>> row_multiple(ParallelConfig(context_parallel_size=2))
        4
    """
    tensor = parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1
    context = parallel.context_parallel_size
    return tensor * (2 * context if context > 1 else 1)


def check_ranks(parallel: ParallelConfig, world_size: int) -> None:
    """Refuse groups that the ranks do not divide into.

    Raises:
        ConfigError: they do not, or a size is no size.
    """
    sizes = {
        "tensor_model_parallel_size": parallel.tensor_model_parallel_size,
        "pipeline_model_parallel_size": parallel.pipeline_model_parallel_size,
        "context_parallel_size": parallel.context_parallel_size,
    }
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name}={size}: must be 1 or more")
    together = 1
    for size in sizes.values():
        together *= size
    if world_size % together:
        given = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ConfigError(
            f"{given}: need a multiple of {together} ranks, and there are {world_size}; start "
            f"another number (torchrun --nproc-per-node), or make the groups smaller"
        )
    virtual = parallel.virtual_pipeline_model_parallel_size
    if virtual is None:
        return
    if virtual < 2:
        raise ConfigError(
            f"virtual_pipeline_model_parallel_size={virtual}: stages per rank, 2 or more; "
            "None for a plain pipeline"
        )
    if parallel.pipeline_model_parallel_size < 2:
        raise ConfigError(
            f"virtual_pipeline_model_parallel_size={virtual} without a pipeline: the stages would "
            "all lie on one rank; set pipeline_model_parallel_size to 2 or more, or this to None"
        )


def check_model(neva: NevaConfig, parallel: ParallelConfig) -> None:
    """Refuse a model that does not divide over the groups.

    Raises:
        ConfigError: a size is no multiple of the group's.
    """
    language, vision = neva.language_transformer_config, neva.vision_shape
    projector = neva.vision_projection_config
    cut = {
        "num_attention_heads": language.num_attention_heads,
        "num_query_groups": language.num_query_groups,
        "ffn_hidden_size": language.ffn_hidden_size,
        "vocab_size": language.vocab_size,
    }
    if projector.projector_type == "linear":
        cut["hidden_size (the projector's output)"] = language.hidden_size
    elif projector.projector_type != "identity":
        cut["the projector's ffn_hidden_size"] = projector.ffn_hidden_size or language.hidden_size
    # A tower of Hugging Face's is whole on each rank.
    if vision is not None and not isinstance(neva.vision_transformer_config, HFCLIPVisionConfig):
        cut["the vision encoder's num_attention_heads"] = vision.num_attention_heads
        cut["the vision encoder's ffn_hidden_size"] = vision.ffn_hidden_size
    tensor = parallel.tensor_model_parallel_size
    for name, size in cut.items():
        if size % tensor:
            raise ConfigError(
                f"tensor_model_parallel_size={tensor}: {name}={size} does not divide by it; use "
                f"{_divisors(cut.values(), tensor)}"
            )
    stages = parallel.pipeline_model_parallel_size * (
        parallel.virtual_pipeline_model_parallel_size or 1
    )
    if language.num_layers % stages:
        raise ConfigError(
            f"pipeline_model_parallel_size={parallel.pipeline_model_parallel_size}, "
            "virtual_pipeline_model_parallel_size="
            f"{parallel.virtual_pipeline_model_parallel_size}: {language.num_layers} layers do "
            f"not divide into {stages} stages"
        )


def check_optimizer(settings: OptimizerSettings) -> None:
    """Refuse overlaps that megatron-core would not do, or do wrongly.

    Raises:
        ConfigError: one needs another setting.
    """
    if settings.overlap_param_gather and not settings.use_distributed_optimizer:
        raise ConfigError(
            "overlap_param_gather without use_distributed_optimizer: each rank has all weights, "
            "and there is nothing to gather; set both or neither"
        )
    if settings.overlap_param_gather and not settings.overlap_grad_reduce:
        raise ConfigError(
            "overlap_param_gather without overlap_grad_reduce: weights would be gathered in one "
            "piece before the first layer, which overlaps nothing; set both or neither"
        )


def check_step(
    parallel: ParallelConfig, *, num_micro_batches: int, seq_length: int, micro_batch_size: int
) -> None:
    """Refuse steps that the layout cannot run.

    Raises:
        ConfigError: a number that does not divide.
    """
    for name, number in (
        ("num_micro_batches", num_micro_batches),
        ("seq_length", seq_length),
        ("micro_batch_size", micro_batch_size),
    ):
        if number < 1:
            raise ConfigError(f"{name}={number}: must be 1 or more")
    pipeline = parallel.pipeline_model_parallel_size
    if parallel.virtual_pipeline_model_parallel_size and num_micro_batches % pipeline:
        raise ConfigError(
            f"num_micro_batches={num_micro_batches}: a virtual pipeline goes round in groups of "
            f"{pipeline} (pipeline_model_parallel_size), and would wait for the missing ones for "
            "ever; make global_batch_size / micro_batch_size / data-parallel ranks a multiple"
        )
    multiple = row_multiple(parallel)
    if seq_length % multiple:
        raise ConfigError(
            f"seq_length={seq_length}: this layout cuts rows into pieces, so it must be a multiple "
            f"of {multiple}; for example {-(-seq_length // multiple) * multiple}"
        )


def _divisors(sizes: Iterable[int], below: int) -> str:
    sizes = list(sizes)
    fitting = [n for n in range(1, below) if all(size % n == 0 for size in sizes)]
    return " or ".join(str(n) for n in fitting)

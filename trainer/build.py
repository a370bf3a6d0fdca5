"""From configs to what a step trains: stages, gradients, optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..loaders.image_config import CLIP_MEAN, CLIP_STD
from .adapter_read import read_adapter
from .check import check_model, check_optimizer, effective
from .config import NevaConfig
from .fp8_layer import check_something_rounded
from .lora import LoRA, add_lora
from .model import MCoreNevaModel
from .offload import offload
from .optimizer import OptimizerSettings, build_optimizer, wrap_chunks
from .parallel_config import ComputeConfig, ParallelConfig
from .ranks import device


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A model that is trained, on this rank."""

    neva: NevaConfig
    """As it is built: nothing is left to be read from files."""
    parallel: ParallelConfig
    """As it is run."""
    compute: ComputeConfig
    settings: OptimizerSettings
    peft: LoRA | None
    chunks: tuple[MCoreNevaModel, ...]
    """Pipeline stages of this rank; several where the pipeline is virtual."""
    models: tuple[Any, ...]
    """The same in megatron-core's data-parallel wrappers."""
    optimizer: Any
    """megatron-core's."""
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]


def build_training(
    neva: NevaConfig,
    *,
    parallel: ParallelConfig | None = None,
    compute: ComputeConfig | None = None,
    optimizer: OptimizerSettings | None = None,
    peft: LoRA | None = None,
    load: Callable[[Sequence[MCoreNevaModel]], Any] | None = None,
    adapter: Path | None = None,
    seed: int = 0,
    image_mean: tuple[float, ...] = CLIP_MEAN,
    image_std: tuple[float, ...] = CLIP_STD,
) -> Training:
    """Build this rank's part, right after `start_ranks` with the same layout.

    Ranks draw the weights that they share from its seed, each by itself.

    Args:
        neva: the model.
        parallel: the layout.
        compute: precision and memory.
        optimizer: Adam's settings.
        peft: adapters; None trains the weights that the config does not freeze.
        load: fills the stages with weights before adapters and optimizer see them; unless given,
            what the config's `*_from_pretrained` name is loaded.
        adapter: folder in PEFT's format, whose adapters those of `peft` begin as.
        seed: of adapters, which are the same in every layout; the same on all ranks.
        image_mean: with which uint8 pixels are normalized: the loaders' ImageConfig.mean.
        image_std: the loaders' ImageConfig.std.

    Raises:
        ConfigError: the settings cannot work together, or nothing is trained.
    """
    from .hf_config import resolve
    from .hf_load import load_pretrained

    neva, parallel = resolve(neva), effective(parallel or ParallelConfig())
    compute, optimizer = compute or ComputeConfig(), optimizer or OptimizerSettings()
    check_model(neva, parallel)
    check_optimizer(optimizer)
    chunks = build_chunks(neva, parallel, compute)
    if load is not None:
        load(chunks)
    else:
        for chunk in chunks:
            load_pretrained(chunk)
    if peft is not None:
        add_lora(chunks, peft, seed=seed)
        if adapter is not None:
            read_adapter(chunks, adapter)
    _check_trained(chunks)
    if compute.precision == "fp8":
        check_something_rounded([chunk.language_model.decoder for chunk in chunks])
    for chunk in chunks:
        chunk.to(device())
        if compute.offload_vision and chunk.vision_model is not None:
            offload(chunk.vision_model, device())
        _let_gradients_through(chunk)
    if any(chunk.is_fused(device()) for chunk in chunks):
        # Weights would come when megatron-core's layers are called; the fused decoder calls none.
        optimizer = replace(optimizer, overlap_param_gather=False)
    models = wrap_chunks(chunks, optimizer)
    made = build_optimizer(models, optimizer, compute)
    _connect(models, made, optimizer)
    return Training(
        neva=neva,
        parallel=parallel,
        compute=compute,
        settings=optimizer,
        peft=peft,
        chunks=tuple(chunks),
        models=tuple(models),
        optimizer=made,
        image_mean=image_mean,
        image_std=image_std,
    )


def build_chunks(
    neva: NevaConfig, parallel: ParallelConfig, compute: ComputeConfig
) -> list[MCoreNevaModel]:
    """The pipeline stages of this rank, with random weights."""
    from megatron.core import parallel_state

    chunks = []
    virtual = parallel.virtual_pipeline_model_parallel_size
    for number in range(virtual or 1):
        stage = number if virtual else None
        chunks.append(
            MCoreNevaModel(
                neva,
                parallel,
                compute,
                pre_process=parallel_state.is_pipeline_first_stage(
                    ignore_virtual=False, vp_stage=stage
                ),
                post_process=parallel_state.is_pipeline_last_stage(
                    ignore_virtual=False, vp_stage=stage
                ),
                vp_stage=stage,
            )
        )
    return chunks


@contextmanager
def whole_weights(training: Training) -> Iterator[None]:
    """Have all weights in place, for evaluating, saving and exporting.

    With overlapped gathering, a weight is otherwise old until its layer is next used.
    """
    overlapped = training.settings.overlap_param_gather
    if overlapped:
        for model in training.models:
            model.disable_forward_pre_hook(param_sync=True)
    try:
        yield
    finally:
        if overlapped:
            for model in training.models:
                model.enable_forward_pre_hook()


def _connect(models: Sequence[Any], optimizer: Any, settings: OptimizerSettings) -> None:
    """Tell megatron-core's schedule how gradients are scaled and summed."""
    from megatron.core.distributed import finalize_model_grads

    no_sync = [model.no_sync for model in models]
    for model in models:
        model.config.grad_scale_func = optimizer.scale_loss
        model.config.finalize_model_grads_func = finalize_model_grads
        if settings.overlap_grad_reduce:
            model.config.no_sync_func = no_sync if len(models) > 1 else no_sync[0]


def _let_gradients_through(chunk: MCoreNevaModel) -> None:
    """Have embeddings ask for a gradient, even if nothing below them is trained.

    A layer that is recomputed, and a stage of a pipeline, has a backward pass only where its input
    asks for one: adapters behind frozen embeddings would get no gradient, without a word.
    """
    if not chunk.pre_process:
        return

    def ask(module: Any, inputs: Any, output: torch.Tensor) -> None:
        if torch.is_grad_enabled() and not output.requires_grad:
            output.requires_grad_()

    chunk.language_model.embedding.register_forward_hook(ask)


def _check_trained(chunks: Sequence[MCoreNevaModel]) -> None:
    trained = sum(p.numel() for chunk in chunks for p in chunk.parameters() if p.requires_grad)
    total = torch.tensor(trained, device=device())
    torch.distributed.all_reduce(total)
    if not int(total):
        raise ConfigError(
            "nothing is trained: language model, vision model and projector are all frozen; leave "
            "one of freeze_language_model, freeze_vision_model, freeze_vision_projection False, "
            "or give LoRA target_modules"
        )

"""Megatron-core on a machine without a GPU, and without its warnings at import.

megatron-core asks CUDA for devices, streams and random states wherever it runs. Without CUDA those
calls are answered here, from the CPU; where there is CUDA nothing changes.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..errors import ConfigError

_EXPECTED_WARNINGS = (
    "Transformer Engine and Apex are not installed",
    "Apex is not installed",
    "absl.logging is not installed",
    "The following imports from `dynamic_context.py` will be removed",
    "`torch.jit.script_method` is deprecated",
    "`torch.jit.script` is deprecated",
)
"""What megatron-core says when it is imported, of libraries that we do not need."""

_NO_NEWS = {
    "models.gpt.gpt_model": "GPTModel IS DEPRECATED",
    "distributed.distributed_data_parallel": "full_param_layout not provided",
    "dist_checkpointing.strategies.torch": "MCore's async save is deprecated",
}
"""What its modules log of their own future, which users of ours cannot do anything about."""

_HABITS = (
    r"`torch\.distributed\.(all_gather_into_tensor|reduce_scatter_tensor)` is deprecated",
    r"The \.grad attribute of a Tensor that is not a leaf Tensor is being accessed",
    r"barrier\(\): using the device under current context",
)
"""What torch says to megatron-core's calls: of old names, its optimizer's pieces, its barriers."""

_PARTS = (
    "megatron.core",
    "megatron.core.models.gpt",
    "megatron.core.optimizer",
    "megatron.core.pipeline_parallel",
    "megatron.core.distributed",
)

_mode: TorchFunctionMode | None = None


def prepare_megatron() -> None:
    """Import megatron-core without its warnings, able to run on a CPU. Call before using it.

    Raises:
        ConfigError: megatron-core is not installed.
    """
    if not torch.cuda.is_available():
        _answer_for_cuda()
    with warnings.catch_warnings():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        try:
            for part in _PARTS:
                importlib.import_module(part)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"the trainer needs megatron-core, and {error.name} is not installed; "
                "pip install 'neva-prep[train]'"
            ) from error
        if not torch.cuda.is_available():
            _answer_for_random_states()
        _take_lists_at_once()
        _use_adam_of_torch()
    for module in _NO_NEWS:
        logging.getLogger(f"megatron.core.{module}").addFilter(_is_news)
    for message in _HABITS:
        warnings.filterwarnings("ignore", message=message)


def _is_news(record: logging.LogRecord) -> bool:
    return not any(known in record.getMessage() for known in _NO_NEWS.values())


class _CudaToCpu(TorchFunctionMode):
    """Functions of torch that are asked for a CUDA device use the CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            # megatron-core groups gradients by names such as "torch.cuda.FloatTensor".
            return func(*args).replace("torch.", "torch.cuda.", 1)
        if func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], "cpu", *args[2:])
        return func(*args, **kwargs)


class _Stream:
    """A stream on which all is done at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def record_event(self, event: Any = None) -> Any:
        return self

    def synchronize(self) -> None: ...


def _is_cuda(device: Any) -> bool:
    if isinstance(device, bool):
        return False
    return isinstance(device, int) or (
        isinstance(device, str | torch.device) and str(device).startswith("cuda")
    )


def _answer_for_cuda() -> None:
    """Put answers in the place of torch.cuda's functions, once."""
    global _mode
    if _mode is not None:
        return
    cuda: Any = torch.cuda
    cuda.current_device = lambda: "cpu"
    for name in ("set_device", "synchronize", "empty_cache"):
        setattr(cuda, name, lambda *args, **kwargs: None)
    cuda.manual_seed = torch.manual_seed
    cuda.get_rng_state = cuda.random.get_rng_state = lambda *args, **kw: torch.get_rng_state()
    cuda.set_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    cuda.Stream = _Stream
    cuda.stream = lambda stream: contextlib.nullcontext()
    cuda.current_stream = cuda.default_stream = lambda *args, **kwargs: _Stream()
    cuda.nvtx.range_push = cuda.nvtx.range_pop = lambda *args, **kwargs: None
    _mode = _CudaToCpu()
    _mode.__enter__()  # type: ignore[no-untyped-call]


def _answer_for_random_states() -> None:
    """megatron-core keeps CUDA's random states through functions of its own."""
    random: Any = importlib.import_module("megatron.core.tensor_parallel.random")
    random._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(
        state
    )
    random._get_cuda_rng_state = lambda *args, **kwargs: torch.get_rng_state()


def _take_lists_at_once() -> None:
    """Norms and copies of all gradients in a few launches.

    Without Transformer Engine and Apex megatron-core goes tensor by tensor, and fetches the norm of
    each to the CPU.
    """
    for name in ("clip_grads", "optimizer"):
        module: Any = importlib.import_module(f"megatron.core.optimizer.{name}")
        if getattr(module.multi_tensor_applier, "__name__", "") == "local_multi_tensor_applier":
            module.multi_tensor_scale_impl = _scale_all
            if hasattr(module, "l2_norm_impl"):
                module.l2_norm_impl = _norm_of_all


def _use_adam_of_torch() -> None:
    """One optimizer on all machines, so that checkpoints go from one to any other.

    megatron-core takes Transformer Engine's or Apex's where they are installed, whose state is
    another: it counts steps elsewhere.
    """
    optimizer: Any = importlib.import_module("megatron.core.optimizer")
    optimizer.Adam, optimizer.USING_PYTORCH_OPTIMIZER = torch.optim.AdamW, True


def _norm_of_all(chunk_size: int, noop: Any, lists: Any, per_tensor: bool) -> Any:
    norms = torch._foreach_norm(lists[0])
    return torch.stack(norms).float().norm().view(1), None


def _scale_all(chunk_size: int, noop: Any, lists: Any, scale: float) -> None:
    source, target = lists
    if source is not target:
        torch._foreach_copy_(target, source)
    if scale != 1.0:
        torch._foreach_mul_(target, scale)

"""Attention of packed rows by cuDNN, where its frontend is installed: twice as fast on Hopper.

torch's attention of variable lengths is written for the generation of GPUs before.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

_SAMPLES, _LONGEST, _POSITIONS = 16, 1024, 1024
"""Their number and the longest count as powers of two from here on, and positions in steps of so
many, so that few graphs are built: one takes a tenth of a second."""


def fits(query: Tensor) -> bool:
    """Whether cuDNN can do it: bfloat16 or float16 on a GPU, heads of at most 128 channels."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    return query.is_cuda and half and query.shape[-1] in range(8, 129, 8) and _is_there()


@cache
def _is_there() -> bool:
    """Whether its frontend is installed, on a GPU that gains by it."""
    if importlib.util.find_spec("cudnn") is None or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability() >= (9, 0)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Where samples begin, in the units that cuDNN wants; samples of length 0 fill them up."""

    lengths: Tensor
    """int32[samples, 1, 1, 1]"""
    starts: Tensor
    """int64[samples + 1, 1, 1, 1]: positions."""
    by_size: dict[int, Tensor]
    """The same in elements, by the elements of a position."""

    @classmethod
    def of(cls, bounds: Tensor) -> _Bounds:
        count = len(bounds) - 1
        wanted = max(_SAMPLES, 2 ** math.ceil(math.log2(count)))
        starts = torch.cat([bounds, bounds[-1:].expand(wanted - count)]).long()
        lengths = starts.diff().to(torch.int32)
        return cls(lengths.view(-1, 1, 1, 1), starts.view(-1, 1, 1, 1), {})

    def times(self, size: int) -> Tensor:
        if size not in self.by_size:
            self.by_size[size] = self.starts * size
        return self.by_size[size]


_last: tuple[Tensor, _Bounds] | None = None


def _bounds(bounds: Tensor) -> _Bounds:
    """Of the row that all layers of a step read."""
    global _last
    if _last is None or _last[0] is not bounds:
        _last = (bounds, _Bounds.of(bounds))
    return _last[1]


def cudnn_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    longest: int,
    *,
    scale: float | None,
    causal: bool,
) -> Tensor:
    """Attention of each sample by itself.

    Args:
        query: bfloat16 or float16[positions, heads, size]
        key: [positions, groups, size]
        value: the same.
        bounds: int32[samples + 1]
        longest: of the samples.
        scale: of the scores; one over the root of size unless given.
        causal: whether a position sees only what is before it.

    Returns:
        [positions, heads, size]
    """
    attended: Tensor = _attend(query, key, value, bounds, longest, scale, causal)
    return attended


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int,
                scale: float | None, causal: bool) -> Tensor:  # fmt: skip
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        where, shape = _shape(query, key, bounds, longest, scale, causal)
        out = torch.empty_like(query)
        stats = query.new_empty(query.shape[:2], dtype=torch.float32)
        tensors = {"q": query, "k": key, "v": value, "o": out, "stats": stats}
        _run(_graph(shape, backward=False), tensors, where, shape)
        ctx.save_for_backward(query, key, value, out, stats)
        ctx.where, ctx.shape = where, shape
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        query, key, value, out, stats = ctx.saved_tensors
        gradients = [torch.empty_like(x) for x in (query, key, value)]
        tensors = {"q": query, "k": key, "v": value, "o": out, "stats": stats}
        tensors |= {"do": d_out.contiguous()} | dict(
            zip(("dq", "dk", "dv"), gradients, strict=True)
        )
        _run(_graph(ctx.shape, backward=True), tensors, ctx.where, ctx.shape)
        return *gradients, None, None, None, None


_attend: Any = _Attention.apply


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a graph is built for."""

    positions: int
    """At most: it bounds the workspace. So are the next two."""
    samples: int
    longest: int
    heads: int
    groups: int
    size: int
    dtype: torch.dtype
    scale: float
    causal: bool
    device: torch.device


def _shape(
    query: Tensor, key: Tensor, bounds: Tensor, longest: int, scale: float | None, causal: bool
) -> tuple[_Bounds, _Shape]:
    where = _bounds(bounds)
    positions, heads, size = query.shape
    return where, _Shape(
        -(-positions // _POSITIONS) * _POSITIONS,
        len(where.lengths),
        max(_LONGEST, 2 ** math.ceil(math.log2(longest))),
        heads,
        key.shape[1],
        size,
        query.dtype,
        size**-0.5 if scale is None else scale,
        causal,
        query.device,
    )


_NAMES = ("q", "k", "v", "o", "stats", "do", "dq", "dk", "dv")
_UID = {name: 1 + number for number, name in enumerate(_NAMES)}
_LENGTHS, _WIDE, _NARROW, _SINGLE = 20, 21, 22, 23


@lru_cache(maxsize=64)
def _graph(shape: _Shape, *, backward: bool) -> tuple[Any, int]:
    """A graph, and the bytes of workspace that it needs."""
    import cudnn

    kind = cudnn.data_type
    graph = cudnn.pygraph(
        io_data_type=kind.BFLOAT16 if shape.dtype is torch.bfloat16 else kind.HALF,
        intermediate_data_type=kind.FLOAT,
        compute_data_type=kind.FLOAT,
        handle=_handle(shape.device),
    )

    def small(uid: int, count: int, dtype: Any) -> Any:
        return graph.tensor(uid=uid, dim=[count, 1, 1, 1], stride=[1, 1, 1, 1], data_type=dtype)

    n, longest, size = shape.samples, shape.longest, shape.size
    lengths = small(_LENGTHS, n, kind.INT32)
    wide, narrow, single = (small(u, n + 1, kind.INT64) for u in (_WIDE, _NARROW, _SINGLE))

    def form(heads: int, width: int) -> tuple[list[int], list[int]]:
        return [n, heads, longest, width], [longest * heads * width, width, heads * width, 1]

    def given(name: str, heads: int, offsets: Any, width: int = size, dtype: Any = None) -> Any:
        dim, stride = form(heads, width)
        settings = {} if dtype is None else {"data_type": dtype}
        tensor = graph.tensor(uid=_UID[name], dim=dim, stride=stride, **settings)
        tensor.set_ragged_offset(offsets)
        return tensor

    def made(tensor: Any, name: str, heads: int, offsets: Any, width: int = size) -> Any:
        dim, stride = form(heads, width)
        tensor.set_uid(_UID[name]).set_output(True).set_dim(dim).set_stride(stride)
        tensor.set_ragged_offset(offsets)
        return tensor

    q = given("q", shape.heads, wide)
    k, v = (given(name, shape.groups, narrow) for name in ("k", "v"))
    settings: dict[str, Any] = {
        "attn_scale": shape.scale,
        "use_padding_mask": True,
        "seq_len_q": lengths,
        "seq_len_kv": lengths,
        "use_causal_mask": shape.causal,
    }
    if not backward:
        o, stats = graph.sdpa(q=q, k=k, v=v, is_inference=False, **settings)
        made(o, "o", shape.heads, wide)
        made(stats, "stats", shape.heads, single, 1).set_data_type(kind.FLOAT)
    else:
        gradients = graph.sdpa_backward(
            q=q,
            k=k,
            v=v,
            o=given("o", shape.heads, wide),
            dO=given("do", shape.heads, wide),
            stats=given("stats", shape.heads, single, 1, kind.FLOAT),
            max_total_seq_len_q=shape.positions,
            max_total_seq_len_kv=shape.positions,
            **settings,
        )
        heads, offsets = (shape.heads, shape.groups, shape.groups), (wide, narrow, narrow)
        for tensor, name, count, offset in zip(
            gradients, ("dq", "dk", "dv"), heads, offsets, strict=True
        ):
            made(tensor, name, count, offset)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans()
    return graph, graph.get_workspace_size()


@cache
def _handle(device: torch.device) -> Any:
    import cudnn

    return cudnn.create_handle()


def _run(built: tuple[Any, int], tensors: dict[str, Tensor], where: _Bounds, shape: _Shape) -> None:
    import cudnn

    graph, workspace = built
    handle = _handle(shape.device)
    cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream(shape.device).cuda_stream)
    given = {_UID[name]: tensor for name, tensor in tensors.items()}
    given |= {
        _LENGTHS: where.lengths,
        _WIDE: where.times(shape.heads * shape.size),
        _NARROW: where.times(shape.groups * shape.size),
        _SINGLE: where.times(shape.heads),
    }
    space = torch.empty(max(1, workspace), dtype=torch.uint8, device=shape.device)
    graph.execute(given, space, handle=handle)

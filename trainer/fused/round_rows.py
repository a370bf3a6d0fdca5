"""Rows in 8-bit floats in one pass over memory: a Triton kernel, imported on a GPU only."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(x, rounded, scales, width, stride, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < width
    values = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(values)), 1e-12) / 448.0
    tl.store(scales + row, scale)
    tl.store(rounded + row * width + column, (values / scale).to(tl.float8e4nv), mask=inside)


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """See fp8.rounded."""
    if x.stride(1) != 1:
        x = x.contiguous()
    count, width = x.shape
    rounded = torch.empty(count, width, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(count, 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    warps = 4 if block <= 4096 else 16
    _kernel[(count,)](x, rounded, scales, width, x.stride(0), block=block, num_warps=warps)
    return rounded, scales

"""Triton kernels, imported on a GPU only: each reads and writes everything once.

The low-rank part of a product, hidden · bᵀ, is worked out tile by tile where the product is read.
Tiles are those that were fastest on an H100 at the shapes of a 7B model.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _low_rank(hidden, b, rows, columns, rank, row_ok, column_ok, padded: tl.constexpr):  # type: ignore[no-untyped-def]
    """float32[rows, columns] of hidden [rows, rank] times the transpose of b [columns, rank]."""
    r = tl.arange(0, padded)
    left = tl.load(
        hidden + rows[:, None] * rank + r[None, :],
        mask=row_ok[:, None] & (r < rank)[None, :],
        other=0.0,
    )
    right = tl.load(
        b + columns[None, :] * rank + r[:, None],
        mask=column_ok[None, :] & (r < rank)[:, None],
        other=0.0,
    )
    return tl.dot(left, right)


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu(  # type: ignore[no-untyped-def]
    y,
    hidden,
    b,
    out,
    d_out,
    d_y,
    tokens,
    width,
    rank,
    padded: tl.constexpr,
    backward: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    rows = tl.program_id(1).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    columns = tl.program_id(0) * block_columns + tl.arange(0, block_columns)
    row_ok, column_ok = rows < tokens, columns < width
    ok = row_ok[:, None] & column_ok[None, :]
    at = rows[:, None] * (2 * width) + columns[None, :]
    gate = tl.load(y + at, mask=ok, other=0.0).to(tl.float32)
    up = tl.load(y + at + width, mask=ok, other=0.0).to(tl.float32)
    gate += _low_rank(hidden, b, rows, columns, rank, row_ok, column_ok, padded)
    up += _low_rank(hidden, b, rows, columns + width, rank, row_ok, column_ok, padded)
    share = tl.sigmoid(gate)
    single = rows[:, None] * width + columns[None, :]
    if backward:
        d = tl.load(d_out + single, mask=ok, other=0.0).to(tl.float32)
        d_gate = d * up * share * (1.0 + gate * (1.0 - share))
        tl.store(d_y + at, d_gate.to(d_y.dtype.element_ty), mask=ok)
        tl.store(d_y + at + width, (d * gate * share).to(d_y.dtype.element_ty), mask=ok)
    else:
        tl.store(out + single, (gate * share * up).to(out.dtype.element_ty), mask=ok)


def swiglu(y: Tensor, hidden: Tensor, b: Tensor) -> Tensor:
    """See plain.swiglu."""
    tokens, width = len(y), y.shape[1] // 2
    out = y.new_empty(tokens, width)
    _launch_swiglu(y, hidden, b, out, y, y, backward=False)
    return out


def swiglu_backward(d_out: Tensor, y: Tensor, hidden: Tensor, b: Tensor) -> Tensor:
    """See plain.swiglu_backward."""
    d_y = torch.empty_like(y)
    _launch_swiglu(y, hidden, b, y, d_out.contiguous(), d_y, backward=True)
    return d_y


def _launch_swiglu(
    y: Tensor, hidden: Tensor, b: Tensor, out: Tensor, d_out: Tensor, d_y: Tensor, *, backward: bool
) -> None:
    tokens, width, rank = len(y), y.shape[1] // 2, hidden.shape[1]
    grid = (triton.cdiv(width, 64), triton.cdiv(tokens, 64))
    _swiglu[grid](
        y,
        hidden,
        b,
        out,
        d_out,
        d_y,
        tokens,
        width,
        rank,
        padded=_padded(rank),
        backward=backward,
        block_rows=64,
        block_columns=64,
        num_warps=8 if backward else 4,
    )


@triton.jit  # type: ignore[untyped-decorator]
def _turn(  # type: ignore[no-untyped-def]
    qkv,
    hidden,
    b,
    cos,
    sin,
    query,
    key,
    value,
    tokens,
    rank,
    groups,
    per_group,
    padded: tl.constexpr,
    half: tl.constexpr,
    backward: tl.constexpr,
    block_rows: tl.constexpr,
):
    """A head, of queries, keys or values: from qkv to its own tensor, or its gradient back."""
    slot = tl.program_id(0)
    group, place = slot // (per_group + 2), slot % (per_group + 2)
    rows = tl.program_id(1).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    channels = tl.arange(0, half)
    row_ok, all_ok = rows < tokens, channels < half
    ok = row_ok[:, None] & all_ok[None, :]
    columns = slot * 2 * half + channels
    inside = rows[:, None] * (groups * (per_group + 2) * 2 * half) + columns[None, :]
    if place < per_group:
        part = query
        head, heads = group * per_group + place, groups * per_group
    else:
        part = key if place == per_group else value
        head, heads = group, groups
    apart = (rows[:, None] * heads + head) * 2 * half + channels[None, :]
    source, at = (part, apart) if backward else (qkv, inside)
    target, to = (qkv, inside) if backward else (part, apart)
    first = tl.load(source + at, mask=ok, other=0.0).to(tl.float32)
    second = tl.load(source + at + half, mask=ok, other=0.0).to(tl.float32)
    if not backward:
        first += _low_rank(hidden, b, rows, columns, rank, row_ok, all_ok, padded)
        second += _low_rank(hidden, b, rows, columns + half, rank, row_ok, all_ok, padded)
    if place < per_group + 1:
        angle = rows[:, None] * half + channels[None, :]
        c = tl.load(cos + angle, mask=ok, other=0.0).to(tl.float32)
        s = tl.load(sin + angle, mask=ok, other=0.0).to(tl.float32)
        if backward:
            s = -s
        first, second = first * c - second * s, second * c + first * s
    tl.store(target + to, first.to(qkv.dtype.element_ty), mask=ok)
    tl.store(target + to + half, second.to(qkv.dtype.element_ty), mask=ok)


def turn(
    qkv: Tensor, hidden: Tensor, b: Tensor, cos: Tensor, sin: Tensor, groups: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See plain.turn; size is a power of two, of 32 or more."""
    tokens, heads = len(qkv), qkv.shape[1] // size - 2 * groups
    query = qkv.new_empty(tokens, heads, size)
    key, value = (qkv.new_empty(tokens, groups, size) for _ in range(2))
    _launch_turn(qkv, hidden, b, cos, sin, query, key, value, backward=False)
    return query, key, value


def turned_back(
    d_query: Tensor, d_key: Tensor, d_value: Tensor, cos: Tensor, sin: Tensor, groups: int
) -> Tensor:
    """See plain.turned_back."""
    tokens, heads, size = d_query.shape
    d_qkv = d_query.new_empty(tokens, (heads + 2 * groups) * size)
    parts = [d.contiguous() for d in (d_query, d_key, d_value)]
    _launch_turn(d_qkv, d_qkv, d_qkv, cos, sin, *parts, backward=True)
    return d_qkv


def _launch_turn(
    qkv: Tensor,
    hidden: Tensor,
    b: Tensor,
    cos: Tensor,
    sin: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    backward: bool,
) -> None:
    tokens, heads, size = query.shape
    groups, rank = key.shape[1], 1 if backward else hidden.shape[1]
    rows = 64
    _turn[(heads + 2 * groups, triton.cdiv(tokens, rows))](
        qkv,
        hidden,
        b,
        cos,
        sin,
        query,
        key,
        value,
        tokens,
        rank,
        groups,
        heads // groups,
        padded=_padded(rank),
        half=size // 2,
        backward=backward,
        block_rows=rows,
        num_warps=4,
    )


@triton.jit  # type: ignore[untyped-decorator]
def _add_low_rank(  # type: ignore[no-untyped-def]
    x,
    narrow,
    a,
    tokens,
    width,
    rank,
    by_rank,
    by_column,
    padded: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    rows = tl.program_id(1).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    columns = tl.program_id(0) * block_columns + tl.arange(0, block_columns)
    row_ok, column_ok = rows < tokens, columns < width
    ok = row_ok[:, None] & column_ok[None, :]
    r = tl.arange(0, padded)
    left = tl.load(
        narrow + rows[:, None] * rank + r[None, :],
        mask=row_ok[:, None] & (r < rank)[None, :],
        other=0.0,
    )
    right = tl.load(
        a + r[:, None] * by_rank + columns[None, :] * by_column,
        mask=(r < rank)[:, None] & column_ok[None, :],
        other=0.0,
    )
    at = x + rows[:, None] * width + columns[None, :]
    sums = tl.load(at, mask=ok, other=0.0).to(tl.float32) + tl.dot(left, right)
    tl.store(at, sums.to(x.dtype.element_ty), mask=ok)


def add_low_rank(x: Tensor, narrow: Tensor, a: Tensor) -> Tensor:
    """See plain.add_low_rank."""
    tokens, width, rank = *x.shape, narrow.shape[1]
    grid = (triton.cdiv(width, 128), triton.cdiv(tokens, 64))
    _add_low_rank[grid](
        x,
        narrow,
        a,
        tokens,
        width,
        rank,
        *a.stride(),
        padded=_padded(rank),
        block_rows=64,
        block_columns=128,
        num_warps=4,
    )
    return x


@triton.jit  # type: ignore[untyped-decorator]
def _round_rows(x, rounded, scales, width, stride, block: tl.constexpr):  # type: ignore[no-untyped-def]
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
    _round_rows[(count,)](x, rounded, scales, width, x.stride(0), block=block, num_warps=warps)
    return rounded, scales


def _padded(rank: int) -> Any:
    """A rank that a tensor core takes; what lies behind the real one counts as 0."""
    return max(16, triton.next_power_of_2(rank))

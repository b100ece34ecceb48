"""Matrix products whose rows come out the same however many there are.

cuBLAS adds along a row in one order for most shapes and sizes, also where it works on few rows or on many. But where rows are few, the
weight is narrow and its rows are long, it has several programs share a sum, whose parts are rounded apart. Which shapes and sizes that
concerns is found out by trying; for them there is a kernel that adds in the common order.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from afterbase.model.cuda.launch import on

MANY = 1024
"""Rows for which sums are shared no more."""
TRIED = (*range(1, 17), 24, 32, 48, *range(64, 513, 32))
"""Numbers of rows whose products are compared with those of many."""
BROAD = 1 << 14
"""Outputs from which on no sum is shared: there are programs enough."""
FEW = 16, 16, 256, 2, 4
"""Up to 16 rows: the rows and outputs of one program, numbers of a row that it reads at a time, its warps and stages."""
TILES = (64, 16, 128, 4, 6), (64, 32, 128, 4, 4), (64, 64, 128, 4, 4)
"""For more rows: the narrowest with which all programs run at once, for one that waits takes as long as all before it."""
PROCESSORS = 132
"""Of a large GPU."""


def linear(
    rows: Float[Tensor, "n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, "o"] | None = None, below: float = 0
) -> Float[Tensor, "n o"]:
    """The projection; of fewer rows than `below` by the kernel."""
    return F.linear(rows, weight, bias) if len(rows) >= below else ordered(rows, weight, bias)


def steady_from(weight: Float[Tensor, "o i"], bias: Float[Tensor, "o"] | None) -> float:
    """The number of rows from which on cuBLAS gives each of them the bits that it has among many."""
    if len(weight) >= BROAD:
        return 0
    generator = torch.Generator(weight.device).manual_seed(0)
    rows = torch.randn(MANY, weight.shape[1], device=weight.device, generator=generator).to(weight.dtype)
    whole = F.linear(rows, weight, bias)
    shared = [number for number in TRIED if not torch.equal(F.linear(rows[:number], weight, bias), whole[:number])]
    if shared and not torch.equal(ordered(rows, weight, bias), whole):
        return math.inf  # another order than here: at least always the same one
    return max(shared) + 1 if shared else 0


def ordered(
    rows: Float[Tensor, "n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, "o"] | None = None, wide: bool = False
) -> Float[Tensor, "n o"]:
    """The projection by the kernel; `wide` outputs are float32."""
    out = torch.empty(len(rows), len(weight), dtype=torch.float32 if wide else rows.dtype, device=rows.device)
    _launch(rows[:, None], weight.t()[None], bias, out[:, None])
    return out


def headwise(rows: Float[Tensor, "n h i"], weight: Float[Tensor, "h i o"]) -> Float[Tensor, "n h o"]:
    """Every head's own projection by the kernel."""
    out = rows.new_empty(*rows.shape[:2], weight.shape[2])
    _launch(rows, weight, None, out)
    return out


def _launch(rows: Float[Tensor, "n h i"], weight: Float[Tensor, "h i o"], bias: Tensor | None, out: Float[Tensor, "n h o"]) -> None:
    """Any strides but between the numbers of a row, which lie side by side."""
    (number, heads, inner), outer = rows.shape, weight.shape[2]
    tall, broad, deep, warps, stages = FEW if number <= FEW[0] else _tile(number, outer * heads)
    with on(rows):
        _ordered[(triton.cdiv(outer, broad), triton.cdiv(number, tall), heads)](
            rows, weight, bias, out, number, outer, inner, *rows.stride()[:2], *weight.stride(), *out.stride()[:2],
            bias is not None, tall, broad, deep, num_warps=warps, num_stages=stages,
        )  # fmt: skip


def _tile(number: int, outer: int) -> tuple[int, int, int, int, int]:
    """The tile for more than a few rows."""
    at_once = (tile for tile in TILES if triton.cdiv(number, tile[0]) * triton.cdiv(outer, tile[1]) <= PROCESSORS)
    return next(at_once, TILES[-1])


@triton.jit
def _ordered(
    rows, weight, bias, out, number, outer, inner, row_stride, row_head, weight_head, weight_inner, weight_outer, out_stride, out_head,
    BIASED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    head = tl.program_id(2).to(tl.int64)
    lefts, rights = rows + head * row_head + row[:, None] * row_stride, weight + head * weight_head + column[:, None] * weight_outer
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, inner, INNER):
        at = start + tl.arange(0, INNER)
        left = tl.load(lefts + at[None, :], mask=(row < number)[:, None] & (at < inner)[None, :], other=0.0)
        right = tl.load(rights + at[None, :] * weight_inner, mask=(column < outer)[:, None] & (at < inner)[None, :], other=0.0)
        total = tl.dot(left, tl.trans(right), total)
    if BIASED:
        total += tl.load(bias + column, mask=column < outer, other=0.0).to(tl.float32)[None, :]
    to = out + head * out_head + row[:, None] * out_stride + column[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=(row < number)[:, None] & (column < outer)[None, :])

"""Causal attention over a packed stream, bit for bit what decoding computes of the same tokens.

The arithmetic is `heads.absorb`, which decoding shares. Speed is FlashAttention's: tiles of queries go over blocks of keys, and only the
blocks on the diagonal are masked.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from afterbase.model.cuda.heads import SPAN, TOKENS, absorb, fold, nothing, total
from afterbase.model.cuda.launch import on

WIDTHS = (16, 32, 64, 128, 256)
"""Head widths that attention's kernels are written for."""
WIDE = 256
"""The head width of which a program holds fewer queries and blocks, for its room is bounded."""


def attention(
    queries: Float[Tensor, "T hq d"],
    keys: Float[Tensor, "T hk d"],
    values: Float[Tensor, "T hk d"],
    starts: Int[Tensor, "S+1"],
    longest: int,
    scale: float,
) -> tuple[Float[Tensor, "T hq d"], Float[Tensor, "hq T"]]:
    """Each query's mixture of values, and the logarithm of the sum of its exponentials, which the backward pass wants."""
    assert queries.stride(2) == keys.stride(2) == values.stride(2) == 1, "a head's numbers lie side by side"
    (tokens, heads, width), kv_heads = queries.shape, keys.shape[1]
    mixed, sums = queries.new_empty(tokens, heads, width), queries.new_empty(heads, tokens, dtype=torch.float32)
    rows = 128 if width == 128 else 64
    grid = heads, len(starts) - 1, triton.cdiv(longest, rows)
    strides = (stride for each in (queries, keys, values) for stride in each.stride()[:2])
    with on(queries):
        _packed[grid](
            queries, keys, values, starts, mixed, sums, scale / math.log(2), tokens, *strides, heads, heads // kv_heads, width, rows,
            TOKENS, SPAN, num_warps=8 if width >= 128 else 4, num_stages=3 if width < WIDE else 2,
        )  # fmt: skip
    return mixed, sums


@triton.jit
def _block(base, stride, start, end, width, TOKENS: tl.constexpr, WHOLE: tl.constexpr):
    """The keys or values of one block, those past the sequence's end as zeros."""
    token = tl.arange(0, TOKENS)
    cell = base + tl.cast(start, tl.int64) * stride + token[:, None] * stride + width[None, :]  # a long sequence has more than 2^31 numbers
    if WHOLE:
        return tl.load(cell)
    return tl.load(cell, mask=(start + token)[:, None] < end, other=0.0)


@triton.jit
def _packed(
    queries, keys, values, starts, mixed, sums, slope, tokens, q_stride, q_head, k_stride, k_head, v_stride, v_head,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
    SPAN: tl.constexpr,
):  # fmt: skip
    head, sequence = tl.program_id(0), tl.program_id(1)
    first = (tl.num_programs(2) - 1 - tl.program_id(2)) * ROWS  # the longest tiles begin first, so that all end together
    begin = tl.load(starts + sequence).to(tl.int64)
    length = (tl.load(starts + sequence + 1) - begin).to(tl.int32)
    if first < length:
        place, width = tl.arange(0, ROWS), tl.arange(0, WIDTH)
        row = first + place
        inside = row < length
        query = queries + (begin + first) * q_stride + head * q_head + place[:, None] * q_stride + width[None, :]
        asked = tl.load(query, mask=inside[:, None], other=0.0)
        key_base = keys + begin * k_stride + head // GROUP * k_head
        value_base = values + begin * v_stride + head // GROUP * v_head
        last = tl.minimum(first + ROWS, length)
        peak, weight, mix = nothing(ROWS, WIDTH)
        for span in range(0, last, SPAN):
            top, mass, blend = nothing(ROWS, WIDTH)
            for start in range(span, tl.minimum(span + SPAN, first), TOKENS):
                key = _block(key_base, k_stride, start, length, width, TOKENS, True)
                value = _block(value_base, v_stride, start, length, width, TOKENS, True)
                top, mass, blend = absorb(tl.dot(asked, tl.trans(key)), value, top, mass, blend, slope)
            for start in range(tl.maximum(span, first), tl.minimum(span + SPAN, last), TOKENS):
                key = _block(key_base, k_stride, start, length, width, TOKENS, False)
                value = _block(value_base, v_stride, start, length, width, TOKENS, False)
                seen = (start + tl.arange(0, TOKENS))[None, :] <= row[:, None]
                scores = tl.where(seen, tl.dot(asked, tl.trans(key)), -float("inf"))
                top, mass, blend = absorb(scores, value, top, mass, blend, slope)
            peak, weight, mix = fold(peak, weight, mix, top, mass, blend)
        weights = total(weight)
        to = mixed + ((begin + row)[:, None] * HEADS + head) * WIDTH + width[None, :]
        tl.store(to, (mix / weights[:, None]).to(mixed.dtype.element_ty), mask=inside[:, None])
        tl.store(sums + head * tokens + begin + row, (peak + tl.log2(weights)) * 0.6931471805599453, mask=inside)

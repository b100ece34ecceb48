"""The heads of latent attention put together in one trip through memory, forwards and backwards.  [V3 Eq. 4, 5, 8, 9]

Queries, keys and values come out as attention wants them: the rotary part turned and laid behind the other, the shared key repeated for
each head, values filled up with zeros to the width of a key. The arithmetic is in float32, whatever the tensors hold.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from afterbase.model.cuda.launch import on

TOKENS = 16
"""Tokens that one program handles."""


class LatentHeads(torch.autograd.Function):
    """(q^C; R q^R), (k^C; R k^R) and (v; 0), each [T h nope + rope], of the flat projections."""

    @staticmethod
    def forward(
        ctx,
        asked: Float[Tensor, "T hq"],
        raised: Float[Tensor, "T hkv"],
        key: Float[Tensor, "T rope"],
        cos: Float[Tensor, "T 1 half"],
        sin: Float[Tensor, "T 1 half"],
        interleaved: bool,
        sizes: tuple[int, int, int, int],
    ) -> tuple[Float[Tensor, "T h wide"], Float[Tensor, "T h wide"], Float[Tensor, "T h wide"]]:
        """`raised` holds each head's k^C and v; `sizes` are heads, nope, rope and value width."""
        heads, nope, rope, value = sizes
        assert value <= nope + rope, "values are filled up to the width of a key"
        asked, raised = asked.contiguous(), raised.contiguous()
        queries, keys, values = (asked.new_empty(len(asked), heads, nope + rope) for _ in range(3))
        ctx.save_for_backward(cos, sin)
        ctx.interleaved, ctx.sizes = interleaved, sizes
        if len(asked):
            with on(asked):
                _join[triton.cdiv(len(asked), TOKENS), heads](
                    asked, raised, key, cos, sin, queries, keys, values, len(asked), key.stride(0), *_shape(sizes), interleaved, TOKENS
                )
        return queries, keys, values

    @staticmethod
    def backward(ctx, of_queries: Tensor, of_keys: Tensor, of_values: Tensor) -> tuple[Tensor | None, ...]:
        """Each part's gradient where it came from; the shared key's is the sum over the heads."""
        heads, nope, rope, value = ctx.sizes
        of_queries, of_keys, of_values = of_queries.contiguous(), of_keys.contiguous(), of_values.contiguous()
        count = len(of_queries)
        into_asked = of_queries.new_empty(count, heads * (nope + rope))
        into_raised, into_key = of_queries.new_empty(count, heads * (nope + value)), of_queries.new_empty(count, rope)
        if count:
            with on(of_queries):
                _part[(triton.cdiv(count, TOKENS),)](
                    of_queries, of_keys, of_values, *ctx.saved_tensors, into_asked, into_raised, into_key, count, heads,
                    *_shape(ctx.sizes), ctx.interleaved, TOKENS,
                )  # fmt: skip
        return into_asked, into_raised, into_key, None, None, None, None


def _shape(sizes: tuple[int, int, int, int]) -> tuple[int, ...]:
    """Widths, and the powers of two that hold them."""
    _, nope, rope, value = sizes
    return nope, triton.next_power_of_2(nope), rope // 2, triton.next_power_of_2(rope // 2), value, triton.next_power_of_2(nope + rope)


@triton.jit
def _join(
    asked, raised, key, cos, sin, queries, keys, values, count, stride, NOPE: tl.constexpr, N_PADDED: tl.constexpr, HALF: tl.constexpr,
    H_PADDED: tl.constexpr, VALUE: tl.constexpr, W_PADDED: tl.constexpr, INTERLEAVED: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    token = (tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS))[:, None]
    there = token < count
    place = token * tl.num_programs(1) + tl.program_id(1)
    width: tl.constexpr = NOPE + 2 * HALF
    column = tl.arange(0, N_PADDED)[None, :]
    inside = there & (column < NOPE)
    tl.store(queries + place * width + column, tl.load(asked + place * width + column, mask=inside), mask=inside)
    tl.store(keys + place * width + column, tl.load(raised + place * (NOPE + VALUE) + column, mask=inside), mask=inside)
    column = tl.arange(0, W_PADDED)[None, :]
    value = tl.load(raised + place * (NOPE + VALUE) + NOPE + column, mask=there & (column < VALUE), other=0.0)
    tl.store(values + place * width + column, value, mask=there & (column < width))
    pair = tl.arange(0, H_PADDED)[None, :]
    inside = there & (pair < HALF)
    first = 2 * pair if INTERLEAVED else pair
    second = first + (1 if INTERLEAVED else HALF)
    c, s = tl.load(cos + token * HALF + pair, mask=inside, other=0.0), tl.load(sin + token * HALF + pair, mask=inside, other=0.0)
    tail = asked + place * width + NOPE
    a, b = tl.load(tail + first, mask=inside, other=0.0).to(tl.float32), tl.load(tail + second, mask=inside, other=0.0).to(tl.float32)
    tl.store(queries + place * width + NOPE + pair, a * c - b * s, mask=inside)
    tl.store(queries + place * width + NOPE + HALF + pair, b * c + a * s, mask=inside)
    tail = key + token * stride
    a, b = tl.load(tail + first, mask=inside, other=0.0).to(tl.float32), tl.load(tail + second, mask=inside, other=0.0).to(tl.float32)
    tl.store(keys + place * width + NOPE + pair, a * c - b * s, mask=inside)
    tl.store(keys + place * width + NOPE + HALF + pair, b * c + a * s, mask=inside)


@triton.jit
def _part(
    of_queries, of_keys, of_values, cos, sin, into_asked, into_raised, into_key, count,
    HEADS: tl.constexpr, NOPE: tl.constexpr, N_PADDED: tl.constexpr, HALF: tl.constexpr, H_PADDED: tl.constexpr, VALUE: tl.constexpr,
    W_PADDED: tl.constexpr, INTERLEAVED: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    token = (tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS))[:, None]
    there = token < count
    width: tl.constexpr = NOPE + 2 * HALF
    near, far = tl.arange(0, N_PADDED)[None, :], tl.arange(0, W_PADDED)[None, :]
    pair = tl.arange(0, H_PADDED)[None, :]
    inside = there & (pair < HALF)
    first = 2 * pair if INTERLEAVED else pair
    second = first + (1 if INTERLEAVED else HALF)
    c, s = tl.load(cos + token * HALF + pair, mask=inside, other=0.0), tl.load(sin + token * HALF + pair, mask=inside, other=0.0)
    left, right = tl.zeros((TOKENS, H_PADDED), tl.float32), tl.zeros((TOKENS, H_PADDED), tl.float32)
    for head in range(HEADS):
        place = token * HEADS + head
        content = there & (near < NOPE)
        tl.store(into_asked + place * width + near, tl.load(of_queries + place * width + near, mask=content), mask=content)
        tl.store(into_raised + place * (NOPE + VALUE) + near, tl.load(of_keys + place * width + near, mask=content), mask=content)
        content = there & (far < VALUE)
        value = tl.load(of_values + place * width + far, mask=content)
        tl.store(into_raised + place * (NOPE + VALUE) + NOPE + far, value, mask=content)
        tail = of_queries + place * width + NOPE + pair
        a, b = tl.load(tail, mask=inside, other=0.0).to(tl.float32), tl.load(tail + HALF, mask=inside, other=0.0).to(tl.float32)
        tl.store(into_asked + place * width + NOPE + first, a * c + b * s, mask=inside)
        tl.store(into_asked + place * width + NOPE + second, b * c - a * s, mask=inside)
        tail = of_keys + place * width + NOPE + pair
        left += tl.load(tail, mask=inside, other=0.0).to(tl.float32)
        right += tl.load(tail + HALF, mask=inside, other=0.0).to(tl.float32)
    tl.store(into_key + token * (2 * HALF) + first, left * c + right * s, mask=inside)
    tl.store(into_key + token * (2 * HALF) + second, right * c - left * s, mask=inside)

"""Attention of one new token per row over the slot cache: head norms, rotation, cache write and softmax in one kernel.

`remember` is the part of it that prompts need, whose attention is FlashAttention's.

The query heads that share a key head are one matrix, so a row's memory is read once. Each row is read up to its own length, which stays
on the device. Where rows are few, several programs share a row and a second kernel joins their parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from afterbase.model.cuda.launch import on

BLOCK = 64
"""Remembered tokens that one turn of the loop reads."""
PROGRAMS = 264
"""Programs that keep a large GPU busy, two for each of its multiprocessors; with fewer, rows are split."""
MOST_SPLITS = 16


@triton.jit
def _turned(heads, rows, inside, weight, cos, sin, position, eps, NORM: tl.constexpr, WIDTH: tl.constexpr):
    """The heads [R, WIDTH] that begin at `heads + rows`, normalized and rotated in float32, rounded to what products read."""
    half: tl.constexpr = WIDTH // 2
    width = tl.arange(0, WIDTH)
    partner = (width + half) % WIDTH
    own = tl.load(heads + rows[:, None] + width[None, :], mask=inside[:, None], other=0.0)
    other = tl.load(heads + rows[:, None] + partner[None, :], mask=inside[:, None], other=0.0)
    kind = own.dtype
    own, other = own.to(tl.float32), other.to(tl.float32)
    if NORM:  # rounded before the weight multiplies, as the model's norm does
        inverse = tl.rsqrt(tl.sum(own * own, axis=1) / WIDTH + eps)[:, None]
        own = (own * inverse).to(kind).to(tl.float32) * tl.load(weight + width)[None, :]
        other = (other * inverse).to(kind).to(tl.float32) * tl.load(weight + partner)[None, :]
    angle = position * half + width % half
    sine = tl.load(sin + angle) * tl.where(width < half, -1.0, 1.0)
    return (own * tl.load(cos + angle)[None, :] + other * sine[None, :]).to(kind)


@triton.jit
def _attend(
    qkv, q_weight, k_weight, cos, sin, lengths, done, keys, values, mixed, peaks, sums,
    eps, scale, room,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr,
    NORM: tl.constexpr, SPLITS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    row, head, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    live = tl.load(done + row) == 0
    position = tl.where(live, tl.load(lengths + row), 0)  # a row that is done reads nothing and leaves the memory as it is
    width, member, token, only = tl.arange(0, WIDTH), tl.arange(0, PADDED), tl.arange(0, TOKENS), tl.arange(0, 1)
    here, inside = qkv + row * (HEADS + 2 * KV_HEADS) * WIDTH, member < GROUP
    queries = _turned(here, (head * GROUP + member) * WIDTH, inside, q_weight, cos, sin, position, eps, NORM, WIDTH)
    new_key = _turned(here, (HEADS + head + only) * WIDTH, only == 0, k_weight, cos, sin, position, eps, NORM, WIDTH)
    new_value = tl.load(here + (HEADS + KV_HEADS + head + only[:, None]) * WIDTH + width[None, :])

    # The first part takes the new token itself, which nobody needs to read back; it also puts it into the memory.
    base, first = (row * KV_HEADS + head) * room * WIDTH, part == 0
    place = base + (position + only[:, None]) * WIDTH + width[None, :]
    tl.store(keys + place, new_key, mask=live & first)
    tl.store(values + place, new_value, mask=live & first)
    peak = tl.where(first, tl.sum(queries.to(tl.float32) * new_key.to(tl.float32), axis=1) * scale, -float("inf"))
    weight = tl.where(first, tl.full((PADDED,), 1.0, tl.float32), 0.0)
    mix = tl.where(first, tl.zeros((PADDED, WIDTH), tl.float32) + new_value.to(tl.float32), 0.0)

    share = tl.cdiv(tl.cdiv(position, SPLITS), TOKENS) * TOKENS
    end = tl.minimum(position, (part + 1) * share)
    for start in range(part * share, end, TOKENS):
        seen = start + token < end
        cell = base + (start + token)[:, None] * WIDTH + width[None, :]
        key = tl.load(keys + cell, mask=seen[:, None], other=0.0)
        scores = tl.where(seen[None, :], tl.dot(queries, tl.trans(key)) * scale, -float("inf"))
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        shares = tl.exp(scores - higher[:, None])
        shrink = tl.exp(peak - higher)
        weight = weight * shrink + tl.sum(shares, axis=1)
        value = tl.load(values + cell, mask=seen[:, None], other=0.0)
        mix = mix * shrink[:, None] + tl.dot(shares.to(value.dtype), value)
        peak = higher

    query = head * GROUP + member
    if SPLITS == 1:
        to = mixed + (row * HEADS + query)[:, None] * WIDTH + width[None, :]
        tl.store(to, (mix / weight[:, None]).to(mixed.dtype.element_ty), mask=inside[:, None])
    else:
        slot = (row * HEADS + query) * SPLITS + part
        tl.store(mixed + slot[:, None] * WIDTH + width[None, :], mix, mask=inside[:, None])
        tl.store(peaks + slot, peak, mask=inside)
        tl.store(sums + slot, weight, mask=inside)


@triton.jit
def _join(parts, peaks, sums, mixed, WIDTH: tl.constexpr, SPLITS: tl.constexpr):
    head = tl.program_id(0).to(tl.int64)
    part, width = tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    peak = tl.load(peaks + head * SPLITS + part)
    share = tl.exp(peak - tl.max(peak, axis=0))  # 0 for a part that had nothing to read
    total = tl.sum(share * tl.load(sums + head * SPLITS + part), axis=0)
    mix = tl.load(parts + (head * SPLITS + part)[:, None] * WIDTH + width[None, :])
    out = tl.sum(mix * share[:, None], axis=0) / total
    tl.store(mixed + head * WIDTH + width, out.to(mixed.dtype.element_ty))


@triton.jit
def _remember(
    qkv, q_weight, k_weight, cos, sin, rows, positions, turned, keys, values, eps, room,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, PADDED: tl.constexpr, KV_PADDED: tl.constexpr, WIDTH: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    row, position = tl.load(rows + token), tl.load(positions + token)
    here, there = qkv + token * (HEADS + 2 * KV_HEADS) * WIDTH, turned + token * (HEADS + KV_HEADS) * WIDTH
    width, member, head = tl.arange(0, WIDTH), tl.arange(0, PADDED), tl.arange(0, KV_PADDED)
    queries = _turned(here, member * WIDTH, member < HEADS, q_weight, cos, sin, position, eps, NORM, WIDTH)
    tl.store(there + member[:, None] * WIDTH + width[None, :], queries, mask=member[:, None] < HEADS)
    inside = head[:, None] < KV_HEADS
    key = _turned(here, (HEADS + head) * WIDTH, head < KV_HEADS, k_weight, cos, sin, position, eps, NORM, WIDTH)
    value = tl.load(here + (HEADS + KV_HEADS + head)[:, None] * WIDTH + width[None, :], mask=inside, other=0.0)
    place = ((row * KV_HEADS + head[:, None]) * room + position) * WIDTH + width[None, :]
    tl.store(there + (HEADS + head)[:, None] * WIDTH + width[None, :], key, mask=inside)
    tl.store(keys + place, key, mask=inside)
    tl.store(values + place, value, mask=inside)


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape of a model's attention, and the constants that go with it."""

    queries: int
    """n_h."""
    keys: int
    """Heads of keys and values."""
    width: int
    """d_h."""
    eps: float
    """Of the head norms."""
    cos: Float[Tensor, "room half"]
    """Cosines of every position's angles."""
    sin: Float[Tensor, "room half"]
    """Sines of every position's angles."""


def decode_attention(
    qkv: Float[Tensor, "n out"],
    norms: tuple[Tensor, Tensor] | None,
    heads: Heads,
    lengths: Int[Tensor, "n"],
    done: Int[Tensor, "n"],
    memories: tuple[Float[Tensor, "rows hk room d"], Float[Tensor, "rows hk room d"]],
    splits: int | None = None,
) -> Float[Tensor, "n query"]:
    """Write each row's new key and value at its length, and attend to everything up to there; rows that are `done` write nothing."""
    rows, group = len(qkv), heads.queries // heads.keys
    splits = splits or parts_of(rows * heads.keys)
    mixed = qkv.new_empty(rows, heads.queries * heads.width)
    parts, peaks, sums = mixed, mixed, mixed
    if splits > 1:
        parts = torch.empty(rows * heads.queries, splits, heads.width, device=qkv.device)
        peaks, sums = torch.empty(2, rows * heads.queries, splits, device=qkv.device)
    shape = heads.queries, heads.keys, group, max(16, triton.next_power_of_2(group)), heads.width, norms is not None, splits, BLOCK
    with on(qkv):
        _attend[(rows, heads.keys, splits)](
            qkv, *(norms or (heads.cos, heads.cos)), heads.cos, heads.sin, lengths, done, *memories, parts, peaks, sums,
            heads.eps, heads.width**-0.5, memories[0].shape[2], *shape, num_warps=4, num_stages=3,
        )  # fmt: skip
        if splits > 1:
            _join[(rows * heads.queries,)](parts, peaks, sums, mixed, heads.width, splits, num_warps=1)
    return mixed


def remember(
    qkv: Float[Tensor, "T out"],
    norms: tuple[Tensor, Tensor] | None,
    heads: Heads,
    rows: Int[Tensor, "T"],
    positions: Int[Tensor, "T"],
    memories: tuple[Float[Tensor, "rows hk room d"], Float[Tensor, "rows hk room d"]],
) -> Float[Tensor, "T heads d"]:
    """Write a prompt's keys and values into the memory; returns the rotated queries and keys."""
    turned = qkv.new_empty(len(qkv), heads.queries + heads.keys, heads.width)
    padded = triton.next_power_of_2(heads.queries), triton.next_power_of_2(heads.keys)
    with on(qkv):
        _remember[(len(qkv),)](
            qkv, *(norms or (heads.cos, heads.cos)), heads.cos, heads.sin, rows, positions, turned, *memories, heads.eps,
            memories[0].shape[2], heads.queries, heads.keys, *padded, heads.width, norms is not None, num_warps=4,
        )  # fmt: skip
    return turned


def parts_of(programs: int) -> int:
    """A power of two: among how many programs each row's memory is divided."""
    return max(1, min(MOST_SPLITS, triton.next_power_of_2(PROGRAMS // programs + 1) // 2))

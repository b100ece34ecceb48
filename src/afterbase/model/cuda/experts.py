"""Experts in training on a GPU: which a token goes to, its copies in expert order, and what comes back, forwards and backwards.

Sorting counts instead of comparing, and stays on the device: nobody waits for the number of tokens that an expert got. Nothing is added
atomically, so that the same batch gives the same numbers every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from afterbase.model.cuda.launch import on

CHOICES = 64
"""Choices that one program sorts."""
COLUMNS = 1024
"""Numbers of a row that one program adds up."""


def choose(scores: Float[Tensor, "T E"], groups: int, top_groups: int, best: int, copies: int) -> Int[Tensor, "T K"]:
    """The `copies` experts of the highest score, within the `top_groups` groups whose `best` best experts (1 or 2) sum to most."""
    rows, experts = scores.shape
    chosen = torch.empty(rows, copies, dtype=torch.int64, device=scores.device)
    padded = [triton.next_power_of_2(number) for number in (groups, experts // groups, copies)]
    if rows:
        with on(scores):
            _choose[(rows,)](
                scores, chosen, groups, padded[0], top_groups, best, experts // groups, padded[1], copies, padded[2], num_warps=1
            )
    return chosen


def sort(chosen: Int[Tensor, "T K"], experts: int) -> tuple[Int[Tensor, "N"], Int[Tensor, "N"], Int[Tensor, "E"]]:
    """The choices in expert order, the place of each in it, and how many each expert got; equal ones keep their order."""
    total = chosen.numel()
    blocks, padded = max(1, triton.cdiv(total, CHOICES)), triton.next_power_of_2(experts)
    counts = torch.empty(blocks, experts, dtype=torch.int32, device=chosen.device)
    order, place = torch.empty(2, total, dtype=torch.int32, device=chosen.device)
    with on(chosen):
        _count[(blocks,)](chosen, counts, total, experts, padded, CHOICES)
        by_expert = counts.T.flatten()
        before = (by_expert.cumsum(0) - by_expert).to(torch.int32)  # choices that come before each block's of each expert
        _place[(blocks,)](chosen, before, order, place, total, experts, padded, CHOICES)
    return order, place, counts.sum(0)


def added(rows: Float[Tensor, "N d"], place: Int[Tensor, "N"], copies: int, base: Float[Tensor, "T d"] | None) -> Float[Tensor, "T d"]:
    """The sum of each token's copies, wherever they were placed, and of `base`; summed in float32."""
    width = rows.shape[1]
    out = rows.new_empty(len(place) // copies, width)
    if out.numel():
        with on(rows):
            _add[len(out), triton.cdiv(width, COLUMNS)](rows, place, base, out, width, base is not None, copies, COLUMNS)
    return out


def weighted(both: Float[Tensor, "N two_inner"], gates: Float[Tensor, "N"], order: Int[Tensor, "N"]) -> Float[Tensor, "N inner"]:
    """SwiGLU of the gate's and the raised half, times the weight of the choice that each row is of."""
    inner = both.shape[1] // 2
    out = both.new_empty(len(both), inner)
    if out.numel():
        with on(both):
            _weight[(len(both),)](both, gates, order, out, inner, triton.next_power_of_2(inner))
    return out


def weighted_backward(
    slope: Float[Tensor, "N inner"], both: Float[Tensor, "N two_inner"], gates: Float[Tensor, "N"], order: Int[Tensor, "N"]
) -> tuple[Float[Tensor, "N two_inner"], Float[Tensor, "N"], Float[Tensor, "N inner"]]:
    """The gradients of both halves and of the weights, and once more the product, which nobody has kept."""
    into, into_gates, again = torch.empty_like(both), torch.empty_like(gates), torch.empty_like(slope)
    if again.numel():
        with on(both):
            _weight_backward[(len(both),)](
                slope, both, gates, order, into, into_gates, again, slope.shape[1], triton.next_power_of_2(slope.shape[1])
            )
    return into, into_gates, again


@triton.jit
def _choose(
    scores, chosen, GROUPS: tl.constexpr, G_PADDED: tl.constexpr, TOP_GROUPS: tl.constexpr, BEST: tl.constexpr, SIZE: tl.constexpr,
    S_PADDED: tl.constexpr, COPIES: tl.constexpr, C_PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    group, member, slot = tl.arange(0, G_PADDED), tl.arange(0, S_PADDED), tl.arange(0, C_PADDED)
    expert = group[:, None] * SIZE + member[None, :]
    inside = (group[:, None] < GROUPS) & (member[None, :] < SIZE)
    score = tl.load(scores + row * GROUPS * SIZE + expert, mask=inside, other=-float("inf"))
    if GROUPS > TOP_GROUPS:
        worth = tl.max(score, axis=1)
        if BEST > 1:
            others = tl.where(member[None, :] == tl.argmax(score, axis=1)[:, None], -float("inf"), score)
            worth += tl.max(others, axis=1)
        kept = group < 0
        for _ in tl.static_range(TOP_GROUPS):
            best = group == tl.argmax(worth, axis=0)
            kept, worth = kept | best, tl.where(best, -float("inf"), worth)
        score = tl.where(kept[:, None], score, -float("inf"))
    picks = tl.zeros((C_PADDED,), tl.int32)
    for copy in tl.static_range(COPIES):
        top = tl.max(tl.max(score, axis=1), axis=0)
        pick = tl.min(tl.min(tl.where(inside & (score == top), expert, GROUPS * SIZE - 1), axis=1), axis=0)
        picks = tl.where(slot == copy, pick, picks)
        score = tl.where(expert == pick, -float("inf"), score)
    tl.store(chosen + row * COPIES + slot, picks.to(tl.int64), mask=slot < COPIES)


@triton.jit
def _count(chosen, counts, total, experts, EXPERTS: tl.constexpr, CHOICES: tl.constexpr):
    number, expert = tl.program_id(0) * CHOICES + tl.arange(0, CHOICES), tl.arange(0, EXPERTS)
    choice = tl.load(chosen + number, mask=number < total, other=-1).to(tl.int32)
    found = tl.sum((choice[:, None] == expert[None, :]).to(tl.int32), axis=0)
    tl.store(counts + tl.program_id(0) * experts + expert, found, mask=expert < experts)


@triton.jit
def _place(chosen, before, order, place, total, experts, EXPERTS: tl.constexpr, CHOICES: tl.constexpr):
    number, expert = tl.program_id(0) * CHOICES + tl.arange(0, CHOICES), tl.arange(0, EXPERTS)
    choice = tl.load(chosen + number, mask=number < total, other=-1).to(tl.int32)
    same = (choice[:, None] == expert[None, :]).to(tl.int32)
    first = tl.load(before + expert * tl.num_programs(0) + tl.program_id(0), mask=expert < experts, other=0)
    to = tl.sum(same * (first[None, :] + tl.cumsum(same, axis=0) - 1), axis=1)
    tl.store(place + number, to, mask=number < total)
    tl.store(order + to, number, mask=number < total)


@triton.jit
def _add(rows, place, base, out, width, BASE: tl.constexpr, COPIES: tl.constexpr, COLUMNS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    total = tl.zeros((COLUMNS,), tl.float32)
    for copy in tl.static_range(COPIES):
        row = tl.load(place + token * COPIES + copy).to(tl.int64)
        total += tl.load(rows + row * width + column, mask=inside, other=0.0).to(tl.float32)
    if BASE:
        total += tl.load(base + token * width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * width + column, total, mask=inside)


@triton.jit
def _weight(both, gates, order, out, inner, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < inner
    by = tl.load(gates + tl.load(order + row))
    x = tl.load(both + row * 2 * inner + column, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(both + row * 2 * inner + inner + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * inner + column, x * tl.sigmoid(x) * y * by, mask=inside)


@triton.jit
def _weight_backward(slope, both, gates, order, into, into_gates, again, inner, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < inner
    choice = tl.load(order + row)
    by = tl.load(gates + choice)
    x = tl.load(both + row * 2 * inner + column, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(both + row * 2 * inner + inner + column, mask=inside, other=0.0).to(tl.float32)
    down = tl.load(slope + row * inner + column, mask=inside, other=0.0).to(tl.float32)
    open_ = tl.sigmoid(x)
    product = x * open_ * y
    tl.store(into_gates + choice, tl.sum(down * product, axis=0))
    tl.store(again + row * inner + column, product * by, mask=inside)
    down *= by
    tl.store(into + row * 2 * inner + column, down * y * open_ * (1 + x * (1 - open_)), mask=inside)
    tl.store(into + row * 2 * inner + inner + column, down * x * open_, mask=inside)

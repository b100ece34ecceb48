"""Routed experts of a decoding step: choose, sort by expert on the device, and multiply each expert's own tokens.  [V3 Eq. 12-16]

A program takes one expert and some columns of its matrices, and reads them once for all tokens that came; an expert that nobody chose is
not read. Counts stay on the device, so that a step can be recorded, and no token is dropped. Nothing is added atomically: the same rows
give the same numbers every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from afterbase.model.cuda.launch import on

BLOCK = 64
"""Columns of a matrix that one program multiplies, and numbers of each that one turn of the loop reads."""
SCANNED = 1024
"""Choices that are looked through at a time."""
FEW, LINES = 8, 4
"""Tokens that are scored one by one, and experts that one program scores them for."""
COLUMNS = 1024
"""Numbers that one program adds up."""


@triton.jit
def _score(tokens, weight, scores, width, experts, LINES: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    expert, part = tl.program_id(1) * LINES + tl.arange(0, LINES), tl.arange(0, COLUMNS)
    total = tl.zeros((LINES, COLUMNS), tl.float32)
    for start in range(0, width, COLUMNS):
        column = start + part
        there = (expert[:, None] < experts) & (column[None, :] < width)
        x = tl.load(tokens + row * width + column, mask=column < width, other=0.0).to(tl.float32)
        total += x[None, :] * tl.load(weight + expert[:, None] * width + column[None, :], mask=there, other=0.0)
    tl.store(scores + row * experts + expert, tl.sum(total, axis=1), mask=expert < experts)


@triton.jit
def _route(
    logits, bias, chosen, gates, scaling,
    GROUPS: tl.constexpr, G_PADDED: tl.constexpr, TOP_GROUPS: tl.constexpr, SIZE: tl.constexpr, S_PADDED: tl.constexpr,
    COPIES: tl.constexpr, C_PADDED: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    group, member, slot = tl.arange(0, G_PADDED), tl.arange(0, S_PADDED), tl.arange(0, C_PADDED)
    expert = group[:, None] * SIZE + member[None, :]
    inside = (group[:, None] < GROUPS) & (member[None, :] < SIZE)
    affinity = tl.sigmoid(tl.load(logits + row * GROUPS * SIZE + expert, mask=inside, other=0.0))
    score = tl.where(inside, affinity + tl.load(bias + expert, mask=inside, other=0.0), -float("inf"))
    if GROUPS > TOP_GROUPS:  # a group counts by its two best experts
        worth = tl.max(score, axis=1)
        if SIZE > 1:
            others = tl.where(member[None, :] == tl.argmax(score, axis=1)[:, None], -float("inf"), score)
            worth += tl.max(others, axis=1)
        kept = group < 0
        for _ in tl.static_range(TOP_GROUPS):
            best = group == tl.argmax(worth, axis=0)
            kept, worth = kept | best, tl.where(best, -float("inf"), worth)
        score = tl.where(kept[:, None], score, -float("inf"))
    picks, weights = tl.zeros((C_PADDED,), tl.int32), tl.zeros((C_PADDED,), tl.float32)
    for copy in tl.static_range(COPIES):
        top = tl.max(tl.max(score, axis=1), axis=0)
        pick = tl.min(tl.min(tl.where(inside & (score == top), expert, GROUPS * SIZE - 1), axis=1), axis=0)
        own = inside & (expert == pick)
        gate = tl.sum(tl.sum(tl.where(own, affinity, 0.0), axis=1), axis=0)  # the bias chooses, it never weighs
        picks, weights = tl.where(slot == copy, pick, picks), tl.where(slot == copy, gate, weights)
        score = tl.where(own, -float("inf"), score)
    if NORM:
        weights = weights / (tl.sum(weights, axis=0) + 1e-20)
    tl.store(chosen + row * COPIES + slot, picks, mask=slot < COPIES)
    tl.store(gates + row * COPIES + slot, weights * scaling, mask=slot < COPIES)


@triton.jit
def _sort(chosen, order, starts, total, SCANNED: tl.constexpr):
    expert, number = tl.program_id(0), tl.arange(0, SCANNED)
    before, found = tl.zeros((SCANNED,), tl.int32), 0
    for start in range(0, total, SCANNED):
        choice = tl.load(chosen + start + number, mask=start + number < total, other=2147483647)
        before += (choice < expert).to(tl.int32)
    first = tl.sum(before, axis=0)
    for start in range(0, total, SCANNED):
        mine = (tl.load(chosen + start + number, mask=start + number < total, other=-1) == expert).to(tl.int32)
        place = first + found + tl.cumsum(mine, axis=0) - 1
        tl.store(order + place, start + number, mask=mine > 0)
        found += tl.sum(mine, axis=0)
    tl.store(starts + expert, first)
    tl.store(starts + expert + 1, first + found, mask=expert == tl.num_programs(0) - 1)


@triton.jit
def _enter(tokens, gate, up, order, starts, hidden, width, inner, COPIES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    expert, line, part = tl.program_id(0).to(tl.int64), tl.arange(0, ROWS), tl.arange(0, BLOCK)
    column = tl.program_id(1) * BLOCK + part
    first, last = tl.load(starts + expert), tl.load(starts + expert + 1)
    matrix = (expert * inner + column)[None, :] * width
    for tile in range(first, last, ROWS):
        inside = tile + line < last
        token = tl.load(order + tile + line, mask=inside, other=0).to(tl.int64) // COPIES
        gated, raised = tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32)
        for start in range(0, width, BLOCK):
            depth = start + part
            there = (depth[:, None] < width) & (column[None, :] < inner)
            x = tl.load(tokens + token[:, None] * width + depth[None, :], mask=inside[:, None] & (depth[None, :] < width), other=0.0)
            gated = tl.dot(x, tl.load(gate + matrix + depth[:, None], mask=there, other=0.0), gated)
            raised = tl.dot(x, tl.load(up + matrix + depth[:, None], mask=there, other=0.0), raised)
        kind = hidden.dtype.element_ty  # both are rounded first, as products of the trainer's are
        gated, raised = gated.to(kind).to(tl.float32), raised.to(kind).to(tl.float32)
        to = hidden + (tile + line).to(tl.int64)[:, None] * inner + column[None, :]
        tl.store(to, (gated * tl.sigmoid(gated) * raised).to(kind), mask=inside[:, None] & (column[None, :] < inner))


@triton.jit
def _leave(hidden, down, order, starts, outputs, width, inner, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    expert, line, part = tl.program_id(0).to(tl.int64), tl.arange(0, ROWS), tl.arange(0, BLOCK)
    column = tl.program_id(1) * BLOCK + part
    first, last = tl.load(starts + expert), tl.load(starts + expert + 1)
    matrix = (expert * width + column)[None, :] * inner
    for tile in range(first, last, ROWS):
        inside = tile + line < last
        copy = tl.load(order + tile + line, mask=inside, other=0).to(tl.int64)
        total = tl.zeros((ROWS, BLOCK), tl.float32)
        for start in range(0, inner, BLOCK):
            depth = start + part
            here = hidden + (tile + line).to(tl.int64)[:, None] * inner + depth[None, :]
            x = tl.load(here, mask=inside[:, None] & (depth[None, :] < inner), other=0.0)
            there = (depth[:, None] < inner) & (column[None, :] < width)
            total = tl.dot(x, tl.load(down + matrix + depth[:, None], mask=there, other=0.0), total)
        to = outputs + copy[:, None] * width + column[None, :]
        tl.store(to, total.to(outputs.dtype.element_ty), mask=inside[:, None] & (column[None, :] < width))


@triton.jit
def _gather(outputs, gates, shared, out, width, COPIES: tl.constexpr, COLUMNS: tl.constexpr, SHARED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    kind = out.dtype.element_ty
    total = tl.zeros((COLUMNS,), tl.float32)
    for copy in tl.static_range(COPIES):
        gate = tl.load(gates + row * COPIES + copy).to(kind).to(tl.float32)
        output = tl.load(outputs + (row * COPIES + copy) * width + column, mask=inside, other=0.0).to(tl.float32)
        total += (output * gate).to(kind).to(tl.float32)
    if SHARED:
        total = total.to(kind).to(tl.float32) + tl.load(shared + row * width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, total.to(kind), mask=inside)


def scored(tokens: Float[Tensor, "n d"], weight: Float[Tensor, "E d"], steady: bool = False) -> Float[Tensor, "n E"]:
    """Each token's affinities before the sigmoid, in float32.

    Few tokens in one kernel, where a product of its own takes up to three; if `steady`, any number, so that bits do not depend on it.
    """
    (rows, width), experts = tokens.shape, len(weight)
    if rows > FEW and not steady:
        return F.linear(tokens.float(), weight)
    scores = torch.empty(rows, experts, device=tokens.device)
    with on(tokens):
        _score[rows, triton.cdiv(experts, LINES)](tokens, weight, scores, width, experts, LINES, COLUMNS // 2, num_warps=4)
    return scores


def routed(
    logits: Float[Tensor, "n E"], bias: Float[Tensor, "E"], groups: int, top_groups: int, copies: int, norm: bool, scaling: float
) -> tuple[Int[Tensor, "n K"], Float[Tensor, "n K"]]:
    """The experts that each row goes to and their gates, as the model's router chooses them from these affinities before the sigmoid."""
    rows, experts = logits.shape
    size = experts // groups
    chosen = torch.empty(rows, copies, dtype=torch.int32, device=logits.device)
    gates = torch.empty(rows, copies, dtype=torch.float32, device=logits.device)
    padded = [triton.next_power_of_2(number) for number in (groups, size, copies)]
    with on(logits):
        _route[(rows,)](
            logits, bias, chosen, gates, scaling, groups, padded[0], top_groups, size, padded[1], copies, padded[2], norm, num_warps=1
        )
    return chosen, gates


def experts_of(
    tokens: Float[Tensor, "n d"],
    chosen: Int[Tensor, "n K"],
    gates: Float[Tensor, "n K"],
    weights: tuple[Float[Tensor, "E inner d"], Float[Tensor, "E inner d"], Float[Tensor, "E d inner"]],
    shared: Float[Tensor, "n d"] | None,
) -> Float[Tensor, "n d"]:
    """The gated sum of each row's experts, and what the shared ones gave, where there are any."""
    (rows, width), copies, total = tokens.shape, chosen.shape[1], chosen.numel()
    gate, up, down = weights
    experts, inner = gate.shape[:2]
    order = torch.empty(total, dtype=torch.int32, device=tokens.device)
    starts = torch.empty(experts + 1, dtype=torch.int32, device=tokens.device)
    hidden, outputs = tokens.new_empty(total, inner), tokens.new_empty(total, width)
    out = torch.empty_like(tokens)
    lines = min(64, max(16, triton.next_power_of_2(2 * total // experts)))
    with on(tokens):
        _sort[(experts,)](chosen, order, starts, total, SCANNED, num_warps=4)
        blocks = triton.cdiv(inner, BLOCK), triton.cdiv(width, BLOCK)
        _enter[experts, blocks[0]](tokens, gate, up, order, starts, hidden, width, inner, copies, lines, BLOCK, num_warps=4, num_stages=3)
        _leave[experts, blocks[1]](hidden, down, order, starts, outputs, width, inner, lines, BLOCK, num_warps=4, num_stages=3)
        _gather[rows, triton.cdiv(width, COLUMNS)](outputs, gates, shared, out, width, copies, COLUMNS, shared is not None, num_warps=4)
    return out

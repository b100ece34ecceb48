"""Drawing on the device: the law of `engine.draw` in two passes over the logits, and a row's bookkeeping without the host.

The first pass leaves the largest logit and the sum of each chunk of the vocabulary; the second finds the chunk that the random number
falls into and reads that one again. Nothing of the vocabulary's size is written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from afterbase.engine.draw import GOLDEN, MIX
from afterbase.engine.rows import FULL, STOPPED, Rows
from afterbase.model.cuda.launch import on

CHUNK = 4096
"""Logits that one program of the first pass reads."""
FIRST_SHIFT, FIRST_FACTOR, NEXT_SHIFT, NEXT_FACTOR = (tl.constexpr(number) for pair in MIX for number in pair)
STEP = tl.constexpr(GOLDEN)
STOP, LIMIT = tl.constexpr(STOPPED), tl.constexpr(FULL)


@triton.jit
def _uniform(key, count):
    """The `count`-th number of a stream (SplitMix64), in [0, 1)."""
    x = key.to(tl.uint64) + (count + 1).to(tl.uint64) * STEP
    x = (x ^ (x >> FIRST_SHIFT)) * FIRST_FACTOR
    x = (x ^ (x >> NEXT_SHIFT)) * NEXT_FACTOR
    x = x ^ (x >> 31)
    return (x >> 11).to(tl.float64) * (1.0 / 9007199254740992.0)


@triton.jit
def _scaled(logits, heat, row, column, inside, vocabulary):
    values = tl.load(logits + row * vocabulary + column, mask=inside, other=-float("inf")).to(tl.float32)
    return values / tl.where(heat > 0, heat, 1.0)


@triton.jit
def _tally(logits, temperature, tops, sums, bests, vocabulary, CHUNKS: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = chunk * CHUNK + tl.arange(0, CHUNK)
    values = _scaled(logits, tl.load(temperature + row // WIDTH), row, column, column < vocabulary, vocabulary)
    top = tl.max(values, axis=0)
    finite = tl.where(top == -float("inf"), 0.0, top)
    tl.store(tops + row * CHUNKS + chunk, top)
    tl.store(sums + row * CHUNKS + chunk, tl.sum(tl.exp(values - finite), axis=0))
    tl.store(bests + row * CHUNKS + chunk, chunk * CHUNK + tl.argmax(values, axis=0))


@triton.jit
def _found(mass, target, index, LAST: tl.constexpr):
    """The first place where the running sum passes `target`; of those that have any mass, always one."""
    inside = mass > 0
    passed = inside & (tl.cumsum(mass, axis=0) > target)
    first = tl.min(tl.where(passed, index, LAST), axis=0)
    last = tl.max(tl.where(inside, index, 0), axis=0)  # rounding may leave the number past the sum of all
    return tl.minimum(first, last)


@triton.jit
def _pick(
    logits, temperature, keys, counts, tops, sums, bests, tokens, logprobs,
    vocabulary, stride, ahead, CHUNKS: tl.constexpr, PADDED: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    owner, heat = row // WIDTH, tl.load(temperature + row // WIDTH)
    chunk = tl.arange(0, PADDED)
    peaks = tl.load(tops + row * CHUNKS + chunk, mask=chunk < CHUNKS, other=-float("inf"))
    top = tl.max(peaks, axis=0)
    mass = (tl.load(sums + row * CHUNKS + chunk, mask=chunk < CHUNKS, other=0.0) * tl.exp(peaks - top)).to(tl.float64)
    total = tl.sum(mass, axis=0)
    target = _uniform(tl.load(keys + owner), tl.load(counts + owner) + row % WIDTH + ahead) * total
    chosen = _found(mass, target, chunk, PADDED)
    target -= tl.sum(tl.where(chunk < chosen, mass, 0.0), axis=0)
    column = chosen * CHUNK + tl.arange(0, CHUNK)
    values = _scaled(logits, heat, row, column, column < vocabulary, vocabulary)
    token = _found(tl.exp(values - top).to(tl.float64), target, column, 2147483647)
    best = tl.load(bests + row * CHUNKS + tl.minimum(tl.argmax(peaks, axis=0), CHUNKS - 1))
    token = tl.minimum(tl.where(heat > 0, token, best), vocabulary - 1)
    value = _scaled(logits, heat, row, token, token < vocabulary, vocabulary)
    tl.store(tokens + row * stride, token.to(tl.int64))
    tl.store(logprobs + row, value - top - tl.log(total.to(tl.float32)))


def drawn(
    logits: Float[Tensor, "T V"],
    temperature: Float[Tensor, "n"],
    keys: Int[Tensor, "n"],
    counts: Int[Tensor, "n"],
    width: int = 1,
    ahead: int = 0,
    into: Int[Tensor, "T"] | None = None,
) -> tuple[Int[Tensor, "T"], Float[Tensor, "T"]]:
    """A token and its log-probability at the row's temperature, a greedy row's at temperature 1, for each of T = n w places.

    The first place of a row is its draw number `counts` + `ahead`. Tokens are written into `into`, if there is one.
    """
    rows, vocabulary = logits.shape
    chunk = min(CHUNK, triton.next_power_of_2(vocabulary))
    chunks = triton.cdiv(vocabulary, chunk)
    tops, sums = torch.empty(2, rows, chunks, device=logits.device)
    bests = torch.empty(rows, chunks, dtype=torch.int32, device=logits.device)
    tokens, logprobs = keys.new_empty(rows) if into is None else into, temperature.new_empty(rows)
    with on(logits):
        _tally[(rows, chunks)](logits, temperature, tops, sums, bests, vocabulary, chunks, chunk, width, num_warps=4)
        _pick[(rows,)](
            logits, temperature, keys, counts, tops, sums, bests, tokens, logprobs,
            vocabulary, tokens.stride(0), ahead, chunks, triton.next_power_of_2(chunks), chunk, width, num_warps=8,
        )  # fmt: skip
    return tokens, logprobs


@triton.jit
def _record(
    drawn, drawn_logprobs, temperature, latest, tokens, logprobs, sampled, counts, lengths, limits, stop_ids, done,
    rows, room, STOPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = (row < rows) & (tl.load(done + row, mask=row < rows, other=1) == 0)
    token, logprob = tl.load(drawn + row, mask=live, other=0), tl.load(drawn_logprobs + row, mask=live, other=0.0)
    count = tl.load(counts + row, mask=live, other=0)
    place = row * room + count
    tl.store(tokens + place, token, mask=live)
    tl.store(logprobs + place, logprob, mask=live)
    tl.store(sampled + place, tl.where(tl.load(temperature + row, mask=live, other=1.0) > 0, logprob, 0.0), mask=live)
    tl.store(latest + row, token, mask=live)
    tl.store(counts + row, count + 1, mask=live)
    tl.store(lengths + row, tl.load(lengths + row, mask=live, other=0) + 1, mask=live)
    state = tl.where(count + 1 >= tl.load(limits + row, mask=live, other=0), LIMIT, 0)
    for stop in tl.static_range(STOPS):
        state = tl.where(tl.load(stop_ids + row * STOPS + stop, mask=live, other=-1) == token, STOP, state)
    tl.store(done + row, state.to(tl.int8), mask=live)


def record(rows: Rows, number: int, tokens: Int[Tensor, "n"], logprobs: Float[Tensor, "n"]) -> None:
    """Keep what the first `number` of the rows drew; those that end now, or ended before, take no more."""
    block = min(128, triton.next_power_of_2(number))
    with on(tokens):
        _record[(triton.cdiv(number, block),)](
            tokens, logprobs, rows.temperature, rows.latest, rows.tokens, rows.logprobs, rows.sampled, rows.counts, rows.lengths,
            rows.limits, rows.stop_ids, rows.done, number, rows.tokens.shape[1], rows.stop_ids.shape[1], block, num_warps=1,
        )  # fmt: skip

"""Drawing one token per row: temperature, top-k, top-p, and a random number that belongs to the request alone.

A request's draws depend on its seed, its number among the group's n, and the position: never on what shares its batch, on the
order of arrival or on the global random state. So a resumed run draws what an undisturbed one would.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from afterbase.engine.cuda import has_triton
from afterbase.model.native import KINDS, kernels_for

_WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
MIX = (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)


def row_key(seed: int, sample: int) -> int:
    """The 63-bit stream of sample number `sample` of a request with this seed."""
    return _mixed_word(_mixed_word(seed & (_WORD >> 1)) + sample * GOLDEN) & (_WORD >> 1)


def _mixed_word(x: int) -> int:
    """SplitMix64's finalizer on one number."""
    x &= _WORD
    for shift, factor in MIX:
        x = ((x ^ (x >> shift)) * factor) & _WORD
    return x ^ (x >> 31)


def uniforms(keys: Int[Tensor, "n"], counts: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """One float64 in [0, 1) for each row: the `counts`-th number of its stream (SplitMix64)."""
    return _shift(_mixed(keys + (counts + 1) * _signed(GOLDEN)), 11).double() * 2.0**-53


def _mixed(x: Tensor) -> Tensor:
    """The same on int64, whose multiplication wraps like the unsigned one."""
    for shift, factor in MIX:
        x = (x ^ _shift(x, shift)) * _signed(factor)
    return x ^ _shift(x, 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shift(x: Tensor, by: int) -> Tensor:
    """Logical shift right; torch's is arithmetic."""
    return (x >> by) & ((1 << (64 - by)) - 1)


@dataclass(frozen=True, slots=True)
class Knobs:
    """The sampling settings of the running rows."""

    temperature: Float[Tensor, "n"]
    """0 is greedy."""
    top_p: Float[Tensor, "n"]
    """1 keeps all."""
    top_k: Int[Tensor, "n"]
    """0 keeps all."""
    truncating: bool
    """Whether any row has top-p or top-k set; without, the sort is saved."""
    greedy: bool
    """Whether any row is greedy."""
    plain: bool
    """Whether every row has temperature 1."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One token per row and its two log-probabilities."""

    tokens: Int[Tensor, "n"]
    """The drawn tokens."""
    logprobs: Float[Tensor, "n"]
    """Under the full distribution at the row's temperature (a greedy row: at temperature 1)."""
    sampled_logprobs: Float[Tensor, "n"]
    """Under the truncated distribution that was drawn from (a greedy row: 0)."""


def draw(logits: Float[Tensor, "n V"], knobs: Knobs, keys: Int[Tensor, "n"], counts: Int[Tensor, "n"]) -> Draw:
    """Invert each row's cumulative distribution at the `counts`-th number of its stream."""
    native = kernels_for(logits)
    if native and not (knobs.truncating or knobs.greedy):
        tokens, logprobs = torch.empty_like(keys), torch.empty_like(knobs.temperature)
        native("draw", KINDS[logits.dtype], *logits.shape, logits.contiguous(), knobs.temperature, keys, counts, tokens, logprobs)
        return Draw(tokens, logprobs, logprobs)
    if logits.is_cuda and not knobs.truncating and has_triton():
        from afterbase.engine.cuda.draw import drawn  # Triton is imported only where there is a GPU

        tokens, logprobs = drawn(logits.contiguous(), knobs.temperature, keys, counts)
        return Draw(tokens, logprobs, torch.where(knobs.temperature > 0, logprobs, 0.0) if knobs.greedy else logprobs)
    return inverted(logits.float(), knobs, uniforms(keys, counts))


def inverted(logits: Float[Tensor, "n V"], knobs: Knobs, uniform: Float[Tensor, "n"]) -> Draw:
    """Invert each row's cumulative distribution at its random number."""
    scaled = logits if knobs.plain else logits / torch.where(knobs.temperature > 0, knobs.temperature, 1.0)[:, None]
    full = scaled - scaled.logsumexp(-1, keepdim=True)
    probabilities = full.exp()
    if knobs.truncating:
        probabilities = probabilities * _kept(probabilities, knobs)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)  # a float32 scan is not monotone on a GPU
    total = cumulative[:, -1:]
    # Rounding may lift the threshold onto the total, past every token: step back below it.
    threshold = torch.minimum((uniform[:, None] * total).to(total.dtype), torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    logprobs = full.gather(1, tokens[:, None]).squeeze(1)
    sampled = logprobs - total.squeeze(1).log().to(logprobs.dtype) if knobs.truncating else logprobs
    if knobs.greedy:
        best = logits.argmax(-1)
        cold = knobs.temperature == 0
        tokens = torch.where(cold, best, tokens)
        logprobs = torch.where(cold, full.gather(1, best[:, None]).squeeze(1), logprobs)
        sampled = torch.where(cold, 0.0, sampled)
    return Draw(tokens, logprobs, sampled)


def _kept(probabilities: Float[Tensor, "n V"], knobs: Knobs) -> Bool[Tensor, "n V"]:
    """The k most probable tokens, and of those the smallest set that holds top_p of all; ties go to the lower id."""
    ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(ordered.shape[-1], device=ordered.device)
    within_k = (knobs.top_k[:, None] == 0) | (rank < knobs.top_k[:, None])
    limited = ordered * within_k
    before = limited.cumsum(-1) - limited
    share = knobs.top_p[:, None] * limited.sum(-1, keepdim=True)
    within_p = (knobs.top_p[:, None] >= 1) | (before < share) | (rank == 0)
    keep = within_k & within_p
    return torch.zeros_like(keep).scatter(1, ids, keep)

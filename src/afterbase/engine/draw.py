"""Drawing one token per row: what steers its logits, temperature, top-k, min-p, top-p, and a random number of the request's own.

A request's draws depend on its seed, its number among the group's n, and the position: never on what shares its batch, on the
order of arrival or on the global random state. So a resumed run draws what an undisturbed one would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from afterbase.engine.steer import Asked, Steer, steering_of
from afterbase.model import cuda
from afterbase.model.native import KINDS, kernels_for
from afterbase.records import Sampling

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
    top_p: Float[Tensor, "n"] | None
    """1 keeps all; None where no row truncates."""
    top_k: Int[Tensor, "n"] | None
    """0 keeps all; None where no row truncates."""
    truncating: bool
    """Whether any row has top-p, top-k or min-p set; without, the sort is saved."""
    greedy: bool
    """Whether any row is greedy."""
    plain: bool
    """Whether every row has temperature 1."""
    min_p: Float[Tensor, "n"] | None = None
    """0 keeps all; None where every row does."""
    steering: tuple[Steer, ...] = ()
    """What changes the logits first."""
    parts: tuple[tuple[Int[Tensor, "m"], Knobs], ...] = ()
    """Places among the rows and their own settings, drawn apart from each other, so that rows that ask for nothing keep their kernel, and
    their bits, whatever their neighbours ask for. Empty where all rows go one way."""

    @property
    def differing(self) -> bool:
        """Whether some row's two log-probabilities differ."""
        return self.truncating or self.greedy or bool(self.steering)

    @property
    def hosted(self) -> bool:
        """Whether a device cannot draw for all rows on its own."""
        return self.truncating or bool(self.steering)


def special(sampling: Sampling, device: torch.device) -> bool:
    """Whether it asks for more than the fast kernel of this device knows; that of CPUs does not know greedy rows."""
    return sampling.truncated or sampling.steered or (device.type == "cpu" and sampling.temperature == 0)


def plain_knobs(temperature: Float[Tensor, "n"], heats: set[float]) -> Knobs:
    """The settings of rows of which none is special; `heats` are their temperatures as the host knows them."""
    return Knobs(temperature, None, None, truncating=False, greedy=0 in heats, plain=heats <= {0, 1})


def knobs_of(asked: Sequence[Asked], device: torch.device, singly: bool = False) -> Knobs:
    """The settings of any rows; the special ones are drawn apart, from each other too if `singly`."""
    apart = [special(sampling, device) for _, sampling in asked]
    plain, led = ([place for place, one in enumerate(apart) if one == which] for which in (False, True))
    places = [rows for rows in (plain, *([[one] for one in led] if singly else [led])) if rows]
    if len(places) == 1:
        return _alike(asked, device)
    parts = [(torch.tensor(rows, device=device), _alike([asked[place] for place in rows], device)) for rows in places]
    return replace(_alike(asked, device), parts=tuple(parts))


def _alike(asked: Sequence[Asked], device: torch.device) -> Knobs:
    """The settings of rows that are drawn together."""
    samplings = [sampling for _, sampling in asked]

    def column(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor([getattr(sampling, name) for sampling in samplings], dtype=dtype, device=device)

    return Knobs(
        column("temperature"),
        column("top_p"),
        column("top_k", torch.long),
        truncating=any(sampling.truncated for sampling in samplings),
        greedy=any(sampling.temperature == 0 for sampling in samplings),
        plain=all(sampling.temperature in (0, 1) for sampling in samplings),
        min_p=column("min_p") if any(sampling.min_p for sampling in samplings) else None,
        steering=steering_of(asked, device),
    )


@dataclass(frozen=True, slots=True)
class Draw:
    """One token per row and its two log-probabilities."""

    tokens: Int[Tensor, "n"]
    """The drawn tokens."""
    logprobs: Float[Tensor, "n"]
    """Under the model's own full distribution at the row's temperature (a greedy row: at temperature 1)."""
    sampled_logprobs: Float[Tensor, "n"]
    """Under the steered and truncated distribution that was drawn from (a greedy row: 0)."""


def draw(
    logits: Float[Tensor, "n V"],
    knobs: Knobs,
    keys: Int[Tensor, "n"],
    counts: Int[Tensor, "n"],
    tokens: Int[Tensor, "n room"] | None = None,
) -> Draw:
    """Invert each row's cumulative distribution at the `counts`-th number of its stream; steered rows need the `tokens` drawn so far."""
    if knobs.parts:
        return _apart(logits, knobs, keys, counts, tokens)
    native = kernels_for(logits)
    if native and not knobs.differing:
        drawn_tokens, logprobs = torch.empty_like(keys), torch.empty_like(knobs.temperature)
        native("draw", KINDS[logits.dtype], *logits.shape, logits.contiguous(), knobs.temperature, keys, counts, drawn_tokens, logprobs)
        return Draw(drawn_tokens, logprobs, logprobs)
    if logits.is_cuda and not knobs.hosted and cuda.kernels():
        from afterbase.engine.cuda.draw import drawn  # Triton is imported only where there is a GPU

        drawn_tokens, logprobs = drawn(logits.contiguous(), knobs.temperature, keys, counts)
        return Draw(drawn_tokens, logprobs, torch.where(knobs.temperature > 0, logprobs, 0.0) if knobs.greedy else logprobs)
    logits = steered = logits.float()
    for step in knobs.steering:
        steered = step(steered, counts, tokens)
    return inverted(logits, knobs, uniforms(keys, counts), steered)


def _apart(logits: Tensor, knobs: Knobs, keys: Tensor, counts: Tensor, tokens: Tensor | None) -> Draw:
    """Each part of the rows drawn by itself."""
    whole = Draw(torch.empty_like(keys), torch.empty_like(knobs.temperature), torch.empty_like(knobs.temperature))
    for rows, part in knobs.parts:
        said = tokens[rows] if part.steering else None
        one = draw(logits[rows], part, keys[rows], counts[rows], said)
        whole.tokens[rows], whole.logprobs[rows], whole.sampled_logprobs[rows] = one.tokens, one.logprobs, one.sampled_logprobs
    return whole


def inverted(logits: Float[Tensor, "n V"], knobs: Knobs, uniform: Float[Tensor, "n"], steered: Float[Tensor, "n V"] | None = None) -> Draw:
    """Invert each row's cumulative distribution, of the `steered` logits if there are any, at its random number."""
    full = source = _log_softmax(logits, knobs)
    steered = logits if steered is None else steered
    if steered is not logits:
        source = _log_softmax(steered, knobs)
    probabilities = source.exp()
    if knobs.truncating:
        probabilities = probabilities * _kept(probabilities, knobs)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)  # a float32 scan is not monotone on a GPU
    total = cumulative[:, -1:]
    # Rounding may lift the threshold onto the total, past every token: step back below it.
    threshold = torch.minimum((uniform[:, None] * total).to(total.dtype), torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp_max(logits.shape[-1] - 1)  # what is NaN has no place
    if knobs.greedy:
        tokens = torch.where(knobs.temperature == 0, steered.argmax(-1), tokens)
    logprobs = full.gather(1, tokens[:, None]).squeeze(1)
    sampled = logprobs if source is full else source.gather(1, tokens[:, None]).squeeze(1)
    if knobs.truncating:
        sampled = sampled - total.squeeze(1).log().to(sampled.dtype)
    if knobs.greedy:
        sampled = torch.where(knobs.temperature == 0, 0.0, sampled)
    return Draw(tokens, logprobs, sampled)


def _log_softmax(logits: Float[Tensor, "n V"], knobs: Knobs) -> Float[Tensor, "n V"]:
    """Of the logits at each row's temperature."""
    scaled = logits if knobs.plain else logits / torch.where(knobs.temperature > 0, knobs.temperature, 1.0)[:, None]
    return scaled - scaled.logsumexp(-1, keepdim=True)


def _kept(probabilities: Float[Tensor, "n V"], knobs: Knobs) -> Bool[Tensor, "n V"]:
    """The k most probable tokens that are not too far below the best, and of those the smallest set that holds top_p of all; ties go to
    the lower id."""
    ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(ordered.shape[-1], device=ordered.device)
    within = (knobs.top_k[:, None] == 0) | (rank < knobs.top_k[:, None])
    if knobs.min_p is not None:
        within &= ordered >= knobs.min_p[:, None] * ordered[:, :1]
    limited = ordered * within
    before = limited.cumsum(-1) - limited
    share = knobs.top_p[:, None] * limited.sum(-1, keepdim=True)
    within_p = (knobs.top_p[:, None] >= 1) | (before < share) | (rank == 0)
    keep = within & within_p
    return torch.zeros_like(keep).scatter(1, ids, keep)

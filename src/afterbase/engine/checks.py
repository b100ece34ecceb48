"""What a request may ask; anything else is refused in a sentence, before it can disturb the others of its batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from afterbase.errors import Busy, EngineError, TooLong
from afterbase.records import Sampling

COLDEST, HOTTEST = 1e-4, 1e4
"""Temperatures between which dividing logits stays within float32; 0 itself is greedy."""
FURTHEST = 1e4
"""No penalty or bias may be larger: beyond it float32 loses the logit itself."""
STRONGEST = 100.0
"""Repetition penalties are between its inverse and this."""
LARGEST = 2**63
"""Whole numbers are kept in 64 bits."""


def check_sampling(sampling: Sampling, vocab_size: int) -> None:
    """EngineError, in one sentence, for the first setting with which nothing can be drawn."""
    for name, fits, allowed in _rules(sampling, vocab_size):
        if not fits:
            raise EngineError(f"{name}={_shown(getattr(sampling, name))} cannot be sampled with; give {allowed}")


def _rules(sampling: Sampling, vocab_size: int) -> list[tuple[str, bool, str]]:
    """Each setting, whether it will do, and what would."""
    heat, ids = sampling.temperature, f"ids from 0 to {vocab_size - 1}"
    longest = sampling.max_tokens if _whole(sampling.max_tokens, 1) else 1
    return [
        ("temperature", _real(heat, 0, HOTTEST) and (heat == 0 or heat >= COLDEST), f"0 (greedy), or {COLDEST:g} to {HOTTEST:g}"),
        ("top_p", _real(sampling.top_p, 0, 1) and sampling.top_p > 0, "a number above 0, up to 1, which keeps all"),
        ("top_k", _whole(sampling.top_k, 0), "a whole number from 0, which keeps all, below 2**63"),
        ("min_p", _real(sampling.min_p, 0, 1) and sampling.min_p < 1, "a number from 0, which keeps all, below 1"),
        ("max_tokens", _whole(sampling.max_tokens, 1), "a whole number of at least 1"),
        ("min_tokens", _whole(sampling.min_tokens, 0) and sampling.min_tokens <= longest, f"a whole number from 0 to max_tokens={longest}"),
        ("seed", _whole(sampling.seed, None), "a whole number"),
        (
            "stop",
            not isinstance(sampling.stop, str) and all(isinstance(stop, str) and stop for stop in sampling.stop),
            "strings, none of them empty",
        ),
        ("stop_ids", all(_whole(token, 0, vocab_size) for token in sampling.stop_ids), ids),
        (
            "min_tokens",
            not sampling.min_tokens or len(set(sampling.stop_ids)) < vocab_size,
            "0, or leave a token that is no stop id",
        ),
        ("presence_penalty", _real(sampling.presence_penalty, -FURTHEST, FURTHEST), f"a number from -{FURTHEST:g} to {FURTHEST:g}"),
        ("frequency_penalty", _real(sampling.frequency_penalty, -FURTHEST, FURTHEST), f"a number from -{FURTHEST:g} to {FURTHEST:g}"),
        (
            "repetition_penalty",
            _real(sampling.repetition_penalty, 1 / STRONGEST, STRONGEST),
            f"a number from {1 / STRONGEST:g} to {STRONGEST:g}; 1 changes nothing",
        ),
        (
            "logit_bias",
            all(_whole(token, 0, vocab_size) and _real(number, -FURTHEST, FURTHEST) for token, number in sampling.logit_bias)
            and len({token for token, _ in sampling.logit_bias}) == len(sampling.logit_bias),
            f"each token once, {ids}, with a number from -{FURTHEST:g} to {FURTHEST:g}",
        ),
    ]


def check_prompt(prompt: Sequence[int], n: int, vocab_size: int, room: int) -> None:
    """EngineError for what no engine of this vocabulary and context can go on with, or not `n` times."""
    if n < 1:
        raise EngineError(f"{n} completions were asked for; ask for at least one")
    if not prompt:
        raise EngineError("an empty prompt cannot be continued; give at least one token, such as the beginning of a sentence")
    if wrong := [token for token in (min(prompt), max(prompt)) if not 0 <= token < vocab_size]:
        raise EngineError(
            f"a prompt holds token {wrong[0]}, the model knows 0 to {vocab_size - 1}; encode it with the model's own tokenizer"
        )
    if len(prompt) >= room:
        raise TooLong(f"a prompt of {len(prompt)} tokens leaves no room in the context of {room}; shorten it or raise engine.context")


def check_places(held: int, n: int, most: int | None) -> None:
    """EngineError when `n` answers more than the `held` ones are more than may run or wait: for ever, or (Busy) for now."""
    if most is None:
        return
    if n > most:
        raise EngineError(f"{n} answers were asked for at once; at most {most} may run or wait (engine.rows + engine.queue); ask for fewer")
    if held + n > most:
        raise Busy(
            f"{held} answers run or wait and {n} more were asked for; at most {most} may (engine.rows + engine.queue); ask again soon"
        )


def _real(value: Any, least: float, most: float) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and least <= value <= most


def _whole(value: Any, least: int | None, below: int = LARGEST) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and (least is None or least <= value < below)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."

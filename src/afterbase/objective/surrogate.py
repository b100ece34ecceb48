"""What is maximized in place of the reward: the ratio times the advantage, held back in one way or another.  [V3 Eq. 26]

Each gives the term of every token, and where it was held back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SurrogateKind = Literal["clip", "cispo", "plain"]
Surrogate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(ratio, advantages, logprobs) -> (terms, clipped), everything [P]."""


@dataclass(frozen=True, slots=True)
class Clip:
    """min(r A, clip(r, low, high) A)."""

    low: float
    high: float

    def __call__(self, ratio: Float[Tensor, "P"], advantages: Float[Tensor, "P"], logprobs: Float[Tensor, "P"]) -> tuple[Tensor, Tensor]:
        """Terms, and where the clip bit."""
        free, bounded = ratio * advantages, ratio.clamp(self.low, self.high) * advantages
        return torch.minimum(free, bounded), bounded < free


@dataclass(frozen=True, slots=True)
class DualClip:
    """The same, and for a negative advantage never below c A: a ratio that ran away upwards must not blow up the step."""

    clip: Clip
    bound: float
    """c > 1."""

    def __call__(self, ratio: Float[Tensor, "P"], advantages: Float[Tensor, "P"], logprobs: Float[Tensor, "P"]) -> tuple[Tensor, Tensor]:
        """Terms, and where either clip bit."""
        terms, clipped = self.clip(ratio, advantages, logprobs)
        floor = self.bound * advantages
        bitten = (advantages < 0) & (terms < floor)
        return torch.where(bitten, floor, terms), clipped | bitten


@dataclass(frozen=True, slots=True)
class Cispo:
    """sg(clip(r, low, high)) A log pi: the weight is clipped and the gradient is not, so every token keeps one (MiniMax-M1)."""

    low: float
    high: float

    def __call__(self, ratio: Float[Tensor, "P"], advantages: Float[Tensor, "P"], logprobs: Float[Tensor, "P"]) -> tuple[Tensor, Tensor]:
        """Terms, and where the weight was clipped."""
        weight = ratio.detach().clamp(self.low, self.high)
        return weight * advantages * logprobs, weight != ratio


def plain(ratio: Float[Tensor, "P"], advantages: Float[Tensor, "P"], logprobs: Float[Tensor, "P"]) -> tuple[Tensor, Bool[Tensor, "P"]]:
    """r A: the policy gradient itself, with nothing that holds it back."""
    return ratio * advantages, torch.zeros_like(ratio, dtype=torch.bool)


def surrogate(kind: SurrogateKind, clip: float, clip_high: float, dual_clip: float | None) -> Surrogate:
    """The one that these knobs ask for."""
    if kind == "plain":
        return plain
    low, high = 1 - clip, 1 + clip_high
    if kind == "cispo":
        return Cispo(low, high)
    return Clip(low, high) if dual_clip is None else DualClip(Clip(low, high), dual_clip)

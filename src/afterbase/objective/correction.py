"""The correction for answers that another distribution drew than pi_old: older weights, or top-p and top-k."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from afterbase.config import Config
from afterbase.objective.ratio import LEVELS, ratio_of
from afterbase.records import Batch


class CorrectionConfig(Config):
    """How the weight pi_old/pi_behaviour is kept from running away."""

    level: Literal["token", "sequence"] = "token"
    """One weight per token, or one per answer: the product over its tokens."""
    mode: Literal["clip", "mask"] = "clip"
    """A weight outside the bounds is moved to the nearer one, or its token (answer) is left out."""
    low: float = Field(0.0, ge=0)
    """Lower bound of the weight; 0 is none."""
    high: float = Field(2.0, gt=0)
    """Upper bound of the weight."""

    @model_validator(mode="after")
    def _has_room(self) -> CorrectionConfig:
        if self.low >= self.high:
            raise ValueError(f"low={self.low:g} is not below high={self.high:g}; give a lower bound below the upper one, or leave low out")
        return self


class Correction:
    """The factor of every token's policy term, without gradient."""

    def __init__(self, config: CorrectionConfig) -> None:
        self.low, self.high = config.low, config.high
        self.together = LEVELS[config.level]
        self.hold = self._clip if config.mode == "clip" else self._mask

    def __call__(self, batch: Batch) -> tuple[Float[Tensor, "P"], dict[str, Tensor]]:
        """Weights, and what there is to measure at each token."""
        assert batch.behaviour is not None, "the correction needs the log-probabilities of the distribution that was drawn from"
        weights = ratio_of(self.together(batch.old - batch.behaviour, batch)).detach()
        outside = (weights < self.low) | (weights > self.high)
        weights = self.hold(weights, outside)
        return weights, {"train/correction/mean": weights, "train/correction_clipped/fraction": outside}

    def _clip(self, weights: Tensor, outside: Tensor) -> Tensor:
        return weights.clamp(self.low, self.high)

    def _mask(self, weights: Tensor, outside: Tensor) -> Tensor:
        return torch.where(outside, 0.0, weights)

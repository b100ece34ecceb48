"""Group Relative Policy Optimization: a clipped policy gradient without a critic.  [V3 Eq. 26]

The equation has one ratio per output, pi(o|q)/pi_old(o|q); most implementations take one per token. Both are here.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from afterbase.config import Config
from afterbase.objective.kl import LARGEST, k3
from afterbase.records import Batch, Entropy


class GrpoConfig(Config):
    """The knobs of Eq. 26."""

    clip: float = Field(0.2, gt=0, lt=1)
    """epsilon in Eq. 26: how far one update may move a probability ratio."""
    clip_high: float | None = Field(None, gt=0)
    """Upper epsilon when it differs from the lower one (clip-higher); unset means `clip`."""
    kl: float = Field(0.0, ge=0)
    """beta in Eq. 26: pull towards the reference policy; 0 loads no reference model at all."""
    ratio: Literal["token", "sequence"] = "token"
    """One probability ratio per token, or one per output as Eq. 26 writes it."""
    average: Literal["token", "sequence"] = "token"
    """Token ratios: every token of the step weighs the same, or every output does (1/G of Eq. 26, 1/|o| within)."""
    scale: bool = True
    """Whether Eq. 28 divides by the group's spread."""


class Grpo:
    """The loss to minimize: minus Eq. 26, normalized over the whole optimizer step so that its batches simply add up."""

    def __init__(self, config: GrpoConfig) -> None:
        self.config = config
        self.entropy: Entropy = "measured"
        self.high = config.clip if config.clip_high is None else config.clip_high

    def __call__(
        self, logprobs: Float[Tensor, "P"], batch: Batch, entropy: Float[Tensor, "P"] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """Loss and metrics of one batch; both are shares of the step, to be summed over its batches."""
        assert batch.old is not None, "GRPO learns from sampled tokens, whose log-probabilities come with them"
        change = logprobs - batch.old
        if self.config.ratio == "sequence":
            return self._by_sequence(change, logprobs, batch)
        ratio = change.clamp(max=LARGEST).exp()
        terms, clipped = self._clipped(ratio, batch.advantages)
        weights = self._token_weights(batch)
        metrics = _shares(ratio.detach(), clipped, weights)
        metrics["train/policy_kl/mean"] = float((k3(logprobs, batch.old).detach() * weights).sum())
        if self.config.kl:
            kl = k3(logprobs, batch.reference)
            terms = terms - self.config.kl * kl
            metrics["train/reference_kl/mean"] = float((kl.detach() * weights).sum())
        return -(terms * weights).sum(), metrics

    def _by_sequence(self, change: Tensor, logprobs: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Eq. 26 to the letter: pi(o|q) is the product over the output's tokens, for the ratio and for Eq. 27 alike."""
        sequences = len(batch.segments.lengths)
        ratio = _per_sequence(change, batch.owner, sequences).clamp(max=LARGEST).exp()
        advantages = batch.advantages.new_zeros(sequences).index_copy(0, batch.owner, batch.advantages)
        weights = batch.advantages.new_zeros(sequences).index_copy(0, batch.owner, batch.weights) / batch.total_sequences
        terms, clipped = self._clipped(ratio, advantages)
        metrics = _shares(ratio.detach(), clipped, weights)
        if self.config.kl:
            kl = k3(_per_sequence(logprobs, batch.owner, sequences), _per_sequence(batch.reference, batch.owner, sequences))
            terms = terms - self.config.kl * kl
            metrics["train/reference_kl/mean"] = float((kl.detach() * weights).sum())
        return -(terms * weights).sum(), metrics

    def _clipped(self, ratio: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """min(ratio A, clip(ratio) A), and where the clip bit."""
        bounded = ratio.clamp(1 - self.config.clip, 1 + self.high)
        return torch.minimum(ratio * advantages, bounded * advantages), (bounded * advantages < ratio * advantages).detach()

    def _token_weights(self, batch: Batch) -> Float[Tensor, "P"]:
        """Each token's share of the step."""
        if self.config.average == "token":
            return batch.weights / batch.total_tokens
        counts = torch.bincount(batch.owner, minlength=len(batch.segments.lengths))
        return batch.weights / (counts[batch.owner] * batch.total_sequences)


def _per_sequence(values: Float[Tensor, "P"], owner: Int[Tensor, "P"], sequences: int) -> Float[Tensor, "S"]:
    return values.new_zeros(sequences).index_add(0, owner, values)


def _shares(ratio: Tensor, clipped: Tensor, weights: Tensor) -> dict[str, float]:
    return {"train/ratio/mean": float((ratio * weights).sum()), "train/clip_fraction/mean": float((clipped * weights).sum())}

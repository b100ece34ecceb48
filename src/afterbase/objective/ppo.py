"""Proximal Policy Optimization with a critic: the baseline that GRPO saves a model over.  [Setup: "PPO (Traditional)"]

A critic expects a return at each token; what came of the token beyond that is its advantage, gathered over the answer's further
tokens (Schulman et al., GAE). The pull towards the reference is part of each token's reward, as in InstructGPT, not of the loss.
Only the model's own tokens count as steps: what a tool said between two of them is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from afterbase.config import Config
from afterbase.objective.correction import CorrectionConfig
from afterbase.objective.grpo import Grpo, GrpoConfig
from afterbase.objective.kl import ESTIMATORS
from afterbase.records import Batch, Entropy, Sample

FLAT = 1e-6
"""Advantages that spread less than this are equal, and values that spread less are constant."""


class PpoConfig(Config):
    """The knobs of PPO."""

    kind: Literal["ppo"] = "ppo"
    """The objective: learned from a critic's expectations."""
    clip: float = Field(0.2, gt=0, lt=1)
    """epsilon: how far one update may move a token's probability ratio."""
    value_clip: float | None = Field(0.2, gt=0)
    """How far one update may move a value, in units of reward; unset means as far as it likes."""
    gamma: float = Field(1.0, gt=0, le=1)
    """gamma: what a reward is worth one token earlier."""
    lam: float = Field(0.95, ge=0, le=1)
    """lambda of GAE: 1 trusts only what really came, 0 only the critic's next value."""
    whiten: bool = True
    """Whether advantages are centred and divided by their spread over all tokens of a round."""
    kl: float = Field(0.0, ge=0)
    """beta: each token's penalty for leaving the reference policy, in reward per nat; 0 loads no reference model at all."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """The distance of a token: k1 is log(pi/pi_ref) as in InstructGPT, k2 half its square, k3 is Eq. 27, which is never negative."""
    entropy: float = Field(0.0, ge=0)
    """Weight of the bonus for the entropy in nats of each token's distribution."""
    correction: CorrectionConfig | None = None
    """Weighs tokens by pi_old over the distribution that drew them (older weights, top-p, top-k); unset takes them as pi_old's own."""

    @property
    def needs_reference(self) -> bool:
        """Whether a reference model is needed at all."""
        return self.kl > 0


def token_rewards(sample: Sample, score: float, config: PpoConfig) -> Float[Tensor, "P"]:
    """What each own token of an answer earned: minus its KL penalty, and on the last one the answer's score."""
    old = torch.tensor(sample.old, dtype=torch.float64)
    rewards = torch.zeros_like(old)
    if config.kl:
        assert len(sample.reference) == len(old), "the KL penalty needs the reference's log-probabilities"
        reference = torch.tensor(sample.reference, dtype=torch.float64)
        rewards -= config.kl * ESTIMATORS[config.kl_estimator](old, reference, old)
    rewards[-1:] += score  # an answer without own tokens earns nothing
    return rewards


def gae(
    rewards: Float[Tensor, "*answers P"], values: Float[Tensor, "*answers P"], gamma: float, lam: float
) -> tuple[Float[Tensor, "*answers P"], Float[Tensor, "*answers P"]]:
    """Advantages and returns of each own token; nothing comes after the last one, so zeros behind a shorter answer change nothing."""
    following = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], dim=-1)
    surprises = rewards + gamma * following - values  # delta_t
    advantages, later = torch.empty_like(surprises), torch.zeros_like(surprises[..., :1])
    for place in reversed(range(surprises.shape[-1])):
        later = surprises[..., place : place + 1] + gamma * lam * later
        advantages[..., place : place + 1] = later
    return advantages, advantages + values


def fill(
    samples: Sequence[Sample], scores: Sequence[float], values: Sequence[Sequence[float]], config: PpoConfig
) -> tuple[list[Sample], dict[str, float]]:
    """A round's samples with each token's advantage, value and return, and what the critic knew before it learns from them.

    Scores are one a sample, values one a learned token; with a KL penalty the samples hold the reference's log-probabilities.
    """
    lengths = [len(sample.old) for sample in samples]
    assert lengths == [len(row) for row in values], "the critic values every learned token"
    if not sum(lengths):
        return list(samples), {}
    earned = [token_rewards(sample, score, config) for sample, score in zip(samples, scores, strict=True)]
    expected = [torch.tensor(row, dtype=torch.float64) for row in values]
    found = gae(pad_sequence(earned, batch_first=True), pad_sequence(expected, batch_first=True), config.gamma, config.lam)
    advantages, returns = (torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)]) for rows in found)
    metrics = _explained(torch.cat(expected), returns)
    advantages = _whitened(advantages) if config.whiten else advantages
    rows = zip(samples, advantages.split(lengths), expected, returns.split(lengths), strict=True)
    return [
        replace(sample, advantages=tuple(gains.tolist()), values=tuple(before.tolist()), returns=tuple(due.tolist()))
        for sample, gains, before, due in rows
    ], metrics


class Ppo(Grpo):
    """The policy's loss: the clipped term of Eq. 26 for every token, whose advantages came from a critic; GRPO's own with those in it."""

    def __init__(self, config: PpoConfig) -> None:
        super().__init__(GrpoConfig(clip=config.clip, entropy=config.entropy, correction=config.correction))


class ValueLoss:
    """The critic's loss: half the squared distance to the return, a mean over the tokens of the whole optimizer step.

    It has an objective's shape, with values where others have log-probabilities. A value that has moved towards its return by more
    than `value_clip` since the round began pulls no further: of the free and the held distance the larger one counts.
    """

    entropy: Entropy = "unused"

    def __init__(self, config: PpoConfig) -> None:
        self.reach = float("inf") if config.value_clip is None else config.value_clip

    def __call__(
        self, values: Float[Tensor, "P"], batch: Batch, entropy: Float[Tensor, "P"] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """Loss and metrics of one batch; both are shares of the step, to be summed over its batches."""
        assert batch.values is not None and batch.returns is not None, "a critic learns from samples that `fill` has filled"
        weights = batch.weights / batch.total_tokens
        free = (values - batch.returns).square()
        held = (values.clamp(batch.values - self.reach, batch.values + self.reach) - batch.returns).square()
        loss = 0.5 * (torch.maximum(free, held) * weights).sum()
        clipped = float((held > free).sum()) / batch.total_tokens
        return loss, {"train/value_loss/mean": float(loss.detach()), "train/value_clip_fraction/mean": clipped}


def _whitened(advantages: Float[Tensor, "P"]) -> Float[Tensor, "P"]:
    spread = advantages.std(correction=0)
    return (advantages - advantages.mean()) / spread if spread > FLAT else torch.zeros_like(advantages)


def _explained(values: Float[Tensor, "P"], returns: Float[Tensor, "P"]) -> dict[str, float]:
    """The critic's mean value, and the share of the returns' variance that it knew; returns that are all alike have none."""
    metrics = {"train/value/mean": float(values.mean())}
    if (variance := returns.var(correction=0)) > FLAT**2:
        metrics["train/value_explained/fraction"] = float(1 - (returns - values).var(correction=0) / variance)
    return metrics

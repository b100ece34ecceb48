"""Group Relative Policy Optimization: a policy gradient without a critic.  [V3 Eq. 26]

The equation has one ratio per output, pi(o|q)/pi_old(o|q); most implementations take one per token. Both are here, and what later
papers changed in it: each part has its own small file, and the objective below puts them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from afterbase.config import Config
from afterbase.objective.advantage import AdvantageConfig
from afterbase.objective.average import AverageKind, average
from afterbase.objective.correction import Correction, CorrectionConfig
from afterbase.objective.kl import ESTIMATORS, Estimator, k3
from afterbase.objective.ratio import LEVELS, Level, RatioKind, by_sequence, by_token, ratio_of
from afterbase.objective.surrogate import SurrogateKind, surrogate
from afterbase.records import Batch, Entropy


class GrpoConfig(Config):
    """The knobs of Eq. 26."""

    kind: Literal["grpo"] = "grpo"
    """The objective: answers are compared with their siblings."""
    ratio: RatioKind = "token"
    """One probability ratio per token, one per output as Eq. 26 writes it (the product over its tokens), or the geometric mean over the
    output's tokens (GSPO)."""
    surrogate: SurrogateKind = "clip"
    """What the ratio does: clip is min(r A, clip(r) A) of Eq. 26; cispo clips it as a weight without gradient, so that no token's gradient
    is cut off; plain does not clip."""
    clip: float = Field(0.2, gt=0, le=1)
    """epsilon in Eq. 26: how far one update may move a probability ratio down; 1 is no lower bound."""
    clip_high: float | None = Field(None, gt=0)
    """Upper epsilon when it differs from the lower one (clip-higher); unset means `clip`."""
    dual_clip: float | None = Field(None, gt=1)
    """c: a ratio counts as at most this where the advantage is negative; unset is no bound there, as in Eq. 26."""
    average: AverageKind | None = None
    """Every token of the step weighs the same (DAPO), every output does (1/G of Eq. 26, 1/|o| within), or every token by the constant
    1/(G `constant_length`) (Dr. GRPO). Unset means token for token ratios and sequence for the others."""
    constant_length: int | None = Field(None, gt=0)
    """The length in tokens that average = "constant" divides by: the length cap, say."""
    advantage: AdvantageConfig = AdvantageConfig()
    """How rewards become advantages [V3 Eq. 28]."""
    kl: float = Field(0.0, ge=0)
    """beta in Eq. 26: pull towards the reference policy; 0 loads no reference model at all."""
    kl_estimator: Estimator = "k3"
    """How the distance from the reference is estimated: k3 is Eq. 27; unbiased is k3 times the ratio, whose gradient is the true KL's
    (DeepSeek-V3.2); k2 is half the squared log-ratio; k1, the log-ratio, belongs in the reward: in the loss its gradient's mean is 0."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Whether beta times the distance is a term of the loss, or is taken off the rewards before they are compared."""
    entropy: float = Field(0.0, ge=0)
    """Weight of the bonus for the entropy in nats of each token's distribution."""
    correction: CorrectionConfig | None = None
    """Weighs tokens by pi_old over the distribution that drew them (older weights, top-p, top-k); unset takes them as pi_old's own."""

    @property
    def needs_reference(self) -> bool:
        """Whether a reference model is needed at all."""
        return self.kl > 0

    @property
    def penalizes_rewards(self) -> bool:
        """Whether rewards lose `kl.penalties` before they are compared."""
        return self.kl > 0 and self.kl_in == "reward"

    @property
    def pulls_without_advantage(self) -> bool:
        """Whether answers of advantage 0 have a gradient all the same."""
        return (self.kl > 0 and self.kl_in == "loss") or self.entropy > 0

    @model_validator(mode="after")
    def _fits_together(self) -> GrpoConfig:
        for wrong, words in _misfits(self):
            if wrong:
                raise ValueError(words)
        return self


def _misfits(config: GrpoConfig) -> list[tuple[bool, str]]:
    """What cannot stand together, each with what to do about it."""
    constant, length = config.average == "constant", config.constant_length
    free = config.surrogate != "clip"
    return [
        (constant and length is None, "average='constant' needs constant_length; set it, for example to sampling.max_tokens"),
        (not constant and length is not None, f"constant_length={length} is used by average='constant' only; set that, or leave it out"),
        (
            config.ratio == "sequence" and config.average in ("token", "constant"),
            f"ratio='sequence' makes one term per output, which average={config.average!r} cannot weigh; leave average out, "
            "or take ratio='gspo'",
        ),
        (
            config.ratio == "sequence" and config.surrogate == "cispo",
            "surrogate='cispo' weighs each token by itself, and ratio='sequence' has one term per output; take ratio='token' or 'gspo'",
        ),
        (
            free and config.dual_clip is not None,
            f"dual_clip is a bound of surrogate='clip'; with surrogate={config.surrogate!r} leave it out",
        ),
        (
            config.surrogate == "plain" and config.clip_high is not None,
            "surrogate='plain' does not clip; leave clip_high out, or take surrogate='clip'",
        ),
        (
            config.kl_in == "reward" and config.kl_estimator == "unbiased",
            "kl_estimator='unbiased' is about the gradient of the loss; with kl_in='reward' take 'k1' or 'k3', which are unbiased there",
        ),
    ]


class Grpo:
    """The loss to minimize: minus Eq. 26, normalized over the whole optimizer step so that its batches simply add up."""

    def __init__(self, config: GrpoConfig) -> None:
        self.config = config
        self.entropy: Entropy = "learned" if config.entropy else "measured"
        self.together = LEVELS[config.ratio]
        self.surrogate = surrogate(
            config.surrogate, config.clip, config.clip if config.clip_high is None else config.clip_high, config.dual_clip
        )
        self.shares = average(config.average or ("token" if config.ratio == "token" else "sequence"), config.constant_length)
        self.correction = Correction(config.correction) if config.correction else _uncorrected
        self.terms = _terms(config)

    def __call__(
        self, logprobs: Float[Tensor, "P"], batch: Batch, entropy: Float[Tensor, "P"] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """Loss and metrics of one batch, both shares of the step: to be summed over its batches; of a metric in /max the most counts.

        Metrics are means over the step's tokens, whatever the loss averages over.
        """
        assert batch.old is not None, "GRPO learns from sampled tokens, whose log-probabilities come with them"
        ratio = ratio_of(self.together(logprobs - batch.old, batch))
        terms, clipped = self.surrogate(ratio, batch.advantages, logprobs)
        correction, corrected = self.correction(batch)
        terms = terms * correction
        for term in self.terms:
            terms = terms + term(logprobs, batch, entropy)
        loss = -(terms * self.shares(batch)).sum()
        seen = {"train/ratio/mean": ratio, "train/clip_fraction/mean": clipped, **corrected, **_seen(logprobs, batch, entropy)}
        return loss, _summed(seen, batch.total_tokens)


@dataclass(frozen=True, slots=True)
class Pull:
    """- beta D(pi || pi_ref) at every token, or of the whole answer at each of its tokens.  [V3 Eq. 27]"""

    weight: float
    estimator: Estimator
    together: Level

    def __call__(self, logprobs: Float[Tensor, "P"], batch: Batch, entropy: Float[Tensor, "P"] | None) -> Float[Tensor, "P"]:
        """The term of each token."""
        assert batch.reference is not None, "the pull needs the reference's log-probabilities"
        now, reference, old = (self.together(logs, batch) for logs in (logprobs, batch.reference, batch.old))
        return -self.weight * ESTIMATORS[self.estimator](now, reference, old)


@dataclass(frozen=True, slots=True)
class Bonus:
    """eta H(pi) at every token."""

    weight: float

    def __call__(self, logprobs: Float[Tensor, "P"], batch: Batch, entropy: Float[Tensor, "P"] | None) -> Float[Tensor, "P"]:
        """The term of each token."""
        assert entropy is not None, "the bonus needs the entropy, which the trainer gives where it is learned"
        return self.weight * entropy


def _terms(config: GrpoConfig) -> list[Pull | Bonus]:
    """What stands beside the surrogate."""
    terms: list[Pull | Bonus] = []
    if config.kl and config.kl_in == "loss":
        terms.append(Pull(config.kl, config.kl_estimator, by_sequence if config.ratio == "sequence" else by_token))
    if config.entropy:
        terms.append(Bonus(config.entropy))
    return terms


def _uncorrected(batch: Batch) -> tuple[float, dict[str, Tensor]]:
    return 1.0, {}


def _seen(logprobs: Tensor, batch: Batch, entropy: Tensor | None) -> dict[str, Tensor]:
    """What there is to measure at each token, whatever the loss makes of it."""
    now = logprobs.detach()
    seen = {"train/policy_kl/mean": k3(now, batch.old)}
    if batch.reference is not None:
        seen["train/reference_kl/mean"] = k3(now, batch.reference)
    if entropy is not None:
        seen["train/entropy/mean"] = entropy
    if batch.behaviour is not None:
        gap = (now - batch.behaviour).abs()
        seen |= {"train/logprob_gap/mean": gap, "train/logprob_gap/max": gap}
    return seen


def _summed(seen: dict[str, Tensor], total_tokens: int) -> dict[str, float]:
    """Each measure as one number; fetched together, for every fetch waits for the device."""
    sums = [
        values.detach().double().max() if name.endswith("/max") else values.detach().double().sum() / total_tokens
        for name, values in seen.items()
    ]
    return dict(zip(seen, torch.stack(sums).tolist(), strict=True))

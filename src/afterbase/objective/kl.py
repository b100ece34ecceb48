"""The pull towards the reference policy and the estimators of its distance.  [V3 Eq. 27]"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from afterbase.records import Sample

LARGEST = 40.0
"""Log-ratios count as at most this. Every clip has bitten long before, and e^89 is infinite in float32: times zero it is NaN."""

Estimator = Literal["k1", "k2", "k3", "unbiased"]


def k1(logprobs: Float[Tensor, "*n"], reference: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log(pi/pi_ref): an unbiased estimate of KL(pi || pi_ref) on samples of pi, which is often negative."""
    return logprobs - reference


def k2(logprobs: Float[Tensor, "*n"], reference: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Half the square of log(pi/pi_ref): a biased estimate, whose gradient on samples of pi is the true KL's."""
    return (logprobs - reference).square() / 2


def k3(logprobs: Float[Tensor, "*n"], reference: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """pi_ref/pi - log(pi_ref/pi) - 1: never negative, and an unbiased estimate of KL(pi || pi_ref) on samples of pi."""
    difference = (reference - logprobs).clamp(max=LARGEST)
    return difference.exp() - difference - 1


def unbiased(logprobs: Float[Tensor, "*n"], reference: Float[Tensor, "*n"], old: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """k3 times pi/pi_old: on samples of pi_old not only its mean is the true KL, but its gradient too (DeepSeek-V3.2)."""
    return (logprobs - old).clamp(max=LARGEST).exp() * k3(logprobs, reference)


ESTIMATORS = {
    "k1": lambda logprobs, reference, old: k1(logprobs, reference),
    "k2": lambda logprobs, reference, old: k2(logprobs, reference),
    "k3": lambda logprobs, reference, old: k3(logprobs, reference),
    "unbiased": unbiased,
}


def penalties(samples: Sequence[Sample], weight: float, estimator: Estimator) -> Float[Tensor, "samples"]:
    """What each answer's reward loses for its distance from the reference: beta times the sum of its tokens' estimates."""

    def distance(sample: Sample) -> float:
        old, reference = (torch.tensor(values, dtype=torch.float64) for values in (sample.old, sample.reference))
        return float(ESTIMATORS[estimator](old, reference, old).sum())

    return weight * torch.tensor([distance(sample) for sample in samples])

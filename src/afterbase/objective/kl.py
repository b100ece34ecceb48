"""The pull towards the reference policy.  [V3 Eq. 27]"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

LARGEST = 40.0
"""Log-ratios count as at most this. Every clip has bitten long before, and e^89 is infinite in float32: times zero it is NaN."""


def k3(logprobs: Float[Tensor, "*n"], reference: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """pi_ref/pi - log(pi_ref/pi) - 1: never negative, and an unbiased estimate of KL(pi || pi_ref) on samples of pi."""
    difference = (reference - logprobs).clamp(max=LARGEST)
    return difference.exp() - difference - 1

"""The pull towards the reference policy.  [V3 Eq. 27]"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def k3(logprobs: Float[Tensor, "*n"], reference: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """pi_ref/pi - log(pi_ref/pi) - 1: never negative, and an unbiased estimate of KL(pi || pi_ref) on samples of pi."""
    difference = reference - logprobs
    return difference.exp() - difference - 1

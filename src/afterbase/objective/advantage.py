"""How much better each answer was than its siblings.  [V3 Eq. 28]"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SAME_REWARD = 1e-6
"""A group whose spread is below this has nothing to teach (never `== 0`: seven float32 rewards of 0.1 spread by 7e-9)."""


def group_advantages(
    rewards: Float[Tensor, "groups answers"], valid: Bool[Tensor, "groups answers"] | None = None, scale: bool = True
) -> tuple[Float[Tensor, "groups answers"], Bool[Tensor, "groups"]]:
    """Rewards centred within each group and divided by the group's (population) spread if `scale`; and which groups teach nothing.

    Answers that are not `valid` (their verifier failed) count neither in the mean nor in the spread, and get advantage 0.
    """
    dtype, rewards = rewards.dtype, rewards.double()  # in float32 the mean of equal rewards of 1000.1 is off by more than SAME_REWARD
    weight = torch.ones_like(rewards) if valid is None else valid.to(rewards.dtype)
    rewards = torch.where(weight > 0, rewards, 0.0)
    count = weight.sum(1, keepdim=True).clamp_min(1)
    centred = (rewards - rewards.sum(1, keepdim=True) / count) * weight
    spread = (centred.square().sum(1, keepdim=True) / count).sqrt()
    equal = spread < SAME_REWARD
    advantages = torch.where(equal, 0.0, centred / spread.clamp_min(SAME_REWARD) if scale else centred)
    return advantages.to(dtype), equal.squeeze(1)

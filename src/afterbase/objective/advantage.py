"""How much better each answer was than its siblings.  [V3 Eq. 28]"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from afterbase.config import Config

SAME_REWARD = 1e-6
"""A group whose spread is below this has nothing to teach (never `== 0`: seven float32 rewards of 0.1 spread by 7e-9)."""


class AdvantageConfig(Config):
    """What a reward is compared with, and in which unit."""

    centre: Literal["mean", "leave_one_out", "none"] = "mean"
    """What is taken off: the group's mean [V3 Eq. 28], the mean of the other answers of the group (RLOO), or nothing. Groups of equal
    rewards teach nothing in any case."""
    scale: Literal["group", "batch", "domain", "none"] = "group"
    """What it is divided by: the (population) spread of the group's rewards [V3 Eq. 28], of the whole round's, of the round's rewards in
    the prompt's domain, so that every domain pulls alike, or nothing (Dr. GRPO)."""


@dataclass(frozen=True, slots=True)
class Advantages:
    """A round's advantages and what its groups were like."""

    values: Float[Tensor, "groups answers"]
    """A_i; 0 in groups that teach nothing and for answers that are not valid."""
    equal: Bool[Tensor, "groups"]
    """Which groups teach nothing: fewer than two valid answers, or all with the same reward."""


def advantages(
    rewards: Float[Tensor, "groups answers"],
    valid: Bool[Tensor, "groups answers"] | None = None,
    domains: Sequence[str] = (),
    config: AdvantageConfig | None = None,
) -> Advantages:
    """The advantages of a whole round; `domains` names each group's domain.

    Answers that are not `valid` (their verifier failed) count nowhere, and get advantage 0.
    """
    config, dtype = config or AdvantageConfig(), rewards.dtype
    rewards, weight = _counted(rewards, valid)
    groups = range(len(rewards))
    equal = _spread(rewards, weight, groups) < SAME_REWARD
    values = _centred(rewards, weight, config.centre)
    if config.scale != "none":
        assert config.scale != "domain" or len(domains) == len(groups), f"{len(domains)} domains were named for {len(groups)} groups"
        together = {"group": groups, "batch": [0] * len(groups), "domain": _numbered(domains)}[config.scale]
        values = values / _spread(rewards, weight, together).clamp_min(SAME_REWARD)[:, None]
    return Advantages(torch.where(equal[:, None], 0.0, values).to(dtype), equal)


def spread(rewards: Float[Tensor, "groups answers"], valid: Bool[Tensor, "groups answers"] | None = None) -> Float[Tensor, "groups"]:
    """Population standard deviation of each group's valid rewards."""
    return _spread(*_counted(rewards, valid), range(len(rewards))).to(rewards.dtype)


def _counted(rewards: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rewards with 0 where they do not count, and 1 where they do; in float32 the mean of seven 1000.1 is off by more than SAME_REWARD."""
    rewards = rewards.double()
    weight = torch.ones_like(rewards) if valid is None else valid.to(rewards.dtype)
    return torch.where(weight > 0, rewards, 0.0), weight


def _centred(rewards: Tensor, weight: Tensor, centre: str) -> Tensor:
    """Rewards less their baseline, 0 where they do not count."""
    if centre == "none":
        return rewards
    count = weight.sum(1, keepdim=True)
    centred = (rewards - rewards.sum(1, keepdim=True) / count.clamp_min(1)) * weight
    # The others' mean is (n mean - r) / (n - 1), and r minus that is n / (n - 1) times r minus the mean.
    return centred * count / (count - 1).clamp_min(1) if centre == "leave_one_out" else centred


def _spread(rewards: Tensor, weight: Tensor, together: Sequence[int]) -> Float[Tensor, "groups"]:
    """For each group the population spread of all rewards whose groups have its number in `together`."""
    place = torch.tensor(together, dtype=torch.long, device=rewards.device)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(len(rewards)).index_add(0, place, values.sum(1))[place]

    count = total(weight).clamp_min(1)
    deviation = (rewards - (total(rewards) / count)[:, None]) * weight
    return (total(deviation.square()) / count).sqrt()


def _numbered(names: Sequence[str]) -> list[int]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]

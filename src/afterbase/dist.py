"""Where this process runs: the one place that reads what torchrun puts into the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afterbase.errors import ConfigError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Place:
    """One process among those that train together, e.g. Place(rank=0, world=1, local_rank=0, device=torch.device("cpu"))."""

    rank: int
    """This process among all of them, from 0."""
    world: int
    """How many processes there are."""
    local_rank: int
    """This process among those of this machine, from 0; picks its GPU."""
    device: torch.device
    """The GPU where there is one, else the CPU."""


def here() -> Place:
    """This process's place; ConfigError when it was started as one of several."""
    rank, world, local_rank = (_from_environment(name, default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    if world != 1:
        raise ConfigError(
            f"started as process {rank} of {world} (WORLD_SIZE={world}), but this version trains in one process; "
            "start afterbase once, without torchrun"
        )
    import torch

    return Place(rank, world, local_rank, torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu"))


def summed(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Each count summed over the processes that train together; as it is where this process trains alone."""
    import torch

    together = torch.distributed
    if not together.is_available() or not together.is_initialized():
        return counts
    totals = torch.tensor(counts, device="cuda" if together.get_backend() == "nccl" else "cpu")
    together.all_reduce(totals)
    return tuple(totals.tolist())


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"the environment variable {name} is {text!r}, expected a whole number; unset it and start afterbase once")
    return int(text)

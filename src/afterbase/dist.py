"""Where this process runs: the one place that reads what torchrun puts into the environment, and where its processes meet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from afterbase.errors import ConfigError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

PATIENCE = timedelta(hours=1)
"""How long ranks wait for one that writes a checkpoint or reads a model."""


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
    """This process's place; ConfigError when it was started as one of several and has not joined them."""
    rank, world, local_rank = (_from_environment(name, default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    if world != 1 and not _joined():
        raise ConfigError(
            f"started as process {rank} of {world} (WORLD_SIZE={world}), but this command works in one process, only pretrain, sft "
            "and rl in several; start afterbase once, without torchrun"
        )
    import torch

    return Place(rank, world, local_rank, torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu"))


def several() -> bool:
    """Whether torchrun started this process as one of several; asks the environment alone."""
    return _from_environment("WORLD_SIZE", 1) > 1


def join() -> Place:
    """Meet the other processes, once, and take this one's place among them; ConfigError when there are more than GPUs for them."""
    import torch

    if not _joined():
        local_rank, gpus = _from_environment("LOCAL_RANK", 0), torch.cuda.device_count()
        if gpus and local_rank >= gpus:
            raise ConfigError(f"process {local_rank} of this machine has no GPU, torch sees {gpus}; give torchrun --nproc-per-node={gpus}")
        if gpus:
            torch.cuda.set_device(local_rank)
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
    return here()


def leads() -> bool:
    """Whether this process is the one that writes the run's files: the first, or the only one."""
    return not _joined() or _from_environment("RANK", 0) == 0


def told(word: Any = None) -> Any:
    """What the first process says, on all of them; the others' own word does not count."""
    import torch

    said = [word]
    torch.distributed.broadcast_object_list(said, src=0, device=torch.device("cpu"))
    return said[0]


def any_of(flag: bool) -> bool:
    """Whether it is so for any process."""
    return bool(summed((int(flag),))[0])


def dealt(every: Sequence[T]) -> Sequence[T]:
    """This process's share of what all of them know alike; everything where this process works alone."""
    import torch

    return every[torch.distributed.get_rank() :: torch.distributed.get_world_size()] if _joined() else every


def merged(own: Sequence[T]) -> list[T]:
    """What all processes made of their shares, in the order in which those were dealt; all must ask, in step."""
    import torch

    if not _joined():
        return list(own)
    parts: list[Sequence[T]] = [()] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, own)
    return [parts[place % len(parts)][place // len(parts)] for place in range(sum(map(len, parts)))]


def summed(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Each count summed over the processes that train together; as it is where this process trains alone."""
    import torch

    if not _joined():
        return counts
    totals = torch.tensor(counts)
    totals = totals.cuda() if torch.distributed.get_backend() == "nccl" else totals
    torch.distributed.all_reduce(totals)
    return tuple(totals.tolist())


def _joined() -> bool:
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"the environment variable {name} is {text!r}, expected a whole number; unset it and start afterbase once")
    return int(text)

"""What a session consists of between two steps, and what else may learn in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from afterbase.records import Batch
from afterbase.train.base import Objective


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where one step has ended and the next has not begun: what a checkpoint is taken of, the weights apart."""

    done: int
    """Updates so far."""
    cursor: Any
    """What the stage needs to go on from here."""
    generators: dict[str, Any]
    """Where every random generator stood."""


class Companion(Protocol):
    """A LocalTrainer that writes itself, such as PPO's critic."""

    done: int
    """Updates so far."""
    skipped: int
    """Updates in a row that were skipped."""
    judged: list[Tensor]
    """The losses of the latest update's batches."""

    def forward_backward(self, batch: Batch, objective: Objective) -> dict[str, float]:
        """Add one batch's gradient."""

    def step(self) -> dict[str, float]:
        """Apply the gradients."""

    def write(self, directory: Path) -> None:
        """Everything that it takes to go on."""

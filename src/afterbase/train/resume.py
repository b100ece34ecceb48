"""Checkpoints of a run that is going on: written whole or not at all, and exact to resume from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from afterbase.config import Config
from afterbase.errors import CheckpointError
from afterbase.lineage import atomic_directory

STATE = "training_state.pt"


class SavingConfig(Config):
    """When a run's state is written."""

    every: int = Field(50, gt=0)
    """Steps between checkpoints; a killed run loses at most this many steps of time, and no result."""
    keep: int = Field(2, gt=0)
    """How many of the latest checkpoints stay on disk."""


class Checkpoints:
    """The numbered checkpoints in one run's `checkpoints/` directory; number n is the state after n updates."""

    def __init__(self, directory: Path, config: SavingConfig) -> None:
        self.directory, self.config = directory, config

    def due(self, done: int) -> bool:
        """Whether a checkpoint belongs after `done` updates."""
        return done % self.config.every == 0

    def latest(self) -> tuple[int, Path] | None:
        """The newest whole checkpoint."""
        found = [(int(path.name), path) for path in self.directory.glob("*") if path.name.isdigit()]
        return max(found) if found else None

    def save(self, done: int, write_model: Callable[[Path], None], state: dict[str, Any]) -> None:
        """Write the model by `write_model` and the training state beside it, then drop old checkpoints."""
        with atomic_directory(self.directory / f"{done:06d}") as path:
            write_model(path)
            torch.save(state, path / STATE)
        old = sorted((path for path in self.directory.glob("*") if path.name.isdigit()), key=lambda path: int(path.name))
        for path in old[: -self.config.keep]:
            shutil.rmtree(path)

    def load_state(self, path: Path) -> dict[str, Any]:
        """The training state of one checkpoint."""
        try:
            return torch.load(path / STATE, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes make the unpickler fail in any way they like
            raise CheckpointError(f"{path / STATE} cannot be read ({error}); delete {path} to resume from the one before") from None

    def finish(self, write_model: Callable[[Path], None]) -> Path:
        """Write the finished model, without training state, as `final`, and drop the numbered ones."""
        final = self.directory / "final"
        if not final.exists():
            with atomic_directory(final) as path:
                write_model(path)
        for path in self.directory.glob("*"):
            if path.name.isdigit():
                shutil.rmtree(path)
        return final

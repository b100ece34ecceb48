"""Checkpoints of a run that is going on: written whole or not at all, exact to resume from, and told apart when one is damaged."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from afterbase.config import Config
from afterbase.dist import several
from afterbase.errors import CheckpointError
from afterbase.lineage import fill_directory, mend_directory, write_atomic

T = TypeVar("T")

STATE, CONTENTS, BEST = "training_state.pt", "contents.json", "best.json"
SHARDS = "shards"
"""In a checkpoint that several processes wrote: what each held of weights and optimizer."""


class SavingConfig(Config):
    """When a run's state is written."""

    every: int = Field(50, gt=0)
    """Steps between checkpoints; a killed run loses at most this many steps of time, and no result."""
    minutes: float | None = Field(None, gt=0)
    """Also after a step that ends this many minutes after the latest checkpoint; unset: by steps alone."""
    keep: int = Field(2, gt=0)
    """How many of the latest checkpoints stay on disk."""
    best: str | None = "eval/accuracy/mean"
    """The metric by which the best model is kept as well, as checkpoints/best; a minus before its name prefers small values. A run that
    has no such metric keeps none; an empty name switches it off."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best model so far, e.g. Best("eval/accuracy/mean", 0.61, 40)."""

    metric: str
    """By which it was chosen."""
    value: float
    """What was measured."""
    step: int
    """How many steps of the run are behind it: in RL, the round that began with the measurement."""


class Checkpoints:
    """One run's `checkpoints/` directory: number n is the state after n updates; beside them `best` and, at the end, `final`."""

    def __init__(self, directory: Path, config: SavingConfig) -> None:
        self.directory, self.config = directory, config
        self.written = monotonic()
        mend_directory(self.directory / "best")

    def due(self, done: int) -> bool:
        """Whether a checkpoint belongs after `done` steps."""
        late = self.config.minutes is not None and monotonic() - self.written >= 60 * self.config.minutes
        return late or done % self.config.every == 0

    def path(self, done: int) -> Path:
        """Where the state after `done` updates lies."""
        return self.directory / f"{done:06d}"

    def save(self, done: int, write_model: Callable[[Path], None], state: dict[str, Any]) -> Path:
        """Write the model by `write_model` and the training state beside it, then drop old checkpoints."""
        assert is_plain(state), "a state must be made of plain containers, numbers, strings and tensors, or it cannot be loaded again"

        def fill(path: Path) -> None:
            write_model(path)
            torch.save(state, path / STATE)
            sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in sorted(path.rglob("*")) if file.is_file()}
            write_atomic(path / CONTENTS, json.dumps(sizes, indent=1) + "\n")  # last of all: what it lists was written whole

        fill_directory(self.path(done), fill)
        self.written = monotonic()
        for path in self._numbered()[: -self.config.keep]:
            shutil.rmtree(path)
        return self.path(done)

    def resume(self, load: Callable[[Path, dict[str, Any]], T]) -> T | None:
        """What `load` makes of the newest checkpoint that is whole and of its training state; None when there is no checkpoint.

        Damaged ones that are newer are moved aside, in one line on standard error each; CheckpointError when all are damaged.
        """
        damaged: list[tuple[Path, CheckpointError]] = []
        for path in reversed(self._numbered()):
            try:
                check_whole(path)
                loaded = load(path, load_state(path))
            except CheckpointError as error:
                damaged.append((path, error))
                continue
            for bad, why in damaged:
                print(f"afterbase: {why}; it is kept as {_move_aside(bad).name}, going on from {path}", file=sys.stderr)
            return loaded
        if damaged:
            first = "; ".join(str(why) for _, why in damaged[:2])
            raise CheckpointError(
                f"no checkpoint in {self.directory} is whole ({first}); bring one back from a copy, or delete that directory to begin anew"
            )
        return None

    def keep_best(self, step: int, metrics: dict[str, float], write_model: Callable[[Path], None]) -> None:
        """Make this model the best one, when `metrics` say so; of equals the earlier stays."""
        name = self.config.best or ""
        value = metrics.get(name.removeprefix("-"))
        if value is None or value != value:
            return
        best, sign = self.best(), -1 if name.startswith("-") else 1
        if best is not None and sign * value <= sign * best.value:
            return

        def fill(path: Path) -> None:
            write_model(path)
            write_atomic(path / BEST, json.dumps(asdict(Best(name.removeprefix("-"), float(value), step))) + "\n")

        fill_directory(self.directory / "best", fill, replace=True)

    def best(self) -> Best | None:
        """What is known of the best model so far."""
        path = self.directory / "best" / BEST
        try:
            return Best(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None  # none was kept, or it is damaged and the next one takes its place

    def finish(self, write_model: Callable[[Path], None]) -> Path:
        """Write the finished model, without training state, as `final`, and drop the numbered ones."""
        final = self.directory / "final"
        if not final.exists():
            fill_directory(final, write_model)
        for path in [*self._numbered(), *self.directory.glob("*.damaged")]:
            shutil.rmtree(path)
        return final

    def _numbered(self) -> list[Path]:
        """Oldest first."""
        found = [path for path in self.directory.glob("*") if path.name.isdigit() and path.is_dir()]
        return sorted(found, key=lambda path: int(path.name))


def check_whole(path: Path) -> None:
    """CheckpointError when a checkpoint lacks one of the files that were written, or a part of one."""
    try:
        sizes = json.loads((path / CONTENTS).read_text(encoding="utf-8"))
        for name, size in sizes.items():
            found = (path / name).stat().st_size if (path / name).exists() else None
            if found != size:
                there = "is missing" if found is None else f"has {found:,} bytes of {size:,}"
                raise CheckpointError(f"{path} is not whole: {name} {there}")
    except (OSError, ValueError, AttributeError):
        raise CheckpointError(f"{path} is not whole: {CONTENTS}, which is written last, is missing or damaged") from None


def load_state(path: Path) -> dict[str, Any]:
    """The training state of one checkpoint; of several processes each reads of its tensors what it looks at."""
    try:
        return torch.load(path / STATE, map_location="cpu", weights_only=True, mmap=several())
    except Exception as error:  # damaged bytes make the unpickler fail in any way they like
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path / STATE} cannot be read ({why})") from None


def _move_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    return path.rename(aside)


def is_plain(value: Any) -> bool:
    """Whether `torch.load` reads it without running code."""
    if isinstance(value, dict):
        return all(map(is_plain, value.keys())) and all(map(is_plain, value.values()))
    if type(value) in (list, tuple, set):
        return all(map(is_plain, value))
    return value is None or isinstance(value, Tensor) or type(value) in (bool, int, float, str, bytes, complex)

"""A model that several processes train together in one run: the first writes its files, the others lend what they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from afterbase.dist import any_of, here, leads, several, told
from afterbase.errors import CheckpointError, ConfigError
from afterbase.model.transformer import Transformer
from afterbase.records import Batch, Sample
from afterbase.stages.generators import generators, restore_generators, seed_generators
from afterbase.stages.run import Run
from afterbase.stages.session import BAD, Boundary, Session, load_pair
from afterbase.text.tokenizer import Tokenizer
from afterbase.train.bad_batches import keep_bad_batches
from afterbase.train.base import Objective
from afterbase.train.resume import Checkpoints, SavingConfig, load_state
from afterbase.train.sharded import ShardedTrainer
from afterbase.train.trainer import TrainerConfig

SHARDS = "shards"
"""In a checkpoint: what each rank held of weights and optimizer."""

Source = Path | Callable[[], tuple[Transformer, Tokenizer]]


def begin(run: Run, source: Source, trainer: TrainerConfig, saving: SavingConfig, steps: int) -> Session:
    """The session of this process, alone or among several."""
    if several():
        return Shared.begin(run, source, trainer, saving, steps)
    return Session.start(run, source, trainer, saving, steps)


class Shared(Session):
    """A session in which every rank takes every step, and whatever touches the disk is done by the first."""

    trainer: ShardedTrainer

    @classmethod
    def begin(cls, run: Run, source: Source, trainer: TrainerConfig, saving: SavingConfig, steps: int) -> Shared:
        """Like `Session.start`; the first rank chooses what to go on from, and all of them read it."""
        checkpoints = Checkpoints(run.directory / "checkpoints", saving) if leads() else None
        told()
        checkpoints = checkpoints or Checkpoints(run.directory / "checkpoints", saving)
        final = checkpoints.directory / "final"

        def resumed(path: Path, state: dict[str, Any]) -> Shared:
            if not (path / SHARDS).exists():
                raise ConfigError(f"{path} was written by one process; go on without torchrun, or give another --out to begin anew")
            model, tokenizer = load_pair(path)
            boundary = Boundary(state["trainer"]["done"], state["cursor"], state["generators"])
            session = cls(run, tokenizer, ShardedTrainer(model, trainer, steps, here().device), checkpoints, boundary, 1, path)
            session.trainer.restore(state["trainer"])
            session.trainer.load(path / SHARDS)
            restore_generators(boundary.generators)
            return session

        ended = told(final.exists())
        session = None if ended else _resume(checkpoints, resumed)
        if session is None:
            seed_generators(0)
            source = final if ended else source
            model, tokenizer = load_pair(source) if isinstance(source, Path) else source()
            learner = ShardedTrainer(model, trainer, steps, here().device)
            session = cls(run, tokenizer, learner, checkpoints, Boundary(0, None, generators()))
            session.trainer.done = steps if ended else 0
        run.tracker.rewind(session.step)
        run.stopping.later = True
        return session

    @property
    def last(self) -> dict[str, Any]:
        """The numbers of the last step, on the first rank, which writes them."""
        return super().last if leads() else {}

    def batches(self, samples: Sequence[Sample]) -> list[Batch]:
        """This rank's share of one update's samples, packed."""
        return self.trainer.batches(samples)

    def learn(self, batches: Sequence[Batch], objective: Objective, companion: str = "") -> dict[str, float]:
        """One update over all ranks' batches; of one that was skipped the first rank keeps its own."""
        update = self.trainer.done
        metrics = self.trainer.learn(batches, objective)
        if not self.trainer.skipped:
            return metrics
        if leads():
            keep_bad_batches(self.run.directory / BAD, update, batches, self.trainer.judged, metrics["train/gradient/norm"])
        return {name: value for name, value in metrics.items() if isfinite(value)}

    def save_if_due(self, cursor: Any, metrics: Mapping[str, float] | None = None) -> None:
        """End a step: all ranks do the same, by what the first one's clock and anyone's SIGTERM say."""
        self.run.stopping.asked = any_of(self.run.stopping.asked)
        super().save_if_due(cursor, metrics)

    def keep_best(self, metrics: Mapping[str, float]) -> None:
        """Keep the weights as they are now, if they are the best so far."""
        self._by_the_first(lambda: Session.keep_best(self, metrics))

    def write(self, directory: Path) -> None:
        """On the first rank, while the others lend: the model and its tokenizer, in Hugging Face format."""
        self.trainer.lending.export(directory)
        self.tokenizer.save(directory)

    def write_all(self, directory: Path) -> None:
        """The same, and every rank's parts."""
        self.write(directory)
        told(("shards", str(directory / SHARDS)))
        self.trainer.save(directory / SHARDS)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the final checkpoint, and say that the run is done."""
        self._by_the_first(lambda: Session.finish(self, summary))

    def _due(self) -> bool:
        return told(super()._due())

    def _save(self) -> None:
        self._by_the_first(lambda: Session._save(self))

    def _by_the_first(self, act: Callable[[], None]) -> None:
        """The first rank acts; the others do what it tells them until it is through."""
        if leads():
            act()
            told(None)
            return
        while (word := told()) is not None:
            kind, what = word
            self.trainer.lending.lend(what) if kind == "tensor" else self.trainer.save(Path(what))


def _resume(checkpoints: Checkpoints, resumed: Callable[[Path, dict[str, Any]], Shared]) -> Shared | None:
    """The session of the newest whole checkpoint: the first rank tries one after the other, and the others try the same."""
    if leads():

        def load(path: Path, state: dict[str, Any]) -> Shared:
            told(str(path))
            return resumed(path, state)

        session = checkpoints.resume(load)
        told(None)
        return session
    session = None
    while (path := told()) is not None:
        try:
            session = resumed(Path(path), load_state(Path(path)))
        except CheckpointError:
            session = None
    return session

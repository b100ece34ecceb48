"""A model that is being trained in a run: where it comes from, where it stands, how it is saved and taken up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from afterbase.dist import here
from afterbase.errors import CheckpointError, ConfigError
from afterbase.model.checkpoint import load_model, save_model
from afterbase.model.transformer import Transformer
from afterbase.stages.run import Run
from afterbase.text.tokenizer import Tokenizer
from afterbase.track import read_metrics
from afterbase.train.resume import Checkpoints, SavingConfig
from afterbase.train.trainer import LocalTrainer, TrainerConfig


@dataclass(eq=False)
class Session:
    """Model, tokenizer and trainer of one run, at update number `trainer.done`."""

    run: Run
    """The directory."""
    tokenizer: Tokenizer
    """What turns text into the model's tokens."""
    trainer: LocalTrainer
    """Model and optimizer."""
    checkpoints: Checkpoints
    """Where the state is written."""
    cursor: Any
    """What the stage itself saved with the latest checkpoint; None in a fresh run."""
    updates: int = 1
    """Optimizer updates in one step of the run's log."""

    @classmethod
    def start(
        cls,
        run: Run,
        source: Path | Callable[[], tuple[Transformer, Tokenizer]],
        trainer: TrainerConfig,
        saving: SavingConfig,
        steps: int,
        updates: int = 1,
    ) -> Session:
        """Begin from a checkpoint directory or a model made fresh, or go on from the run's own latest checkpoint.

        A run that was killed between its final checkpoint and its last word has no steps left, and only says that word.
        """
        torch.manual_seed(0)  # nothing draws from it; if something ever does, it is the same in every run
        checkpoints = Checkpoints(run.directory / "checkpoints", saving)
        final, latest = checkpoints.directory / "final", checkpoints.latest()
        if final.exists():
            source = final
        elif latest is not None:
            source = latest[1]
        model, tokenizer = load_pair(source) if isinstance(source, Path) else source()
        session = cls(run, tokenizer, LocalTrainer(model, trainer, steps * updates), checkpoints, None, updates)
        if final.exists():
            session.trainer.done = session.trainer.steps
        elif latest is not None:
            state = checkpoints.load_state(latest[1])
            session.trainer.restore(state["trainer"])
            session.cursor = state["cursor"]
        run.tracker.rewind(session.step)
        return session

    @property
    def model(self) -> Transformer:
        """The model in training."""
        return self.trainer.model

    @property
    def step(self) -> int:
        """The step that comes next, as the run's log counts them."""
        return self.trainer.done // self.updates

    @property
    def last(self) -> dict[str, Any]:
        """The numbers of the last step, whichever process made it."""
        return read_metrics(self.run.tracker.metrics)[-1]

    @property
    def context(self) -> int:
        """The model's context length in tokens."""
        return self.model.config.max_position_embeddings

    def save_if_due(self, cursor: Any) -> None:
        """Write a checkpoint when it is time; `cursor` is whatever the stage needs to go on from here."""
        done = self.trainer.done
        if self.checkpoints.due(self.step) and done < self.trainer.steps:
            self.checkpoints.save(done, self.write, {"trainer": self.trainer.state(), "cursor": cursor})

    def write(self, directory: Path) -> None:
        """The model and its tokenizer, in Hugging Face format."""
        save_model(self.model, directory)
        self.tokenizer.save(directory)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the final checkpoint, drop the others, and say that the run is done."""
        final = self.checkpoints.finish(self.write)
        self.run.finish({**summary, "steps": self.trainer.done, "checkpoint": str(final.relative_to(self.run.directory))})


def device_of(name: str | None) -> torch.device:
    """The device that a recipe names, or this process's own; ConfigError when the machine does not have it."""
    if name is None:
        return here().device
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise ConfigError(f"device {name!r} is unknown; give 'cpu', 'cuda' or 'cuda:1'")
    there = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= there:
        raise ConfigError(f"device {name!r} was asked for, and torch sees {there} CUDA devices here; give 'cpu', or leave it out")
    return torch.device(name)


def load_pair(directory: Path) -> tuple[Transformer, Tokenizer]:
    """A checkpoint's model, in float32 for training, and its tokenizer; CheckpointError when they do not belong together."""
    tokenizer = Tokenizer.load(directory)
    model = load_model(directory, here().device, torch.float32)
    check_pair(model, tokenizer, directory)
    return model, tokenizer


def check_pair(model: Transformer, tokenizer: Tokenizer, directory: Path) -> None:
    """CheckpointError when the tokenizer has ids that the model does not embed."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"{directory}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, the model embeds {model.config.vocab_size} tokens; "
            "bring the tokenizer that the model was trained with"
        )


def learn(trainer: LocalTrainer, batches: list, objective: Any) -> dict[str, float]:
    """One optimizer step over its batches; metrics that are shares of the step add up."""
    metrics: dict[str, float] = {}
    for batch in batches:
        for name, value in trainer.forward_backward(batch, objective).items():
            metrics[name] = metrics.get(name, 0.0) + value
    return metrics | trainer.step()

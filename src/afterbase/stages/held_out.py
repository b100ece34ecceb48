"""Questions that are asked while a model is trained and that it is never trained on: is it learning, or learning them by heart?

Asking takes nothing from training: the questions have their own order, their draws their own seeds, and no cursor moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from pydantic import Field

from afterbase.config import Config
from afterbase.dist import dealt, leads, merged
from afterbase.prompts.source import Mixture, ProceduralSource, RowSource, Source, SourceConfig, held_out, open_mixture
from afterbase.records import Prompt, Rollout, Sampling
from afterbase.rollouts.store import write_rollouts
from afterbase.stages.apart import meetings
from afterbase.stages.rl_metrics import held_out_metrics
from afterbase.stages.run import Run

CHOICE = 8
"""A generator offers this many times as many questions as are asked: enough to choose from, few enough to shuffle at once."""

NOTHING = "no held-out questions: no source of prompts sets hold_out and held_out.prompts is empty, so training goes on without evaluation"


class HeldOutConfig(Config):
    """Questions asked during training that nothing is trained on."""

    every: int = Field(10, ge=0)
    """Rounds between two evaluations, the first and the last round among them; 0 never evaluates."""
    questions: int = Field(64, gt=0)
    """n, how many are asked, the same ones each time, one answer to each; fewer when the sources hold fewer."""
    prompts: list[SourceConfig] = Field(default_factory=list)
    """Where they come from; when empty, the held-out side of every source of training prompts that sets `hold_out`, in its share."""
    temperature: float | None = Field(None, ge=0)
    """Divides the logits, 0 is greedy; unset: as in training, so that two curves differ in their questions and nothing else."""
    seed: int = 0
    """Fixes which questions are asked: the same ones whatever the run's own seed."""


@dataclass(frozen=True)
class HeldOut:
    """The questions of one run, when they are asked and how."""

    config: HeldOutConfig
    """How often, and at which temperature."""
    prompts: tuple[Prompt, ...]
    """What is asked."""
    rounds: int
    """Rounds of the whole run."""
    sampling: Callable[[Prompt, int], Sampling]
    """How training draws the answers to a prompt, with the seed given to it."""
    first_seed: int
    """Where the seeds of the questions are counted from."""
    max_errors: float
    """Share of verdicts that may fail before the run stops."""

    def due(self, step: int) -> bool:
        """Whether round `step` begins with an evaluation."""
        return bool(self.prompts) and (step % self.config.every == 0 or step == self.rounds - 1)

    async def evaluate(self, step: int, judged: Callable[[Prompt, Sampling, int], Awaitable[list[Rollout]]], run: Run) -> dict[str, float]:
        """When it is due, what the weights that round `step` samples from make of the questions: one answer each, kept in held_out/."""
        if not self.due(step):
            return {}
        draws = [self._draw(number, prompt) for number, prompt in enumerate(self.prompts)]
        asked = dealt(list(zip(self.prompts, draws, strict=True)))
        answers = merged(await asyncio.gather(*[judged(prompt, draw, 1) for prompt, draw in asked]))
        rollouts = [answer for (answer,) in answers]
        metrics = held_out_metrics(rollouts, self.max_errors)
        if leads():
            write_rollouts(run.directory / "held_out" / f"{step:06d}.jsonl", rollouts)
        return metrics

    def _draw(self, number: int, prompt: Prompt) -> Sampling:
        """The same for a question in every evaluation, so that only the weights differ; training's own seeds stay below 2^39."""
        sampling, wanted = self.sampling(prompt, self.first_seed + (1 << 39) + number), self.config.temperature
        return sampling if wanted is None else replace(sampling, temperature=wanted)


def open_questions(config: HeldOutConfig, training: Sequence[SourceConfig], mixture: Mixture) -> tuple[Prompt, ...]:
    """The questions that a recipe describes, without those that the opened training mixture holds as well."""
    asked = _asked(config, training) if config.every else None
    if asked is None:
        return ()
    seen = {_text(prompt) for source in mixture.sources if isinstance(source, RowSource) for prompt in source.prompts}
    questions: dict[str, Prompt] = {}
    for _ in range(sum(map(len, asked.sources))):
        if len(questions) == config.questions:
            break
        (prompt,) = asked.take(1)
        if _text(prompt) not in seen:
            questions.setdefault(_text(prompt), prompt)  # a generator may say the same thing twice
    return tuple(questions.values())


def trained_on(config: HeldOutConfig, training: Sequence[SourceConfig]) -> str | None:
    """Why questions that a recipe lists as held out may be trained on; None when the sources keep them apart."""
    asked: list[dict[str, Any]] = [source.model_dump() for source in config.prompts]
    met = meetings({"rl": {"prompts": [source.model_dump() for source in training]}}, asked)
    return met[0] if met else None


def _asked(config: HeldOutConfig, training: Sequence[SourceConfig]) -> Mixture | None:
    """The sources that are asked, mixed like the training ones; None without any."""
    if config.prompts:
        return open_mixture(config.prompts, config.seed)
    sides = [(_side(source, config), source.weight) for source in training if source.hold_out and source.part == "train"]
    found = [(side, weight) for side, weight in sides if side is not None]
    return Mixture([side for side, _ in found], [weight for _, weight in found], config.seed) if found else None


def _side(source: SourceConfig, config: HeldOutConfig) -> Source | None:
    """The held-out side of a training source; None when none of the rows that training looks through fell on it."""
    if isinstance(source, ProceduralSource):
        size = min(source.size, CHOICE * config.questions)
        return source.model_copy(update={"part": "held_out", "size": size}).open(config.seed)
    looked = None if source.limit is None else ceil(source.limit / (1 - source.hold_out))
    rows = source.model_copy(update={"hold_out": 0.0, "limit": looked}).open(config.seed)
    kept = tuple(prompt for prompt in rows.prompts if held_out(prompt.question, source.hold_out))
    return RowSource(rows.name, kept) if kept else None


def _text(prompt: Prompt) -> str:
    return "\n".join(" ".join(message.content.split()) for message in prompt.messages)

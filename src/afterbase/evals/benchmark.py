"""A benchmark: which questions are asked, through which template, drawn how and judged by what."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Literal, Self

from pydantic import Field, model_validator

from afterbase.config import Config
from afterbase.errors import DataError
from afterbase.prompts.base import Source, SourceSettings
from afterbase.prompts.rows import FileSettings
from afterbase.prompts.source import SourceConfig
from afterbase.records import Prompt, Sampling
from afterbase.rewards.base import PartConfig, RewardsConfig
from afterbase.rewards.format import FormatConfig

Template = Literal["chat", "r1-zero", "plain"]


class AskConfig(Config):
    """How answers are drawn."""

    temperature: float = Field(0.0, ge=0)
    """Divides the logits; 0 is greedy, the most probable token each time."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Keep the smallest set of tokens with this much probability; 1 keeps all."""
    max_tokens: int = Field(256, ge=1)
    """Length cap in tokens; a longer response is cut off and counted as truncated."""
    stop: tuple[str, ...] = ()
    """Strings that end a response, besides the end-of-sequence token."""

    def sampling(self, seed: int) -> Sampling:
        """The engine's side of it, with the seed of one question."""
        return Sampling(self.temperature, self.top_p, max_tokens=self.max_tokens, stop=self.stop, seed=seed)


class Benchmark(Config):
    """One benchmark, complete but for its questions: two people with this page ask in the same words and count in the same way."""

    name: str
    """What the tables call it."""
    template: Template = "chat"
    """How a question is put: the tokenizer's chat template, the R1-Zero template [Slides Table 1], or the bare text."""
    instruction: str = ""
    """Added to the end of every question, e.g. how the answer is to be written."""
    rewards: RewardsConfig = RewardsConfig()
    """What judges the answers; accuracy is the share of outcomes that are `correct`."""
    sampling: AskConfig = AskConfig()
    """How answers are drawn."""
    samples: int = Field(1, ge=1)
    """Answers drawn to each question; more than one needs a temperature above 0."""
    limit: int | None = Field(None, ge=1)
    """Ask at most this many questions, the same share from every source, chosen by `seed`; all of them when absent."""
    seed: int = 0
    """Fixes which questions are asked: procedural draws, and the choice under `limit`."""
    together: int = Field(256, ge=1)
    """Questions handed to the engine at once; a killed evaluation repeats at most these."""

    @model_validator(mode="after")
    def _draws_differ(self) -> Self:
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(
                f"samples={self.samples} at temperature 0 draws the same answer each time; set sampling.temperature or samples=1"
            )
        return self

    @abstractmethod
    def sources(self) -> Sequence[SourceSettings]:
        """Where its questions come from."""

    def questions(self) -> list[Prompt]:
        """The questions, in the order in which they are asked; the same ones whenever the page is the same."""
        sources = [source.open(self.seed) for source in self.sources()]
        limit = self.limit if self.limit is not None else sum(len(source) for source in sources)
        seen: set[str] = set()
        by_source = [_chosen(source, room, self.seed, seen) for source, room in zip(sources, _rooms(sources, limit), strict=True)]
        questions = [prompt for turn in zip_longest(*by_source) for prompt in turn if prompt is not None]
        if not questions:
            raise DataError(f"benchmark {self.name!r} has no questions: its {len(sources)} prompt source(s) are empty; give it others")
        return [_instructed(prompt, self.instruction) for prompt in questions]

    def through(self, template: Template) -> Self:
        """The same questions through another template; where rewards judge the format, it is the one that this template asks for."""
        mode = "r1-zero" if template == "r1-zero" else "house"
        domains = {domain: [_judging(part, mode) for part in parts] for domain, parts in self.rewards.domains.items()}
        return self.model_copy(update={"template": template, "rewards": self.rewards.model_copy(update={"domains": domains})})

    def describe(self) -> list[str]:
        """One line for each source: how many questions it offers, and what keeps them out of training."""
        return [_described(settings, settings.open(self.seed)) for settings in self.sources()]


class BenchmarkConfig(Benchmark):
    """A benchmark whose questions the recipe lists."""

    kind: Literal["custom"] = "custom"
    """Not one of the published ones, which `evals/suite` knows by name."""
    prompts: list[SourceConfig] = Field(min_length=1)
    """Where its questions come from; each is asked once, whatever the sources' weights."""

    def sources(self) -> Sequence[SourceSettings]:
        """The recipe's own."""
        return self.prompts


def _judging(part: PartConfig, mode: str) -> PartConfig:
    return part.model_copy(update={"mode": mode}) if isinstance(part, FormatConfig) else part


def _described(settings: SourceSettings, source: Source) -> str:
    """A source's own words where it has some, else its name and size, and how a file's questions were held out."""
    if hasattr(source, "describe"):
        return f"{source.describe()}; {len(source)} questions to choose from"
    offered = f"{source.name}: {len(source)} questions"
    if isinstance(settings, FileSettings) and settings.part == "held_out":
        return (
            f"{offered}, the {settings.hold_out:.0%} of {settings.path.name} that a hash of each question's own text puts aside; "
            f"training that sets hold_out to {settings.hold_out:g} reads only the others"
        )
    return offered


def _rooms(sources: list[Source], limit: int) -> list[int]:
    """How many questions each source gives when all together may give `limit`: equal shares, small sources leaving theirs to others."""
    rooms = [0] * len(sources)
    while limit > 0 and (open_ := [at for at, source in enumerate(sources) if rooms[at] < len(source)]):
        share = max(1, limit // len(open_))
        for at in open_[:limit]:
            given = min(share, len(sources[at]) - rooms[at])
            rooms[at] += given
            limit -= given
    return rooms


def _chosen(source: Source, room: int, seed: int, seen: set[str]) -> list[Prompt]:
    """Up to `room` of the source's questions in the source's order; a seeded choice, since a file's first rows may be its easiest.

    A question that was `seen` is not asked again: generators repeat themselves, and copies would make n larger than it is.
    """
    chosen: dict[int, Prompt] = {}
    for index in random.Random(seed).sample(range(len(source)), len(source)):
        if len(chosen) == room:
            break
        prompt = source[index]
        text = "\n".join(message.content for message in prompt.messages)
        if text not in seen:
            seen.add(text)
            chosen[index] = prompt
    return [chosen[index] for index in sorted(chosen)]


def _instructed(prompt: Prompt, instruction: str) -> Prompt:
    """The prompt with the instruction after its question."""
    if not instruction:
        return prompt
    last = replace(prompt.messages[-1], content=f"{prompt.question}\n{instruction}")
    return replace(prompt, messages=(*prompt.messages[:-1], last))

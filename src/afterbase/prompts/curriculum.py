"""Which questions are worth asking: pass rates by prompt, and fewer turns for those that are always or never solved.

A group whose answers are all right or all wrong teaches nothing [V3 Eq. 28]. DAPO samples until it has met enough others; here a question
that was found out to be of that kind is passed over for a while, so that its rollouts are never paid for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from afterbase.config import Config
from afterbase.errors import ConfigError, DataError
from afterbase.prompts.base import Source
from afterbase.prompts.mixture import Mixture
from afterbase.prompts.rows import RowSource, unit
from afterbase.records import Prompt

LOOKS = 1000
"""At most this many questions in a row are passed over before one is dealt whatever is known of it."""
BANDS = ("never", "hard", "middle", "easy", "always")
"""Judged prompts by pass rate: at or below `unsolved`, up to 1/3, up to 2/3, above, at or above `solved`."""


class CurriculumConfig(Config):
    """How often a question is asked, given how often it was answered rightly."""

    kind: Literal["none", "filter", "reweight"] = "none"
    """none: every question once an epoch; filter: those always or never solved rest; reweight: the nearer a question's pass rate is to
    `target`, the more often it is asked."""
    solved: float = Field(1.0, gt=0, le=1)
    """Pass rate from which a question counts as always solved."""
    unsolved: float = Field(0.0, ge=0, lt=1)
    """Pass rate up to which a question counts as never solved."""
    minimum: int = Field(8, gt=0)
    """Judged answers before anything is said of a question."""
    memory: float = Field(0.5, ge=0, le=1)
    """How much earlier answers weigh when the same question was asked again; 1 counts all answers alike, 0 the last group only."""
    rest: int = Field(2, gt=0)
    """Epochs for which a question rests that is always or never solved (filter); then it is asked once, and judged anew."""
    floor: float = Field(0.05, ge=0, le=1)
    """Least probability that a question is asked in an epoch, so that none is lost for ever."""
    target: float = Field(0.5, gt=0, lt=1)
    """Pass rate that is asked for most (reweight): at 1/2 the answers of a group differ most."""
    column: str = ""
    """A column of the file with pass rates from 0 to 1 that were measured before, such as "pass_rate"; they count as `minimum` answers."""

    @model_validator(mode="after")
    def _bounds_are_apart(self) -> CurriculumConfig:
        if self.unsolved >= self.solved:
            raise ValueError(f"unsolved={self.unsolved} is not below solved={self.solved}; for example unsolved = 0.0, solved = 1.0")
        return self


@dataclass(slots=True)
class Known:
    """What is known of one question, e.g. Known(0, 3, 8.0, 6.0, 16): in epoch 3 of source 0, six of the last eight or so were right."""

    source: int
    """Its source's place in the mixture."""
    epoch: int
    """When it was last dealt; -1 for never."""
    answers: float = 0.0
    """Judged answers, earlier ones weighing less."""
    correct: float = 0.0
    """The right ones among them, weighed likewise."""
    seen: int = 0
    """All judged answers."""

    @property
    def rate(self) -> float:
        """The pass rate; 0 before the first answer."""
        return self.correct / self.answers if self.answers else 0.0


class Curriculum:
    """A mixture that passes over questions by what is known of them; each source keeps its share of what is dealt.

    Whether a question is dealt in an epoch is drawn from seed, id and epoch alone, so its whole future follows from `state`.
    """

    def __init__(self, config: CurriculumConfig, mixture: Mixture, seed: int):
        """Nothing is known yet but what `config.column` says; `seed` fixes which resting question is asked all the same."""
        self.config, self.mixture, self.seed = config, mixture, seed
        self.known: dict[str, Known] = {}
        self.passed_over, self.exhausted = 0, 0
        if config.kind != "none":
            _refuse_shared_ids(mixture.sources)

    @property
    def sources(self) -> list[Source]:
        """The mixture's sources."""
        return self.mixture.sources

    def take(self, n: int) -> list[Prompt]:
        """The next n prompts; with kind "none" the very ones of the mixture."""
        return self.mixture.take(n) if self.config.kind == "none" else [self._next(self.mixture.due()) for _ in range(n)]

    def observe(self, outcomes: Iterable[tuple[str, int, int]]) -> None:
        """Learn of prompts that were dealt: (id, right answers, judged answers); verdicts that failed count in neither."""
        for prompt_id, correct, total in outcomes:
            known = self.known.get(prompt_id)
            if known is not None and total:
                known.answers = self.config.memory * known.answers + total
                known.correct = self.config.memory * known.correct + correct
                known.seen += total

    def state(self) -> dict[str, Any]:
        """The cursor and what is known, as a JSON-able value; only prompts that were dealt are in it."""
        if self.config.kind == "none":
            return self.mixture.state()
        known = {name: [each.source, each.epoch, each.answers, each.correct, each.seen] for name, each in self.known.items()}
        return {**self.mixture.state(), "curriculum": {"known": known, "passed_over": self.passed_over, "exhausted": self.exhausted}}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a cursor; one without a curriculum knows nothing of its prompts yet."""
        self.mixture.restore({key: value for key, value in state.items() if key != "curriculum"})
        saved = state.get("curriculum", {})
        self.known = {name: Known(*row) for name, row in saved.get("known", {}).items()}
        self.passed_over, self.exhausted = saved.get("passed_over", 0), saved.get("exhausted", 0)

    def describe(self) -> list[dict[str, Any]]:
        """One row per source for reports, as the mixture says it."""
        return self.mixture.describe()

    def metrics(self) -> dict[str, float]:
        """What is known of the prompts that were dealt; nothing with kind "none"."""
        if self.config.kind == "none":
            return {}
        judged = [each for each in self.known.values() if each.seen >= self.config.minimum]
        bands = Counter(self._band(each.rate) for each in judged)
        resting = sum(self._chance(each, self.mixture.epoch(each.source)) <= self.config.floor for each in judged)
        found = {
            "curriculum/prompts/count": len(self.known),
            "curriculum/retired/fraction": resting / max(len(self.known), 1),
            "curriculum/passed_over/count": self.passed_over,
            "curriculum/exhausted/count": self.exhausted,
            **{f"curriculum/{band}/count": bands[band] for band in BANDS},
        }
        rate = {"curriculum/pass_rate/mean": sum(each.rate for each in judged) / len(judged)} if judged else {}
        return {name: float(value) for name, value in {**found, **rate}.items()}

    def _next(self, which: int) -> Prompt:
        """The next question of a source that is worth asking; any question, and it is counted, when too many in a row are not."""
        mixture = self.mixture
        for _ in range(min(LOOKS, len(mixture.sources[which]))):
            prompt, epoch = mixture.peek(which), mixture.epoch(which)
            known = self.known.get(prompt.id) or self._fresh(prompt, which)
            if unit(f"{self.seed}/{prompt.id}/{epoch}") < self._chance(known, epoch):
                break
            mixture.pass_over(which)
            self.passed_over += 1
        else:
            self.exhausted += 1
        epoch = mixture.epoch(which)
        prompt = mixture.deal(which)
        if prompt.id not in self.known:
            self.known[prompt.id] = self._fresh(prompt, which)
        self.known[prompt.id].epoch = epoch
        return prompt

    def _chance(self, known: Known, epoch: int) -> float:
        """The probability that a question is dealt in an epoch."""
        if known.seen < self.config.minimum:
            return 1.0
        if self.config.kind == "reweight":
            target, rate = self.config.target, known.rate
            return max(self.config.floor, rate / target if rate < target else (1 - rate) / (1 - target))
        worthwhile = self.config.unsolved < known.rate < self.config.solved
        return 1.0 if worthwhile or epoch - known.epoch > self.config.rest else self.config.floor

    def _band(self, rate: float) -> str:
        if rate <= self.config.unsolved or rate >= self.config.solved:
            return "never" if rate <= self.config.unsolved else "always"
        return "hard" if rate <= 1 / 3 else "middle" if rate <= 2 / 3 else "easy"

    def _fresh(self, prompt: Prompt, which: int) -> Known:
        """What is known of a question that was never dealt: its file's own pass rate, if there is one."""
        rate = prompt.extra.get(self.config.column) if self.config.column else None
        if rate is None:
            return Known(which, -1)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise DataError(f"prompt {prompt.id}: column {self.config.column!r} holds {str(rate)[:60]!r}; give pass rates from 0 to 1")
        n = self.config.minimum
        return Known(which, -1, n, n * rate, n)


def _refuse_shared_ids(sources: Sequence[Source]) -> None:
    """ConfigError when two files have a prompt id in common: their pass rates would be one."""
    owners: dict[str, str] = {}
    for source in sources:
        for prompt in source.prompts if isinstance(source, RowSource) else ():  # generated ids begin with their source's name
            if (owner := owners.setdefault(prompt.id, source.name)) != source.name:
                raise ConfigError(
                    f"sources {owner!r} and {source.name!r} both have a prompt {prompt.id!r}, whose pass rates a curriculum cannot tell "
                    "apart; number the rows of one by columns.id = ''"
                )

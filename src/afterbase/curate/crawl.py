"""Documents as a web crawl would hold them: problems with worked solutions of mixed quality, and small talk between them.

A real base model has read textbooks, forums where answers are wrong, transcripts of other assistants, and pages that switch
language in mid-sentence. Reinforcement learning works because good answers are in there, among many bad ones; so this crawl
holds each kind at a stated rate, and a base model trained on it solves some problems, badly formatted, some of the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from pydantic import Field, model_validator

from afterbase.config import Config
from afterbase.prompts.base import Source
from afterbase.prompts.mixture import Mixture
from afterbase.prompts.procedural import ProceduralSource
from afterbase.prompts.solutions import can_work_out, guess, work_out
from afterbase.records import Prompt
from afterbase.text.chat import R1_ZERO

PAGES = (
    "Problem: {q}\nSolution: {s}\nAnswer: {a}",
    "Q: {q} A: {s} so the answer is {a}.",
    "{q}\n{s}\nThe answer is \\boxed{{{a}}}.",
    "{q} {s}",
)
"""How pages that are no transcripts lay out a problem {q}, its steps {s} and the answer {a}."""
RIGHT = 0.95
"""Share of worked solutions on such pages that are right; transcripts have rates of their own."""
CONNECTIVES_ZH = ("所以", "然后", "接着", "因此", "得到", "等于")
CONNECTIVES_EN = ("so", "then", "next", "now", "we get", "which is")


class Qualities(Config):
    """How often each kind of answer occurs among the transcripts; relative weights."""

    clean: float = Field(2.0, ge=0)
    """Right steps in one language, well formatted."""
    mixed: float = Field(2.0, ge=0)
    """Right steps, but the words between them switch to Chinese."""
    slip: float = Field(2.0, ge=0)
    """A step is miscalculated and the answer wrong."""
    hasty: float = Field(3.0, ge=0)
    """No steps: a guess."""
    broken: float = Field(1.5, ge=0)
    """Right steps, but tags are missing."""
    verbose: float = Field(1.0, ge=0)
    """Right, but every step is said twice."""

    @model_validator(mode="after")
    def _some_occur(self) -> Qualities:
        if not any(self.model_dump().values()):
            raise ValueError("every weight is 0, so no transcript could be written; give one kind of answer a positive weight")
        return self


class CrawlConfig(Config):
    """What the crawl holds."""

    sources: list[ProceduralSource]
    """The problems; keep evaluation's out with `hold_out`."""
    transcripts: float = Field(0.4, ge=0, le=1)
    """Share of problem documents that are transcripts of an assistant in the R1-Zero template; the others are plain text."""
    qualities: Qualities = Qualities()
    """How good the transcripts are."""


class Crawl:
    """An endless crawl; document i depends on the seed and i alone."""

    def __init__(self, config: CrawlConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.sources: list[Source] = [source.open(seed) for source in config.sources]
        self.weights = [source.weight for source in config.sources]
        Mixture(self.sources, self.weights, seed)  # refuses doubled names and empty sources in words

    def document(self, index: int) -> str:
        """The text of one document."""
        rng = Random(f"{self.seed}/crawl/{index}")
        source = rng.choices(self.sources, self.weights)[0]
        prompt = source[rng.randrange(len(source))]
        if rng.random() < self.config.transcripts:
            return f"{R1_ZERO} User: {prompt.question} Assistant: {self._reply(prompt, rng)}"
        return _page(prompt, rng)

    def documents(self, first: int, last: int) -> Iterator[str]:
        """Documents first to last - 1."""
        return (self.document(index) for index in range(first, last))

    def _reply(self, prompt: Prompt, rng: Random) -> str:
        """What the assistant of a transcript said."""
        if not can_work_out(prompt.extra["generator"]):
            return f"<answer> {prompt.answer} </answer>"
        qualities = self.config.qualities.model_dump()
        quality = rng.choices(tuple(qualities), tuple(qualities.values()))[0]
        if quality == "hasty":
            return f"<answer> {guess(prompt, rng)} </answer>"
        work = work_out(prompt, rng, slips=1 if quality == "slip" else 0)
        words = CONNECTIVES_ZH if quality == "mixed" else CONNECTIVES_EN
        steps = [step for step in work.steps for _ in range(2 if quality == "verbose" else 1)]
        thought = _joined(steps, words, rng)
        reply = f"<think> {thought} </think> <answer> {work.answer} </answer>"
        return _without_a_tag(reply, rng) if quality == "broken" else reply


def _joined(steps: Sequence[str], words: Sequence[str], rng: Random) -> str:
    """Steps in one line, a connective between them."""
    line = steps[0]
    for step in steps[1:]:
        line += f" {rng.choice(words)} {step}"
    return line


def _without_a_tag(reply: str, rng: Random) -> str:
    for tag in rng.sample(("<think> ", " </think>", "<answer> ", " </answer>"), rng.choice((1, 2))):
        reply = reply.replace(tag, "")
    return reply


def _page(prompt: Prompt, rng: Random) -> str:
    """A page that is no transcript: a textbook's solution, a forum post, or a line of small talk."""
    if not can_work_out(prompt.extra["generator"]):
        return f"{prompt.question} {prompt.answer}"
    right = rng.random() < RIGHT
    work = work_out(prompt, rng, slips=0 if right else 1)
    steps = _joined(work.steps, CONNECTIVES_EN, rng)
    return rng.choice(PAGES).format(q=prompt.question, s=steps, a=work.answer)

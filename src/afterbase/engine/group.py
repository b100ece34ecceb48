"""Requests that share one prompt, from the question to its last answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from afterbase.records import Completion, Sampling

Watch = Callable[[int, int, float], None]
"""Told (sample, token, log-probability) of every token drawn: streaming."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a request had drawn when its row was taken away."""

    tokens: tuple[int, ...]
    """The tokens."""
    logprobs: tuple[float, ...]
    """Their log-probabilities under the full distribution."""
    sampled: tuple[float, ...]
    """The same under the truncated one."""


@dataclass(eq=False)
class Group:
    """Requests that share one prompt, or a part of them: parts share the future and what has come of all."""

    prompt: tuple[int, ...]
    """The prompt's tokens."""
    sampling: Sampling
    """How every one of them is drawn."""
    samples: range
    """Their numbers among the n that were asked for; each has its own random stream."""
    future: asyncio.Future
    """Resolves to the completions, in order."""
    watch: Watch | None = None
    """Told every token of every sample, soon after it is drawn."""
    tag: str = ""
    """What the request is about; drafts are counted by it."""
    asked: range = range(0)
    """The numbers of all samples that the future waits for; left out, they are these."""
    arrival: int = 0
    """Its number among all groups: the youngest make way for the oldest."""
    drawn: Drawn | None = None
    """What the only sample of this part has drawn before it lost its row; None at the beginning."""
    finished: dict[int, Completion] = field(default_factory=dict)
    """Those that have ended, by number."""
    told: dict[int, int] = field(default_factory=dict)
    """How many tokens of each sample `watch` has been told."""
    searched: dict[int, int] = field(default_factory=dict)
    """How many tokens of each sample were searched for stop strings behind a device's back."""

    def __post_init__(self) -> None:
        self.asked = self.asked or self.samples

    @property
    def text(self) -> tuple[int, ...]:
        """What must be read before the next draw."""
        return self.prompt + self.drawn.tokens if self.drawn else self.prompt

    @property
    def most(self) -> int:
        """Tokens of prompt and completion together, unless the context ends before."""
        return len(self.prompt) + self.sampling.max_tokens

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.future.done()

    def part(self, samples: range, drawn: Drawn | None = None) -> Group:
        """Some of these requests, to be run apart from the others."""
        return replace(self, samples=samples, drawn=drawn)

    def end(self, sample: int, completion: Completion) -> None:
        """Keep one completion; the last one resolves the future."""
        self.finished[sample] = completion
        if len(self.finished) == len(self.asked) and not self.over:
            self.future.set_result([self.finished[number] for number in self.asked])

    def fail(self, error: Exception) -> None:
        """End all of it by an error."""
        if not self.over:
            self.future.set_exception(error)

    def tell(self, sample: int, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """Pass on what is new of one sample, if anybody still waits; a reader that fails loses its own request only."""
        if self.over:
            return
        self.told[sample] = self.told.get(sample, 0) + len(tokens)
        try:
            for token, logprob in zip(tokens, logprobs, strict=True):
                self.watch(sample, token, logprob)
        except Exception as error:
            self.fail(error)

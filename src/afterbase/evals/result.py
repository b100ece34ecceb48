"""What an evaluation found: the answers to each question, and the numbers counted from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from statistics import fmean
from typing import Any

from afterbase.evals.metrics import Interval, interval
from afterbase.records import Finish, Outcome


@dataclass(frozen=True, slots=True)
class Answer:
    """One judged response, e.g. Answer("<think>2 + 2</think>4", 9, "stop", "correct", 1.0, {"accuracy": 1.0}, 0.0, True)."""

    text: str
    """What the model wrote."""
    tokens: int
    """Its length in tokens, the end token included."""
    finish: Finish
    """Why it ended; `length` is a truncated response."""
    outcome: Outcome
    """What the judge found; `error` (the verifier or the engine failed, not the model) is masked: it counts nowhere but as an error."""
    value: float
    """The judge's weighted reward."""
    parts: dict[str, float]
    """Each part of it before weighting."""
    mixing: float
    """Language mixing, as `rewards.language` measures it: 0 is one language throughout."""
    well_formed: bool
    """Whether thinking and answer stand where they belong."""
    note: str = ""
    """The judge's line for humans."""


@dataclass(frozen=True, slots=True)
class Row:
    """One question and its judged answers: one line of transcripts.jsonl."""

    id: str
    """The prompt's id."""
    domain: str
    """The prompt's domain."""
    question: str
    """The last user turn."""
    gold: str | None
    """The reference answer, when there is one."""
    answers: tuple[Answer, ...]
    """One for each sample, in the order of their draws."""

    @property
    def judged(self) -> list[Answer]:
        """The answers that count: all but those whose verifier or engine failed."""
        return [answer for answer in self.answers if answer.outcome != "error"]

    def record(self) -> dict[str, Any]:
        """The row as JSON takes it."""
        return asdict(self)

    @classmethod
    def read(cls, record: dict[str, Any]) -> Row:
        """The row that `record()` wrote."""
        answers = tuple(Answer(**answer) for answer in record["answers"])
        return cls(record["id"], record["domain"], record["question"], record["gold"], answers)


@dataclass(frozen=True, slots=True)
class Protocol:
    """How the questions were asked; no accuracy is quoted without it."""

    template: str
    """Which prompt template."""
    template_hash: str
    """Fingerprint of what that template makes of a fixed question with this tokenizer."""
    samples: int
    """Answers drawn to each question."""
    seed: int
    """Fixes the sampled draws."""
    temperature: float
    """0 is greedy."""
    top_p: float
    """The nucleus that was sampled from."""
    max_tokens: int
    """The length cap in tokens."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one model did on one benchmark."""

    model: str
    """The checkpoint's name in the table."""
    benchmark: str
    """The benchmark's name."""
    protocol: Protocol
    """How it was asked."""
    asked: int
    """Questions asked, those whose verifier failed included."""
    accuracy: Interval
    """Share of questions answered correctly (mean over samples), over the `accuracy.n` questions that could be judged."""
    domains: dict[str, Interval]
    """The same by domain."""
    length: float
    """Mean response length in tokens."""
    truncated: float
    """Share of responses cut off by the length cap."""
    mixing: float
    """Mean language mixing."""
    format: float
    """Share of responses with well-formed thinking and answer."""
    no_answer: float
    """Share of responses in which no answer was found."""
    timeouts: float
    """Share of responses on which the verifier ran out of time: they count as not correct."""
    errors: int
    """Responses left out of every number above because the verifier or the engine failed."""
    rows: tuple[Row, ...] = field(default=(), repr=False)
    """The questions themselves; empty when read back from results.json, which leaves them to transcripts.jsonl."""

    def record(self) -> dict[str, Any]:
        """The result as JSON takes it, without the rows."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self) if each.name != "rows"}

    @classmethod
    def read(cls, record: dict[str, Any]) -> Result:
        """The result that `record()` wrote."""
        domains = {name: Interval(**ends) for name, ends in record["domains"].items()}
        read = {"protocol": Protocol(**record["protocol"]), "accuracy": Interval(**record["accuracy"]), "domains": domains}
        return cls(**{**record, **read})


def count(model: str, benchmark: str, protocol: Protocol, rows: Sequence[Row]) -> Result:
    """Count what the rows show; responses whose verifier or engine failed are masked."""
    answers = [answer for row in rows for answer in row.judged]

    def share(of: Callable[[Answer], float]) -> float:
        return fmean(map(of, answers)) if answers else 0.0

    return Result(
        model=model,
        benchmark=benchmark,
        protocol=protocol,
        asked=len(rows),
        accuracy=_accuracy(rows),
        domains={domain: _accuracy([row for row in rows if row.domain == domain]) for domain in sorted({row.domain for row in rows})},
        length=share(lambda answer: answer.tokens),
        truncated=share(lambda answer: answer.finish == "length"),
        mixing=share(lambda answer: answer.mixing),
        format=share(lambda answer: answer.well_formed),
        no_answer=share(lambda answer: answer.outcome == "no_answer"),
        timeouts=share(lambda answer: answer.outcome == "timeout"),
        errors=sum(answer.outcome == "error" for row in rows for answer in row.answers),
        rows=tuple(rows),
    )


def _accuracy(rows: Sequence[Row]) -> Interval:
    return interval([[float(answer.outcome == "correct") for answer in row.judged] for row in rows])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return asdict(value) if isinstance(value, Interval | Protocol) else value

"""Rejection sampling: of several answers to each problem keep the accurate AND concise ones.  [V3 5.1]"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import Field

from afterbase.config import Config
from afterbase.curate.filter import Candidate, FilterConfig, reason_to_drop


class KeepConfig(Config):
    """How many and which of a problem's fit candidates are kept."""

    per_problem: int = Field(1, gt=0)
    """At most this many different answers to one problem, the shortest ones."""
    max_pass_rate: float = Field(1.0, gt=0, le=1)
    """Leave out problems that more than this share of candidates solve: there is little to learn from them."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The outcome of rejection sampling."""

    candidates: tuple[Candidate, ...]
    """What is kept, problem by problem, shortest first."""
    dropped: Counter[str]
    """How many were left out, by reason."""
    mean_length_correct: float
    """Mean length of all correct candidates in tokens: what conciseness is measured against."""


def keep_best(groups: Iterable[list[Candidate]], fit: FilterConfig, keep: KeepConfig) -> Kept:
    """Filter each problem's candidates, drop doubles, and keep the most concise."""
    kept: list[Candidate] = []
    dropped: Counter[str] = Counter()
    lengths: list[int] = []
    for group in groups:
        right = [candidate.tokens for candidate in group if candidate.outcome == "correct"]
        judged = sum(candidate.outcome != "error" for candidate in group)  # a failed verdict says nothing of the problem
        lengths += right
        if len(right) > keep.max_pass_rate * judged:
            dropped["problem too easy"] += len(group)
            continue
        usable: dict[str, Candidate] = {}
        for candidate in group:
            reason = reason_to_drop(candidate, fit)
            if reason is None and _bare(candidate.response) in usable:
                reason = "duplicate"
            if reason:
                dropped[reason] += 1
            else:
                usable[_bare(candidate.response)] = candidate
        by_length = sorted(usable.values(), key=lambda candidate: candidate.tokens)
        kept += by_length[: keep.per_problem]
        dropped["longer than a kept one"] += len(by_length[keep.per_problem :])
    dropped = Counter({reason: count for reason, count in dropped.items() if count})
    return Kept(tuple(kept), dropped, sum(lengths) / len(lengths) if lengths else 0.0)


def _bare(response: str) -> str:
    """What makes two responses the same: their signs, whatever the white space between them."""
    return "".join(response.split())

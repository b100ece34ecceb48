r"""Whether a judge accepts the reference of the prompts that it grades: law 9, asked of every verifier before anything is learned.

A part that compares with `prompt.answer` must accept it in \boxed{} and in <answer>; a part with another kind of reference (tests that a
solution passes) offers its own form by a method `gold`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

from afterbase.records import Completion, Outcome, Prompt, Rollout
from afterbase.rewards.base import Judge, Part, judge_part

FORMS = ("<think>As given.</think>\n\\boxed{%s}", "<think>As given.</think> <answer>%s</answer>")
AT_ONCE = 64
"""Prompts that are checked together."""


@runtime_checkable
class OffersGold(Protocol):
    """A part that knows what a right response looks like."""

    def gold(self, prompt: Prompt) -> Sequence[str] | None:
        """Responses each of which it must accept; None or none at all when this prompt brings no reference."""


@dataclass(frozen=True, slots=True)
class GoldCheck:
    """What the verifiers of a prompt's domain make of its own reference, e.g. one that holds 18% against itself and finds it wrong."""

    prompt: Prompt
    """What was asked."""
    outcome: Outcome | None
    """`correct` when every verifier accepts every form of it, else what the first refusal was; None when nothing can be checked."""
    response: str = ""
    """The response that was refused."""
    note: str = ""
    """Which part refused it, and why."""


def gold_forms(part: Part, prompt: Prompt) -> Sequence[str]:
    """Responses that a part must accept; none from a part that compares nothing with a reference, such as format."""
    if isinstance(part, OffersGold):
        return part.gold(prompt) or ()
    return [form.replace("%s", prompt.answer or "") for form in FORMS] if part.verdict else ()


async def check_gold(judge: Judge, prompt: Prompt) -> GoldCheck:
    """Ask every part that judges this prompt whether it accepts the reference."""
    asked = 0
    for weighted in judge.route(prompt.domain):
        part = weighted.part
        try:
            forms = gold_forms(part, prompt)
        except Exception as error:  # a row that a part cannot read is a finding, not the end of the check
            return GoldCheck(prompt, "error", "", f"{part.name}: failed with {type(error).__name__}: {error}")
        for text in forms:
            asked += 1
            score = await judge_part(part, Rollout(prompt, (), Completion((), (), (), 0, "stop"), text))
            if score.outcome != "correct":
                return GoldCheck(prompt, score.outcome, text, f"{part.name}: {score.note}")
    return GoldCheck(prompt, "correct" if asked else None)


async def check_golds(
    judge: Judge, prompts: Iterable[Prompt], on_check: Callable[[GoldCheck], None] = lambda check: None
) -> list[GoldCheck]:
    """The checks of all prompts, in their order; `on_check` gets each as soon as it is made."""

    async def one(prompt: Prompt) -> GoldCheck:
        check = await check_gold(judge, prompt)
        on_check(check)
        return check

    left, checks = iter(prompts), []
    while lot := list(islice(left, AT_ONCE)):
        checks += await asyncio.gather(*map(one, lot))
    return checks

"""Whether a response follows its instructions, where a program can see that it does: the verifiable instructions of IFEval.  [V3 Table 6]

The columns `instruction_id_list` and `kwargs` of a row name them. Strict looks at the answer as it is; loose forgives markdown stars and
an opening or closing line ("Sure, here it is:"), and so never follows less. A prompt is followed when all of its instructions are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from afterbase.config import Config
from afterbase.errors import DataError
from afterbase.records import Prompt, Rollout, Score
from afterbase.rewards.instructions_rules import RULES, read_arguments
from afterbase.text.think import split


class InstructionsConfig(Config):
    """Instructions followed: all of them or their share."""

    kind: Literal["instructions"] = "instructions"
    weight: float = 1.0
    """Scales this part in the sum."""
    value: Literal["all", "fraction"] = "all"
    """1 when all instructions are followed, else 0 (the prompt-level accuracy); or the share of them that are (the instruction-level one).
    The outcome is `correct` only when all are, either way."""
    reading: Literal["strict", "loose"] = "strict"
    """Whether an opening or closing line and markdown stars are forgiven."""

    def build(self) -> InstructionsPart:
        """The part that these settings describe."""
        return InstructionsPart(self.value, self.reading)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One thing that was asked for, e.g. Instruction("detectable_format:number_bullet_lists", {"num_bullets": 3})."""

    kind: str
    """Its name among the rules."""
    arguments: Mapping[str, Any]
    """Its numbers and texts."""

    def followed(self, response: str, reading: str = "strict") -> bool:
        """Whether a response follows it; an empty one follows nothing."""
        texts = _loosely(response) if reading == "loose" else iter([response])
        return any(RULES[self.kind].follows(text, **self.arguments) for text in texts if text.strip())


class InstructionsPart:
    """Judges one rollout against the instructions of its prompt; the verdict of its domain."""

    name = "instructions"
    verdict = True

    def __init__(self, value: str = "all", reading: str = "strict"):
        self.value, self.reading = value, reading

    async def __call__(self, rollout: Rollout) -> Score:
        """The share of instructions followed, or whether all are; the note names those that are not."""
        try:
            asked = instructions(rollout.prompt)
        except DataError as error:
            return Score(0.0, {self.name: 0.0}, "error", f"prompt {rollout.prompt.id}: {error}")
        answer = split(rollout.text).answer
        if not answer.strip():
            return Score(0.0, {self.name: 0.0}, "no_answer", "no answer after the thought")
        missed = [instruction.kind for instruction in asked if not instruction.followed(answer, self.reading)]
        share = 1 - len(missed) / len(asked)
        value = share if self.value == "fraction" else float(not missed)
        note = f"{len(asked) - len(missed)} of {len(asked)} followed" + (f", not {', '.join(missed)}" if missed else "")
        return Score(value, {self.name: value}, "wrong" if missed else "correct", note)

    def gold(self, prompt: Prompt) -> Sequence[str]:
        """No response: what follows instructions is not written in the row. Raises DataError for a row that cannot be read."""
        instructions(prompt)
        return ()

    async def close(self) -> None:
        """Nothing to end."""


def instructions(prompt: Prompt) -> list[Instruction]:
    """What a prompt's columns ask for; DataError says in words what is wrong with them."""
    kinds, arguments = (_column(prompt, name) for name in ("instruction_id_list", "kwargs"))
    if not kinds or len(kinds) != len(arguments):
        raise DataError(
            f"the columns instruction_id_list and kwargs have {len(kinds)} and {len(arguments)} entries; give one for each instruction"
        )
    return [Instruction(str(kind), read_arguments(str(kind), given or {})) for kind, given in zip(kinds, arguments, strict=True)]


def _column(prompt: Prompt, name: str) -> list[Any]:
    value = prompt.extra.get(name)
    if isinstance(value, str):  # some tables keep lists as JSON
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, list | tuple) or (name == "kwargs" and not all(isinstance(given, dict | None) for given in value)):
        raise DataError(
            f"the column {name} is no list of {'tables' if name == 'kwargs' else 'names'}; the row must bring what was asked for"
        )
    return list(value)


def _loosely(response: str) -> Iterator[str]:
    """A response as it is, without its first or last line or both, and each of these without stars."""
    lines = response.split("\n")
    for text in (response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))):
        yield text
        yield text.replace("*", "")

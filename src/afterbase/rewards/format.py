r"""Whether a response has the shape that was asked for: thinking between <think> tags, then the answer.  [Slides Table 1] [Setup]"""

from __future__ import annotations

import re
from typing import Literal

from afterbase.config import Config
from afterbase.records import Rollout, Score
from afterbase.text.think import boxed as box_in

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_ZERO = re.compile(r"\s*<think>(?P<thought>.*)</think>\s*<answer>(?P<answer>.*)</answer>\s*", re.DOTALL)
_HOUSE = re.compile(r"\s*(?:<think>(?P<thought>.*)</think>)?(?P<answer>.*)", re.DOTALL)


class FormatConfig(Config):
    """Shape of the response: 1 or 0."""

    kind: Literal["format"] = "format"
    weight: float = 0.1
    """Scales this part in the sum."""
    mode: Literal["r1-zero", "house"] = "house"
    """<think>..</think> <answer>..</answer> and nothing else; or a thought at the start and then a free answer."""
    thought: Literal["required", "optional"] = "required"
    """Whether a response of the house form may leave out the thought."""
    boxed: bool = True
    r"""Whether an answer of the house form must hold exactly one \boxed{}."""

    def build(self) -> FormatPart:
        """The part that these settings describe."""
        return FormatPart(self.mode, self.thought == "required", self.boxed)


class FormatPart:
    """Judges the shape of one rollout; what the answer says does not matter."""

    name = "format"
    verdict = False

    def __init__(self, mode: str = "house", thought: bool = True, boxed: bool = True):
        self.mode, self.thought, self.boxed = mode, thought, boxed

    async def __call__(self, rollout: Rollout) -> Score:
        """1.0 for the right shape; the note names the first thing that is not."""
        fault = zero_fault(rollout.text) if self.mode == "r1-zero" else house_fault(rollout.text, self.thought, self.boxed)
        value = 0.0 if fault else 1.0
        return Score(value, {self.name: value}, "wrong" if fault else "correct", fault)

    async def close(self) -> None:
        """Nothing to end."""


def zero_fault(text: str) -> str:
    """What is wrong with a response of the R1-Zero form; "" when nothing is."""
    for tag in _TAGS:
        if text.count(tag) != 1:
            return f"{tag} stands {text.count(tag)} times, not once"
    match = _ZERO.fullmatch(text)
    if not match:
        return "not <think>..</think> <answer>..</answer> in this order with nothing around them"
    return _empty(match["thought"], match["answer"])


def house_fault(text: str, thought: bool = True, boxed: bool = True) -> str:
    """What is wrong with a response of the house form; "" when nothing is."""
    counts = [text.count(tag) for tag in _TAGS]
    if any(counts[2:]):
        return "<answer> tags, which this form does not have"
    if counts[:2] != [1, 1] and (thought or counts[:2] != [0, 0]):
        return f"<think> stands {counts[0]} times and </think> {counts[1]} times, not once each"
    match = _HOUSE.fullmatch(text)
    if counts[0] and match["thought"] is None:
        return "the thought does not come first"
    if fault := _empty(match["thought"], match["answer"]):
        return fault
    if boxed and (len(re.findall(r"\\boxed\b", match["answer"])) != 1 or not box_in(match["answer"])):
        return r"the answer does not hold exactly one filled \boxed{}"
    return ""


def _empty(thought: str | None, answer: str) -> str:
    if thought is not None and not thought.strip():
        return "the thought is empty"
    return "" if answer.strip() else "the answer is empty"

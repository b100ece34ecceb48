r"""Whether a response has the shape that was asked for: thinking between <think> tags, then the answer.  [Slides Table 1] [Setup]

A tag counts wherever it stands, in code and in a box too: who may write a tag "as a quotation" can hide where the thought ends. What
only looks like a tag (<THINK>, < think >, a tag with attributes or with invisible letters in it) is a fault for the same reason.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from afterbase.config import Config
from afterbase.records import Rollout, Score
from afterbase.text.think import ANSWER_CLOSE, ANSWER_OPEN, CLOSE, OPEN, split
from afterbase.text.think import boxed as box_in

_TAGS = (OPEN, CLOSE, ANSWER_OPEN, ANSWER_CLOSE)
_NAMES = r"(?:think|thinking|answer)(?![a-z0-9_-])"
_LOOKS_LIKE_A_TAG = re.compile(rf"<[/\\|]?{_NAMES}[^<>]{{0,200}}>|<\s{{0,9}}[/\\|]?\s{{0,9}}{_NAMES}\s{{0,9}}[/\\|]?\s{{0,9}}>")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # by hand: Unicode's normalization is quadratic on hostile text
# Letters and marks that show nothing either: fillers of Hangul and Khmer, the empty Braille cell, joiners and variation selectors.
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u17b4\u17b5\u2800\u034f") | {
    chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
}
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_SPACING = re.compile(r"\\(?:q?quad|[a-z]?(?:phantom|space)|text[a-z]*|math[a-z]{2}|mbox|[,;:! ])|[{}~$.?…_]")


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
    places = [text.index(tag) for tag in _TAGS]
    before, thought, between, answer, after = re.split("|".join(_TAGS), text)
    if places != sorted(places) or before.strip() or between.strip() or after.strip():
        return "not <think>..</think> <answer>..</answer> in this order with nothing around them"
    return _look_alike(text) or _empty(thought, answer)


def house_fault(text: str, thought: bool = True, boxed: bool = True) -> str:
    """What is wrong with a response of the house form; "" when nothing is."""
    opened, closed, *answers = (text.count(tag) for tag in _TAGS)
    if any(answers):
        return "<answer> tags, which this form does not have"
    if (opened, closed) != (1, 1) and (thought or opened or closed):
        return f"<think> stands {opened} times and </think> {closed} times, not once each"
    if opened and (not text.lstrip().startswith(OPEN) or text.index(CLOSE) < text.index(OPEN)):
        return "the thought does not come first"
    thinking, _, answer = text.lstrip().removeprefix(OPEN).partition(CLOSE) if opened else (None, "", text)
    return _look_alike(text) or _empty(thinking, answer) or (_box_fault(answer) if boxed else "")


def _look_alike(text: str) -> str:
    """The fault of a tag that only a hurried reader would take for one, or that the reader of rewards takes apart differently."""
    plain = _visible(text).translate(_FULL_WIDTH).lower()
    if len(_LOOKS_LIKE_A_TAG.findall(plain)) != sum(text.count(tag) for tag in _TAGS):
        return "something that looks like a tag and is none"
    return "" if OPEN not in text or split(text).well_formed else "code marks that hide a tag"


def _empty(thought: str | None, answer: str) -> str:
    if thought is not None and not any(letter.isalnum() for letter in _visible(thought)):
        return "the thought is empty"
    return "" if _visible(answer).strip() else "the answer is empty"


def _box_fault(answer: str) -> str:
    r"""The fault of an answer without exactly one \boxed{} or \fbox{} that holds something."""
    held = box_in(answer) if len(_BOX.findall(answer)) == 1 else None
    filled = held is not None and _SPACING.sub("", _visible(held)).strip()
    return "" if filled else r"the answer does not hold exactly one filled \boxed{}"


def _visible(text: str) -> str:
    """Without what takes no room on a page: zero-width and other format characters, control characters but white space, blank letters."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter for letter in text if letter.isspace() or (unicodedata.category(letter)[0] != "C" and letter not in _BLANK))

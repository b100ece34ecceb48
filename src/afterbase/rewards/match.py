"""Whether the answer is the reference, compared as text: exact, normalized, or by choice letter."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from afterbase.config import Config
from afterbase.records import Rollout, Score
from afterbase.rewards.extract import Fallback, final_answer

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = " .,;:!?\"'`*$。，；：！？“”"
_FONTS = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_STATED = re.compile(r"(?:answer|option|choice)\s*(?:is|:)?\s*[*(\[]*([A-Z])(?![A-Za-z])|答案(?:是|为|：|:)?\s*[(（]?([A-Z])(?![A-Za-z])")
_LETTERS = re.compile(r"[(\[（]?([A-Z])[)\]）]?(?:\s*(?:,|、|and|\s)\s*[(\[（]?([A-Z])[)\]）]?)*\s*[.。]?")
_LABEL = re.compile(r"[(\[（]([A-Z])[)\]）](?:\s|$)|([A-Z])[.):：、](?:\s|$)")


class MatchConfig(Config):
    """Accuracy by text: 1 when the answer is the reference, else 0."""

    kind: Literal["match"] = "match"
    weight: float = 1.0
    """Scales this part in the sum."""
    mode: Literal["exact", "normalized", "choice"] = "normalized"
    """Letter for letter; without case, articles, white space and closing punctuation; or only the letter of a multiple choice."""
    fallback: Fallback = "whole"
    r"""What counts as the answer without \boxed{} and <answer>."""

    def build(self) -> MatchPart:
        """The part that these settings describe."""
        return MatchPart(self.mode, self.fallback)


class MatchPart:
    """Judges one rollout against `prompt.answer`; the verdict of its domain."""

    name = "accuracy"
    verdict = True

    def __init__(self, mode: str = "normalized", fallback: Fallback = "whole"):
        self.fallback = fallback
        self.form = {"exact": str.strip, "normalized": normalized, "choice": choice}[mode]

    async def __call__(self, rollout: Rollout) -> Score:
        """1.0 when both have the same form."""
        gold = self.form(rollout.prompt.answer or "")
        if not gold:
            return Score(0.0, {self.name: 0.0}, "error", f"prompt {rollout.prompt.id} has no reference answer that can be matched")
        answer = self.form(final_answer(rollout.text, self.fallback) or "")
        if not answer:
            return Score(0.0, {self.name: 0.0}, "no_answer", "no final answer found")
        value = float(answer == gold)
        return Score(value, {self.name: value}, "correct" if value else "wrong", f"{answer[:80]!r} against {gold[:80]!r}")

    async def close(self) -> None:
        """Nothing to end."""


def normalized(text: str) -> str:
    """Case, articles, white space and surrounding punctuation taken away, e.g. normalized(" The Eiffel  Tower. ") is "eiffel tower"."""
    text = unicodedata.normalize("NFKC", _FONTS.sub(r"\1", text)).casefold()
    bare = " ".join(text.split()).strip(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split()).strip(_PUNCTUATION) or bare  # "A" alone is an answer, not an article


def choice(text: str) -> str:
    """The letters chosen, sorted, e.g. choice("The answer is (B).") is "B" and choice("A, C") is "AC"; "" when none is."""
    text = " ".join(_FONTS.sub(r"\1", text).split()).strip("*$ ")
    if _LETTERS.fullmatch(text) or re.fullmatch(r"[A-Z]{2,8}", text):
        return "".join(sorted(set(re.findall(r"[A-Z]", text))))
    if label := _LABEL.match(text):
        return label[1] or label[2]
    stated = _STATED.findall(text)
    return "".join(stated[-1]) if stated else ""

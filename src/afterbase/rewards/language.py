"""The share of the thought that is in the right language.  [R1 2.3.2] [Slides: "proportion of target language words in the CoT"]"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Literal

from afterbase.config import Config
from afterbase.records import Rollout, Score
from afterbase.text.think import split

# What belongs to no language: code, formulas, links, tags. A dollar opens a formula only where no space follows and closes one only
# where none precedes and no digit follows, so "costs $5 and $6" stays prose. Formulas have a longest
# length, else each of a thousand unclosed ones would be searched to the end of the text.
_NO_LANGUAGE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.{1,2000}?\$\$|\\\[.{1,2000}?\\\]|\\\(.{1,500}?\\\)|(?<!\\)\$(?=\S)[^$\n]*?(?<=[^\s\\])\$(?!\d)"
    r"|\\begin\{(?P<env>[a-z]+\*?)\}.{0,2000}?\\end\{(?P=env)\}|\\boxed\s*\{[^{}\n]*\}|\\[A-Za-z]+(?:\s*\{[^{}\n]*\})*|https?://\S+|</?[a-z]+>",
    re.DOTALL,
)
_LATIN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
# Signs of mathematics and units, the same in every language.
_MATHEMATICS = "sin cos tan cot sec csc log ln lg exp mod gcd lcm max min lim det dim deg rad arcsin arccos arctan cm mm km kg ml"
_SIGNS = frozenset(_MATHEMATICS.split())
_NAMES = {"LATIN": "en", "CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CYRILLIC": "ru", "ARABIC": "ar", "GREEK": "el"}
# Written without spaces between words, so that each character counts as one.
_BY_CHARACTER = frozenset({"zh", "ja"})

Language = Literal["en", "zh"]


class LanguageConfig(Config):
    """Language consistency: the share of the thought's words that are in the target language."""

    kind: Literal["language"] = "language"
    weight: float = 0.1
    """Scales this part in the sum."""
    target: Literal["en", "zh", "auto"] = "auto"
    """English, Chinese, or the language of the question."""

    def build(self) -> LanguagePart:
        """The part that these settings describe."""
        return LanguagePart(self.target)


class LanguagePart:
    """Judges in which language one rollout thinks."""

    name = "language"
    verdict = False

    def __init__(self, target: str = "auto"):
        self.target = target

    async def __call__(self, rollout: Rollout) -> Score:
        """The share of target words in the thought, between 0 and 1; a thought without words counts 1."""
        target = language_of(rollout.prompt.question) if self.target == "auto" else self.target
        counts = words(split(rollout.text).thought or "")
        total = sum(counts.values())
        share = counts[target] / total if total else 1.0
        return Score(share, {self.name: share}, "correct", f"{share:.0%} of {total} words in {target}")

    async def close(self) -> None:
        """Nothing to end."""


def words(text: str) -> Counter[str]:
    """How many words of each language a text has, e.g. words("so 答案 is 4") is {"en": 2, "zh": 2}.

    Languages are told apart by script: "en" is everything Latin, "zh" every Chinese character. Single Latin letters are variables.
    """
    counts: Counter[str] = Counter()
    for run in _LATIN.findall(_NO_LANGUAGE.sub(" ", text)):
        for script, part in _by_script(run):
            if script in _BY_CHARACTER:
                counts[script] += len(part)
            elif (len(part) > 1 or script != "en") and part.lower() not in _SIGNS:
                counts[script] += 1
    return counts


def language_of(text: str) -> str:
    """The language that most words of a text are in; English for a text without words."""
    return max(counts, key=counts.__getitem__) if (counts := words(text)) else "en"


def mixing(text: str) -> float:
    """The share of words that are not in the text's main language, e.g. 0.25 for "the answer is 对"; 0 for a text without words."""
    counts = words(text)
    return 1.0 - max(counts.values()) / sum(counts.values()) if counts else 0.0


def _by_script(run: str) -> list[tuple[str, str]]:
    """A run of letters cut where the script changes, e.g. "用sin" into zh "用" and en "sin"."""
    parts: list[tuple[str, str]] = []
    for letter in run:
        script = parts[-1][0] if parts and not letter.isalpha() else _script(letter)  # an apostrophe or hyphen stays with its word
        if parts and parts[-1][0] == script:
            parts[-1] = (script, parts[-1][1] + letter)
        else:
            parts.append((script, letter))
    return parts


def _script(letter: str) -> str:
    first = unicodedata.name(letter, "OTHER").split()[0].split("-")[0]
    return "en" if letter.isascii() else _NAMES.get(first, first.lower())

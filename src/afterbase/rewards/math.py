r"""Whether the final answer of a mathematics response equals the reference.  [Setup: "Extract from box, compare with ground truth"]

Plain numbers are compared exactly and at once. Everything else goes to Math-Verify in a process that may be killed; what Math-Verify is
known to accept wrongly (a number in another base, degrees for a bare number, "6 = 5" for 5) is refused before or after it.
"""

from __future__ import annotations

import importlib.util
import re
from typing import Literal

from pydantic import Field

from afterbase.config import Config
from afterbase.errors import ConfigError
from afterbase.records import Rollout, Score
from afterbase.rewards.extract import Fallback, final_answer, tidy
from afterbase.rewards.number import Number, read, repeats, units_differ, without_unit
from afterbase.rewards.pool import Pool, Verdict

MAX_ANSWER = 1000  # characters; the longest answer of MATH has 160

_BASED = re.compile(r"(-?[0-9A-F.]+)_(?:\{([0-9]+|\\text\{[a-z]+\})\}|([0-9]))")
_DEGREES = re.compile(r"\^\s*\\circ|\\degree\b|\\(?:text|mathrm|mbox)\s*\{\s*deg(?:ree)?s?\.?\s*\}|\bdeg(?:ree)?s?\b")
_DOTS = re.compile(r"\\[lcd]?dots|\.\.\.|…")
_SIDE_BY_SIDE = re.compile(r"(?<![_^0-9.])[0-9][0-9.]*\s+[0-9]")
_FONTS = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' ,-]{2,}|[㐀-鿿]+")
_LETTER = re.compile(r"\(?([A-Z])\)?[.:]?")


class MathConfig(Config):
    """Accuracy of mathematics: 1 when the final answer equals the reference, else 0."""

    kind: Literal["math"] = "math"
    weight: float = 1.0
    """Scales this part in the sum."""
    fallback: Fallback = "none"
    r"""What counts as the answer without \boxed{} and <answer>: nothing, the last number, the last line, or the whole answer."""
    seconds: float = Field(3.0, gt=0)
    """Processor time that one comparison may take before it is a `timeout`."""
    memory_mb: int = Field(1024, ge=512)
    """Address space of one verifier process, in MiB."""
    workers: int = Field(2, ge=1)
    """At most this many verifier processes; none is started before it is needed."""

    def build(self) -> MathPart:
        """The part that these settings describe."""
        if importlib.util.find_spec("math_verify") is None:
            raise ConfigError('a reward of kind "math" needs the package math-verify, which is not installed; run: pip install math-verify')
        return MathPart(Pool(self.workers, self.seconds, self.memory_mb), self.fallback)


class MathPart:
    """Judges one rollout against `prompt.answer`; the verdict of its domain."""

    name = "accuracy"
    verdict = True

    def __init__(self, pool: Pool, fallback: Fallback = "none"):
        self.pool, self.fallback = pool, fallback

    async def __call__(self, rollout: Rollout) -> Score:
        """1.0 for a correct answer, with the outcome that says why not."""
        gold = rollout.prompt.answer
        if not gold or not gold.strip():
            return Score(0.0, {self.name: 0.0}, "error", f"prompt {rollout.prompt.id} has no reference answer")
        answer = final_answer(rollout.text, self.fallback)
        if answer is None:
            return Score(0.0, {self.name: 0.0}, "no_answer", "no final answer found")
        verdict = await self.compare(gold, answer, rollout.prompt.question)
        value = 1.0 if verdict.outcome == "correct" else 0.0
        return Score(value, {self.name: value}, verdict.outcome, f"{_short(answer)} against {_short(gold)}: {verdict.note}")

    async def compare(self, gold: str, answer: str, question: str = "") -> Verdict:
        """Whether two answers to the question are the same."""
        if len(answer) > MAX_ANSWER:
            return Verdict("wrong", f"longer than {MAX_ANSWER} characters")
        gold, answer = tidy(gold), tidy(answer)
        quick = decide(gold, answer, question)
        return quick or await self.pool.check(_bare(gold), _bare(answer))

    async def close(self) -> None:
        """End the verifier processes."""
        await self.pool.close()


def decide(gold: str, answer: str, question: str = "") -> Verdict | None:
    """The verdict on two tidied answers where it needs no computer algebra; None when it does."""
    if not answer:
        return Verdict("wrong", "empty")
    if gold == answer:
        return Verdict("correct", "same text")
    wanted, came = read(gold), read(answer)
    if wanted and came:
        return _numbers(wanted, came, question)
    if gold.replace(" ", "") == answer.replace(" ", "") and not _SIDE_BY_SIDE.search(gold + "|" + answer):
        return Verdict("correct", "same text")
    return _words(gold, answer) or _notation(gold, answer, question)


def _numbers(wanted: Number, came: Number, question: str) -> Verdict | None:
    """Two plain numbers, compared exactly."""
    if units_differ(wanted, came):
        return Verdict("wrong", "another unit")
    asks_percent = bool(re.search(r"percent|%|百分", question, re.IGNORECASE))
    same_shown = wanted.shown == came.shown and wanted.percent != came.percent and asks_percent  # "50" and "50%" of "what percent"
    if wanted.value == came.value or same_shown:
        return Verdict("correct", "equal numbers")
    if repeats(wanted.value) != repeats(came.value) and (wanted.decimal or came.decimal):
        return None  # 1/3 and 0.333333: rounded, which is Math-Verify's to judge
    return Verdict("wrong", "different numbers")


def _words(gold: str, answer: str) -> Verdict | None:
    """A reference in words ("even", "Evelyn") or a choice letter is compared as text: as mathematics "dog" would be the product d o g."""
    plain_gold, plain_answer = (_FONTS.sub(r"\1", text).strip(" .$") for text in (gold, answer))
    letter, chosen = _LETTER.fullmatch(plain_gold), _LETTER.fullmatch(plain_answer)
    if letter and chosen:
        return _same(letter[1] == chosen[1])
    if not _WORDS.fullmatch(plain_gold) or "\\" in plain_gold:
        return None
    if plain_gold.casefold() == plain_answer.casefold():
        return _same(True)
    talks = r"\text" in gold or len(plain_gold) > 3  # "abc" may be a product, "ellipse" is not
    return _same(False) if talks and _WORDS.fullmatch(plain_answer) else None


def _notation(gold: str, answer: str, question: str) -> Verdict | None:
    """Signs that Math-Verify drops although they change the meaning; an answer may not add them to the reference."""
    base, came_base = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if base or came_base:
        return _bases(base, came_base, gold, answer, question)
    if bool(_DEGREES.search(gold)) != bool(_DEGREES.search(answer)) and not re.search(r"degree|\\circ|°|度", question, re.IGNORECASE):
        return Verdict("wrong", "only one is in degrees")
    if _DOTS.search(answer) and not _DOTS.search(gold):
        return Verdict("wrong", "leaves part of the answer to the reader")
    if _SIDE_BY_SIDE.search(answer) and not _SIDE_BY_SIDE.search(gold):
        return Verdict("wrong", "several numbers side by side")
    return None


def _bases(base: re.Match[str] | None, came: re.Match[str] | None, gold: str, answer: str, question: str) -> Verdict | None:
    """Numbers written with their base, such as 52_8: digits and base must agree."""
    if base and came:
        return _same((base[1], _base(base)) == (came[1], _base(came)))
    if base:
        return _same(base[1] == answer and "base" in question.lower())  # the question has named the base, the answer need not
    return _same(came[1] == gold) if _base(came) == "10" else Verdict("wrong", "another base")


def _base(match: re.Match[str]) -> str:
    return match[2] or match[3]


def _bare(text: str) -> str:
    """Without unit and degrees, once `decide` has found that they agree."""
    return without_unit(_DEGREES.sub("", text).strip())


def _same(same: bool) -> Verdict:
    return Verdict("correct", "same text") if same else Verdict("wrong", "different text")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."

r"""Whether the final answer of a mathematics response equals the reference.  [Setup: "Extract from box, compare with ground truth"]

Both are tidied (`math_surface`), read as one of a few kinds (`math_read`: a value, a list, an interval, an equation, words, ...) and
compared by the rule of their kinds (`math_compare`), expressions by exact or 40-digit arithmetic at fixed points. What that cannot
read or is too large for it goes to Math-Verify, expression by expression, in a process that may be killed.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from afterbase.config import Config
from afterbase.errors import ConfigError
from afterbase.records import Rollout, Score
from afterbase.rewards.extract import Fallback, all_boxes, final_answer
from afterbase.rewards.math_choice import Choice, choice, letters, options
from afterbase.rewards.math_compare import Comparison, NeedsAlgebra
from afterbase.rewards.math_kinds import Items, Kind, Value, Words
from afterbase.rewards.math_read import read
from afterbase.rewards.math_surface import tidy
from afterbase.rewards.pool import Pool, Verdict

MAX_ANSWER = 1000  # characters; the longest answer of MATH has 160
MAX_ALGEBRA = 8  # expressions of one answer that processes are asked about

_SIDE_BY_SIDE = re.compile(r"(?<![_^0-9.])[0-9][0-9.]*\s+[0-9]")
_OTHER_LETTER = re.compile(r"\([A-J]\)|(?<![A-Za-z])[A-J]\s*[.):、]|\b(?:or|and)\s+\(?[A-J]\b")
_WORK = re.compile(
    r"(?<=\w)[-+*^!]|(?<=[)}])[-+*^!(]|\\(?:cdot|times|div|sqrt|binom|int|sum|prod|lim|sin|cos|tan|log|ln)|\)\(|\d/\d+[-+*/]"
)
_LISTED = re.compile(r"[1-9]\d*(?:,[1-9]\d*)+")
_ONE_COMMA = re.compile(r"-?\d+,\d+%?")


class MathConfig(Config):
    """Accuracy of mathematics: 1 when the final answer equals the reference, else 0."""

    kind: Literal["math"] = "math"
    weight: float = 1.0
    """Scales this part in the sum."""
    fallback: Fallback = "none"
    r"""What counts as the answer without \boxed{} and <answer>: nothing, the last number, the last line, or the whole answer."""
    rounding: int = Field(4, ge=0, le=30)
    """Significant digits from which a correctly rounded decimal is right for an exact value (0.3333 for 1/3); 0 wants exact values."""
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
        return MathPart(Pool(self.workers, self.seconds, self.memory_mb), self.fallback, self.rounding)


class MathPart:
    """Judges one rollout against `prompt.answer`; the verdict of its domain."""

    name = "accuracy"
    verdict = True

    def __init__(self, pool: Pool, fallback: Fallback = "none", rounding: int = 4):
        self.pool, self.fallback, self.rounding = pool, fallback, rounding

    async def __call__(self, rollout: Rollout) -> Score:
        """1.0 for a correct answer, with the outcome that says why not."""
        gold, question = rollout.prompt.answer, rollout.prompt.question
        if not gold or not gold.strip():
            return Score(0.0, {self.name: 0.0}, "error", f"prompt {rollout.prompt.id} has no reference answer")
        answer = final_answer(rollout.text, self.fallback, question)
        if answer is None:
            return Score(0.0, {self.name: 0.0}, "no_answer", "no final answer found")
        verdict = await self.compare(gold, answer, question)
        if verdict.outcome == "wrong" and (together := _all_parts(gold, answer, rollout.text, question)):
            verdict = await self.compare(gold, together, question)
        value = 1.0 if verdict.outcome == "correct" else 0.0
        return Score(value, {self.name: value}, verdict.outcome, f"{_short(answer)} against {_short(gold)}: {verdict.note}")

    async def compare(self, gold: str, answer: str, question: str = "") -> Verdict:
        """Whether two answers to the question are the same."""
        if len(answer) > MAX_ANSWER:
            return Verdict("wrong", f"longer than {MAX_ANSWER} characters")
        gold, answer = tidy(gold), tidy(answer)
        known: dict[tuple[str, str], bool] = {}
        for _ in range(MAX_ALGEBRA):
            try:
                return decide(gold, answer, question, self.rounding, known)
            except NeedsAlgebra as open_question:
                verdict = await self.pool.check(*open_question.pair)
                if verdict.outcome not in ("correct", "wrong"):
                    return verdict
                known[open_question.pair] = verdict.outcome == "correct"
            except (ArithmeticError, ValueError, LookupError, TypeError, RecursionError) as error:  # the answer's fault: no masked sample
                return Verdict("wrong", f"cannot be compared ({type(error).__name__})")
        return Verdict("timeout", f"more than {MAX_ALGEBRA} expressions that need computer algebra")

    async def close(self) -> None:
        """End the verifier processes."""
        await self.pool.close()


def decide(gold: str, answer: str, question: str = "", rounding: int = 4, known: dict[tuple[str, str], bool] | None = None) -> Verdict:
    """The verdict on two tidied answers; NeedsAlgebra when it depends on an expression that is not in `known`."""
    if not re.search(r"\w|\\[a-zA-Z{]|[∅]|\{\}", answer):
        return Verdict("wrong", "empty")
    if gold == answer:
        return Verdict("correct", "same text")
    comparison = Comparison(question, rounding, known or {})
    if (chosen := _by_letter(gold, answer, question, comparison)) is not None:
        return _verdict(chosen, "choice")
    if gold.replace(" ", "") == answer.replace(" ", "") and not _SIDE_BY_SIDE.search(gold + "|" + answer):
        return Verdict("correct", "same text")
    open_question: NeedsAlgebra | None = None
    for wanted, came in _readings(gold, answer):
        try:
            if comparison.same(wanted, came):
                return Verdict("wrong", "repeats the question") if _restates(gold, answer, question) else Verdict("correct", "equal")
        except NeedsAlgebra as error:
            open_question = error
    if open_question:
        raise open_question
    return Verdict("wrong", "different")


def _restates(gold: str, answer: str, question: str) -> bool:
    """Whether an answer only repeats the expression that was to be worked out: "37 \\cdot 41" to "What is 37 \\cdot 41?"."""
    gold, answer, question = (re.sub(r"\s|\\left|\\right|\\[,;!]", "", text.replace("dfrac", "frac")) for text in (gold, answer, question))
    return len(answer) > 2 and answer in question and gold not in question and bool(_WORK.search(answer)) and not options(question)


def _readings(gold: str, answer: str) -> Iterator[tuple[Kind, Kind]]:
    """How the two can be read together; commas have three meanings, and the other side tells which."""
    wanted, came = read(gold), read(answer)
    yield wanted, came
    if isinstance(wanted, Items) and isinstance(came, Value) and _LISTED.fullmatch(answer):
        yield wanted, read(answer, "list")
    if isinstance(came, Items) and isinstance(wanted, Value):
        if _LISTED.fullmatch(gold):
            yield read(gold, "list"), came
        elif wanted.places and _ONE_COMMA.fullmatch(answer):  # 3,14 for 3.14
            yield wanted, read(answer.replace(",", "."))


def _by_letter(gold: str, answer: str, question: str, comparison: Comparison) -> bool | None:
    """The verdict where one of the two is a choice; None when neither is."""
    offered = options(question)
    wanted, came = choice(gold), choice(answer, bool(offered))
    several = letters(gold, together=bool(offered)), letters(answer, together=True)
    if several[0] and (offered or r"\text" in gold):
        return several[0] == several[1]
    if wanted and came:
        return wanted.letter == came.letter and _no_contradiction(wanted, came, offered, comparison)
    if wanted and several[1] and not wanted.rest and len(several[1]) > 1:
        return False
    if wanted:
        text = wanted.rest or offered.get(wanted.letter, "")
        return comparison.same(read(text), read(answer)) or None if text else None
    if came and came.letter in offered:
        return comparison.same(read(gold), read(offered[came.letter])) and _no_contradiction(came, came, offered, comparison)
    return None


def _no_contradiction(wanted: Choice, came: Choice, offered: dict[str, str], comparison: Comparison) -> bool:
    """Whether what stands behind the letter fits what the letter stands for: words may explain it."""
    text = offered.get(wanted.letter) or wanted.rest
    if not came.rest or came.rest == text:
        return True
    if options(f"({came.letter}) {came.rest}") or _OTHER_LETTER.search(came.rest) or came.rest in offered.values():
        return False
    rest = read(came.rest)
    return not text or isinstance(rest, Words) or comparison.same(read(text), rest)


def _all_parts(gold: str, answer: str, text: str, question: str) -> str | None:
    """All boxes as one answer, when the reference has several parts, the answer one, and there is exactly one box for each part."""
    wanted = read(tidy(gold))
    if not isinstance(wanted, Items) or len(wanted.items) < 2:
        return None
    found = all_boxes(text, question)
    return ", ".join(found) if len(found) == len(wanted.items) and answer == found[-1] and sum(map(len, found)) < MAX_ANSWER else None


def _verdict(same: bool, what: str) -> Verdict:
    return Verdict("correct", f"same {what}") if same else Verdict("wrong", f"different {what}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."

r"""Whether the final answer of a mathematics response equals the reference.  [Setup: "Extract from box, compare with ground truth"]

Both are tidied (`math_surface`), read as one of a few kinds (`math_read`: a value, a list, an interval, an equation, words, ...) and
compared by the rule of their kinds (`math_compare`), expressions by exact or 40-digit arithmetic at fixed points. What that cannot
read or is too large for it goes to Math-Verify, expression by expression. All of it runs in a process that may be killed (`pool`,
`math_worker`), except for what no text can make slow: equal texts and plain numbers.
"""

from __future__ import annotations

import importlib.util
import re
from fractions import Fraction
from typing import Literal

from pydantic import Field

from afterbase.config import Config
from afterbase.errors import ConfigError
from afterbase.records import Rollout, Score
from afterbase.rewards.extract import Fallback, all_boxes, final_answer
from afterbase.rewards.pool import Pool
from afterbase.rewards.verdict import Verdict

MAX_ANSWER = 1000  # characters; the longest answer of MATH has 160
MAX_QUESTION = 20_000  # characters that reach the verifier, from the end, where a question lists its options

_PLAIN_NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?")


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
        verdict = await self.compare(gold, answer, question, all_boxes(rollout.text, question))
        value = 1.0 if verdict.outcome == "correct" else 0.0
        return Score(value, {self.name: value}, verdict.outcome, f"{_short(answer)} against {_short(gold)}: {verdict.note}")

    async def compare(self, gold: str, answer: str, question: str = "", boxes: list[str] | None = None) -> Verdict:
        """Whether two answers to the question are the same; all `boxes` together are the answer where the reference has as many parts."""
        if len(answer) > MAX_ANSWER:
            return Verdict("wrong", f"longer than {MAX_ANSWER} characters")
        together = _together(answer, boxes or [])
        if (verdict := quick(gold, answer)) is not None and (verdict.outcome == "correct" or not together):
            return verdict
        return await self.pool.check(
            gold, answer, question=question[-MAX_QUESTION:], rounding=self.rounding, together=together, parts=len(boxes or [])
        )

    async def close(self) -> None:
        """End the verifier processes."""
        await self.pool.close()


def quick(gold: str, answer: str) -> Verdict | None:
    """The verdict where no reading is needed and no text can make it slow: equal texts, two plain numbers; None anywhere else."""
    gold, answer = gold.strip(), answer.strip()
    if gold == answer and any(sign.isalnum() for sign in gold):
        return Verdict("correct", "same text")
    if _PLAIN_NUMBER.fullmatch(gold) and _PLAIN_NUMBER.fullmatch(answer):
        return Verdict("correct", "equal") if Fraction(gold) == Fraction(answer) else Verdict("wrong", "different")
    return None


def _together(answer: str, boxes: list[str]) -> str:
    """All boxes as one answer, when the answer is only the last of them; "" else."""
    return ", ".join(boxes) if len(boxes) > 1 and answer == boxes[-1] and sum(map(len, boxes)) < MAX_ANSWER else ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."

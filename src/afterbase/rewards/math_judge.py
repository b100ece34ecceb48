r"""The verdict on two answers: tidied, read as kinds, compared; what depends on computer algebra is asked of it, expression by expression.

Runs in the processes of `pool`, never in the caller's: an answer is the model's, and what costs time or memory without end in it must be
killable. Imports nothing heavy, so that such a process is there at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from afterbase.rewards.math_choice import Choice, choice, letters, options
from afterbase.rewards.math_compare import Comparison, NeedsAlgebra
from afterbase.rewards.math_kinds import Items, Kind, Value, Words
from afterbase.rewards.math_phrases import says
from afterbase.rewards.math_prose import number_in_words
from afterbase.rewards.math_read import read
from afterbase.rewards.math_surface import tidy
from afterbase.rewards.verdict import Verdict

MAX_ALGEBRA = 8  # expressions of one answer that computer algebra is asked about

_SIDE_BY_SIDE = re.compile(r"(?<![_^0-9.])[0-9][0-9.]*\s+[0-9]")
_OTHER_LETTER = re.compile(r"\([A-J]\)|(?<![A-Za-z])[A-J]\s*[.):、]|\b(?:or|and)\s+\(?[A-J]\b")
_WORK = re.compile(
    r"(?<=\w)[-+*^!]|(?<=[)}])[-+*^!(]|\\(?:cdot|times|div|sqrt|binom|int|sum|prod|lim|sin|cos|tan|log|ln)|\)\(|\d/\d+[-+*/]"
)
_UNDONE = re.compile(r"\\(?:i*int|oint|sum|prod|lim)(?![a-z])")
_LISTED = re.compile(r"[1-9]\d*(?:,[1-9]\d*)+")
_ONE_COMMA = re.compile(r"-?\d+,\d+%?")

Algebra = Callable[[str, str], Verdict]


def judge(gold: str, answer: str, algebra: Algebra, question: str = "", rounding: int = 4, together: str = "", parts: int = 0) -> Verdict:
    """Whether the answer to the question is the reference, as they were written.

    `together`: all boxes of the response, which are the answer when the last one alone is not and the reference has as many `parts`.
    """
    verdict = _settled(gold, answer, algebra, question, rounding)
    if verdict.outcome == "wrong" and together and _has_parts(gold, parts):
        return _settled(gold, together, algebra, question, rounding)
    return verdict


def _settled(gold: str, answer: str, algebra: Algebra, question: str, rounding: int) -> Verdict:
    """`decide`, with everything that it asks of computer algebra."""
    known: dict[tuple[str, str], bool] = {}
    try:
        gold, answer = tidy(gold), tidy(answer)
        for _ in range(MAX_ALGEBRA):
            try:
                return decide(gold, answer, question, rounding, known)
            except NeedsAlgebra as open_question:
                verdict = algebra(*open_question.pair)
                if verdict.outcome not in ("correct", "wrong"):
                    return verdict
                known[open_question.pair] = verdict.outcome == "correct"
    except (ArithmeticError, ValueError, LookupError, TypeError, RecursionError) as error:  # the answer's fault: no masked sample
        return Verdict("wrong", f"cannot be compared ({type(error).__name__})")
    return Verdict("timeout", f"more than {MAX_ALGEBRA} expressions that need computer algebra")


def _has_parts(gold: str, parts: int) -> bool:
    wanted = read(tidy(gold))
    return isinstance(wanted, Items) and len(wanted.items) == parts


def decide(gold: str, answer: str, question: str = "", rounding: int = 4, known: dict[tuple[str, str], bool] | None = None) -> Verdict:
    """The verdict on two tidied answers; NeedsAlgebra when it depends on an expression that is not in `known`."""
    if gold == answer and gold:
        return Verdict("correct", "same text")
    if not re.search(r"\w|\\[a-zA-Z{]|[∅]|\{\}", answer):
        return Verdict("wrong", "empty")
    comparison = Comparison(question, rounding, known or {})
    if (chosen := _by_letter(gold, answer, question, comparison)) is not None:
        return _verdict(chosen, "choice")
    if gold.replace(" ", "") == answer.replace(" ", "") and not _SIDE_BY_SIDE.search(gold + "|" + answer):
        return Verdict("correct", "same text")
    open_question: NeedsAlgebra | None = None
    for wanted, came in _readings(gold, answer, question):
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
    gold, answer, question = (
        re.sub(r"[\s{}]|\\left|\\right|\\[,;!]", "", text.replace("dfrac", "frac")) for text in (gold, answer, question)
    )
    if len(answer) <= 2 or answer not in question or options(question):
        return False
    # An integral or a sum stays to be worked out even where the question has the reference's "1" somewhere.
    return (bool(_UNDONE.search(answer)) and not _UNDONE.search(gold)) or (gold not in question and bool(_WORK.search(answer)))


def _readings(gold: str, answer: str, question: str) -> Iterator[tuple[Kind, Kind]]:
    """How the two can be read together; commas have three meanings, and the other side tells which."""
    wanted, came = read(gold), read(answer)
    yield wanted, came
    if isinstance(wanted, Items) and isinstance(came, Value) and _LISTED.fullmatch(answer):
        yield wanted, read(answer, "list")
    if isinstance(wanted, Value) and not isinstance(came, Value) and (number := number_in_words(answer)):
        yield wanted, read(number)
    if isinstance(wanted, Words) and says(answer, wanted.text, question):
        yield wanted, wanted
    if isinstance(came, Items) and isinstance(wanted, Value):
        if _LISTED.fullmatch(gold) and came.how not in ("tuple", "interval"):
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


def _verdict(same: bool, what: str) -> Verdict:
    return Verdict("correct", f"same {what}") if same else Verdict("wrong", f"different {what}")

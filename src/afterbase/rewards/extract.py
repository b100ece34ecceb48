r"""The final answer of a response: what stands in the last box, between <answer> tags, or where a fallback finds it."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Literal

from afterbase.rewards.math_surface import tidy
from afterbase.text.think import boxes, split

__all__ = ["Fallback", "all_boxes", "final_answer", "tidy"]

Fallback = Literal["none", "last_number", "last_line", "whole"]

MAX_JOINED = 12  # boxes side by side that make one answer
QUOTE = 24  # characters before a box that must be the prompt's own for it to be a quotation

_NUMBER = re.compile(r"(?<![\w.])[-−]?[$]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:/\d+)?%?")
_LEAD = re.compile(r"^(?:#+\s*|\**(?:the\s+)?(?:final\s+)?answer\s*(?:is\b|:)[\s:*]*|答案(?:是|为|：|:)\s*)", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"""(?:\\text\s*\{)?\W*(?:(?:the\s+|your\s+|my\s+|final\s+|correct\s+|numerical\s+)*(?:answer|result|solution|response|number)s?(?:\s+here)?
    |\.{2,}|\\[lcd]?dots|…|_+|\?+|xxx+|placeholder|insert\s.*|(?:你的|最终|最后的?|正确)*(?:答案|结果))?\W*\}?""",
    re.IGNORECASE | re.VERBOSE,
)
_SIGN = re.compile(r"[∅∞<>=≤≥]|\\\{\s*\\\}|\{\s*\}")  # an answer without a letter: the empty set, which of two is larger
_LABEL = re.compile(r"(?<![A-Za-z\\])([A-Za-z](?:_\{?\d\}?)?)\s*(?:=|\\approx)[\s$]*\Z")
_NOISE = re.compile(r"\\(?:text|q?quad)(?![A-Za-z])|\\[,;()\[\]\s]|[\s$,;、，；{}*]|\\(?:boxed|fbox)\s*\{\Z")
_CONNECTORS = frozenset({"and", "or", "&", "和", "与", "或", "及"})


def final_answer(text: str, fallback: Fallback = "none", question: str = "") -> str | None:
    r"""What a completion claims, e.g. final_answer(r"<think>6?</think>It is \boxed{5}.") is "5"; None when it claims nothing.

    The thought never counts. A box wins over <answer> tags, which win over the fallback; a fallback makes extraction more forgiving
    and the reward easier to earn without the asked-for form, so the default is none. The last box counts, together with those that
    stand directly beside it ("\boxed{1} and \boxed{2}" claims both). A box that only repeats the instruction is none.
    """
    response = split(text)
    found = _meant(response.answer, question)
    if found:
        return _joined(response.answer, found)
    if boxes(response.answer) and not response.tagged:
        return None if fallback == "none" else _fall_back(_without_boxes(response.answer), fallback)
    claim = response.answer if response.tagged else _fall_back(response.answer, fallback)
    return claim.strip() or None if claim and not _is_placeholder(claim) else None


def all_boxes(text: str, question: str = "") -> list[str]:
    """What each box of the answer holds, repetitions left out, in order."""
    answer = split(text).answer
    return list(dict.fromkeys(answer[begin:end].strip() for begin, end in _meant(answer, question)))


def _meant(answer: str, question: str) -> list[tuple[int, int]]:
    """The boxes that claim something: neither empty nor a repetition of the instruction, with the words of the prompt before them."""
    return [
        (begin, end) for begin, end in boxes(answer) if not _is_placeholder(answer[begin:end]) and not _quoted(answer, begin, end, question)
    ]


def _is_placeholder(claim: str) -> bool:
    return len(claim) < 80 and bool(_PLACEHOLDER.fullmatch(claim.strip())) and not _SIGN.fullmatch(claim.strip())


def _quoted(answer: str, begin: int, end: int, question: str) -> bool:
    if "\\boxed" not in question:
        return False
    before = answer.rfind("\\", 0, begin)
    return before >= QUOTE and answer[before - QUOTE : end + 1] in question


def _joined(answer: str, found: list[tuple[int, int]]) -> str:
    """The last box and its direct neighbours, with the names before them."""
    first = len(found) - 1
    while first > 0 and len(found) - first < MAX_JOINED and _beside(answer, found[first - 1][1], found[first][0]):
        first -= 1
    if first == len(found) - 1:
        return answer[found[-1][0] : found[-1][1]].strip()
    run = found[first:]
    between = [_gap(answer, end, begin) for (_, end), (begin, _) in pairwise(run)]
    before = _gap(answer, max(0, run[0][0] - 60), run[0][0])
    labels = [match[1] + "=" if (match := _LABEL.search(gap)) else "" for gap in (before, *between)]
    word = " or " if any(re.search(r"\bor\b|或", gap) for gap in between) else ", "
    claims = [answer[begin:end].strip() for begin, end in run]
    return word.join(label + claim for label, claim in zip(labels, claims, strict=True)) if any(labels[1:]) else word.join(claims)


def _beside(answer: str, end: int, begin: int) -> bool:
    """Whether between two boxes stands nothing but a comma, "and", "or", or the name of what the second holds."""
    if begin - end >= 60:
        return False
    gap = _gap(answer, end, begin)
    return "\n\n" not in gap and set(_NOISE.sub(" ", _LABEL.sub("", gap)).split()) <= _CONNECTORS


def _gap(answer: str, end: int, begin: int) -> str:
    r"""What stands behind the brace at `end` and before the \boxed{ whose content begins at `begin`."""
    return re.sub(r"\\(?:boxed|fbox)\s*\{\Z", "", answer[end + 1 : begin])


def _without_boxes(answer: str) -> str:
    pieces, here = [], 0
    for begin, end in boxes(answer):
        pieces.append(answer[here : answer.rfind("\\", 0, begin)])
        here = end + 1
    return "".join([*pieces, answer[here:]])


def _fall_back(answer: str, fallback: Fallback) -> str | None:
    if fallback == "last_number":
        numbers = _NUMBER.findall(answer)
        return numbers[-1] if numbers else None
    if fallback == "last_line":
        lines = [line.strip() for line in answer.splitlines() if line.strip()]
        return _LEAD.sub("", lines[-1]) if lines else None
    return answer if fallback == "whole" else None

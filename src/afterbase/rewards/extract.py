r"""The final answer of a response: what stands in the last box, between <answer> tags, or where a fallback finds it."""

from __future__ import annotations

import re
from typing import Literal

from afterbase.text.think import boxed, split

Fallback = Literal["none", "last_number", "last_line", "whole"]

_NUMBER = re.compile(r"(?<![\w.])[-−]?[$]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:/\d+)?%?")
_LEAD = re.compile(r"^(?:#+\s*|\**(?:the\s+)?(?:final\s+)?answer\s*(?:is\b|:)[\s:*]*|答案(?:是|为|：|:)\s*)", re.IGNORECASE)

_SPACES = re.compile(r"\\q?quad\b|(?<!\\)\\[,;: ]|~|\s+")  # not the break of a matrix row, \\ before a space
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
_FULL_STOP = re.compile(r"\s*(?<!\.)[.,。]?\s*\Z")  # one: three dots leave something out
_BARE_FRACTION = re.compile(r"\\frac\s*([0-9])\s*([0-9])")
_WRITTEN_TWICE = str.maketrans("０１２３４５６７８９－−–＋＝，．（）％：", "0123456789---+=,.()%:")
_ALIASES = ((r"\dfrac", r"\frac"), (r"\tfrac", r"\frac"), (r"\cfrac", r"\frac"), (r"\left", ""), (r"\right", ""), (r"\!", ""))
_ESCAPES = ((r"\%", "%"), (r"\$", "$"), ("{,}", ","), ("°", r"^\circ"), (r"^{\circ}", r"^\circ"))


def final_answer(text: str, fallback: Fallback = "none") -> str | None:
    r"""What a completion claims, e.g. final_answer(r"<think>6?</think>It is \boxed{5}.") is "5"; None when it claims nothing.

    The thought never counts. A box wins over <answer> tags, which win over the fallback; a fallback makes extraction more forgiving
    and the reward easier to earn without the asked-for form, so the default is none.
    """
    response = split(text)
    claim = boxed(response.answer)
    if claim is None:
        claim = response.answer if response.tagged else _fall_back(response.answer, fallback)
    return claim.strip() or None if claim else None


def tidy(answer: str) -> str:
    r"""The same answer without decoration that changes no meaning, e.g. tidy(r"$\dfrac12$.") is r"\frac{1}{2}"."""
    answer = answer.translate(_WRITTEN_TWICE).strip()
    answer = re.sub(r"\\(?:boxed|fbox)\s*\{", "{", answer)
    answer = _unwrapped(answer)
    for before, after in _ALIASES:
        answer = re.sub(re.escape(before) + r"(?![A-Za-z])", lambda _, after=after: after, answer)  # \left is not the start of \leftarrow
    for before, after in _ESCAPES:
        answer = answer.replace(before, after)
    answer = _SPACES.sub(" ", answer)
    return _BARE_FRACTION.sub(r"\\frac{\1}{\2}", answer).strip()


def _fall_back(answer: str, fallback: Fallback) -> str | None:
    if fallback == "last_number":
        numbers = _NUMBER.findall(answer)
        return numbers[-1] if numbers else None
    if fallback == "last_line":
        lines = [line.strip() for line in answer.splitlines() if line.strip()]
        return _LEAD.sub("", lines[-1]) if lines else None
    return answer if fallback == "whole" else None


def _unwrapped(answer: str) -> str:
    """Without sentence punctuation at the end and without the mathematics or bold marks around all of it."""
    for _ in range(4):  # four layers of wrapping are more than anybody writes
        before = answer
        answer = _FULL_STOP.sub("", answer)
        for left, right in _WRAPPERS:
            inner = answer[len(left) : -len(right)]
            if len(answer) > len(left + right) and answer.startswith(left) and answer.endswith(right) and left not in inner:
                answer = inner.strip()
        if answer == before:
            break
    return answer

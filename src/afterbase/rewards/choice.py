"""Which option of a multiple choice an answer takes: by its letter ("(B)", "the answer is B", "选B") or by the option's own text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any

from afterbase.records import Prompt

MAX_LENGTH = 20_000  # characters of an answer that are read, from its end: where a choice is stated

_LABELS = "ABCDEFGHIJ"
_FONTS = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s?\{([^{}]*)\}")
_MARK = re.compile(r"(?:^|(?<=[\s？。：]))(?:[(（\[]([A-J])[)）\]]|([A-J])[.):：、．]) ?", re.MULTILINE)
_LEADING = re.compile(r"[(\[（]([A-J])[)\]）](?:\s|$)|([A-J])[.):：、．](?:\s|$)|([A-J])(?:选项|项)")
_WORD = re.compile(r"[A-Za-z]+|[^\sA-Za-z]")
_FILLER_WORDS = "and both either options option choices choice answers answer the is are final correct"
_FILLERS = frozenset(_FILLER_WORDS.split())
_JOINTS = frozenset(",、;&()[]（）.:：。和与及项选是答案为")
_OR = re.compile(r"\bor\b|/|\||或|\beither\b", re.IGNORECASE)
_NEXT = r"(?:\s?(?:,|、|;|&|/|\||\bor\b|\band\b|或者?|和|与|及)\s?(?:\bor\b|\band\b)?\s?[(\[（]?[A-J](?![A-Za-z])[)\]）]?){0,9}"
_PICK = rf"[*(\[（]{{0,3}}([A-J])(?![A-Za-z'])[)\]）]?(?P<more>{_NEXT})"
# "A" before a small word is an article, unless that word goes on with the statement ("A because", "A is").
_ARTICLE = re.compile(r" (?!(?:because|since|as|is|and|or|for|with|but|which|due|by|are|here)\b)[a-z]")
_DENIED = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot)\b|n['’]t\b|[不非别勿没未])[\s*(]*(?:(?:think|believe)\s(?:that\s)?)?(?:(?:the|an?|be)\s)?\Z",
    re.IGNORECASE,
)
_ENCLOSED = re.compile(r"\*\*|\$\s*(?=\(?[A-J]\)?\s*\$)|(?<=[A-J])\s*\$|(?<=[A-J]\))\s*\$")
_WIDTHS = str.maketrans({chr(0xFEE0 + code): chr(code) for code in map(ord, _LABELS + _LABELS.lower())} | {"【": " ", "】": " "})
_SMALL = re.compile(r"[(\[（]?([a-j])[)\]）]?\.?")
_STATED = re.compile(
    r"(?i:answers?|(?:correct|right|best) (?:option|choice))(?i:\s?(?:is|are|must be|should be|:|：|=)){1,2}\s?(?i:option |choice )?"
    + _PICK
)
_CHINESE = re.compile(rf"(?:答案|正确选项|故选|应选|因此选|所以选|选择|选)(?:\s?(?:应该?|是|为|：|:)){{0,3}}\s?(?:选项)?{_PICK}")
_MENTIONED = re.compile(rf"(?i:\b(?:option|choice|choose|pick|select|it's|it is|therefore|thus|hence),?)\s?{_PICK}")


def options(prompt: Prompt) -> dict[str, str]:
    """The options of a prompt by letter: from the columns `choices` or `options`, else as the question lists them; {} when it does not.

    A column may be a list of texts, a table of letters to texts, or a table of the lists "label" and "text".
    """
    column = prompt.extra.get("choices") or prompt.extra.get("options")
    if isinstance(column, dict) and isinstance(column.get("text"), list):
        labels = column.get("label") or list(_LABELS)
        return {str(label): str(text) for label, text in zip(labels, column["text"], strict=False)}
    if isinstance(column, dict):
        return {str(label): str(text) for label, text in column.items()}
    if isinstance(column, list | tuple):
        return {label: _without_label(label, str(text)) for label, text in zip(_LABELS, column, strict=False)}
    return listed(prompt.question)


def listed(question: str) -> dict[str, str]:
    """The options that a text lists, e.g. listed("Which? (A) red (B) blue") is {"A": "red", "B": "blue"}."""
    found: dict[str, str] = {}
    marks = list(_MARK.finditer(question))
    for mark, following in zip_longest(marks, marks[1:]):
        label = mark[1] or mark[2]
        if label == "A":
            found = {}  # an earlier A belonged to the text of the question
        if label == _LABELS[len(found) : len(found) + 1]:
            rest = question[mark.end() : following.start() if following else len(question)]
            found[label] = rest.split("\n\n")[0].strip(" \n;,；，")
    return found if len(found) > 1 else {}


def chosen(text: str, among: dict[str, str] | None = None, same: Callable[[str], Any] = str.casefold) -> str:
    """The letters that an answer chooses, sorted: "B", "AC" for both, "A|B" for one or the other, "" when it chooses none.

    `among`: the options; an answer that is the text of exactly one of them, compared by `same`, chooses it.
    """
    text = text[-MAX_LENGTH:]
    lines = [_plain(line) for line in text.splitlines() if line.strip()]
    whole = " ".join(lines)
    texts = {label: same(option) for label, option in (among or {}).items()}
    for reading in _readings(whole, lines, texts, same):
        if reading:
            return reading
    return ""


def _readings(whole: str, lines: list[str], texts: dict[str, Any], same: Callable[[str], Any]) -> Iterator[str]:
    """What the answer may say, the surest reading first."""
    yield _by_text(whole, texts, same)
    yield _letters(whole)
    yield _stated(whole, _STATED, _CHINESE)
    yield _labelled(lines, texts, same)
    yield _letters(lines[-1]) if lines else ""
    yield _by_text(re.sub(r"^.{0,40}?(?i:answer)\s?(?i:is|:)\s?", "", lines[-1]), texts, same) if lines else ""
    yield _stated(whole, _MENTIONED)


def _letters(text: str) -> str:
    """The letters of an answer that is nothing but letters, e.g. "A, C" or "(A) and (C)"."""
    if small := _SMALL.fullmatch(text):
        return small[1].upper()
    words = _WORD.findall(text) if len(text) <= 200 else []
    labels = [word for word in words if set(word) <= set(_LABELS)]
    known = _FILLERS | _JOINTS | set(labels) | {"or", "/", "|", "或", "者"}
    if not labels or any(word not in known and word.lower() not in known for word in words):
        return ""
    return _joined("".join(labels), text)


def _stated(text: str, *patterns: re.Pattern[str]) -> str:
    """The letters of the last statement: who corrects himself means what he says last."""
    found = [
        match for pattern in patterns for match in pattern.finditer(text) if not _is_article(match, text) and not _is_denied(match, text)
    ]
    last = max(found, key=re.Match.start, default=None)
    return _joined(last[1] + "".join(re.findall("[A-J]", last["more"])), last["more"]) if last else ""


def _is_article(match: re.Match[str], text: str) -> bool:
    return match[1] == "A" and bool(_ARTICLE.match(text, match.end(1)))


def _is_denied(match: re.Match[str], text: str) -> bool:
    """Whether a denial stands directly before a statement: "不选C", "not option C"."""
    return bool(_DENIED.search(text, max(0, match.start() - 24), match.start()))


def _labelled(lines: list[str], texts: dict[str, Any], same: Callable[[str], Any]) -> str:
    """The letter that an answer begins with, or those of all its lines; followed by the text of another option it is either."""
    marks = [match for line in lines if (match := _LEADING.match(line))]
    labels = sorted({str(match[match.lastindex or 0]) for match in marks})
    if len(labels) != 1 or not _LEADING.match(lines[0]):
        return "".join(labels) if len(labels) == len(lines) else ""
    label = labels[0]
    other = _by_text(" ".join(lines)[marks[0].end() :], texts, same)
    return f"{label}|{other}" if other and other != label else label


def _by_text(text: str, texts: dict[str, Any], same: Callable[[str], Any]) -> str:
    """The option whose text this is; several of them with "or" between are a hedge."""
    if not texts or len(text) > 20 + 3 * sum(len(str(option)) for option in texts.values()):
        return ""

    def label_of(piece: str) -> str:
        found = [label for label, option in texts.items() if option and option == same(piece)]
        return found[0] if len(found) == 1 else ""

    pieces = [label_of(piece) for piece in _OR.split(text) if piece.strip()]
    return label_of(text) or ("|".join(sorted(set(pieces))) if len(pieces) > 1 and all(pieces) else "")


def _joined(letters: str, between: str) -> str:
    """Letters in order; "|" between them where one of them is meant and it is not said which."""
    different = sorted(set(letters))
    return ("|" if _OR.search(between) else "").join(different)


def _plain(text: str) -> str:
    return " ".join(_ENCLOSED.sub("", _FONTS.sub(r"\1", text.translate(_WIDTHS))).split()).strip("*$` ")


def _without_label(label: str, text: str) -> str:
    return re.sub(rf"^\s*(?:[(（\[]{label}[)）\]]|{label}[.):：、．])\s*", "", text)

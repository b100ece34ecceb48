"""Whether the answer is the reference, compared as text: exact, normalized, by choice letter, by shared words (F1) or as a list."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from afterbase.config import Config
from afterbase.records import Prompt, Rollout, Score
from afterbase.rewards import choice as choices
from afterbase.rewards.extract import Fallback, final_answer

MAX_LENGTH = 20_000  # characters; what is longer is no answer that is compared word by word

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_FONTS = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s?\{([^{}]*)\}")
_WRAPPERS = (("**", "**"), ("*", "*"), ("`", "`"), ("$", "$"), ('"', '"'), ("'", "'"), ("“", "”"))
_END = " \n,;:?!.。，；：？！"
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|(?:[^\W_\u3040-\u30ff\u3400-\u9fff]|(?<=\d)[.,](?=\d))+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_HEDGES = frozenset(["or", "either", "maybe", "perhaps", "或", "/"])
_DENIALS = frozenset(["not", "no", "never", "neither", "nor", "isnt", "cannot", "不", "非", "没", "无", "未"])
_BULLET = re.compile(r"^\s*(?:[-*•·]|\(?\d{1,3}[.)、](?!\d))\s*")
_SEPARATORS = (r"[\n;；]", r"[\n;；、]|,(?!\d{3}(?!\d))|，", r"[\n;；、,，]", r"[\n;；、,，&]|\band\b|和|与|及")
_BRACKETS = {"{": "}", "[": "]", "(": ")", r"\{": r"\}"}

Mode = Literal["exact", "normalized", "choice", "f1", "list"]


class MatchConfig(Config):
    """Accuracy by text: 1 when the answer is the reference or one of several, else 0 (or the share of common words)."""

    kind: Literal["match"] = "match"
    weight: float = 1.0
    """Scales this part in the sum."""
    mode: Mode = "normalized"
    """Letter for letter; without case, articles, white space and closing punctuation; the option of a multiple choice, by letter or text;
    the F1 of the words (of the characters in Chinese); or all items of a list and no other, in any order."""
    threshold: float = Field(0.8, gt=0, le=1)
    """The F1 from which an answer is called correct; the value is the F1 itself."""
    fallback: Fallback = "whole"
    r"""What counts as the answer without \boxed{} and <answer>."""

    def build(self) -> MatchPart:
        """The part that these settings describe."""
        return MatchPart(self.mode, self.fallback, self.threshold)


class MatchPart:
    """Judges one rollout against `prompt.answer` and `prompt.extra["answers"]`; the verdict of its domain."""

    name = "accuracy"
    verdict = True

    def __init__(self, mode: Mode = "normalized", fallback: Fallback = "whole", threshold: float = 0.8):
        self.mode, self.fallback, self.threshold = mode, fallback, threshold

    async def __call__(self, rollout: Rollout) -> Score:
        """How well the answer matches the reference that it matches best."""
        read = self.reader(rollout.prompt)
        golds = [gold for reference in references(rollout.prompt, self.mode == "list") if (gold := read(reference))]
        if not golds:
            return Score(0.0, {self.name: 0.0}, "error", f"prompt {rollout.prompt.id} has no reference answer that can be matched")
        answer = read(final_answer(rollout.text, self.fallback, rollout.prompt.question) or "")
        if not answer:
            return Score(0.0, {self.name: 0.0}, "no_answer", "no final answer found")
        best = max(golds, key=lambda gold: self.value(answer, gold))
        value = self.value(answer, best)
        right = value >= self.threshold and not evades(answer, best) if self.mode == "f1" else value == 1.0
        note = f"{answer[:80]!r} against {best[:80]!r}" + (f", F1 {value:.2f}" if self.mode == "f1" else "")
        return Score(value, {self.name: value}, "correct" if right else "wrong", note)

    def reader(self, prompt: Prompt) -> Callable[[str], str]:
        """What brings answers to this prompt into the form that is compared; "" when there is nothing to compare."""
        if self.mode == "choice":
            among = choices.options(prompt)
            return lambda text: choices.chosen(text, among, normalized)
        return {"exact": str.strip, "normalized": normalized, "f1": str.strip, "list": str.strip}[self.mode]

    def value(self, answer: str, gold: str) -> float:
        """How well one answer matches one reference, both read: 1 or 0, or the F1."""
        if self.mode == "f1":
            return f1(answer, gold)
        return float(same_items(answer, gold) if self.mode == "list" else answer == gold)

    def gold(self, prompt: Prompt) -> list[str]:
        """Each reference in a box and in answer tags, all of which it must accept; an empty answer, which it refuses, without any."""
        accepted = references(prompt, self.mode == "list") or [""]
        return [f"<think>As given.</think>{form}" for text in accepted for form in (f"\\boxed{{{text}}}", f"<answer>{text}</answer>")]

    async def close(self) -> None:
        """Nothing to end."""


def references(prompt: Prompt, lists: bool = False) -> list[str]:
    """The accepted answers of a prompt: its answer, the members of an answer that is a JSON list of texts, and the column `answers`.

    With `lists` a JSON list is one reference, the items of which are all asked for; several lists are several references.
    """
    found = [prompt.answer] if prompt.answer else []
    column = prompt.extra.get("answers")
    own = _json_list(prompt.answer or "")
    own = own if lists or all(isinstance(member, str) for member in own) else []  # [1, 2] is an answer in itself, not two of them
    for value in (own, column if isinstance(column, list | tuple) else [column]):
        members = [member for member in value if member not in (None, "")]
        nested = any(isinstance(member, list | tuple) for member in members)
        if lists and members and not nested:
            found.append(json.dumps([str(member) for member in members], ensure_ascii=False))
        else:
            found += [json.dumps(member, ensure_ascii=False) if isinstance(member, list | tuple) else str(member) for member in members]
    return list(dict.fromkeys(found))


def normalized(text: str) -> str:
    """Case, articles, white space and surrounding punctuation taken away, e.g. normalized(" The Eiffel  Tower. ") is "eiffel tower"."""
    if len(text) > MAX_LENGTH:
        return text
    bare = _unwrapped(" ".join(_folded(_FONTS.sub(r"\1", text)).split()))
    return _without_end(" ".join(_ARTICLES.sub(" ", bare).split())) or bare  # "A" alone is an answer, not an article


def f1(answer: str, gold: str) -> float:
    """The harmonic mean of precision and recall of words, e.g. 0.8 for "Barack Hussein Obama" and "Barack Obama"; characters in Chinese."""
    ours, theirs = _tokens(answer), _tokens(gold)
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total()) if common else 0.0


def evades(answer: str, gold: str) -> bool:
    """Whether an answer leaves open what it means ("A or B") or denies it ("not A") where the reference does not."""
    ours, theirs = (set(_TOKEN.findall(_folded(text[:MAX_LENGTH]).replace("'", ""))) | ({"/"} & set(text)) for text in (answer, gold))
    return any(bool(ours & words) and not theirs & words for words in (_HEDGES, _DENIALS))


def same_items(answer: str, gold: str) -> bool:
    """Whether two lists have the same items in any order, e.g. "b and a" and '["a", "b"]'.

    An answer may be read at any of several separators, since items may hold a comma or "and" themselves; whichever reading has all
    items and no other is what was asked for. An item may be repeated unless the reference repeats one too.
    """
    wanted = Counter(_json_items(gold) or max(_item_readings(gold), key=Counter.total, default=Counter()))
    came = _json_items(answer)
    readings = [came] if came else _item_readings(answer)
    if all(count == 1 for count in wanted.values()):
        return any(set(reading) == set(wanted) for reading in readings)
    return wanted in readings


def _item_readings(text: str) -> list[Counter[str]]:
    """The items of a written list at each separator, the coarsest first."""
    text = text.strip()[:MAX_LENGTH]
    for opening, closing in _BRACKETS.items():
        if text.startswith(opening) and text.endswith(closing) and opening not in text[1:]:
            text = text[len(opening) : -len(closing)]
    readings = []
    for separator in _SEPARATORS:
        items: Counter[str] = Counter()
        for item, times in Counter(re.split(separator, text)).items():
            items[normalized(_BULLET.sub("", item))] += times
        del items[""]
        readings.append(items)
    return readings


def _json_items(text: str) -> Counter[str]:
    return Counter(normalized(str(item)) for item in _json_list(text))


def _json_list(text: str) -> list[object]:
    """The members of a JSON list; [] for anything else."""
    if not text.lstrip().startswith("[") or len(text) > MAX_LENGTH:
        return []
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return value if isinstance(value, list) else []


def _tokens(text: str) -> Counter[str]:
    words = _TOKEN.findall(_THOUSANDS.sub("", _folded(text[:MAX_LENGTH])).replace("'", "").replace("’", ""))
    return Counter([word for word in words if not _ARTICLES.fullmatch(word)] or words)


def _folded(text: str) -> str:
    """Without case, width and invisible characters; piece by piece, since Unicode's normalization is quadratic on hostile text."""
    pieces = (unicodedata.normalize("NFKC", text[start : start + 256]) for start in range(0, len(text), 256))
    return "".join(letter for letter in "".join(pieces).casefold() if letter.isascii() or unicodedata.category(letter) != "Cf")


def _unwrapped(text: str) -> str:
    """Without closing punctuation and the quotes, stars or dollars around all of it."""
    for _ in range(3):  # three layers of wrapping are more than anybody writes
        text = _without_end(text)
        for left, right in _WRAPPERS:
            inner = text[len(left) : -len(right)]
            if len(text) > len(left + right) and text.startswith(left) and text.endswith(right) and left not in inner:
                text = inner.strip()
    return text


def _without_end(text: str) -> str:
    """Without closing punctuation, but 5! is no five."""
    bare = text.rstrip(_END)
    return bare + "!" if bare[-1:].isdecimal() and text[len(bare) : len(bare) + 1] in ("!", "！") else bare

"""The 25 verifiable instructions of IFEval (Zhou et al. 2023): for each its arguments and what counts as following it.

Written from the behaviour of the official checks, so that a benchmark counted here is comparable, with their known oddities: a keyword is
found inside a longer word, a postscript anywhere, and a line of dashes is a bullet. Keywords are text and never patterns. Every rule takes
time in proportion to the response.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from afterbase.errors import DataError
from afterbase.rewards.instructions_count import count_capital_words, count_sentences, count_words
from afterbase.rewards.language import Language, language_of

RELATIONS = ("at least", "less than")
LANGUAGES = get_args(Language)
"""The languages that a response may be asked for."""

_CHOICES = {"language": LANGUAGES, "relation": RELATIONS, "let_relation": RELATIONS, "capital_relation": RELATIONS}
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_POSTSCRIPTS = {"P.P.S": re.compile(r"p\.\s?p\.\s?s"), "P.S.": re.compile(r"p\.\s?s\.")}
_FENCE = re.compile(r"\A```(?:json|Json|JSON)?|```\Z")
_HIGHLIGHT = re.compile(r"\*([^\n*]*)\*")
_STRONG = re.compile(r"\*\*([^\n*]*)\*\*")


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of instruction, e.g. Rule(lambda text: "," not in text)."""

    follows: Callable[..., bool]
    """Whether a response follows it, given the response and the arguments by name."""
    arguments: Mapping[str, type] | None = None
    """Name and type of each argument; none may be missing."""


def read_arguments(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an instruction, checked; those that are None are left out, as tables write them.  Raises DataError in words."""
    if kind not in RULES:
        raise DataError(f"{kind!r} is none of the {len(RULES)} kinds of instructions ({', '.join(sorted(RULES))})")
    wanted = RULES[kind].arguments or {}
    values = {name: value for name, value in given.items() if value is not None}
    if values.keys() != wanted.keys():
        raise DataError(f"{kind} takes the arguments {sorted(wanted)}, the row gives {sorted(values)}")
    return {name: _argument(kind, name, value, wanted[name]) for name, value in values.items()}


def _argument(kind: str, name: str, value: Any, wanted: type) -> Any:
    if wanted is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # tables that know one type of number
    if not isinstance(value, wanted) or isinstance(value, bool) or not _fits(name, value):
        raise DataError(f"{kind} got {name}={value!r}, which it cannot use; give {_what(name, wanted)}")
    return value


def _fits(name: str, value: Any) -> bool:
    if isinstance(value, int):
        return value >= 0
    if isinstance(value, list):
        return bool(value) and all(isinstance(member, str) and member.strip() for member in value)
    if name in _CHOICES:
        return value in _CHOICES[name]
    return len(value.strip()) == 1 if name == "letter" else bool(value.strip())


def _what(name: str, wanted: type) -> str:
    if name in _CHOICES:
        return f"one of {', '.join(_CHOICES[name])}"
    return (
        "one letter"
        if name == "letter"
        else {int: "a whole number from 0", str: "a text that is not empty", list: "a list of texts"}[wanted]
    )


def _compare(count: int, relation: str, threshold: int) -> bool:
    return count >= threshold if relation == "at least" else count < threshold


# ---- keywords


def _existence(text: str, keywords: list[str]) -> bool:
    low = text.lower()
    return all(keyword.lower() in low for keyword in keywords)


def _frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _compare(text.lower().count(keyword.strip().lower()), relation, frequency)


def _forbidden(text: str, forbidden_words: list[str]) -> bool:
    return not any(_has_word(text.lower(), word.lower()) for word in forbidden_words)


def _has_word(text: str, word: str) -> bool:
    r"""Whether a word stands in a text with a border of words on both sides: what \b means around it."""
    return re.search(rf"\b{re.escape(word)}\b", text) is not None


def _letter(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


# ---- language and case


def _language(text: str, language: str) -> bool:
    return language_of(text) == language or not any(letter.isalpha() for letter in text)  # figures are in every language


def _upper(text: str) -> bool:
    return text.isupper() and language_of(text) == "en"


def _lower(text: str) -> bool:
    return text.islower() and language_of(text) == "en"


def _capitals(text: str, capital_frequency: int, capital_relation: str) -> bool:
    return _compare(count_capital_words(text), capital_relation, capital_frequency)


# ---- length


def _sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _compare(count_sentences(text), relation, num_sentences)


def _words(text: str, num_words: int, relation: str) -> bool:
    return _compare(count_words(text), relation, num_words)


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    return _filled(text.split("***")) == num_paragraphs


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = text.split("\n\n")
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if count != num_paragraphs or not 1 <= nth_paragraph <= count or not paragraphs[nth_paragraph - 1].strip():
        return False
    word = paragraphs[nth_paragraph - 1].split(maxsplit=1)[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word, maxsplit=1)[0].lower() == first_word.lower()


def _filled(parts: list[str]) -> int | None:
    """How many parts hold something; an empty one is allowed at either end and nowhere else."""
    if any(not part.strip() for part in parts[1:-1]):
        return None
    return sum(bool(part.strip()) for part in parts)


# ---- content and format


def _placeholders(text: str, num_placeholders: int) -> bool:
    return sum(_brackets(line) for line in text.split("\n")) >= num_placeholders


def _brackets(line: str) -> int:
    """Pairs of square brackets on a line, each from the first opening one to the next closing one."""
    count = 0
    opening = line.find("[")
    while opening >= 0 and (closing := line.find("]", opening + 1)) >= 0:
        count += 1
        opening = line.find("[", closing + 1)
    return count


def _postscript(text: str, postscript_marker: str) -> bool:
    low, marker = text.lower(), postscript_marker.strip()
    known = _POSTSCRIPTS.get(marker)
    return known.search(low) is not None if known else marker.lower() in low


def _bullets(text: str, num_bullets: int) -> bool:
    return sum(_is_bullet(line.lstrip()) for line in text.split("\n")) == num_bullets


def _is_bullet(line: str) -> bool:
    return line.startswith("-") or (line.startswith("*") and len(line) > 1 and line[1] != "*")


def _highlights(text: str, num_highlights: int) -> bool:
    found = [*_HIGHLIGHT.findall(text), *_STRONG.findall(text)]
    return sum(bool(highlight.strip()) for highlight in found) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    mark = re.compile(rf"{re.escape(section_spliter.strip())}\s?\d+")
    return sum(1 for _ in mark.finditer(text)) >= num_sections


def _title(text: str) -> bool:
    return any(_has_title(line) for line in text.split("\n"))


def _has_title(line: str) -> bool:
    opening, closing = line.find("<<"), line.rfind(">>")
    return 0 <= opening < closing and bool(line[opening:closing].lstrip("<").rstrip(">").strip())


def _json(text: str) -> bool:
    try:
        json.loads(_FENCE.sub("", text.strip()).strip())
    except (ValueError, RecursionError):  # nested deeper than Python reads is no JSON that anybody asked for
        return False
    return True


# ---- combinations, start and end


def _two_responses(text: str) -> bool:
    parts = text.split("******")
    filled = [part.strip() for part in parts if part.strip()]
    return _filled(parts) == 2 and filled[0] != filled[1]


def _repeated(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quoted(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


RULES: dict[str, Rule] = {
    "keywords:existence": Rule(_existence, {"keywords": list}),
    "keywords:frequency": Rule(_frequency, {"keyword": str, "frequency": int, "relation": str}),
    "keywords:forbidden_words": Rule(_forbidden, {"forbidden_words": list}),
    "keywords:letter_frequency": Rule(_letter, {"letter": str, "let_frequency": int, "let_relation": str}),
    "language:response_language": Rule(_language, {"language": str}),
    "length_constraints:number_sentences": Rule(_sentences, {"num_sentences": int, "relation": str}),
    "length_constraints:number_paragraphs": Rule(_paragraphs, {"num_paragraphs": int}),
    "length_constraints:number_words": Rule(_words, {"num_words": int, "relation": str}),
    "length_constraints:nth_paragraph_first_word": Rule(_first_word, {"num_paragraphs": int, "nth_paragraph": int, "first_word": str}),
    "detectable_content:number_placeholders": Rule(_placeholders, {"num_placeholders": int}),
    "detectable_content:postscript": Rule(_postscript, {"postscript_marker": str}),
    "detectable_format:number_bullet_lists": Rule(_bullets, {"num_bullets": int}),
    "detectable_format:constrained_response": Rule(lambda text: any(option in text for option in _OPTIONS)),
    "detectable_format:number_highlighted_sections": Rule(_highlights, {"num_highlights": int}),
    "detectable_format:multiple_sections": Rule(_sections, {"section_spliter": str, "num_sections": int}),
    "detectable_format:json_format": Rule(_json),
    "detectable_format:title": Rule(_title),
    "combination:two_responses": Rule(_two_responses),
    "combination:repeat_prompt": Rule(_repeated, {"prompt_to_repeat": str}),
    "startend:end_checker": Rule(_end, {"end_phrase": str}),
    "startend:quotation": Rule(_quoted),
    "change_case:capital_word_frequency": Rule(_capitals, {"capital_frequency": int, "capital_relation": str}),
    "change_case:english_capital": Rule(_upper),
    "change_case:english_lowercase": Rule(_lower),
    "punctuation:no_comma": Rule(lambda text: "," not in text),
}
"""Every kind of instruction by its name."""

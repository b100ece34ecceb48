"""Chinese ways to write numbers: numerals, percentages, fractions and mixed numbers, read into digits."""

from __future__ import annotations

import re

_DIGITS = {
    sign: value
    for value, signs in enumerate(("〇零", "一壹", "二两贰", "三叁", "四肆", "五伍", "六陆", "七柒", "八捌", "九玖"))
    for sign in signs
}
_TENS = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
_MYRIADS = {"万": 10**4, "亿": 10**8}
_NUMERAL = f"[{''.join(_DIGITS)}{''.join(_TENS)}{''.join(_MYRIADS)}]+"
_ANY = rf"(?:{_NUMERAL}(?:点{_NUMERAL})?|\d+(?:\.\d+)?)"

MAX_LENGTH = 200  # characters; no number in words is as long

_PERCENT = re.compile(rf"百分之(负?{_ANY})")
_MIXED = re.compile(rf"({_ANY})又({_ANY})分之({_ANY})")
_FRACTION = re.compile(rf"({_ANY})分之({_ANY})")
_LATIN_MIXED = re.compile(r"(?<=\d)\s*又\s*(?=\d|\\frac)")
_NEGATIVE = re.compile(rf"负\s*(?={_ANY}|\\|[A-Za-z(])")
_WHOLE = re.compile(rf"(-?)({_NUMERAL})(?:点({_NUMERAL}))?([一-鿿]{{0,4}})")
_WORD_START = frozenset("些定样起般直切个")  # 一些, 一定, 一样, 一起: words that begin with a numeral


def in_digits(text: str) -> str:
    """The same text with its Chinese numbers in digits, e.g. in_digits("三分之二") is "2/3" in LaTeX; other text stays as it is."""
    if text.isascii() or len(text) > MAX_LENGTH:
        return text
    text = _PERCENT.sub(lambda match: f"{_arabic(match[1])}%", text)
    text = _MIXED.sub(lambda match: rf"{_arabic(match[1])}\frac{{{_arabic(match[3])}}}{{{_arabic(match[2])}}}", text)
    text = _FRACTION.sub(lambda match: rf"\frac{{{_arabic(match[2])}}}{{{_arabic(match[1])}}}", text)
    text = _NEGATIVE.sub("-", _LATIN_MIXED.sub(" ", text))
    match = _WHOLE.fullmatch(text)
    if match and match[4][:1] not in _WORD_START and (value := _value(match[2], match[3])) is not None:
        return f"{match[1]}{value}{match[4]}"
    return text


def numeral(text: str) -> int | None:
    """A whole number in Chinese numerals, e.g. numeral("三万五千") is 35000; None when the signs stand in no order that is a number."""
    if all(sign in _DIGITS for sign in text):
        return int("".join(str(_DIGITS[sign]) for sign in text))
    total = section = digit = 0
    for sign in text:
        if sign in _DIGITS:
            digit = _DIGITS[sign]
        elif sign in _TENS:
            section, digit = section + (digit or 1) * _TENS[sign], 0
        else:
            total, section, digit = (total + section + digit) * _MYRIADS[sign], 0, 0
    return total + section + digit


def _arabic(text: str) -> str:
    negative, text = text.startswith("负"), text.removeprefix("负")
    if text[:1].isdigit() and text.isascii():
        return "-" + text if negative else text
    whole, _, decimals = text.partition("点")
    return ("-" if negative else "") + str(_value(whole, decimals))


def _value(whole: str, decimals: str | None) -> str | None:
    value = numeral(whole)
    if not decimals:
        return str(value)
    digits = "".join(str(_DIGITS[sign]) for sign in decimals if sign in _DIGITS)
    return f"{value}.{digits}" if len(digits) == len(decimals) else None

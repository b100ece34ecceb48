r"""Which units a question speaks of, and so which an answer may add to a bare number.

"63 cm" is right for "63" where the question measures in centimetres, wrong where it asks for an area, for kilograms, or for a plain sum.
"""

from __future__ import annotations

import re
from functools import lru_cache

from afterbase.rewards.math_units import Unit, lookup, measure

_ASKED_UNIT = re.compile(
    r"(?:how many|number of|\bin(?: terms of)?|unit:|多少|几)\s*((?:square |cubic )?[A-Za-z]+|[㐀-鿿]{1,4})(?=[\s.,?$)，。？）])",
    re.IGNORECASE,
)
_LONG_NAME = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_SHORT_NAME = re.compile(
    r"\d\s*(?:\\[,; ]|~)?\s*(?:\\(?:text|mathrm)\s*\{)?\s*([A-Za-z]{1,3})(?![A-Za-z])(?:\s*/\s*([A-Za-z]{1,3})(?![A-Za-z]))?"
)
_CHINESE_NAME = re.compile(r"(?:[\d每几一二三四五六七八九十百千万]|多少|平方|立方)\s*(?=([㐀-鿿]{1,3}))")
_SIGNS = {"$": r"\dollar", "€": r"\euro", "£": r"\pounds", "¥": r"\yen", "￥": r"\yen"}
_HINTS = {
    "time": r"\b(?:how long|time|old|age|ages|when|duration)\b|年龄|岁|多久|时间|多大",
    "length": r"\b(?:long|far|tall|high|height|length|distance|perimeter|width|wide|radius|diameter|deep|depth)\b|多长|多高|多远|距离|周长",
    "mass": r"\b(?:weigh|weighs|weight|heavy|mass)\b|重",
    "angle": r"\bradians?\b|弧度",
}
_POWERS = {2: re.compile(r"\bareas?\b|面积", re.IGNORECASE), 3: re.compile(r"\bvolumes?\b|体积|容积", re.IGNORECASE)}
_LENGTH = re.compile(_HINTS["length"] + r"|\bsides?\b|边长|边|\bedges?\b", re.IGNORECASE)
_SENTENCE = re.compile(r"[.?!。？！\n]+(?=\s|$|[一-鿿])")


def asked_unit(question: str, dimension: tuple) -> Unit | None:
    """The one unit of that dimension that the question asks for, or else the one that it mentions; None when there are several or none."""
    for units in (_named_as_wanted(question), mentioned(question)):
        fitting = {unit.size: unit for unit in units if unit.dimension == dimension}
        if fitting:
            return fitting.popitem()[1] if len(fitting) == 1 else None
    return None


def may_add(question: str, unit: Unit) -> bool:
    """Whether an answer to the question may carry a unit that the reference leaves out.

    It may where the question speaks of what the unit measures, or gives neither a unit nor a number and so leaves it open.
    """
    units = mentioned(question) | _named_as_wanted(question)
    if not any(unit.known for unit in units) and not re.search(r"\d", question):
        return True
    spoken = {name for one in units for name, _ in one.dimension}
    spoken |= {name for name, hint in _HINTS.items() if re.search(hint, question, re.IGNORECASE)}
    if any(pattern.search(question) for pattern in _POWERS.values()):
        spoken.add("length")
    return {name for name, _ in unit.dimension} <= spoken and _fits_power(question, unit)


def _named_as_wanted(question: str) -> frozenset[Unit]:
    return frozenset(measure(match[1]) for match in _ASKED_UNIT.finditer(question))


def _fits_power(question: str, unit: Unit) -> bool:
    """Whether a length, an area or a volume is what the last sentence asks for, as far as that says so."""
    if len(unit.dimension) != 1 or unit.dimension[0][0] != "length":
        return True
    sentences = [sentence for sentence in _SENTENCE.split(question) if re.search(r"\w", sentence)]
    last = sentences[-1] if sentences else ""
    wanted = [power for power, pattern in _POWERS.items() if pattern.search(last)]
    return len(wanted) != 1 or bool(_LENGTH.search(last)) or unit.dimension[0][1] == wanted[0]


def namesakes(unit: Unit) -> frozenset[Unit]:
    """The units that share a name or a sign with one, itself included: pounds of money and of weight, the sign of yen and yuan."""
    pairs = ({lookup("pound"), lookup(r"\pounds")}, {lookup(r"\yen"), lookup("元")})
    return frozenset({unit}.union(*(pair for pair in pairs if unit in pair)))


@lru_cache(maxsize=256)
def mentioned(question: str) -> frozenset[Unit]:
    """Every unit that the question names: long names anywhere, short ones behind a digit, where they are no variables."""
    names = [match[0] for match in _LONG_NAME.finditer(question)]
    names += [name for match in _SHORT_NAME.finditer(question) for name in match.groups() if name]
    names += [match[1][:length] for match in _CHINESE_NAME.finditer(question) for length in (1, 2, 3)]
    names += [name for sign, name in _SIGNS.items() if re.search(rf"\{sign}\s*\d|\d\s*\{sign}", question)]
    if re.search(r"\\\$", question):
        names.append(r"\dollar")
    return frozenset(unit for unit in map(lookup, names) if unit is not None)

"""One kind as another: a list of one as its item, a ratio as a time or a quotient."""

from __future__ import annotations

import re

from afterbase.rewards import math_words
from afterbase.rewards.math_equation import is_equation
from afterbase.rewards.math_kinds import Chain, Items, Kind, Moment, Ratio, Residue, Value, Words
from afterbase.rewards.math_tree import MAX_DEPTH

_ADVANCED = re.compile(r"\\(?:i*int|oint|sum|prod|lim|det|max|min|gcd|lcm|partial|nabla|begin\{[bpvB]?matrix\})(?![a-z])")


def lone(kind: Kind) -> Kind:
    r"""A list or set of one as its element; \{\emptyset\} is not \emptyset, and a set of a set no set."""
    if not isinstance(kind, Items) or len(kind.items) != 1 or kind.how not in ("set", "list", "or"):
        return kind
    only = kind.items[0]
    nested = kind.how == "set" and (only == Words("no solution") or (isinstance(only, Items) and only.how == "set"))
    return kind if nested else only


def as_moment(kind: Kind) -> Moment | None:
    """A kind that may be meant as a time or a date, e.g. the ratio 9:30 or the duration 15时30分; None when it cannot be."""
    if isinstance(kind, Chain) and is_equation(kind):
        kind = kind.sides[-1]
    if isinstance(kind, Value):
        return math_words.chinese_clock(kind.text)
    return kind if isinstance(kind, Moment) else math_words.clock(colons(kind)) if isinstance(kind, Ratio) else None


def colons(ratio: Ratio) -> str:
    """A ratio as written."""
    return ":".join(term.text for term in ratio.terms)


def quotient(ratio: Ratio) -> Value:
    """a:b as a/b."""
    return Value(("div", ratio.terms[0].tree, ratio.terms[1].tree), f"{ratio.terms[0].text}/{ratio.terms[1].text}")


def fit(gold: str, came: str, count: int) -> bool:
    """Whether brackets mean the same: (1,2) is no [1,2], but longer lists are lists in either."""
    return gold == came or "[]" not in (gold, came) or count > 2


def beyond(text: str) -> bool:
    """Whether text that is not understood here may be to computer algebra; what is merely malformed is not."""
    balanced = all(text.count(left) == text.count(right) for left, right in ("()", "{}", "[]"))
    return balanced and (bool(_ADVANCED.search(text)) or max(text.count("("), text.count("{")) > MAX_DEPTH // 2)


def same_residue(gold: Kind, came: Kind) -> bool:
    """Whether both are the same class of the same modulus; the least residue is also the number that leaves it."""
    if isinstance(gold, Chain) and is_equation(gold):
        gold = gold.sides[-1]
    if isinstance(came, Chain) and is_equation(came):
        came = came.sides[-1]
    if isinstance(gold, Residue) and isinstance(came, Residue):
        same_class = gold.modulus == came.modulus and (gold.value - came.value) % gold.modulus == 0
        return same_class and (gold.name == came.name or not (gold.name and came.name))
    if not isinstance(came, Residue) or came.name or not isinstance(gold, Value):
        return False
    return 0 <= came.value < came.modulus and gold.text == str(came.value)

"""One kind as another: a list of one as its item, a ratio as a time or a quotient."""

from __future__ import annotations

from afterbase.rewards import math_words
from afterbase.rewards.math_equation import is_equation
from afterbase.rewards.math_kinds import Chain, Items, Kind, Moment, Ratio, Value, Words


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

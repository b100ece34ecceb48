r"""Kinds as sets of reals: "x > 3", "1 \le x < 2", "[1, 2)", "(-\infty, 0) \cup \{5\}", "\mathbb{R} \setminus \{0\}", "x \ne 0"."""

from __future__ import annotations

import re
from typing import Any

from afterbase.rewards.math_equation import is_equation
from afterbase.rewards.math_kinds import Chain, Items, Kind, Value, Words
from afterbase.rewards.math_region import ALL, Interval, Region, complement, intersection, point, region, union
from afterbase.rewards.math_tree import symbols
from afterbase.rewards.math_value import TooLarge, constant, is_real, mp, real


def to_region(kind: Kind, loose: bool = False) -> Region | None:
    """The set that a kind describes, None when it describes none; `loose` also takes (1,2) and [1,2] for intervals."""
    if isinstance(kind, Region):
        return kind
    if isinstance(kind, Words):
        return Region(()) if kind.text == "no solution" else None
    if isinstance(kind, Value):
        value = _number(kind)
        return None if value is None else region([point(value)])
    if isinstance(kind, Items):
        return _of_items(kind, loose)
    if isinstance(kind, Chain):
        return _of_chain(kind, loose)
    return None


def _of_items(kind: Items, loose: bool) -> Region | None:
    if kind.how == "interval" or (loose and kind.how == "tuple" and kind.brackets in ("()", "[]")):
        return _interval(kind)
    found = [to_region(item, loose) for item in kind.items]
    if any(one is None for one in found) or not found:
        return None
    if kind.how == "list" and all(isinstance(item, Chain) and not is_equation(item) for item in kind.items):
        both = ALL
        for one in found:
            both = intersection(both, one)
        if both.intervals:
            return both
    return region([interval for one in found for interval in one.intervals])


def _interval(kind: Items) -> Region | None:
    if len(kind.items) != 2:
        return None
    low, high = (_number(item) for item in kind.items)
    if low is None or high is None or low > high:
        return None
    return region([Interval(low, high, kind.brackets[0] == "[" and low != -mp.inf, kind.brackets[1] == "]" and high != mp.inf)])


def _of_chain(kind: Chain, loose: bool) -> Region | None:
    if kind.signs[0] in (r"\cup", r"\cap", r"\setminus"):
        return _computed(kind)
    if is_equation(kind):
        labelled = re.fullmatch(r"[A-Za-z]|[A-Z](?:\\(?:c[au]p|setminus)[A-Z])+", kind.names[0])
        return to_region(kind.sides[1], loose) if len(kind.sides) == 2 and labelled else None
    return _bounded(kind)


def _computed(kind: Chain) -> Region | None:
    total: Region | None = None
    for place, side in enumerate(kind.sides):
        one = to_region(side, loose=True)
        if one is None:
            return None
        if total is None:
            total = one
        elif kind.signs[place - 1] == r"\cup":
            total = union(total, one)
        else:
            total = intersection(total, one if kind.signs[place - 1] == r"\cap" else complement(one))
    return total


def _bounded(kind: Chain) -> Region | None:
    """One variable (or |x|, or |x - a|) between numbers."""
    places = [i for i, side in enumerate(kind.sides) if _variable(side) is not None]
    if len(places) != 1 or any(_number(side) is None for i, side in enumerate(kind.sides) if i != places[0]):
        return None
    place, inside = places[0], ALL
    centre = _variable(kind.sides[place])
    for i, sign in enumerate(kind.signs):
        left, right = (i, i + 1)
        if place not in (left, right):
            return None
        number = _number(kind.sides[left if place == right else right])
        inside = intersection(inside, _half(sign, number, variable_left=place == left, centre=centre))
    return inside


def _half(sign: str, number: Any, variable_left: bool, centre: Any) -> Region:
    """Where x (centre False) or |x - centre| stands in that relation to the number."""
    if sign == r"\ne":
        holes = [number] if centre is False else [centre - number, centre + number]
        return complement(region([point(hole) for hole in holes]))
    if sign in ("=", r"\approx"):
        return region([point(number)])
    below = (sign in ("<", r"\le")) == variable_left
    closed = sign in (r"\le", r"\ge")
    if centre is False:
        return region([Interval(-mp.inf, number, False, closed) if below else Interval(number, mp.inf, closed, False)])
    near = region([Interval(centre - number, centre + number, closed == below, closed == below)])
    return near if below else complement(near)


def _variable(side: Kind) -> Any:
    """False for a bare variable, the centre a for |x - a|, None for anything else."""
    if not isinstance(side, Value) or len(symbols(side.tree)) != 1:
        return None
    tree = side.tree
    if tree[0] == "sym":
        return False
    if tree[0] == "call" and tree[1] == "abs":
        inside = tree[2]
        if inside[0] == "sym":
            return mp.mpf(0)
        if inside[0] == "add" and len(inside[1]) == 2 and inside[1][0][0] == "sym" and not symbols(inside[1][1]):
            value = _number(Value(inside[1][1], ""))
            return None if value is None else -value
    return None


def _number(kind: Kind) -> Any:
    """The real value of a constant as a floating number, None for anything else."""
    if not isinstance(kind, Value) or symbols(kind.tree):
        return None
    try:
        value = constant(kind.tree)
    except (TooLarge, OverflowError):
        return None
    return mp.mpmathify(real(value)) if value is not None and is_real(value) else None

r"""When two expressions with their units, degrees, percent signs and roundings are the same answer.

The rule for rounding: a decimal is right for an exact value (a fraction, a root, a multiple of pi) when it is that value correctly rounded
to at least `rounding` significant digits (4 unless set otherwise): 0.3333 for 1/3 and 1.414 for \sqrt2, neither 0.33 nor 1.42. The same
holds for a decimal reference and an exact answer, except where the question asks for rounding: the exact value is not the rounded one,
unless it asks for that as well. Two decimals must be equal, and so must whole numbers.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from afterbase.rewards.math_asked import asked_unit, may_add, namesakes
from afterbase.rewards.math_kinds import Value
from afterbase.rewards.math_tree import Tree, symbols
from afterbase.rewards.math_units import Unit
from afterbase.rewards.math_value import TooLarge, Undefined, constant, is_real, mp, real, same

LONG = 6  # significant digits from which the last one may be cut off instead of rounded

_ASKS = {
    "percent": re.compile(r"percent|%|百分", re.IGNORECASE),
    "probability": re.compile(r"probab|chance|几率|概率", re.IGNORECASE),
    "degrees": re.compile(r"degree|\\circ|°|angle|∠|度|角|triangle|rotat|三角", re.IGNORECASE),
    "base": re.compile(r"\bbase\b|binary|octal|hexadecimal|_\{?\d|进制", re.IGNORECASE),
    "ratio": re.compile(r"ratio|odds|scale|proportion|比|:\s*[a-z1-9]\b", re.IGNORECASE),
    "rounding": re.compile(
        r"round|nearest|approximat|decimal|significant|estimate|"
        r"保留|精确到|四舍五入|近似|约",
        re.IGNORECASE,
    ),
    "order": re.compile(
        r"\border\b|\brank|least to|greatest to|smallest to|largest to|shortest to|longest to|"
        r"从小到大|从大到小|依次|顺序|排列",
        re.IGNORECASE,
    ),
    "in turn": re.compile(r"respectively|in that order|依次|分别", re.IGNORECASE),
    "respectively": re.compile(r"respectively|in that order|ordered (?:pair|triple|list)|依次|分别", re.IGNORECASE),
}
_EXACTLY = re.compile(r"exact(?! to)|simplif|精确值|准确值", re.IGNORECASE)
_CONSTANTS = ({"C", "c", "K", "k", "C_1", "C_{1}", "c_1"}, {"n", "k", "m", "l", "j", "K", "N"})


def asks(question: str, what: str) -> bool:
    """Whether the question asks for a percentage, a probability, degrees, a base, a ratio, rounding or an order."""
    return bool(_ASKS[what].search(question))


class Numbers:
    """Compares the expressions of one question."""

    def __init__(self, question: str, rounding: int):
        self.question, self.rounding = question, rounding

    def same(self, gold: Value, came: Value) -> bool:
        """Whether two expressions are the same answer; TooLarge when that cannot be computed cheaply."""
        factor = self._factor(gold.unit, came.unit)
        if factor is None:
            return False
        tree = _renamed(came.tree, gold.tree)
        if factor != 1:
            tree = ("mul", (("num", factor), tree))
        if gold.tree[0] in ("deg", "pct") or tree[0] in ("deg", "pct"):
            return self._marked(gold, came, tree)
        return self._equal(gold, came, gold.tree, tree)

    def crosswise(self, first: Value, second: Value, third: Value, fourth: Value) -> bool:
        """Whether first : second is third : fourth."""
        try:
            return same(("mul", (first.tree, fourth.tree)), ("mul", (second.tree, third.tree)))
        except (TooLarge, OverflowError, Undefined):
            return False

    def _equal(self, gold: Value, came: Value, wanted: Tree, tree: Tree) -> bool:
        return same(wanted, tree) or self._rounded(gold, came, wanted, tree)

    def _marked(self, gold: Value, came: Value, tree: Tree) -> bool:
        """A percent or degree sign of the reference may be left out; one may be added only where the question speaks of it."""
        mark = gold.tree[0] if gold.tree[0] in ("deg", "pct") else tree[0]
        wanted_bare, came_bare = gold.tree[0] != mark, tree[0] != mark
        plain_gold, plain_came = (part[1] if part[0] == mark else part for part in (gold.tree, tree))
        if wanted_bare == came_bare:
            return self._equal(gold, came, plain_gold, plain_came)
        if self._equal(gold, came, gold.tree, tree):
            return True
        left_out = not wanted_bare or asks(self.question, "percent" if mark == "pct" else "degrees")
        if mark == "pct" and asks(self.question, "probability"):  # which is a percentage only where it is above 1
            value = constant(plain_gold)
            left_out = left_out or (value is not None and is_real(value) and real(value) > 1)
        return left_out and self._equal(gold, came, plain_gold, plain_came)

    def _rounded(self, gold: Value, came: Value, wanted: Tree, tree: Tree) -> bool:
        if not self.rounding or (gold.places is None) == (came.places is None) or symbols(wanted) or symbols(tree):
            return False
        exact, shown, decimal = (
            (constant(wanted), constant(tree), came) if gold.places is None else (constant(tree), constant(wanted), gold)
        )
        if decimal is gold and asks(self.question, "rounding") and not _EXACTLY.search(self.question):
            return False  # the exact value is not the rounded one that was asked for
        needed = 2 if decimal is gold and asks(self.question, "rounding") else self.rounding
        if exact is None or shown is None or decimal.digits < needed or not (is_real(exact) and is_real(shown)):
            return False
        if _ends(exact) and decimal is gold:
            return False  # 5/4 is no rounding that anybody needs to write as 1.3
        step = mp.mpf(10) ** -(
            decimal.places + (2 if decimal.tree[0] == "pct" and (wanted if decimal is gold else tree)[0] == "pct" else 0)
        )
        gap = abs(mp.mpmathify(real(exact)) - mp.mpmathify(real(shown)))
        return gap <= step / 2 * (1 + mp.mpf(10) ** -20) or (decimal.digits >= LONG and gap < step and not _ends(exact))

    def _factor(self, gold: Unit | None, came: Unit | None) -> Fraction | None:
        """How many of the reference's units one of the answer's is; None when they measure different things."""
        if came is None or not came.known:
            return Fraction(1)
        if gold is None or not gold.known:
            return self._added(came)
        return came.size / gold.size if came.dimension == gold.dimension else Fraction(1) if gold in namesakes(came) else None

    def _added(self, came: Unit) -> Fraction | None:
        """The same for a reference without a unit, which the question then has."""
        for unit in (came, *namesakes(came)):
            if may_add(self.question, unit):
                asked = asked_unit(self.question, unit.dimension)
                return unit.size / asked.size if asked else Fraction(1)
        return None


def _ends(value: Any) -> bool:
    """Whether a value is a fraction whose decimals end."""
    if not isinstance(value, Fraction):
        return False
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _renamed(came: Tree, gold: Tree) -> Tree:
    """The answer with the reference's letter for a free constant: + c is + C, and 2\\pi n is 2\\pi k."""
    mine, theirs = symbols(came) - symbols(gold), symbols(gold) - symbols(came)
    if len(mine) != 1 or len(theirs) != 1:
        return came
    old, new = *mine, *theirs
    return _replaced(came, old, new) if any(old in names and new in names for names in _CONSTANTS) else came


def _replaced(tree: Any, old: str, new: str) -> Any:
    if tree == ("sym", old):
        return ("sym", new)
    return tuple(_replaced(part, old, new) for part in tree) if isinstance(tree, tuple) else tree

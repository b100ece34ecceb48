"""Whether two answers, read as kinds, are the same; each pair of kinds has its rule, and anything else is different.

`Comparison` never computes what may not end: where an expression is too large or unknown to `math_tree` it raises `NeedsAlgebra` with the
two texts, and is asked again once a killable process has answered for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from afterbase.rewards import math_region, math_words
from afterbase.rewards.math_equation import assignments, diff, is_equation, is_function, is_name, order, plain, reversed_name
from afterbase.rewards.math_forms import as_moment, beyond, colons, fit, lone, quotient, same_residue
from afterbase.rewards.math_kinds import Based, Chain, Items, Kind, Matrix, Moment, Opaque, Ratio, Residue, Value, Words
from afterbase.rewards.math_number import Numbers, asks
from afterbase.rewards.math_region import Region
from afterbase.rewards.math_sets import to_region
from afterbase.rewards.math_tree import Tree, contains
from afterbase.rewards.math_value import TooLarge, Undefined, constant, mp, proportional

_NO_MATHEMATICS = re.compile(
    r"\\[lcdv]?dots|\.\.\.|[?\"`#@;]|__|import|lambda|[㐀-鿿]"
    r"|(?<![\\A-Za-z])[A-Za-z]{4,}|(?<![\^_])\d\s+\d|\\text|\b(?:or|and|if|not)\b|\\n(?:e|ot)(?![a-z])|[<>]"
)
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[a-z]+\}")
_UNDONE = re.compile(r"\\int(?![a-z]|\s*[_^])")  # an integral without limits, which is the question again
_MODULUS = re.compile(r"\|(?:[zw]|\\(?:vec|overrightarrow)\{[^{}]*\})\|")  # of a complex number or a vector; |x| = 2 has two solutions
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
ROUGHLY = mp.mpf("0.01")  # "10/3 = 3.33" is rounded, "6 = 5" is false


class NeedsAlgebra(Exception):
    """Only computer algebra can tell whether these two are equal."""

    def __init__(self, gold: str, answer: str):
        super().__init__(gold, answer)
        self.pair = (gold, answer)


class Comparison:
    """Compares answers to one question; `algebra` holds what processes have found so far."""

    def __init__(self, question: str, rounding: int, algebra: Mapping[tuple[str, str], bool]):
        self.question, self.algebra = question, algebra
        self.numbers = Numbers(question, rounding)

    def same(self, gold: Kind, came: Kind) -> bool:
        """Whether the answer that came is the reference."""
        gold, came = lone(gold), lone(came)
        for kinds, rule in self._rules():
            if isinstance(gold, kinds) or isinstance(came, kinds):
                return rule(gold, came)
        return self.values(gold, came)

    def _rules(self) -> list[tuple[type | tuple[type, ...], Callable[[Any, Any], bool]]]:
        """The first kind that either answer is decides who compares them."""
        return [
            (Based, self.based), (Residue, same_residue), (Words, self.words),
            (Moment, self.moments), (Matrix, self.matrices), (Ratio, self.ratios),
            (Region, self.regions), (Items, self.items), (Chain, self.chains), (Opaque, self.opaque),
        ]  # fmt: skip

    def values(self, gold: Value, came: Value) -> bool:
        """Two expressions."""
        if _capitals(gold.text) or _capitals(came.text):  # LQSX is a word, no product
            return gold.text.replace(" ", "") == came.text.replace(" ", "")
        try:
            return self.numbers.same(gold, came)
        except (TooLarge, OverflowError):
            return self.ask(gold.text, came.text)
        except Undefined:
            return False

    def words(self, gold: Kind, came: Kind) -> bool:
        """Text against text; an expression is text to it as well."""
        if isinstance(gold, Chain) and is_equation(gold):
            gold = gold.sides[-1]
        if isinstance(came, Chain) and is_equation(came):
            came = came.sides[-1]
        texts = [
            kind.text if isinstance(kind, Words) else math_words.normal(kind.text) if isinstance(kind, Value) else None
            for kind in (gold, came)
        ]
        if None in texts:
            return False
        return texts[0] == texts[1] or texts[0].replace(" ", "") == texts[1].replace(" ", "")

    def based(self, gold: Kind, came: Kind) -> bool:
        """Digits and base must agree; the base may be left out where the question names it."""
        if isinstance(gold, Based) and isinstance(came, Based):
            return gold == came
        based, other = (gold, came) if isinstance(gold, Based) else (came, gold)
        if isinstance(other, Chain) and is_equation(other):
            return any(self.based(gold, side) if based is gold else self.based(side, came) for side in other.sides[1:])
        if not isinstance(other, Value | Words):
            return False
        unsaid = based.base == 10 or (based is gold and asks(self.question, "base"))
        return unsaid and based.digits == (other.text.replace(" ", "").upper().lstrip("0") or "0")

    def moments(self, gold: Kind, came: Kind) -> bool:
        """Times and dates; "9:30" is a time here."""
        first, second = (as_moment(kind) for kind in (gold, came))
        if first is None or second is None or first.what != second.what:
            return False
        if first.what == "date":
            return first.parts[1:] == second.parts[1:] and (first.parts[0] == second.parts[0] or 0 in (first.parts[0], second.parts[0]))
        return first.parts == second.parts and first.half == second.half

    def matrices(self, gold: Kind, came: Kind) -> bool:
        """Entry by entry; a column is also the vector in round brackets."""
        gold, came = (
            kind.sides[-1] if isinstance(kind, Chain) and is_equation(kind) and is_name(kind.names[0]) else kind for kind in (gold, came)
        )
        if isinstance(gold, Matrix) and isinstance(came, Matrix):
            rows = [[len(row) for row in matrix.rows] for matrix in (gold, came)]
            return rows[0] == rows[1] and all(self.in_order(*pair) for pair in zip(gold.rows, came.rows, strict=True))
        matrix, other = (gold, came) if isinstance(gold, Matrix) else (came, gold)
        if not isinstance(other, Items) or other.how != "tuple" or len(other.items) < 2:
            return isinstance(other, Opaque) and self.opaque(gold, came)
        line = matrix.rows[0] if len(matrix.rows) == 1 else tuple(row[0] for row in matrix.rows if len(row) == 1)
        return max(len(matrix.rows), len(matrix.rows[0])) == len(line) and (
            self.in_order(line, other.items) if matrix is gold else self.in_order(other.items, line)
        )

    def ratios(self, gold: Kind, came: Kind) -> bool:
        """a:b is a:b however often; where both can be times of day they are, unless the question asks for a ratio."""
        if isinstance(gold, Ratio) and isinstance(came, Ratio):
            times = [math_words.clock(colons(ratio)) for ratio in (gold, came)]
            if all(times) and not asks(self.question, "ratio"):
                return times[0] == times[1]
            if len(gold.terms) != len(came.terms):
                return False
            return all(
                self.numbers.crosswise(gold.terms[0], gold.terms[i], came.terms[0], came.terms[i]) for i in range(1, len(gold.terms))
            )
        ratio, other = (gold, came) if isinstance(gold, Ratio) else (came, gold)
        time = math_words.clock(colons(ratio)) if len(ratio.terms) == 2 else None
        if isinstance(other, Value) and as_moment(other):
            return self.moments(gold, came)
        if isinstance(other, Chain) and is_equation(other):
            return any(self.ratios(*((ratio, side) if ratio is gold else (side, ratio))) for side in other.sides)
        if not isinstance(other, Value) or len(ratio.terms) != 2 or (time and (ratio is came or not asks(self.question, "ratio"))):
            return False
        return self.values(*((quotient(ratio), other) if ratio is gold else (other, quotient(ratio))))

    def regions(self, gold: Kind, came: Kind) -> bool:
        """Sets of reals, whatever they are written as."""
        first, second = to_region(gold, loose=True), to_region(came, loose=True)
        return first is not None and second is not None and math_region.equal(first, second)

    def items(self, gold: Kind, came: Kind) -> bool:
        """Several things: in order for tuples, in any order for sets and lists; every one must be there and no other."""
        if _is_region(gold) or _is_region(came):
            return self.regions(gold, came) or self._symbolic(gold, came)
        gold, came = _unnamed(gold), _unnamed(came)
        if not isinstance(gold, Items) or not isinstance(came, Items):
            return self._collapsed(gold, came)
        wanted, got = assignments(gold), assignments(came)
        if wanted and got:
            return wanted.keys() == got.keys() and all(self.same(wanted[name], got[name]) for name in wanted)
        if wanted or got:
            return self._unlabelled(gold, came, wanted or got, bool(wanted))
        return self._elements(gold, came)

    def _elements(self, gold: Items, came: Items) -> bool:
        tuples = [kind.how in ("tuple", "interval") for kind in (gold, came)]
        if all(tuples):
            return fit(gold.brackets, came.brackets, len(gold.items)) and self.in_order(gold.items, came.items)
        if any(tuples):
            bare = came if tuples[0] else gold
            other = gold if tuples[0] else came
            return bare.how == "list" and (other.brackets != "[]" or len(other.items) > 2) and self.in_order(gold.items, came.items)
        if gold.how == "list" and came.how == "list" and self._ordered(gold):
            return self.in_order(gold.items, came.items)
        as_sets = "set" in (gold.how, came.how) or "or" in (gold.how, came.how) or _all_named(gold, came)
        return self.in_any_order(plain(gold.items), plain(came.items), as_sets)

    def _ordered(self, gold: Items) -> bool:
        """Whether the question asks for these in an order that the list itself does not show."""
        if all(isinstance(item, Items) for item in gold.items):  # "ordered pairs": the pairs are, their list is not
            return asks(self.question, "in turn")
        return asks(self.question, "respectively") or (all(isinstance(item, Words) for item in gold.items) and asks(self.question, "order"))

    def _collapsed(self, gold: Kind, came: Kind) -> bool:
        """One thing against several that are all the same thing, which only alternatives may be: x=2 or x=2."""
        several, one = (gold, came) if isinstance(gold, Items) else (came, gold)
        if several.how not in ("or", "set") and not _all_named(several, several):
            return False
        items = plain(several.items)
        one = plain((one,))[0]
        return all(self.same(*((item, one) if several is gold else (one, item))) for item in items)

    def _unlabelled(self, gold: Items, came: Items, labelled: dict[str, Kind], gold_has: bool) -> bool:
        """x=1, y=2 against (1,2) or "1, 2": the names in their order stand for the places."""
        bare = came if gold_has else gold
        if bare.how not in ("tuple", "list") or bare.brackets == "[]":
            return False
        names = order(labelled) if bare.how == "tuple" else list(labelled)
        values = [labelled[name] for name in names]
        return self.in_order(values, bare.items) if gold_has else self.in_order(bare.items, values)

    def _symbolic(self, gold: Kind, came: Kind) -> bool:
        """Intervals between expressions with variables."""
        if not (isinstance(gold, Items) and isinstance(came, Items)):
            return False
        return gold.brackets == came.brackets and gold.how == came.how == "interval" and self.in_order(gold.items, came.items)

    def in_order(self, gold: Sequence[Kind], came: Sequence[Kind]) -> bool:
        """As many, and each the same as its counterpart."""
        return len(gold) == len(came) and all(self.same(*pair) for pair in zip(gold, came, strict=True))

    def in_any_order(self, gold: Sequence[Kind], came: Sequence[Kind], as_sets: bool) -> bool:
        """Each has its counterpart; as sets, repetitions do not count."""
        if as_sets:
            return all(any(self.same(one, other) for other in came) for one in gold) and all(
                any(self.same(one, other) for one in gold) for other in came
            )
        left = list(came)
        for one in gold:
            match = next((i for i, other in enumerate(left) if self.same(one, other)), None)
            if match is None:
                return False
            del left[match]
        return not left

    def chains(self, gold: Kind, came: Kind) -> bool:
        """Equations and inequalities."""
        if _is_region(gold) or _is_region(came):
            return (_one_variable(gold, came) and self.regions(gold, came)) or self._inequalities(gold, came)
        if isinstance(gold, Chain) and isinstance(came, Chain):
            return self._equations(gold, came) if is_equation(gold) and is_equation(came) else self._inequalities(gold, came)
        if isinstance(came, Chain):
            return is_equation(came) and self._claims(came, gold)
        gold = reversed_name(gold)
        sides = gold.sides if constant_sides(gold) else gold.sides[1:]
        return is_equation(gold) and self._names(gold) and any(self.same(side, came) for side in sides)

    def _names(self, chain: Chain) -> bool:
        return is_name(chain.names[0]) or constant_sides(chain) or self._quoted(chain)

    def _quoted(self, chain: Chain) -> bool:
        """Whether the left side is what the question asked for, such as x+y."""
        return chain.names[0] in re.sub(r"[\s$]", "", self.question)

    def _claims(self, came: Chain, gold: Kind) -> bool:
        """Whether an equation gives the reference: x = 5 and 2+3 = 5 do, 6 = 5, 5 = 5 and x = 5 = 6 do not."""
        came = reversed_name(came)
        named = (
            is_name(came.names[0])
            or bool(_MODULUS.fullmatch(came.names[0]))
            or (self._quoted(came) and not constant_sides(came))
            or self._worked_out(came)
        )
        if len(set(came.names)) == 1 or (not named and not constant_sides(came)):
            return False
        sides = came.sides[1:] if named else came.sides
        return self._consistent(sides) and any(self.same(gold, side) for side in sides)

    def _worked_out(self, came: Chain) -> bool:
        """Whether the left side is an integral, a sum or a limit that is equal to the right one."""
        left, right = came.sides[:2]
        return isinstance(left, Opaque) and isinstance(right, Value) and beyond(left.text) and self.ask(right.text, left.text)

    def _consistent(self, sides: Sequence[Kind]) -> bool:
        """Whether what stands between the signs = is equal, at least as a rounded number."""
        for one, other in pairwise(sides):
            if not isinstance(one, Value) or not isinstance(other, Value):
                continue
            try:
                first, second = (constant(kind.tree) for kind in (one, other))
            except (TooLarge, OverflowError, Undefined):
                continue
            if first is None or second is None:
                if not self.values(one, other):
                    return False
            elif _gap(first, second) > ROUGHLY * max(_size(first), _size(second)):
                return False
        return True

    def _equations(self, gold: Chain, came: Chain) -> bool:
        gold, came = reversed_name(gold), reversed_name(came)
        names = gold.names[0], came.names[0]
        if is_name(names[0]) and is_name(names[1]) and (names[0] == names[1] or _interchangeable(*names)):
            return self._consistent(came.sides[1:]) and any(self.same(one, other) for one in gold.sides[1:] for other in came.sides[1:])
        if constant_sides(gold):
            return any(self._claims(came, side) for side in gold.sides)
        first, second = diff(gold), diff(came)
        if first is None or second is None:
            return False
        return self.multiple(first, second)

    def _inequalities(self, gold: Kind, came: Kind) -> bool:
        """Inequalities in several variables: one difference is a positive multiple of the other."""
        if not (isinstance(gold, Chain) and isinstance(came, Chain) and len(gold.signs) == len(came.signs) == 1):
            return False
        sign, other = gold.signs[0], came.signs[0]
        first, second = diff(gold), diff(came)
        if first is None or second is None or sign not in _FLIPPED or other not in _FLIPPED:
            return sign == other == r"\ne" and first is not None and second is not None and self.multiple(first, second)
        if sign == other:
            return self.multiple(first, second, positive=True)
        return sign == _FLIPPED[other] and self.multiple(first, ("neg", second), positive=True)

    def multiple(self, first: Tree, second: Tree, positive: bool = False) -> bool:
        """Whether both differences vanish together, as far as that can be computed cheaply."""
        try:
            return proportional(first, second, positive)
        except (TooLarge, OverflowError, Undefined):
            return False

    def opaque(self, gold: Kind, came: Kind) -> bool:
        """What nobody here can read: equal text, or equal to computer algebra."""
        if isinstance(came, Chain) and is_equation(came) and is_name(came.names[0]):
            return any(self.same(gold, side) for side in came.sides[1:])
        texts = [getattr(kind, "text", None) for kind in (gold, came)]
        if None in texts:
            return False
        if texts[0].replace(" ", "") == texts[1].replace(" ", ""):
            return not isinstance(came, Opaque) or not re.search(r"\d\s+\d", came.text)
        if _UNDONE.search(texts[1]) and not _UNDONE.search(texts[0]):
            return False
        within_reach = all(not isinstance(kind, Opaque) or beyond(kind.text) for kind in (gold, came))
        return within_reach and self.ask(*texts)

    def ask(self, gold: str, came: str) -> bool:
        """What a process has found for these two; NeedsAlgebra when none has been asked."""
        if any(_NO_MATHEMATICS.search(_ENVIRONMENT.sub("", text)) for text in (gold, came)):
            return False
        if (gold, came) not in self.algebra:
            raise NeedsAlgebra(gold, came)
        return self.algebra[gold, came]


def constant_sides(chain: Chain) -> bool:
    """Whether every side is a number."""
    return all(isinstance(side, Value) and not contains(side.tree, "sym") for side in chain.sides)


def _unnamed(kind: Kind) -> Kind:
    """(x, y) = (1, 2) is (1, 2), and A = \\{1, 2\\} the set."""
    if (
        isinstance(kind, Chain)
        and is_equation(kind)
        and len(kind.sides) == 2
        and is_name(kind.names[0])
        and isinstance(kind.sides[1], Items)
    ):
        return kind.sides[1]
    return kind


def _is_region(kind: Kind) -> bool:
    if isinstance(kind, Items):
        return kind.how == "interval" or (
            len(kind.items) > 1 and all(_is_region(item) for item in kind.items) and kind.how in ("list", "or")
        )
    return isinstance(kind, Region) or (isinstance(kind, Chain) and not is_equation(kind))


def _one_variable(gold: Kind, came: Kind) -> bool:
    """Whether inequalities speak of the same variable."""
    names = [{name for name in kind.names if re.fullmatch(r"\\?[A-Za-z]+", name)} for kind in (gold, came) if isinstance(kind, Chain)]
    return len(names) < 2 or names[0] == names[1] or not names[0] or not names[1]


def _all_named(*kinds: Items) -> bool:
    return all(isinstance(item, Chain) and is_equation(item) for kind in kinds for item in kind.items)


def _interchangeable(one: str, other: str) -> bool:
    """y = ... and f(x) = ... say the same; so does a name in words."""
    function = [is_function(name) or name == "y" for name in (one, other)]
    return all(function) or r"\text" in one or r"\text" in other


def _capitals(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Z]{2,}", text))


def _gap(one: Any, other: Any) -> Any:
    return abs(mp.mpmathify(one) - mp.mpmathify(other))


def _size(value: Any) -> Any:
    return abs(mp.mpmathify(value))

"""What expression trees are worth: exact fractions where that is possible, 40 digits elsewhere, at fixed points where there are variables.

Two expressions are the same when they agree wherever both are real; identities between the usual functions cannot agree by accident to
30 digits at every point. Every operation is guarded: a number too large to write down is `TooLarge`, which only a killable process may try.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath

from afterbase.rewards.math_tree import Tree, contains, symbols

DIGITS = 40
MAX_BITS = 12_000  # of an exact number: 3600 digits
MAX_FACTORIAL = 1000
MAX_FALLING = 20  # factors of a binomial with a variable above
MAX_STEPS = 4000  # nodes in one evaluation
_CLOSE = mpmath.mpf(10) ** -25
_NOTHING = mpmath.mpf(10) ** -32  # what is left of 0 after rounding
_RANGES = ((0.2, 0.9), (1.1, 2.9), (0.3, 5.0), (3.0, 9.0), (11.0, 40.0), (1.5, 2.5))  # where variables are drawn from, in turn

mp = mpmath.MPContext()
mp.dps = DIGITS


class TooLarge(ArithmeticError):
    """A value that cannot be computed at no cost."""


class Undefined(ArithmeticError):
    """An expression without a value, such as 1/0."""


class _Machine:
    """Evaluates trees at one point."""

    def __init__(self, point: Callable[[str], Any], log_base: Any, degrees: bool = True):
        self.point, self.log_base, self.degrees, self.steps = point, log_base, degrees, 0

    def of(self, tree: Tree) -> Any:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TooLarge("too many operations")
        return getattr(self, tree[0])(*tree[1:])

    def num(self, value: Fraction) -> Fraction:
        return value

    def sym(self, name: str) -> Any:
        return self.point(name)

    def const(self, name: str) -> Any:
        return {"pi": mp.pi, "e": mp.e, "i": mp.mpc(0, 1), "inf": mp.inf}[name] * 1

    def add(self, terms: tuple[Tree, ...]) -> Any:
        total: Any = Fraction(0)
        for term in terms:
            total = _bounded(_sum(total, self.of(term)))
        return total

    def mul(self, factors: tuple[Tree, ...]) -> Any:
        total: Any = Fraction(1)
        for factor in factors:
            total = _bounded(_product(total, self.of(factor)))
        return total

    def neg(self, tree: Tree) -> Any:
        return -self.of(tree)

    def div(self, above: Tree, below: Tree) -> Any:
        top, bottom = self.of(above), self.of(below)
        if bottom == 0:
            raise Undefined("division by zero")
        return _bounded(top / bottom if _exact(top, bottom) else _wide(top) / _wide(bottom))

    def pow(self, base: Tree, exponent: Tree) -> Any:
        return _power(self.of(base), self.of(exponent))

    def root(self, index: Tree, inside: Tree) -> Any:
        return _root(self.of(inside), self.of(index))

    def deg(self, inside: Tree) -> Any:
        value = self.of(inside)
        return _wide(value) * mp.pi / 180 if self.degrees else value

    def pct(self, inside: Tree) -> Any:
        return self.of(inside) / 100

    def choose(self, top: Tree, bottom: Tree) -> Any:
        n, k = self.of(top), self.of(bottom)
        if _whole(k) and 0 <= k <= MAX_FALLING and not isinstance(n, Fraction):
            return _falling(n, int(k))
        if not (_whole(n) and _whole(k) and 0 <= k <= n):
            raise Undefined("a binomial of what is not whole")
        k = min(k, n - k)
        if k > MAX_FACTORIAL or n > 10**6:
            raise TooLarge("a large binomial")
        return Fraction(int(mp.binomial(int(n), int(k))) if n < 100 else _binomial(int(n), int(k)))

    def pick(self, name: str, trees: tuple[Tree, ...]) -> Any:
        values = [self.of(tree) for tree in trees]
        if name in ("max", "min"):
            if not all(is_real(value) for value in values):
                raise Undefined(name)
            return (max if name == "max" else min)(values, key=lambda value: _wide(real(value)))
        if not all(_whole(value) for value in values):
            raise Undefined(name)
        return Fraction((math.gcd if name == "gcd" else math.lcm)(*map(int, values)))

    def log(self, base: Tree | None, inside: Tree) -> Any:
        value, bottom = _wide(self.of(inside)), self.log_base if base is None else _wide(self.of(base))
        if value == 0 or bottom in (0, 1):
            raise Undefined("a logarithm of zero")
        return mp.log(value) / mp.log(bottom)

    def call(self, name: str, inside: Tree) -> Any:
        value = self.of(inside)
        if name == "factorial":
            return _factorial(value)
        if name in ("abs", "floor", "ceil") and isinstance(value, Fraction):
            return {"abs": abs, "floor": lambda x: Fraction(x // 1), "ceil": lambda x: Fraction(-(-x // 1))}[name](value)
        value = _wide(value)
        if abs(value) > 10**6 and name not in ("abs", "floor", "ceil"):
            raise TooLarge(f"{name} of a large number")
        try:
            return _FUNCTIONS[name](value)
        except (ZeroDivisionError, KeyError) as error:
            raise Undefined(name) from error


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sin": mp.sin, "cos": mp.cos, "tan": mp.tan, "cot": mp.cot, "sec": mp.sec, "csc": mp.csc, "arcsin": mp.asin, "arccos": mp.acos,
    "arctan": mp.atan, "arccot": mp.acot, "arcsec": mp.asec, "arccsc": mp.acsc, "sinh": mp.sinh, "cosh": mp.cosh, "tanh": mp.tanh,
    "exp": mp.exp, "abs": abs, "floor": mp.floor, "ceil": mp.ceil, "cis": lambda x: mp.expj(x), "sgn": mp.sign,
}  # fmt: skip


def constant(tree: Tree, degrees: bool = True) -> Any | None:
    """The value of a tree without variables, a Fraction where it is exact; None with variables or without a value."""
    if symbols(tree):
        return None
    try:
        return _value(tree, degrees, mp.mpf(10))
    except Undefined:
        return None


def same(one: Tree, other: Tree, degrees: bool = True) -> bool:
    """Whether two expressions have the same value wherever both have a real one; TooLarge when that cannot be computed cheaply."""
    if one == other:
        return True
    names = symbols(one) | symbols(other)
    if not names:
        return _agree_as_constants(one, other, degrees)
    return _agree(one, other, names)


def proportional(one: Tree, other: Tree, positive: bool = False) -> bool:
    """Whether one expression is a constant times the other, so that both are zero at the same places."""
    names = symbols(one) | symbols(other)
    ratios = []
    for trial in range(len(_RANGES)):
        try:
            first, second = (_machine(trial, names).of(tree) for tree in (one, other))
        except Undefined:
            continue
        if _near_zero(second) or _near_zero(first):
            if _near_zero(first) != _near_zero(second):
                return False
            continue
        ratios.append(_wide(first) / _wide(second))
    if len(ratios) < 3 or any(not close(ratio, ratios[0]) for ratio in ratios):
        return False
    return not positive or (mp.im(ratios[0]) == 0 and mp.re(ratios[0]) > 0)


def close(one: Any, other: Any) -> bool:
    """Whether two values are the same number: exactly for fractions, to 25 digits else."""
    if _exact(one, other):
        return one == other
    one, other = _wide(one), _wide(other)
    if mp.isinf(one) or mp.isinf(other):
        return one == other
    return abs(one - other) <= max(_CLOSE * max(abs(one), abs(other)), _NOTHING)


def is_real(value: Any) -> bool:
    """Whether a value has no imaginary part worth the name."""
    return isinstance(value, Fraction) or abs(mp.im(value)) <= _CLOSE * max(1, abs(value))


def real(value: Any) -> Any:
    """The real part, exact when it is a fraction."""
    return value if isinstance(value, Fraction) else mp.re(value)


def _agree_as_constants(one: Tree, other: Tree, degrees: bool) -> bool:
    bases = (mp.mpf(10), mp.e * 1) if contains(one, "log") or contains(other, "log") else (mp.mpf(10),)
    for base in bases:  # "log" is base 10 to some and base e to others
        try:
            if close(*(_value(tree, degrees, base) for tree in (one, other))):
                return True
        except Undefined:
            continue
    return False


def _agree(one: Tree, other: Tree, names: frozenset[str]) -> bool:
    """At every point where both are real; with |x| in them also left of zero. At least three points must count."""
    signs = (1, -1) if contains(one, "abs") or contains(other, "abs") else (1,)
    bases = (mp.mpf(10), mp.e * 1) if contains(one, "log") or contains(other, "log") else (mp.e * 1,)
    return any(_agree_with(one, other, names, signs, base) for base in bases)


def _agree_with(one: Tree, other: Tree, names: frozenset[str], signs: tuple[int, ...], base: Any) -> bool:
    counted, complex_pairs = 0, []
    for sign in signs:
        for trial in range(len(_RANGES)):
            try:
                first, second = (_machine(trial, names, sign, base).of(tree) for tree in (one, other))
            except Undefined:
                continue
            if not (is_real(first) and is_real(second)):
                complex_pairs.append((first, second))
            elif not close(first, second):
                return False
            else:
                counted += 1
    return counted >= 3 or (counted == 0 and len(complex_pairs) >= 3 and all(close(*pair) for pair in complex_pairs))


@lru_cache(maxsize=512)
def _value(tree: Tree, degrees: bool, log_base: Any) -> Any:
    return _Machine(_no_variables, log_base, degrees).of(tree)


def _machine(trial: int, names: frozenset[str], sign: int = 1, base: Any = None) -> _Machine:
    return _Machine(lambda name: sign * _point(name, trial), mp.e * 1 if base is None else base)


@lru_cache(maxsize=4096)
def _point(name: str, trial: int) -> Any:
    """Where a variable stands in a trial: always the same place, and no two variables at one."""
    low, high = _RANGES[trial]
    draw = int.from_bytes(hashlib.sha256(f"{name}/{trial}".encode()).digest()[:8], "big") / 2**64
    return mp.mpf(low) + mp.mpf(high - low) * mp.mpf(draw)


def _no_variables(name: str) -> Any:
    raise Undefined(f"{name} has no value")


def _exact(one: Any, other: Any) -> bool:
    return isinstance(one, Fraction) and isinstance(other, Fraction)


def _wide(value: Any) -> Any:
    """A value as a floating number of 40 digits."""
    return mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _sum(one: Any, other: Any) -> Any:
    return one + other if _exact(one, other) else _wide(one) + _wide(other)


def _product(one: Any, other: Any) -> Any:
    return one * other if _exact(one, other) else _wide(one) * _wide(other)


def _bounded(value: Any) -> Any:
    """The value, unless it is too large to go on with; an indefinite one is Undefined."""
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise TooLarge("a number of thousands of digits")
        return value
    if mp.isnan(value):
        raise Undefined("indefinite")
    return value


def _power(base: Any, exponent: Any) -> Any:
    if base == 0 and isinstance(exponent, Fraction):
        if exponent < 0:
            raise Undefined("division by zero")
        return Fraction(1) if exponent == 0 else Fraction(0)
    if _exact(base, exponent) and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
        if abs(base) != 1 and abs(exponent) * max(bits, 1) > MAX_BITS:
            raise TooLarge("a high power")
        return base ** (int(exponent) if abs(base) != 1 else int(exponent) % 2)
    if _exact(base, exponent) and base < 0 and exponent.denominator % 2 and abs(exponent) < 1000:
        root = _root(base, Fraction(exponent.denominator))  # (-8)^{1/3} is -2 to whoever writes it
        return _bounded(_wide(root) ** int(exponent.numerator))
    return _wide_power(_wide(base), _wide(exponent))


def _wide_power(base: Any, exponent: Any) -> Any:
    if mp.isinf(base) or mp.isinf(exponent):
        raise Undefined("a power of infinity")
    if base != 0 and abs(exponent) * abs(mp.log(abs(base)) + 4) > MAX_BITS:
        raise TooLarge("a high power")
    try:
        return _bounded(mp.power(base, exponent))
    except ZeroDivisionError as error:
        raise Undefined("division by zero") from error


def _root(value: Any, index: Any) -> Any:
    if not _whole(index) or not 1 <= index <= 1000:
        return _power(value, 1 / index) if index != 0 else _no_variables("root")
    n = int(index)
    if isinstance(value, Fraction):
        if value < 0 and n % 2:
            return -_root(-value, index)
        if value >= 0 and (exact := _exact_root(value, n)) is not None:
            return exact
    return mp.root(_wide(value), n) if n > 2 else mp.sqrt(_wide(value))


def _exact_root(value: Fraction, n: int) -> Fraction | None:
    """The root as a fraction when it is one."""
    if max(value.numerator, value.denominator) >= 10**30:
        return None
    top, bottom = (int(mp.nint(mp.root(mp.mpf(part), n))) for part in (value.numerator, value.denominator))
    return Fraction(top, bottom) if bottom and top**n == value.numerator and bottom**n == value.denominator else None


def _whole(value: Any) -> bool:
    return isinstance(value, Fraction) and value.denominator == 1


def _factorial(value: Any) -> Any:
    if not _whole(value):
        if isinstance(value, Fraction) or not is_real(value) or abs(value) > MAX_FACTORIAL:
            raise Undefined("a factorial of what is not whole")
        return mp.gamma(value + 1)
    if value < 0:
        raise Undefined("a factorial below zero")
    if value > MAX_FACTORIAL:
        raise TooLarge("a large factorial")
    return Fraction(int(mp.factorial(0)) if value == 0 else _product_up_to(int(value)))


def _product_up_to(n: int) -> int:
    total = 1
    for factor in range(2, n + 1):
        total *= factor
    return total


def _binomial(n: int, k: int) -> int:
    total = 1
    for step in range(1, k + 1):
        total = total * (n - k + step) // step
        if total.bit_length() > MAX_BITS:
            raise TooLarge("a large binomial")
    return total


def _falling(n: Any, k: int) -> Any:
    """n(n-1)...(n-k+1)/k!, which is n over k for every n."""
    total: Any = mp.mpf(1)
    for step in range(k):
        total = total * (n - step) / (step + 1)
    return total


def _near_zero(value: Any) -> bool:
    return value == 0 if isinstance(value, Fraction) else abs(value) < _NOTHING

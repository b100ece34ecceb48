r"""Sets of real numbers: unions of intervals and points, however they were written ("[1,2)", "x \ge 3", "\mathbb{R} \setminus \{0\}")."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from afterbase.rewards.math_value import close, mp


@dataclass(frozen=True, slots=True)
class Interval:
    """From low to high, e.g. Interval(0, inf, closed_low=True, closed_high=False); a point when both ends are one."""

    low: Any
    """The lower end, perhaps -inf."""
    high: Any
    """The upper end, perhaps inf."""
    closed_low: bool
    """Whether the lower end belongs to it."""
    closed_high: bool
    """Whether the upper end belongs to it."""

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        if close(self.low, self.high):
            return not (self.closed_low and self.closed_high)
        return self.low > self.high


@dataclass(frozen=True, slots=True)
class Region:
    """Disjoint intervals from left to right, as `region` makes them."""

    intervals: tuple[Interval, ...]
    """None overlaps or touches the next."""


def region(intervals: Iterable[Interval]) -> Region:
    """The union of intervals in its one normal form."""
    merged: list[Interval] = []
    for interval in sorted((one for one in intervals if not one.empty), key=lambda one: (one.low, not one.closed_low)):
        if merged and _touch(merged[-1], interval):
            merged[-1] = _joined(merged[-1], interval)
        else:
            merged.append(interval)
    return Region(tuple(merged))


ALL = Region((Interval(-mp.inf, mp.inf, False, False),))


def point(value: Any) -> Interval:
    """The interval that holds one number."""
    return Interval(value, value, True, True)


def union(one: Region, other: Region) -> Region:
    """What is in either."""
    return region(one.intervals + other.intervals)


def intersection(one: Region, other: Region) -> Region:
    """What is in both."""
    return region(_common(first, second) for first in one.intervals for second in other.intervals)


def complement(one: Region) -> Region:
    """What is not in it."""
    gaps, low, closed = [], -mp.inf, False
    for interval in one.intervals:
        gaps.append(Interval(low, interval.low, closed, not interval.closed_low and interval.low != -mp.inf))
        low, closed = interval.high, not interval.closed_high and interval.high != mp.inf
    return region([*gaps, Interval(low, mp.inf, closed, False)])


def equal(one: Region, other: Region) -> bool:
    """Whether the same numbers are in both."""
    return len(one.intervals) == len(other.intervals) and all(
        close(first.low, second.low)
        and close(first.high, second.high)
        and (first.closed_low, first.closed_high) == (second.closed_low, second.closed_high)
        for first, second in zip(one.intervals, other.intervals, strict=True)
    )


def _touch(left: Interval, right: Interval) -> bool:
    if close(left.high, right.low):
        return left.closed_high or right.closed_low
    return right.low < left.high


def _joined(left: Interval, right: Interval) -> Interval:
    if close(left.high, right.high):
        high, closed = left.high, left.closed_high or right.closed_high
    else:
        high, closed = (left.high, left.closed_high) if left.high > right.high else (right.high, right.closed_high)
    return Interval(left.low, high, left.closed_low or (close(left.low, right.low) and right.closed_low), closed)


def _common(one: Interval, other: Interval) -> Interval:
    if close(one.low, other.low):
        low, closed_low = one.low, one.closed_low and other.closed_low
    else:
        low, closed_low = (one.low, one.closed_low) if one.low > other.low else (other.low, other.closed_low)
    if close(one.high, other.high):
        high, closed_high = one.high, one.closed_high and other.closed_high
    else:
        high, closed_high = (one.high, one.closed_high) if one.high < other.high else (other.high, other.closed_high)
    return Interval(low, high, closed_low, closed_high)

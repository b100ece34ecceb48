"""Whether drafting pays: what a step costs and yields with drafts and without, measured for each number of requests that run."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import fmean, median

PLAIN_TRIAL, DRAFT_TRIAL = 4, 16
"""Steps of each kind before they are compared."""
AGAIN = 512
"""Steps after which whatever was found is measured anew: texts change, and so does the load of a machine."""


@dataclass
class Pace:
    """The latest steps with about as many rows."""

    plain: deque[float] = field(default_factory=lambda: deque(maxlen=DRAFT_TRIAL))
    """Seconds of a step that gives each row one token."""
    drafted: deque[float] = field(default_factory=lambda: deque(maxlen=DRAFT_TRIAL))
    """Seconds of a step that drafts and verifies."""
    taken: deque[float] = field(default_factory=lambda: deque(maxlen=4 * DRAFT_TRIAL))
    """Tokens that such a step gave each row, on average."""
    until: int = 0
    """Steps before the next trial."""

    def drafts(self) -> bool:
        """Whether the next step should draft."""
        if self.until <= 0:  # a new trial
            self.plain.clear()
            self.drafted.clear()
            self.taken.clear()
            self.until = AGAIN
        self.until -= 1
        if len(self.plain) < PLAIN_TRIAL:
            return False
        return len(self.drafted) < DRAFT_TRIAL or self.gain > 1

    @property
    def gain(self) -> float:
        """How many times as many tokens a second drafting gives; 1 while nothing is known."""
        if not self.plain or not self.drafted:
            return 1.0
        return fmean(self.taken) * median(self.plain) / median(self.drafted)


class Paces:
    """One pace for each power of two of running rows: what pays for four requests may not for forty."""

    def __init__(self) -> None:
        self.paces: dict[int, Pace] = {}

    def of(self, rows: int) -> Pace:
        """The pace of so many rows."""
        return self.paces.setdefault(rows.bit_length(), Pace())

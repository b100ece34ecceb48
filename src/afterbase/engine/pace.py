"""Whether drafting pays: what a step costs and yields with drafts and without, measured for each number of requests that run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
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
    trials: tuple[int, int] = (PLAIN_TRIAL, DRAFT_TRIAL)
    """Steps without drafts, then with them, that a trial takes; what counts as a step is the caller's affair."""
    lasting: bool = False
    """Whether a plain step's time is kept from one trial to the next: where drafts that pause cost much to begin again."""

    def drafts(self) -> bool:
        """Whether the next step should draft."""
        if self.until <= 0:  # a new trial
            if not self.lasting:
                self.plain.clear()
            self.drafted.clear()
            self.taken.clear()
            self.until = AGAIN
        self.until -= 1
        if len(self.plain) < self.trials[0]:
            return False
        return len(self.drafted) < self.trials[1] or self.gain > 1

    @property
    def extra(self) -> float:
        """Tokens that a drafting step gives each row beyond the first."""
        return fmean(self.taken) - 1 if self.taken else 0.0

    @property
    def gain(self) -> float:
        """How many times as many tokens a second drafting gives; 1 while nothing is known."""
        if not self.plain or not self.drafted:
            return 1.0
        return fmean(self.taken) * median(self.plain) / median(self.drafted)


class Paces:
    """One pace for each power of two of running rows: what pays for four requests may not for forty."""

    def __init__(self, make: Callable[[], Pace] = Pace) -> None:
        self.make, self.paces = make, dict[int, Pace]()

    def of(self, rows: int) -> Pace:
        """The pace of so many rows."""
        if rows.bit_length() not in self.paces:
            self.paces[rows.bit_length()] = self.make()
        return self.paces[rows.bit_length()]

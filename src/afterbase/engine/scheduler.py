"""Who runs and who waits: requests in order of arrival, each with a row as soon as there is one.

Whoever runs came before everyone who waits. When the budget is short the youngest make way: they keep what they have drawn, wait in front
of the others, and go on later by reading prompt and drawn tokens again. Draws belong to positions (draw.py), so nothing changes but time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch

from afterbase.engine.group import Group
from afterbase.engine.rows import Moves, Rows
from afterbase.engine.slots import Slots
from afterbase.errors import EngineError


class Scheduler:
    """The queue in front of the rows."""

    def __init__(
        self,
        slots: Slots,
        rows: Rows,
        prefill_tokens: int,
        reach: int,
        move: Callable[[Moves], None],
        settle: Callable[[], None],
    ) -> None:
        """`reach`: tokens that a row may gain between two looks; `move` does in the cache what was done to the rows; `settle` waits for the
        device and ends the rows that have ended by then."""
        self.slots, self.rows, self.prefill_tokens, self.reach, self.move, self.settle = slots, rows, prefill_tokens, reach, move, settle
        self.waiting: deque[Group] = deque()
        self.preempted = 0  # rows that had to make way, since the beginning

    @property
    def held(self) -> int:
        """Answers that wait or run, and still matter to someone."""
        waiting = sum(len(group.samples) for group in self.waiting if not group.over)
        return waiting + sum(not group.over for group, _ in self.rows.owners)

    @torch.inference_mode()
    def forget(self) -> None:
        """Let go of requests that nobody waits for any more: cancelled, or failed in another part."""
        for group in [group for group in self.waiting if group.over]:
            self.waiting.remove(group)
        self.move(self.rows.withdraw())

    def make_way(self) -> None:
        """Slots in which every running row can go on until the next look; the youngest wait where the budget has too few of them."""
        if not (self.slots.elastic and self.rows.running):
            return
        needed = self._needed()
        if (many := self.rows.running - self.slots.fit(needed)) > 0:
            if self.rows.behind:  # who has ended makes way by itself, and must not go on later
                self.settle()
                return self.make_way()
            groups, moves = self.rows.preempt(many)
            self.move(moves)
            self.waiting.extendleft(groups)
            self.preempted += many
        self.slots.hold(needed, self.rows.running, self.rows.filled())

    def admit(self) -> list[Group]:
        """The waiting groups that fit into the free rows and one forward pass, in order of arrival; the slots hold them."""
        admitted, taken, tokens, needed = [], self.rows.running, 0, 0
        if self.waiting and self.slots.elastic and self.rows.running:
            needed = self._needed()
        ahead = self.slots.ahead(self.waiting)  # what is admitted in this loop `needed` carries on
        while self.waiting:
            group = self.waiting[0]
            if admitted and tokens + len(group.text) > self.prefill_tokens:
                break
            longer = max(needed, self.slots.needs(group), ahead)
            fit = self.slots.fit(longer)
            if taken >= fit or taken + len(group.samples) > fit >= len(group.asked):
                break
            try:
                self.slots.hold(longer, self.rows.running, self.rows.filled() if self.slots.elastic else 0)
            except EngineError as error:
                self._refuse(max(self.waiting, key=self.slots.needs), error)
                ahead = self.slots.ahead(self.waiting)
                continue
            admitted.append(self._next(fit - taken))
            needed, taken, tokens = longer, taken + len(admitted[-1].samples), tokens + len(group.text)
        return admitted

    def _next(self, most: int) -> Group:
        """The first in the queue, or the part of it for which there are rows."""
        group = self.waiting.popleft()
        if len(group.samples) <= most:
            return group
        self.waiting.appendleft(group.part(group.samples[most:]))
        return group.part(group.samples[:most])

    def _needed(self) -> int:
        """Tokens that the longest running row may hold at the next look."""
        return min(self.rows.filled() + self.reach, max(group.most for group, _ in self.rows.owners)) + self.slots.spare

    def _refuse(self, group: Group, error: EngineError) -> None:
        self.waiting.remove(group)
        group.fail(error)

"""Rounds of groups in the order in which they are learned from, drawn at most a few rounds before they are.

Processes that learn together draw and judge a share of every round each, and all of them are handed all of it.

With `ahead = 0` a round is drawn by the weights that learn from it. With more, the judges of later rounds work while the trainer does;
their groups come from older weights, by at most `ahead` rounds: the staleness is bounded, and every token says which weights drew it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from afterbase.dist import dealt, merged
from afterbase.records import Prompt, Rollout
from afterbase.rollouts.store import frozen, thawed

Group = list[Rollout]
T = TypeVar("T")


@dataclass(eq=False)
class Pending:
    """A group that is drawn, and whose scores may still be on their way."""

    rollouts: Group
    """The answers to one prompt, with their scores when an earlier process has judged them."""
    judging: asyncio.Task[Group] | None = None
    """The same with their scores; None when nobody judges them yet."""


class Stream:
    """Draws rounds in advance and hands them out judged."""

    def __init__(
        self,
        rounds: int,
        ahead: int,
        prompts: Callable[[], Sequence[Prompt]],
        draw: Callable[[int, int, Prompt], Awaitable[Group]],
        judge: Callable[[Group], Awaitable[Group]],
    ) -> None:
        """`prompts` gives one round's; `draw(round, number, prompt)` answers one of them."""
        self.rounds, self.ahead, self.prompts, self.draw, self.judge = rounds, ahead, prompts, draw, judge
        self.begun = 0
        self.waiting: deque[list[Pending]] = deque()
        self.tasks: set[asyncio.Task[Any]] = set()
        """Draws and judges that have not ended."""

    async def fill(self, step: int) -> None:
        """Draw every round that the weights of now may draw, with `step` next to be learned from; its judges begin at once."""
        assert step == self.begun - len(self.waiting), f"round {step} comes out of turn"
        self._judge_all()
        while self.begun <= min(step + self.ahead, self.rounds - 1):
            self.waiting.append(await self.begin(self.begun, list(enumerate(self.prompts()))))
            self.begun += 1

    async def take(self) -> list[Group]:
        """The groups of the next round, once they are judged."""
        return await self.judged(self.waiting.popleft())

    async def begin(self, step: int, prompts: Sequence[tuple[int, Prompt]]) -> list[Pending]:
        """Groups for numbered prompts of one round, all of them drawn; each is judged while the others are still being drawn."""
        return list(await asyncio.gather(*[self._task(self._pending(step, number, prompt)) for number, prompt in dealt(prompts)]))

    async def judged(self, pending: Sequence[Pending]) -> list[Group]:
        """The groups with their scores, also those that other processes drew."""
        return merged(await asyncio.gather(*[each.judging for each in pending]))

    async def settle(self) -> None:
        """Wait until every round in flight is judged."""
        self._judge_all()
        for each in self.waiting:
            await asyncio.gather(*[pending.judging for pending in each])

    async def close(self) -> None:
        """Give up whatever is still being drawn or judged, after an error or when the run is to stop."""
        left = list(self.tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def state(self) -> dict[str, Any]:
        """Every round in flight, as plain containers; scores that have not come yet will be asked for again."""
        waiting = [merged([[frozen(each) for each in _known(group)] for group in each]) for each in self.waiting]
        return {"begun": self.begun, "waiting": waiting}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        self.begun = state["begun"]
        self.waiting = deque([Pending([thawed(each) for each in group]) for group in dealt(each)] for each in state["waiting"])

    async def _pending(self, step: int, number: int, prompt: Prompt) -> Pending:
        rollouts = await self.draw(step, number, prompt)
        return Pending(rollouts, self._judging(rollouts))

    def _judge_all(self) -> None:
        """See that whatever waits is being judged: after a resume nobody has begun."""
        for each in (pending for waiting in self.waiting for pending in waiting if pending.judging is None):
            each.judging = self._judging(each.rollouts)

    def _judging(self, rollouts: Group) -> asyncio.Task[Group]:
        return self._task(self._scored(rollouts))

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # when one has failed nobody asks for the others, and asyncio would print what they died of

    async def _scored(self, rollouts: Group) -> Group:
        return rollouts if all(each.score for each in rollouts) else await self.judge(rollouts)


def _known(pending: Pending) -> Group:
    """The group as far as it is known now."""
    done = pending.judging is not None and pending.judging.done() and not pending.judging.cancelled() and not pending.judging.exception()
    return pending.judging.result() if done else pending.rollouts

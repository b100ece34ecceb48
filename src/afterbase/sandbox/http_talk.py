"""A conversation with a job on a server that only knows how to run jobs to their end: each next line comes from running it again.

The job gets everything that it has been told so far, its input stays open, and it is ended as soon as it has printed one line more than
before. That takes one run a line, and it is only a conversation when the job says the same each time: random numbers are seeded for it
(`http_launcher`), and one that contradicts itself all the same ends as `error`, so that nothing is judged by what was never said.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from afterbase.sandbox.base import Execution, Job, Limits

TURNS = 150  # lines of one conversation; more would cost a server more than they are worth

Again = Callable[[Job, Limits, int], Awaitable[tuple[Execution, bool]]]
"""Runs a job until it has printed so many lines; also says whether it came to its own end before."""


class Replay:
    """A job that is being talked to line by line, by being run again for each line."""

    def __init__(self, again: Again, job: Job, limits: Limits):
        self._again, self._job, self._limits = again, job, limits
        self._said = job.stdin
        self._heard: list[bytes] = []
        self._given = self._turns = 0
        self._spent = 0.0
        self._end: Execution | None = None

    async def write(self, data: bytes) -> None:
        """Send to its standard input; a job that has ended swallows it."""
        self._said += data

    async def read_line(self, seconds: float) -> bytes | None:
        """Its next line of standard output without the line end; None when it ended, overran a limit, or said nothing in that time."""
        if self._given == len(self._heard) and self._end is None:
            await self._hear_more(seconds)
        if self._given == len(self._heard):
            return None
        self._given += 1
        return self._heard[self._given - 1]

    async def finish(self) -> Execution:
        """What became of it; a job that was still waiting was ended by the run that brought its last line."""
        return self._end or Execution("failed", None, b"\n".join([*self._heard, b""]), note="stopped while it was running")

    async def _hear_more(self, seconds: float) -> None:
        self._turns += 1
        if self._turns > TURNS:
            words = f"more than {TURNS} lines of conversation; run such tests in a sandbox of this machine, or fewer of them"
            self._end = Execution("error", None, note=words)
            return
        # What was said before is said again first, at a speed that is not ours to choose.
        wall = min(self._limits.wall_seconds, 2 * self._spent + seconds)
        job = replace(self._job, stdin=self._said)
        done, ended = await self._again(job, replace(self._limits, wall_seconds=wall), len(self._heard) + 1)
        if done.status == "error":
            self._end = done
            return
        lines = done.stdout.split(b"\n")
        lines = lines[:-1] if not ended or not lines[-1] else lines  # the last line of a job that has ended needs no line end
        if lines[: len(self._heard)] != self._heard:
            words = "it did not say the same when it was run again, as a conversation over HTTP needs; use a sandbox of this machine"
            self._end = Execution("error", None, note=words)
            return
        self._heard, self._spent, self._end = lines, done.seconds, done if ended else None

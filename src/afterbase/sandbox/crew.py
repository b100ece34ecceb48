"""What all sandboxes on this machine share: jobs are checked, at most `workers` run at a time, each driven by a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath

from afterbase.sandbox.base import Execution, Job, Limits
from afterbase.sandbox.pump import Process, Pump

FAREWELL_SECONDS = 0.5  # from the end of its input until a job that was talked to is ended by force


class Crew(ABC):
    """A sandbox whose jobs are driven by threads, so that it serves several `asyncio.run` one after the other."""

    def __init__(self, workers: int):
        self.workers = workers
        self._threads: ThreadPoolExecutor | None = None
        self._running: set[Pump] = set()
        self._lock = threading.Lock()

    @abstractmethod
    def begin(self, job: Job, limits: Limits) -> Process:
        """Start the processes of a job; OSError when the machine does not let us."""

    @abstractmethod
    def tidy(self) -> None:
        """Take away what was set up for all jobs; the next job would set it up afresh."""

    async def run(self, job: Job, limits: Limits) -> Execution:
        """Run to the end; never raises for what the program does. A cancelled call kills its job."""
        pump, future = self._hire(Pump(check(job), limits))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            pump.stop()
            raise

    async def start(self, job: Job, limits: Limits) -> Talk:
        """Start a job to talk to. It takes one of the workers until it is finished, and its clock runs from its start."""
        return Talk(*self._hire(Pump(check(job), limits, open_input=True)))

    async def close(self) -> None:
        """Kill what still runs and take away what was set up."""
        with self._lock:
            threads, self._threads = self._threads, None
            for pump in self._running:
                pump.stop()
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)
        await asyncio.to_thread(self.tidy)

    def _hire(self, pump: Pump) -> tuple[Pump, Future[Execution]]:
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.workers, "sandbox")
            self._running.add(pump)
            future = self._threads.submit(pump.drive, self.begin)
        future.add_done_callback(lambda _: self._running.discard(pump))
        return pump, future


class Talk:
    """A job that is being talked to line by line."""

    def __init__(self, pump: Pump, future: Future[Execution]):
        self._pump, self._future = pump, future

    async def write(self, data: bytes) -> None:
        """Send to its standard input; a job that has ended swallows it."""
        self._pump.send(data)

    async def read_line(self, seconds: float) -> bytes | None:
        """Its next line of standard output without the line end; None when it ended, overran a limit, or said nothing in that time."""
        until = time.monotonic() + seconds
        loop = asyncio.get_running_loop()
        while True:
            news = asyncio.Event()
            self._pump.listen(lambda event=news: _call(loop, event))
            line, over = self._pump.take_line()
            if line is not None or over:
                return line
            try:
                await asyncio.wait_for(news.wait(), until - time.monotonic())
            except TimeoutError:
                return None

    async def finish(self) -> Execution:
        """Close its input, end it (by force when it does not end at once), and say what became of it."""
        self._pump.close_input()
        ended = asyncio.wrap_future(self._future)
        try:
            done, _ = await asyncio.wait([ended], timeout=FAREWELL_SECONDS)
        finally:
            self._pump.stop()
        return done.pop().result() if done else await ended


def check(job: Job) -> Job:
    """The job itself; ValueError when its names reach out of the working directory, which is its author's mistake, not the program's."""
    if not job.argv or any("\0" in word for word in job.argv):
        raise ValueError(f"a job's argv={job.argv!r} needs a program, and no word of it may hold a NUL")
    for name in (*job.files, *job.keep):
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name or name.endswith("/"):
            raise ValueError(f"a job's file {name!r} must be a relative path inside its working directory, without ..")
    for name in nested(job.files):
        raise ValueError(f"a job's file {name!r} is also the directory of another of its files")
    for name, value in job.environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"a job's variable {name!r} must have a name without = and no NUL")
    return job


def nested(names: Iterable[str]) -> list[str]:
    """Those names that another one needs as a directory, e.g. ["a"] of ["a", "a/b"]."""
    names = {PurePosixPath(name) for name in names}
    return [str(parent) for name in names for parent in name.parents if parent in names]


def _call(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop that asked has been closed since
        loop.call_soon_threadsafe(event.set)

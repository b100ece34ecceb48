"""The engine in a thread of its own, behind a queue that has an end: requests are taken in while it steps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from afterbase.engine.checks import check_places
from afterbase.engine.group import Watch
from afterbase.engine.local import LocalEngine
from afterbase.engine.speculative import Speculation
from afterbase.records import Completion, Sampling

T = TypeVar("T")


class Desk:
    """Takes requests for an engine. All answers share its batches; whoever stops waiting for one frees its rows."""

    def __init__(self, engine: LocalEngine) -> None:
        """An engine with a queue that has an end, `engine.queue`."""
        assert engine.most is not None, "a server's queue must have an end"
        self.engine, self.most, self.held = engine, engine.most, 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to step."""
        self.thread.start()

    async def close(self) -> None:
        """Stop; requests still running end with an EngineError."""
        await self._there(self.engine.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        await asyncio.to_thread(self.thread.join)
        self.loop.close()

    def check(self, answers: int) -> None:
        """EngineError for more answers at once than there will ever be places."""
        check_places(0, answers, self.most)

    @contextmanager
    def place(self, answers: int) -> Iterator[None]:
        """Places for that many answers, running or waiting; EngineError when there are not as many just now."""
        check_places(self.held, answers, self.most)
        self.held += answers
        try:
            yield
        finally:
            self.held -= answers

    async def ask(self, prompt: Sequence[int], sampling: Sampling, n: int, heard: Watch | None = None) -> list[Completion]:
        """n answers; `heard` is told (sample, token, log-probability) soon after each draw. Cancelling it frees their rows."""
        home = asyncio.get_running_loop()
        watch = (lambda *news: home.call_soon_threadsafe(heard, *news)) if heard else None
        return await self._there(self.engine.generate(prompt, sampling, n, watch))

    async def speculation(self) -> Speculation | None:
        """What drafting did so far; None where nothing is drafted. A device's counts are for the engine's own thread to read."""

        async def read() -> Speculation | None:
            return self.engine.speculation()

        return await self._there(read()) if self.engine.speculator else None  # the thread may be in the midst of many steps

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        """Work done where the engine runs."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    async def warm(self) -> None:
        """Take the memory for requests that fill the whole context, so that none fails for lack of it later, and draw a token."""
        drawn = asyncio.Event()
        longest = Sampling(max_tokens=self.engine.room - 1)
        task = asyncio.ensure_future(self.ask([0], longest, 1, lambda *news: drawn.set()))
        first = asyncio.ensure_future(drawn.wait())
        await asyncio.wait((task, first), return_when=asyncio.FIRST_COMPLETED)
        first.cancel()
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

"""The engine in a thread of its own, behind a queue that has an end: requests are taken in while it steps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from afterbase.engine.dialects import Refusal
from afterbase.engine.group import Watch
from afterbase.engine.local import LocalEngine
from afterbase.records import Completion, Sampling


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
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.engine.close(), self.loop))
        self.loop.call_soon_threadsafe(self.loop.stop)
        await asyncio.to_thread(self.thread.join)
        self.loop.close()

    def check(self, answers: int) -> None:
        """Refusal for more answers at once than there will ever be places."""
        if answers > self.most:
            raise Refusal(400, f"{answers} answers were asked for at once; this server takes at most {self.most}")

    @contextmanager
    def place(self, answers: int) -> Iterator[None]:
        """Places for that many answers, running or waiting; Refusal when there are not as many just now."""
        if self.held + answers > self.most:
            raise Refusal(429, f"{self.held} answers are running or waiting, of at most {self.most}; try again soon", "queue_full")
        self.held += answers
        try:
            yield
        finally:
            self.held -= answers

    async def ask(self, prompt: Sequence[int], sampling: Sampling, n: int, heard: Watch | None = None) -> list[Completion]:
        """n answers; `heard` is told (sample, token, log-probability) soon after each draw. Cancelling it frees their rows."""
        home = asyncio.get_running_loop()
        watch = (lambda *news: home.call_soon_threadsafe(heard, *news)) if heard else None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.engine.generate(prompt, sampling, n, watch), self.loop))

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

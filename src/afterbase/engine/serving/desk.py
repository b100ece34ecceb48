"""The engine in a thread of its own, behind a queue that has an end: requests are taken in while it steps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from afterbase.engine.dialects import Refusal
from afterbase.engine.local import LocalEngine
from afterbase.records import Completion, Sampling


class Desk:
    """Takes requests for an engine. All answers share its batches; whoever stops waiting for one frees its rows."""

    def __init__(self, engine: LocalEngine, queue: int) -> None:
        """`queue`: answers that may wait while all rows are taken."""
        self.engine, self.most, self.held = engine, engine.config.rows + queue, 0
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

    async def ask(self, prompt: Sequence[int], sampling: Sampling, n: int, heard: Callable[[int], None] | None = None) -> list[Completion]:
        """n answers; `heard` is told the first one's tokens as they are drawn. Cancelling it frees their rows."""
        home = asyncio.get_running_loop()
        watch = (lambda token: home.call_soon_threadsafe(heard, token)) if heard else None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._asked(prompt, sampling, n, watch), self.loop))

    async def _asked(self, prompt: Sequence[int], sampling: Sampling, n: int, watch: Callable[[int], None] | None) -> list[Completion]:
        """The same where the engine steps."""
        sampling = replace(sampling)  # one of its own: its rows are known by it
        try:
            return await self.engine.generate(prompt, sampling, n, watch)
        except asyncio.CancelledError:
            self._withdraw(sampling)
            raise

    @torch.inference_mode()
    def _withdraw(self, sampling: Sampling) -> None:
        """Take back what was asked: what waits is forgotten, what runs has drawn its last token."""
        for group in [group for group in self.engine.waiting if group.sampling is sampling]:
            self.engine.waiting.remove(group)
        for row, (group, _) in enumerate(self.engine.rows.owners):
            if group.sampling is sampling:
                self.engine.rows.limits[row] = 0

    async def warm(self) -> None:
        """Take the memory for requests that fill the whole context, so that none fails for lack of it later, and draw a token."""
        drawn = asyncio.Event()
        longest = Sampling(max_tokens=self.engine.room - 1)
        task = asyncio.ensure_future(self.ask([0], longest, 1, lambda token: drawn.set()))
        first = asyncio.ensure_future(drawn.wait())
        await asyncio.wait((task, first), return_when=asyncio.FIRST_COMPLETED)
        first.cancel()
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

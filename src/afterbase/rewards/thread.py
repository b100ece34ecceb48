"""Somebody else's function beside the event loop: one call at a time, each with a limit, in threads that no exit waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary


class OutOfTime(Exception):
    """A call that took longer than it may; a TimeoutError is what the function itself has met."""


class Turns:
    """The order in which calls of one function are served; the wait for a turn does not count as time of the call."""

    def __init__(self, seconds: float):
        """`seconds`: wall time of one call, after which it is OutOfTime."""
        self.seconds = seconds
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._running = threading.Lock()

    async def threaded(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """What the function gives, called in a thread; what it raises is raised here."""
        loop = asyncio.get_running_loop()
        async with self._queues.setdefault(loop, asyncio.Lock()):
            future = loop.create_future()
            threading.Thread(target=self._call, args=(loop, future, function, arguments), daemon=True).start()
            result, error = await self._in_time(future)
        if error is not None:
            raise error
        return result

    async def awaited(self, call: Awaitable[Any]) -> Any:
        """What a coroutine gives; several run side by side, as their author expects of them."""
        return await self._in_time(asyncio.ensure_future(call))

    async def _in_time(self, future: asyncio.Future) -> Any:
        try:
            await asyncio.wait([future], timeout=self.seconds)
            if not future.done():
                raise OutOfTime
            return future.result()
        finally:
            future.cancel()

    def _call(
        self, loop: asyncio.AbstractEventLoop, future: asyncio.Future, function: Callable[..., Any], arguments: dict[str, Any]
    ) -> None:
        with self._running:  # a call that ran out of time may still be at it: the function never runs twice at once
            try:
                outcome = function(**arguments), None
            except Exception as error:
                outcome = None, error
            except BaseException as error:  # `exit()` in a reward function ends no run
                outcome = None, RuntimeError(f"{type(error).__name__}: {error}")
        with suppress(RuntimeError):  # the loop is gone: nobody waits any more
            loop.call_soon_threadsafe(_settle, future, outcome)


def _settle(future: asyncio.Future, outcome: tuple[Any, Exception | None]) -> None:
    if not future.done():  # it ran out of time
        future.set_result(outcome)

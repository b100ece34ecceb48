"""Somebody else's function beside the event loop: one call at a time, each with a limit, in threads that no exit waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary


class Turns:
    """The order in which calls of one function are served; the wait for a turn does not count as time of the call."""

    def __init__(self, seconds: float):
        """`seconds`: wall time of one call, after which it is a TimeoutError."""
        self.seconds = seconds
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._running = threading.Lock()

    async def threaded(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """What the function gives, called in a thread; what it raises is raised here."""
        loop = asyncio.get_running_loop()
        async with self._queues.setdefault(loop, asyncio.Lock()):
            future = loop.create_future()
            call = threading.Thread(target=self._call, args=(loop, future, function, arguments), daemon=True)
            call.start()
            return await asyncio.wait_for(future, self.seconds)

    async def awaited(self, call: Awaitable[Any]) -> Any:
        """What a coroutine gives; several run side by side, as their author expects of them."""
        return await asyncio.wait_for(call, self.seconds)

    def _call(
        self, loop: asyncio.AbstractEventLoop, future: asyncio.Future, function: Callable[..., Any], arguments: dict[str, Any]
    ) -> None:
        with self._running:  # a call that ran out of time may still be at it: the function never runs twice at once
            try:
                settle, result = future.set_result, function(**arguments)
            except Exception as error:
                settle, result = future.set_exception, error
            except BaseException as error:  # `exit()` in a reward function ends no run
                settle, result = future.set_exception, RuntimeError(f"{type(error).__name__}: {error}")
        with suppress(RuntimeError):  # the loop is gone: nobody waits any more
            loop.call_soon_threadsafe(_settle, future, settle, result)


def _settle(future: asyncio.Future, settle: Callable[[Any], None], result: Any) -> None:
    if not future.done():  # it was cancelled, or ran out of time
        settle(result)

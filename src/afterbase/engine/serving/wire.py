"""A small HTTP/1.1 server for people one does not know: h11 reads the protocol, everything else has a limit.

Heads and bodies have a size and a time, answers that nobody takes are given up, and a client that leaves cancels what it asked for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import h11

from afterbase.engine.dialects import Refusal

CHUNK = 1 << 16
"""Bytes read at once, and that may be sent ahead of an answer that is still on its way."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may cost before it has asked anything."""

    body: int = 8 << 20
    """Bytes of a request's body."""
    head: int = 1 << 14
    """Bytes of its head."""
    connections: int = 1024
    """Open at once; beyond, the door is closed."""
    head_seconds: float = 10.0
    """For the head of a connection's first request."""
    idle_seconds: float = 60.0
    """Between the requests of a connection."""
    body_seconds: float = 60.0
    """For a body."""
    write_seconds: float = 30.0
    """For a client to take what was sent."""
    linger_seconds: float = 2.0
    """For a refused client to stop sending: hung up on at once, it would never read why."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, e.g. Request("GET", "/v1/models", {"host": "localhost:8000"}, b"")."""

    method: str
    """GET, POST, ..."""
    path: str
    """Without what follows a question mark."""
    headers: dict[str, str]
    """Names in lower case; of a repeated one the last."""
    body: bytes
    """As it came; empty while only the head is there."""


App = Callable[[Request, "Connection"], Awaitable[None]]
Admit = Callable[[Request], None]
"""Raises Refusal for a head whose body is not even read."""


class Server:
    """Listens, and hands requests to an application."""

    def __init__(self, app: App, admit: Admit, report: Callable[[Exception], None], limits: Limits | None = None) -> None:
        """`report` is told the failures that are our own, which clients are not."""
        self.app, self.admit, self.report, self.limits = app, admit, report, limits or Limits()
        self.connections: dict[asyncio.Task, Connection] = {}
        self.closing = False
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which the system chooses for 0."""
        self._server = await asyncio.start_server(self._greet, host, port, backlog=self.limits.connections)
        return self._server.sockets[0].getsockname()[1]

    async def stop(self, seconds: float) -> None:
        """Take nothing new, let what is being answered end within the time, and drop the rest."""
        self.closing = True
        self._server.close()
        for task, connection in self.connections.items():
            if not connection.busy:
                task.cancel()
        if self.connections:
            await asyncio.wait(list(self.connections), timeout=seconds)
        for task in (left := list(self.connections)):
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        connection = Connection(self, reader, writer)
        try:
            if self.closing or len(self.connections) >= self.limits.connections:
                return
            self.connections[task] = connection
            await connection.serve()
        except asyncio.CancelledError:
            pass  # by `stop`, which waits for this task to end
        except (OSError, TimeoutError, h11.RemoteProtocolError, h11.LocalProtocolError):
            pass  # the client is gone, too slow, or speaks no HTTP: nobody is there to be told
        except Exception as error:
            self.report(error)
        finally:
            self.connections.pop(task, None)
            await connection.close()


class Connection:
    """One client's line: requests one after the other, and where their answers go."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.limits, self.reader, self.writer = server, server.limits, reader, writer
        self.h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=self.limits.head)
        self.busy, self.bare = False, False  # bare: this answer must have no body

    async def serve(self) -> None:
        """Requests until one side has had enough."""
        patience = self.limits.head_seconds
        while not self.server.closing:
            try:
                async with asyncio.timeout(patience):
                    head = await self._event()
            except h11.RemoteProtocolError as error:
                return await self._refuse(Refusal(error.error_status_hint, "this is no HTTP/1.1 request"))
            if not isinstance(head, h11.Request):
                return
            self.busy = True
            await self._exchange(head)
            self.busy = False
            if self.h11.our_state is not h11.DONE or self.h11.their_state is not h11.DONE:
                return
            self.h11.start_next_cycle()
            patience = self.limits.idle_seconds

    async def close(self) -> None:
        """Hang up; what was written is still sent to a client that takes it."""
        self.writer.close()
        try:
            async with asyncio.timeout(self.limits.linger_seconds if self.server.closing else self.limits.write_seconds):
                await self.writer.wait_closed()
        except (OSError, TimeoutError):
            self.writer.transport.abort()

    async def reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        """A whole answer in JSON."""
        body = json.dumps(value).encode()
        await self._begin(status, {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})})
        if not self.bare:
            await self.push(body)
        await self.end()

    async def begin(self) -> None:
        """An answer that comes as a stream of events."""
        await self._begin(200, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store"})

    async def push(self, data: bytes) -> None:
        """A piece of the answer's body."""
        await self._send(h11.Data(data=data))

    async def end(self) -> None:
        """No more of it."""
        await self._send(h11.EndOfMessage())

    @property
    def begun(self) -> bool:
        """Whether some of the answer has been sent."""
        return self.h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE)

    async def _exchange(self, head: h11.Request) -> None:
        """One request and its answer."""
        self.bare = head.method == b"HEAD"
        try:
            request = await self._request(head)
            await self._unless_gone(self.server.app(request, self))
        except Refusal as refusal:
            await self._refuse(refusal)
        except h11.RemoteProtocolError as error:
            await self._refuse(Refusal(error.error_status_hint, "the request's body is no HTTP/1.1"))
        except (OSError, TimeoutError, h11.LocalProtocolError):
            raise
        except Exception as error:
            self.server.report(error)
            await self._refuse(Refusal(500, "the server failed at this request; its log says how"))

    async def _request(self, head: h11.Request) -> Request:
        """The whole request, if its head is let in and its body is not too large."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        path = unquote(head.target.decode("latin-1").partition("?")[0])
        request = Request(head.method.decode("latin-1"), path, headers, b"")
        self.server.admit(request)
        self._check_size(int(headers.get("content-length", 0)))
        body = bytearray()
        async with asyncio.timeout(self.limits.body_seconds):
            while isinstance(event := await self._event(), h11.Data):
                body += event.data
                self._check_size(len(body))
        return Request(request.method, path, headers, bytes(body))

    def _check_size(self, size: int) -> None:
        if size > self.limits.body:
            raise Refusal(413, f"a body of {size} bytes or more is too large; send at most {self.limits.body}")

    async def _event(self) -> Any:
        """What the client says next."""
        while (event := self.h11.next_event()) is h11.NEED_DATA:
            if self.h11.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self.h11.receive_data(await self.reader.read(CHUNK))
        return event

    async def _unless_gone(self, answer: Awaitable[None]) -> None:
        """Answer, but stop when the client hangs up."""
        task, gone = asyncio.ensure_future(answer), asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ConnectionAbortedError
            task.result()
        finally:
            for each in (task, gone):
                each.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    async def _gone(self) -> None:
        """Returns when the client has hung up, or talks on and on without listening."""
        ahead = 0
        with suppress(OSError):
            while ahead <= CHUNK and (data := await self.reader.read(CHUNK)):
                ahead += len(data)
                self.h11.receive_data(data)

    async def _refuse(self, refusal: Refusal) -> None:
        """Say why not. A line whose request was not read to its end is of no more use, nor is one whose answer was half sent."""
        if self.begun:
            raise ConnectionAbortedError
        headers = {"retry-after": "1"} if refusal.status in (429, 503) else {}
        if self.h11.their_state is not h11.DONE:
            headers["connection"] = "close"
        await self.reply(refusal.status, refusal.shape, headers)
        if "connection" in headers:
            await self._linger()

    async def _linger(self) -> None:
        """Throw away the rest of a request, within reason."""
        left = 4 * self.limits.body
        with suppress(OSError, TimeoutError):
            self.writer.write_eof()
            async with asyncio.timeout(self.limits.linger_seconds):
                while left > 0 and (data := await self.reader.read(CHUNK)):
                    left -= len(data)

    async def _begin(self, status: int, headers: dict[str, str]) -> None:
        if self.server.closing:
            headers = {**headers, "connection": "close"}
        await self._send(h11.Response(status_code=status, headers=list(headers.items())))

    async def _send(self, event: Any) -> None:
        data = self.h11.send(event)
        if data:
            self.writer.write(data)
            async with asyncio.timeout(self.limits.write_seconds):
                await self.writer.drain()

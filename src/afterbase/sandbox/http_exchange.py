"""One question to an HTTP server and its answer: retried while the trouble may pass, limited in time and size, never redirected."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

FIRST_DELAY, LONGEST_DELAY = 0.5, 20.0  # seconds before the first retry, doubled for each further one
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class ServerTrouble(Exception):
    """The server did not answer as it must; says in words how."""


class TooLong(ServerTrouble):
    """The answer is longer than any that was asked for."""


class Passing(ServerTrouble):
    """Trouble that may be over soon."""

    def __init__(self, words: str, delay: float = 0.0):
        super().__init__(words)
        self.delay = delay


class Stopped(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where questions go, e.g. Server("http://127.0.0.1:8080/run_code")."""

    url: str
    """The whole address."""
    token: str = ""
    """Sent as `Authorization: Bearer`; empty sends none."""
    retries: int = 3
    """After connection errors and answers that ask for patience."""
    tls: ssl.SSLContext | None = None
    """For https; made once, since reading the certificates takes longer than most questions."""

    def connect(self, seconds: float) -> http.client.HTTPConnection:
        """A connection that is not yet open."""
        parts = urlsplit(self.url)
        if self.tls:
            return http.client.HTTPSConnection(str(parts.hostname), parts.port, timeout=seconds, context=self.tls)
        return http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=seconds)

    @property
    def target(self) -> str:
        """What the request line asks for."""
        parts = urlsplit(self.url)
        return parts.path + (f"?{parts.query}" if parts.query else "")

    @property
    def headers(self) -> dict[str, str]:
        """Of every question. A new connection each: a job costs far more, and a stale one would be a trouble of its own."""
        plain = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
        return plain | {"Authorization": f"Bearer {self.token}"} if self.token else plain


class Exchange:
    """A question under way; `run` blocks its thread, `abort` is for another one."""

    def __init__(self, server: Server, question: dict[str, Any], seconds: float, most: int):
        """`seconds`: for one attempt, everything together; `most`: bytes of the answer."""
        self._server, self._body, self._seconds, self._most = server, json.dumps(question).encode(), seconds, most
        self._stopped, self._late = threading.Event(), threading.Event()
        self._socket: socket.socket | None = None

    def run(self) -> Any:
        """The answer as JSON data; ServerTrouble when there is none, Stopped after `abort`."""
        for attempt in range(self._server.retries + 1):
            try:
                return self._once()
            except Passing as trouble:
                if attempt == self._server.retries:
                    again = f", also after {attempt} retries" if attempt else ""
                    raise ServerTrouble(f"{trouble}{again}") from None
                self._stopped.wait(min(LONGEST_DELAY, trouble.delay or FIRST_DELAY * 2**attempt))
        raise AssertionError("unreachable")

    def abort(self) -> None:
        """Give up at once."""
        self._stopped.set()
        self._hang_up()

    def _once(self) -> Any:
        if self._stopped.is_set():
            raise Stopped
        connection = self._server.connect(self._seconds)
        # A limit for each read would let a server that sends a byte a second go on for ever.
        clock = threading.Timer(self._seconds, self._out_of_time)
        clock.daemon = True
        clock.start()
        try:
            return self._answer(connection)
        except (OSError, http.client.HTTPException) as error:
            if self._stopped.is_set():
                raise Stopped from None
            if self._late.is_set() or isinstance(error, TimeoutError):
                raise ServerTrouble(f"no answer within {self._seconds:g} s") from None
            raise Passing(f"the connection failed ({str(error)[:200] or type(error).__name__})") from None
        finally:
            clock.cancel()
            connection.close()

    def _answer(self, connection: http.client.HTTPConnection) -> Any:
        connection.connect()
        self._socket = connection.sock  # the connection forgets it as soon as the answer begins
        if self._late.is_set() or self._stopped.is_set():
            raise TimeoutError
        connection.request("POST", self._server.target, self._body, self._server.headers)
        response = connection.getresponse()
        if response.status != 200:
            raise _refusal(response)
        body = response.read(self._most + 1)
        if self._late.is_set() or self._stopped.is_set():
            raise TimeoutError
        if len(body) > self._most:
            raise TooLong(f"its answer is longer than {self._most} bytes")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise ServerTrouble(f"its answer is no JSON: {body[:100]!r}") from None

    def _out_of_time(self) -> None:
        self._late.set()
        self._hang_up()

    def _hang_up(self) -> None:
        """Wake the thread that waits for the socket; closing it from here would not."""
        with contextlib.suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)


def _refusal(response: http.client.HTTPResponse) -> ServerTrouble:
    status = f"it answers {response.status} {response.reason[:40]}"
    if 300 <= response.status < 400:
        elsewhere = (response.getheader("Location") or "nowhere")[:200]
        return ServerTrouble(f"{status}, sending us to {elsewhere!r}, which is never followed; if that is right, make it the url")
    words = f"{status}: {response.read(200)!r}"
    if response.status in PASSING:
        delay = response.getheader("Retry-After") or ""
        return Passing(words, float(delay) if delay.isascii() and delay.isdigit() and len(delay) < 6 else 0.0)
    return ServerTrouble(words)

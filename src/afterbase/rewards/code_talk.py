"""Talks with a Python program in its sandbox: our process hands requests in and plain data out, and never runs or unpacks any of it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afterbase.rewards.code_plain import encode
from afterbase.rewards.code_tests import Asserting
from afterbase.rewards.code_trial import Result, Status
from afterbase.sandbox.base import Execution, Job, Limits, Running, Sandbox

STARTS = 3
"""Times that a program is started for its tests: one that has died or hung in a test may still pass others."""

_HERE = Path(__file__).parent
_REQUEST = b'{"id":'  # how the tests' side begins a line that is for the program


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from the program, e.g. Answer("passed", 5) or Answer("timeout", note="no answer within 2 s")."""

    status: Status
    """`passed`: there is a value."""
    value: Any = None
    """As plain data, see `code_plain`."""
    note: str = ""
    """Why there is none."""


class Program:
    """A program that waits to be asked, started when first needed and again when it has died."""

    def __init__(self, sandbox: Sandbox, limits: Limits, program: str, names: str, preamble: str = ""):
        """`names`: what is defined before the program begins, see `code_server`."""
        files = {"solution.py": program.encode("utf-8", "replace"), "preamble.py": _head(preamble)} | _harness("code_server", "code_plain")
        self._sandbox, self._limits, self._job = sandbox, limits, Job(("python3", "code_server.py", names), files)
        self._running: Running | None = None
        self._starts = self._number = 0
        self._until = time.monotonic() + limits.wall_seconds

    async def load(self, seconds: float) -> Answer | None:
        """Start it unless it runs; None when it is ready, else why it cannot be."""
        if self._running is not None:
            return None
        if self._starts == STARTS or time.monotonic() > self._until:
            return Answer("failed", note="the program has died or hung too often")
        self._starts += 1
        self._running = await self._sandbox.start(self._job, self._limits)
        line, trouble = await self._line(seconds)
        if trouble:
            return trouble
        answer = _read(line, 0)
        if answer.status != "passed":
            self._starts = STARTS  # it would fail again
            await self.finish()
            return answer
        return None

    async def ask(self, request: bytes, seconds: float) -> tuple[bytes, Answer | None]:
        """Its line of answer to a line of request, and what is the matter when there is none."""
        trouble = await self.load(seconds)
        if trouble or self._running is None:
            return b"", trouble
        await self._running.write(request + b"\n")
        return await self._line(seconds)

    async def call(self, name: str, given: list[Any], named: dict[str, Any], seconds: float) -> Answer:
        """What a function returns for JSON values."""
        self._number += 1
        request = {"id": self._number, "do": "call", "name": name, "args": encode(given, _no_handle), "kwargs": encode(named, _no_handle)}
        line, trouble = await self.ask(json.dumps(request).encode(), seconds)
        return trouble or _read(line, self._number)

    async def finish(self) -> Execution | None:
        """End it."""
        running, self._running = self._running, None
        return await running.finish() if running else None

    async def _line(self, seconds: float) -> tuple[bytes, Answer | None]:
        began = time.monotonic()
        line = await self._running.read_line(seconds) if self._running else None
        if line is not None:
            return line, None
        silent = time.monotonic() - began >= seconds
        done = await self.finish()
        if done and done.status == "error":
            return b"", Answer("error", note=done.note)
        if silent or (done and done.status == "timeout"):
            return b"", Answer("timeout", note=f"no answer within {seconds:g} s")
        if done and done.status in ("memory", "output"):
            return b"", Answer(done.status, note=done.note)
        return b"", Answer("failed", note="the program ended instead of answering")


async def relay(sandbox: Sandbox, limits: Limits, program: Program, tests: Asserting, seconds: float) -> AsyncIterator[Result]:
    """The results of assert tests, which run in a sandbox of their own; requests and answers go through us unread."""
    trouble = await program.load(seconds)
    if trouble:
        yield Result(trouble.status, trouble.note)
        return
    tester = await sandbox.start(_tester_job(tests), limits)
    ended = False
    try:
        while (line := await tester.read_line(seconds)) is not None:
            if line.startswith(_REQUEST):
                answer, lost = await program.ask(line, seconds)
                trouble = trouble or lost
                await tester.write((answer or b"{}") + b"\n")
                continue
            message = json.loads(line)
            if "end" in message:
                ended = True
                break
            yield _verdict(message, trouble)
            trouble = None
    finally:
        done = await tester.finish()
    if not ended:
        yield _cut(done)


def _tester_job(tests: Asserting) -> Job:
    texts = {f"test_{index}.py": test.encode("utf-8", "replace") for index, test in enumerate(tests.cases)}
    files = {"setup.py": _head(tests.setup)} | texts | _harness("code_tester", "code_server", "code_plain")
    return Job(("python3", "code_tester.py", str(len(tests.cases)), tests.entry), files)


def _verdict(message: dict[str, Any], trouble: Answer | None) -> Result:
    """A test in which the program died, hung or broke a limit has failed, also when it waited for an exception."""
    if "broken" in message:
        return Result("error", message["broken"])
    if trouble:
        return Result(trouble.status, trouble.note)
    return Result("wrong", message["failed"]) if "failed" in message else Result(message["status"], message["note"])


def _cut(done: Execution) -> Result:
    """The tests' side ended or hung: over an answer that it could not swallow, since on its own it would have come to its end."""
    if done.status == "error":
        return Result("error", done.note)
    stuck = done.status in ("timeout", "failed")
    return Result("timeout" if stuck else "wrong", "the test did not come to an end with what the program answered")


def _read(line: bytes, number: int) -> Answer:
    """A program's answer; whatever cannot be read is its own fault."""
    try:
        message = json.loads(line)
        if message["id"] != number:
            return Answer("failed", note="the program answered out of turn")
        if "error" in message:
            return Answer("failed", note=f"{message['error']}: {message.get('message', '')}"[:300])
        return Answer("passed", message.get("value"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return Answer("failed", note=f"the program sent no answer that can be read: {type(error).__name__}")


def _harness(*names: str) -> dict[str, bytes]:
    return {f"{name}.py": (_HERE / f"{name}.py").read_bytes() for name in names}


def _head(text: str) -> bytes:
    """What the program was asked to complete, so that it runs by itself: a signature at its end gets a body."""
    opened = text.rstrip()
    last = opened.rpartition("\n")[2]
    indent = last[: len(last) - len(last.lstrip())]
    return (f"{opened}\n{indent}    pass\n" if opened.endswith(":") else opened + "\n").encode("utf-8", "replace")


def _no_handle(value: Any) -> int:
    raise TypeError(f"a test's argument is no JSON value but a {type(value).__name__}")

"""The outside of a running job: feeds its input, reads its output up to a limit, watches the clock, and says what became of it.

One thread drives one job from start to end, so nothing here belongs to an event loop, and the clock runs also while nobody asks.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from afterbase.sandbox.base import Execution, Job, Limits

PIECE = 1 << 16  # bytes: what a pipe holds
GRACE_SECONDS = 20.0  # between a kill and the end of all processes; a busy kernel takes a while to take a large job apart
FULL = (b"MemoryError", b"std::bad_alloc", b"java.lang.OutOfMemoryError", b"heap out of memory", b"Allowed memory size of")
"""What runtimes print when an allocation was refused; it only matters for a job that then failed."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How the processes of a job ended, e.g. Ending(0, {"a.out": b"..."})."""

    exit_code: int | None
    """As in `Execution`."""
    kept: Mapping[str, bytes] = field(default_factory=dict)
    """As in `Execution`."""
    memory: str = ""
    """Why it was killed, if for its memory, its disk or its processes."""
    overtime: bool = False
    """Whether a signal ended it after it had used up its processor time."""
    failure: str = ""
    """Why the sandbox could not run it; empty when it could."""


class Process(Protocol):
    """A started job as its pump sees it; the descriptors are ours and do not block."""

    stdin: int
    """Where its standard input is written."""
    stdout: int
    """Where its standard output is read."""
    stderr: int
    """Where its standard error is read."""
    done: int
    """Becomes readable when there is news of its end."""

    def ended(self) -> bool:
        """Take in the news; whether every process of the job is gone."""

    def kill(self) -> None:
        """Begin to kill every process of the job; may be called more than once."""

    def ending(self) -> Ending:
        """How it ended, once `ended`."""

    def release(self) -> None:
        """Close what is ours but `stdin`, which the pump closes."""


class Pump:
    """Drives one job; the methods above the line are for other threads."""

    def __init__(self, job: Job, limits: Limits, open_input: bool = False):
        self.job, self.limits = job, limits
        self._pending = bytearray(job.stdin)
        self._open_input = open_input  # a conversation's input stays open after `job.stdin`
        self._texts = {"stdout": bytearray(), "stderr": bytearray()}
        self._taken = 0  # bytes of output already handed out as lines
        self._stopped = self._over = False
        self._verdict: Literal["", "timeout", "output", "stopped", "lost"] = ""
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._wake: int | None = None

    def send(self, data: bytes) -> None:
        """Append to its standard input."""
        with self._lock:
            self._pending += data
            self._prod()

    def close_input(self) -> None:
        """No more input will come."""
        with self._lock:
            self._open_input = False
            self._prod()

    def stop(self) -> None:
        """Kill it, or do not even start it."""
        with self._lock:
            self._stopped = True
            self._prod()

    def take_line(self) -> tuple[bytes | None, bool]:
        """The next line of output if there is one, and whether none can come any more; the last line needs no end."""
        output = self._texts["stdout"]
        with self._lock:
            end = output.find(b"\n", self._taken)
            if end < 0 and self._over and self._taken < len(output):
                end = len(output)
            if end < 0:
                return None, self._over
            line = bytes(output[self._taken : end])
            self._taken = end + 1
            return line, False

    def listen(self, callback: Callable[[], None]) -> None:
        """Call back once, from the driving thread, at the next output or at the end; at once if it has ended."""
        with self._lock:
            self._listeners.append(callback)
            over = self._over
        if over:
            self._tell()

    # ---------------------------------------------------------------------------------------------------------------------------------

    def drive(self, start: Callable[[Job, Limits], Process]) -> Execution:
        """Run the job from its start to its end."""
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            if self._stopped:
                return Execution("failed", None, note="stopped before it was started")
            began = time.monotonic()
            try:
                process = start(self.job, self.limits)
            except OSError as error:
                return Execution("error", None, note=f"the sandbox could not start the job: {error}")
            try:
                self._serve(process, began)
                return self._result(process, time.monotonic() - began)
            finally:
                self._close(process)
        finally:
            with self._lock:
                self._over = True
                os.close(self._wake)
                self._wake = None
            self._tell()

    def _serve(self, process: Process, began: float) -> None:
        self._poller = select.poll()
        for descriptor in (process.stdout, process.stderr, process.done, self._wake):
            self._poller.register(descriptor, select.POLLIN)
        self._stdin: int | None = process.stdin
        self._poller.register(process.stdin, select.POLLOUT)
        self._until = began + self.limits.wall_seconds
        while True:
            wait = max(0.0, self._until - time.monotonic())
            ready = {descriptor for descriptor, _ in self._poller.poll(wait * 1000 + 1)}
            if process.done in ready and process.ended():
                self._drain(process)
                return
            self._exchange(process, ready)
            if self._stopped:
                self._end("stopped", process)
            if time.monotonic() >= self._until and not self._end("timeout", process):
                self._verdict = "lost"
                return

    def _exchange(self, process: Process, ready: set[int]) -> None:
        if self._wake in ready:
            os.eventfd_read(self._wake)
        if self._wake in ready or self._stdin in ready:
            self._feed()
        for name, descriptor in (("stdout", process.stdout), ("stderr", process.stderr)):
            if descriptor in ready and not self._read(name, descriptor):
                self._poller.unregister(descriptor)
            if len(self._texts[name]) > self.limits.output_bytes:
                self._end("output", process)

    def _end(self, verdict: Literal["timeout", "output", "stopped"], process: Process) -> bool:
        """Kill it for this reason, unless it is being killed already."""
        if self._verdict:
            return False
        self._verdict = verdict
        self._until = time.monotonic() + GRACE_SECONDS
        process.kill()
        return True

    def _feed(self) -> None:
        """Write what the job will take now; what it does not want to read is swallowed."""
        with self._lock:
            if self._stdin is None:
                self._pending.clear()
                return
            try:
                while self._pending:
                    del self._pending[: os.write(self._stdin, memoryview(bytes(self._pending[:PIECE])))]
            except BlockingIOError:
                self._poller.modify(self._stdin, select.POLLOUT)
                return
            except BrokenPipeError:
                self._pending.clear()
                self._open_input = False
            self._poller.modify(self._stdin, 0)
            if not self._open_input:
                self._close_stdin(self._stdin)

    def _close_stdin(self, descriptor: int) -> None:
        self._poller.unregister(descriptor)
        os.close(descriptor)
        self._stdin = None

    def _read(self, name: str, descriptor: int) -> bool:
        """Take one piece of output in; whether more may come. Past the limit it is read and thrown away, so that memory stays flat."""
        try:
            piece = os.read(descriptor, PIECE)
        except BlockingIOError:
            return True
        room = self.limits.output_bytes + 1 - len(self._texts[name])
        with self._lock:
            self._texts[name] += piece[:room]
        if name == "stdout":
            self._tell()
        return bool(piece)

    def _drain(self, process: Process) -> None:
        """What is still in the pipes of a job that has ended. They may have another writer than the job, so nothing waits for their end."""
        for name, descriptor in (("stdout", process.stdout), ("stderr", process.stderr)):
            os.set_blocking(descriptor, False)
            before = -1
            while len(self._texts[name]) > before:
                before = len(self._texts[name])
                self._read(name, descriptor)
            if before > self.limits.output_bytes and not self._verdict:
                self._verdict = "output"

    def _close(self, process: Process) -> None:
        with self._lock:
            if self._stdin is not None:
                os.close(self._stdin)
                self._stdin = None
        process.release()

    def _result(self, process: Process, seconds: float) -> Execution:
        output, errors = (bytes(text[: self.limits.output_bytes]) for text in self._texts.values())
        if self._verdict == "lost":
            return Execution("error", None, output, errors, seconds, note="its processes did not end when they were killed")
        ending = process.ending()
        status, note = self._judge(ending, errors)
        return Execution(status, ending.exit_code, output, errors, seconds, ending.kept, note)

    def _judge(self, ending: Ending, errors: bytes) -> tuple[str, str]:
        limits, code = self.limits, ending.exit_code
        if self._verdict == "output":
            return "output", f"killed for printing more than {limits.output_bytes} bytes"
        if ending.memory:  # also of one that then waited in vain for the process that was killed
            return "memory", ending.memory
        if self._verdict == "timeout":
            return "timeout", f"killed after {limits.wall_seconds:g} s"
        if self._verdict == "stopped":
            return "failed", "stopped while it was running"
        if ending.failure:
            return "error", ending.failure
        if ending.overtime or code == -signal.SIGXCPU:
            return "timeout", f"killed after {limits.cpu_seconds:g} s of processor time"
        if code and any(words in errors for words in FULL):
            return "memory", f"an allocation was refused at {limits.memory_mb} MiB"
        return ("ok", "") if code == 0 else ("failed", f"killed by signal {-code}" if code and code < 0 else f"exit code {code}")

    def _prod(self) -> None:
        if self._wake is not None:
            os.eventfd_write(self._wake, 1)

    def _tell(self) -> None:
        with self._lock:
            listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()

"""Worker processes that check answers and may be killed: nothing that a model writes can hang or crash the run."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from afterbase.records import Outcome
from afterbase.rewards.verdict import Verdict

SCRIPT = Path(__file__).with_name("math_worker.py")
START_SECONDS = 120.0  # wall time; importing sympy without compiled bytecode on a busy machine takes tens of seconds
PATIENCE = 20  # a worker that has used this many times its limit in wall time is stuck without computing
RECYCLE_AFTER = 2000  # checks by computer algebra; its parser's tables grow with every new answer, and a full worker would fail good ones


class BrokenVerifier(Exception):
    """A process says that it cannot judge anything."""


class Worker:
    """One child process; used by one thread at a time."""

    def __init__(self, memory_mb: int):
        # Not `multiprocessing`: spawn would import the caller's main module, and forkserver this package, both with torch.
        # -I: started by path, the script's directory would be searched first, where math.py hides the standard library's.
        command = [sys.executable, "-I", str(SCRIPT)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
        self.algebra_checks = 0
        self._ready = False
        self._received = b""
        self._setup = {"path": sys.path, "memory_mb": memory_mb}

    def check(self, question: dict, seconds: float) -> Verdict:
        """Ask the process; afterwards `alive` tells whether it can be asked again."""
        try:
            if not self._ready:
                self._send(self._setup)
                self._receive(START_SECONDS)
                self._ready = True
            self._send(question | {"seconds": seconds})
            reply = self._receive(PATIENCE * seconds)
            if "loading" in reply:  # computer algebra, on its own time and not on the answer's
                self._receive(START_SECONDS)
                reply = self._receive(PATIENCE * seconds)
        except BrokenVerifier as error:
            return self._lost("error", str(error))
        except TimeoutError:
            return self._lost("error", "the verifier stopped answering")
        except OSError:
            return self._obituary(seconds)
        self.algebra_checks += reply["algebra"]
        if reply["outcome"] == "timeout":
            self.stop()  # its memory is full
        return Verdict(reply["outcome"], reply["note"])

    @property
    def alive(self) -> bool:
        """Whether the process runs and is still young enough."""
        return self.process.poll() is None and self.algebra_checks < RECYCLE_AFTER

    def stop(self) -> None:
        """Kill the process and wait for it, so that no zombie stays."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def _send(self, message: dict) -> None:
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    def _receive(self, seconds: float) -> dict:
        """The next line within that wall time; TimeoutError, BrokenPipeError from a process that died, or what it says is broken."""
        until = time.monotonic() + seconds
        ready = select.poll()
        ready.register(self.process.stdout, select.POLLIN | select.POLLHUP)
        while b"\n" not in self._received:
            if not ready.poll(max(0.0, until - time.monotonic()) * 1000):
                raise TimeoutError
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                raise BrokenPipeError
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        reply = json.loads(line)
        if "failed" in reply:
            raise BrokenVerifier(reply["failed"])
        return reply

    def _obituary(self, seconds: float) -> Verdict:
        """Why the process is gone: its own clock killed it, or something that is not the answer's fault."""
        code = self.process.wait()
        if code == -signal.SIGPROF:
            return self._lost("timeout", f"not decided within {seconds:g} s of processor time")
        return self._lost("error", f"the verifier died (exit code {code})")

    def _lost(self, outcome: Outcome, note: str) -> Verdict:
        self.stop()
        return Verdict(outcome, note)


class Pool:
    """Up to `workers` processes, each started when it is first needed and replaced when it is lost.

    A thread waits for each process, so the pool belongs to no event loop and serves several `asyncio.run` one after the other.
    """

    def __init__(self, workers: int, seconds: float, memory_mb: int):
        self.workers, self.seconds, self.memory_mb = workers, seconds, memory_mb
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # last in, first out: with little to do only one is ever started
        self._threads: ThreadPoolExecutor | None = None

    @property
    def started(self) -> int:
        """How many idle processes there are now."""
        return self._idle.qsize()

    async def check(self, gold: str, answer: str, **more: str | int) -> Verdict:
        """Whether a worker finds the answer equal to the reference; never raises for what is in them.

        `more` is what else `math_judge.judge` takes; "algebra_only" asks Math-Verify alone.
        """
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.workers, "verifier")
        return await asyncio.wrap_future(self._threads.submit(self._check, {"gold": gold, "answer": answer} | more))

    async def close(self) -> None:
        """Wait for the checks under way (each is limited) and end every process; the next check would start afresh."""
        if self._threads is not None:
            threads, self._threads = self._threads, None
            await asyncio.to_thread(threads.shutdown)
        while not self._idle.empty():
            self._idle.get().stop()

    def _check(self, question: dict) -> Verdict:
        worker = self._take()
        verdict = worker.check(question, self.seconds)
        if worker.alive:
            self._idle.put(worker)
        else:
            worker.stop()
        return verdict

    def _take(self) -> Worker:
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            return Worker(self.memory_mb)
        if worker.alive:
            return worker
        worker.stop()
        return Worker(self.memory_mb)

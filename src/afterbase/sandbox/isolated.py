"""Jobs in isolation: the side of our own process, which gives them to launchers and watches them.

There is one launcher for each worker, started when it is first needed and replaced when it is lost (`inside/launcher.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from afterbase.sandbox.base import Execution, Job, Limits
from afterbase.sandbox.crew import Crew
from afterbase.sandbox.inside import wire
from afterbase.sandbox.inside.root import WORK
from afterbase.sandbox.plain import variables
from afterbase.sandbox.pump import PIECE, Ending, Pump

SOURCES = Path(__file__).parents[2]
START_SECONDS = 60.0  # until a launcher is ready; importing on a busy machine takes seconds
STOP_SECONDS = 5.0
SEND_SECONDS = 10.0
BOOT = """import sys
sys.path.append(sys.stdin.readline()[:-1])
from afterbase.sandbox.inside.launcher import main
sys.path.pop()
main(int(sys.argv[1]))"""
HOME = "/tmp"


@dataclass(frozen=True, slots=True)
class Isolation:
    """How jobs are kept apart, e.g. Isolation("namespaces", Path("/usr/bin/python3.11"))."""

    kind: Literal["namespaces", "bubblewrap"]
    """By our own system calls or by bubblewrap."""
    python: Path
    """The interpreter, all links followed."""
    visible: tuple[str, ...] = ()
    """Directories and files of the host that jobs see read-only besides /usr and what /bin and /lib are."""
    bubblewrap: Path | None = None
    """The program bwrap."""
    groups: bool = True
    """Whether control groups are used where they are writable."""
    packages: bool = False
    """Whether jobs may import what is installed beside the interpreter."""


class Launcher:
    """A launcher process; used by one thread at a time."""

    def __init__(self, isolation: Isolation):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {
            name: value for name, value in variables(HOME, isolation.python).items() if name in ("LANG", "PYTHONHASHSEED", "PATH")
        }
        # What the user has installed for himself is none of the job's business. The path comes by a pipe: jobs can read this command.
        options = ["-s"] if isolation.packages else ["-s", "-S"]
        command = [str(isolation.python), *options, "-c", BOOT, str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/", env=environment,
                pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
        self.requests = ours
        settings = {
            "isolation": isolation.kind, "python": str(isolation.python), "visible": isolation.visible, "groups": isolation.groups,
            "bubblewrap": str(isolation.bubblewrap), "packages": isolation.packages,
        }  # fmt: skip
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{SOURCES}\n{json.dumps(settings)}".encode())
            self._process.stdin.close()
        hello = self._hello()
        if "failure" in hello:
            self.stop()
            raise OSError(hello["failure"])
        self.grouped: bool = hello["grouped"]

    def stop(self) -> None:
        """End it and its job, and wait for it."""
        self.requests.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stderr.close()
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _hello(self) -> dict[str, Any]:
        self.requests.settimeout(START_SECONDS)
        try:
            data = self.requests.recv(PIECE)
        except TimeoutError:
            return {"failure": f"the launcher was not ready after {START_SECONDS:g} s"}
        if not data:
            self._process.kill()
            said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            return {"failure": f"the launcher ended at once: {said[-1] if said else 'it said nothing'}"}
        return wire.unpack(data)[0]


class IsolatedSandbox(Crew):
    """isolation = "namespaces" or "bubblewrap"."""

    def __init__(self, workers: int, isolation: Isolation):
        super().__init__(workers)
        self.isolation = isolation
        self._idle: queue.LifoQueue[Launcher] = queue.LifoQueue()  # last in, first out: with little to do only one is ever started

    def begin(self, job: Job, limits: Limits) -> IsolatedProcess:
        """Give the job to a launcher that has none."""
        try:
            launcher = self._idle.get_nowait()
        except queue.Empty:
            launcher = Launcher(self.isolation)
        try:
            return IsolatedProcess(job, limits, launcher, self._return, variables(HOME, self.isolation.python) | {"PWD": WORK})
        except OSError:
            launcher.stop()
            raise

    def probe(self) -> str:
        """Why isolation does not work on this machine; empty when it does."""
        job = Job(("python3", "probe.py"), {"probe.py": b"print(input())"}, b"works\n")
        found: Execution = Pump(job, Limits(wall_seconds=START_SECONDS)).drive(self.begin)
        return "" if found.stdout == b"works\n" else found.note or f"a first program printed {found.stdout!r} and {found.stderr!r}"

    def tidy(self) -> None:
        """End the launchers."""
        while not self._idle.empty():
            self._idle.get().stop()

    def _return(self, launcher: Launcher, healthy: bool) -> None:
        if healthy:
            self._idle.put(launcher)
        else:
            launcher.stop()


class IsolatedProcess:
    """A job in the hands of a launcher."""

    def __init__(self, job: Job, limits: Limits, launcher: Launcher, give_back, environment: Mapping[str, str]):
        self._launcher, self._give_back, self._limits = launcher, give_back, limits
        self._received = bytearray()
        self._report: dict[str, Any] = {}
        self._kept: dict[str, bytes] = {}
        self._epilogue: dict[str, Any] | None = None
        self._killed = False
        self._control, theirs = socket.socketpair()
        self.done = self._control.fileno()
        inner, outer = [theirs.detach()], []
        try:
            for direction in range(3):
                reads, writes = os.pipe()
                inner.append(writes if direction else reads)
                outer.append(reads if direction else writes)
            self.stdin, self.stdout, self.stderr = outer
            self._launch(job, inner, environment)
        except OSError:
            for descriptor in outer:
                os.close(descriptor)
            self._control.close()
            raise
        finally:
            for descriptor in inner:
                os.close(descriptor)
        for descriptor in (*outer, self.done):
            os.set_blocking(descriptor, False)

    def _launch(self, job: Job, descriptors: list[int], environment: Mapping[str, str]) -> None:
        limits = self._limits
        request = {"memory_mb": limits.memory_mb, "processes": limits.processes, "disk_mb": limits.disk_mb}
        spec = {
            **request,
            "argv": job.argv,
            "keep": job.keep,
            "environment": {**environment, **job.environment},
            "cpu_seconds": limits.cpu_seconds,
        }
        socket.send_fds(self._launcher.requests, [json.dumps(request).encode()], descriptors)
        self._control.settimeout(SEND_SECONDS)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # then the epilogue will tell why
            self._control.sendall(wire.pack(spec, job.files))

    def ended(self) -> bool:
        """Take in what the job's first process and the launcher report."""
        try:
            while piece := self._control.recv(PIECE):
                self._received += piece
        except BlockingIOError:
            over = False
        except OSError:
            over = True
        else:
            over = True
        while found := wire.unpack(self._received):
            message, kept, end = found
            del self._received[:end]
            if "epilogue" in message:
                self._epilogue = message
                return True
            self._report |= message
            self._kept |= kept
        return over

    def kill(self) -> None:
        """Tell the launcher; it watches for this."""
        self._killed = True
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    def ending(self) -> Ending:
        """What the reports amount to."""
        report, epilogue = self._report, self._epilogue
        if epilogue is None:
            return Ending(None, failure="the launcher of the job was lost")
        memory = report.get("memory", "")
        if epilogue["out_of_memory"]:
            memory = f"killed for using more than {self._limits.memory_mb} MiB"
        code = report.get("exit_code", -9 if memory or self._killed else None)
        failure = report.get("failure") or epilogue.get("failure", "")
        if code is None and not failure:
            failure = f"the first process of the sandbox ended with exit code {epilogue.get('code')}"
        return Ending(code, self._kept, memory, report.get("overtime", False), failure)

    def release(self) -> None:
        """Close what is ours, and give the launcher back if it is still good."""
        for descriptor in (self.stdout, self.stderr):
            os.close(descriptor)
        self._control.close()
        self._give_back(self._launcher, self._epilogue is not None)

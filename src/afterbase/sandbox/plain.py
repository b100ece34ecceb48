"""Jobs as plain child processes: NO isolation, for machines whose kernel forbids it and programs that the user trusts.

A job can read and write whatever this user can, use the network, and leave processes behind in a session of its own; a limit of memory
binds each of its processes, not their sum, and nothing limits their number or the disk. It is also what the benchmarks compare with.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

from afterbase.sandbox.base import Job, Limits
from afterbase.sandbox.crew import Crew
from afterbase.sandbox.inside import files
from afterbase.sandbox.interpreter import interpreter, search_path
from afterbase.sandbox.pump import Ending


class PlainSandbox(Crew):
    """isolation = "none"."""

    def __init__(self, workers: int, python: Path | None = None):
        super().__init__(workers)
        self._python = interpreter(python)

    def begin(self, job: Job, limits: Limits) -> PlainProcess:
        """Start the job in a fresh temporary directory."""
        return PlainProcess(job, limits, self._python)

    def tidy(self) -> None:
        """Nothing outlives a job."""


class PlainProcess:
    """A child process in a session of its own."""

    def __init__(self, job: Job, limits: Limits, python: Path):
        self._job, self._limits = job, limits
        self._directory = Path(tempfile.mkdtemp(prefix="afterbase-job-"))
        self._failure = ""
        self._lock = threading.Lock()
        argv = (str(python), *job.argv[1:]) if job.argv[0] == "python3" else job.argv
        environment = variables(str(self._directory), python) | dict(job.environment)
        try:
            files.lay(str(self._directory), job.files)
            self._process = subprocess.Popen(
                argv, cwd=self._directory, env=environment, start_new_session=True, bufsize=0,
                executable=shutil.which(argv[0], path=environment["PATH"]) or argv[0],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        except OSError as error:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise OSError(f"{argv[0]}: {error.strerror or error}") from None
        restrict(self._process.pid, limits)
        self.done = os.pidfd_open(self._process.pid)
        # The pump closes the input on its own, so it gets a descriptor of its own.
        self.stdin = os.dup(self._process.stdin.fileno())
        self._process.stdin.close()
        self.stdout, self.stderr = self._process.stdout.fileno(), self._process.stderr.fileno()
        for descriptor in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(descriptor, False)

    def ended(self) -> bool:
        """Reap the child and kill what is left of its group."""
        # The group is killed before its leader is reaped: afterwards its number could be another group's.
        self.kill()
        with self._lock:
            self._process.wait()
        return True

    def kill(self) -> None:
        """Kill the whole process group."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def ending(self) -> Ending:
        """Its exit code and files."""
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return Ending(self._process.returncode, files.collect(directory, self._job.keep, self._limits.disk_mb << 20))
        finally:
            os.close(directory)

    def release(self) -> None:
        """Close the pipes and remove the directory."""
        os.close(self.done)
        self._process.stdout.close()
        self._process.stderr.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def variables(home: str, python: Path) -> dict[str, str]:
    """The environment of every job. A fixed hash seed makes the same program do the same in every run."""
    return {"PATH": search_path(python), "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}


def restrict(pid: int, limits: Limits) -> None:
    """Limit one process and what it will start. It has begun already: without isolation that makes no difference."""
    seconds, memory = int(-(-limits.cpu_seconds // 1)), limits.memory_mb << 20
    wanted = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_DATA: (memory, memory),
        resource.RLIMIT_FSIZE: (limits.disk_mb << 20, limits.disk_mb << 20),
        resource.RLIMIT_CORE: (1, 1),
    }
    for which, value in wanted.items():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            resource.prlimit(pid, which, value)

"""What every sandbox offers: a job in, what became of it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Status = Literal["ok", "failed", "timeout", "memory", "output", "error"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use, e.g. Limits(wall_seconds=5, memory_mb=256)."""

    wall_seconds: float = 10.0
    """From start to the killing of the whole process tree."""
    cpu_seconds: float = 10.0
    """Processor time of any one of its processes."""
    memory_mb: int = 1024
    """Memory of the job in MiB; what it writes to its private disk counts where the kernel counts it."""
    processes: int = 64
    """Processes and threads at one time."""
    output_bytes: int = 1 << 20
    """Bytes of standard output, and as many of standard error, after which the job is killed."""
    disk_mb: int = 64
    """Size of the private disk in MiB."""


@dataclass(frozen=True, slots=True)
class Job:
    """One program to run, e.g. Job(("python3", "main.py"), {"main.py": b"print(input())"}, b"4")."""

    argv: tuple[str, ...]
    """Program and arguments; "python3" is an interpreter with the standard library, whatever the host calls it."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Laid into the empty working directory before the start, by relative path."""
    stdin: bytes = b""
    """Standard input, then end of file."""
    keep: tuple[str, ...] = ()
    """Regular files of the working directory to bring back, by relative path; what is missing or too large is left out."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables besides the few that the sandbox sets; the host's own are never passed on."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What became of a job, e.g. Execution("ok", 0, b"4\\n", b"", 0.03)."""

    status: Status
    """`ok`: ended with exit code 0; `failed`: another code or a signal; `timeout`, `memory`, `output`: killed at that limit;
    `error`: the sandbox failed, not the program."""
    exit_code: int | None
    """As the program gave it; minus the signal's number when one killed it; None when it was never started."""
    stdout: bytes = b""
    """What it printed, up to the limit."""
    stderr: bytes = b""
    """What it complained, up to the limit."""
    seconds: float = 0.0
    """Wall time."""
    kept: Mapping[str, bytes] = field(default_factory=dict)
    """The files that were asked for and found."""
    note: str = ""
    """Why, for a human."""


class Running(Protocol):
    """A job that is being talked to line by line."""

    async def write(self, data: bytes) -> None:
        """Send to its standard input; a job that has ended swallows it."""

    async def read_line(self, seconds: float) -> bytes | None:
        """Its next line of standard output without the line end; None when it ended, overran a limit, or said nothing in that time."""

    async def finish(self) -> Execution:
        """Close its input, end it (by force when it does not end at once), and say what became of it."""


class Sandbox(Protocol):
    """Runs jobs apart from the host and from each other."""

    async def run(self, job: Job, limits: Limits) -> Execution:
        """Run to the end; never raises for what the program does."""

    async def start(self, job: Job, limits: Limits) -> Running:
        """Start a job to talk to; its `stdin` is sent first and its input stays open."""

    async def close(self) -> None:
        """Kill what still runs and take away what was set up."""

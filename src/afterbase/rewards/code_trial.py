"""What became of a program under test: one result for each test, and the record that a reward model may later learn from."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from afterbase.errors import StorageError

Status = Literal["passed", "wrong", "failed", "timeout", "memory", "output", "compile", "error"]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one test, e.g. Result("wrong", "input '4': line 1: expected '16', got '8'").

    `wrong`: another answer; `failed`: an exception or a bad exit code; `timeout`, `memory`, `output`: over that limit; `compile`: there is
    nothing to run; `error`: the sandbox or the tests themselves are at fault.
    """

    status: Status
    """How it ended."""
    note: str = ""
    """Why, in one line; a program may put half a character into it, which no file could hold."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "note", self.note.encode("utf-8", "replace").decode())


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of a program, e.g. Trial((Result("passed"),), planned=1)."""

    results: tuple[Result, ...]
    """Of the tests that were run, in their order; fewer than planned when testing stopped at a failure."""
    planned: int
    """How many tests there were."""
    diagnostics: str = ""
    """What the compiler said."""

    @property
    def fraction(self) -> float:
        """The share of the planned tests that passed."""
        return sum(result.status == "passed" for result in self.results) / self.planned

    @property
    def fault(self) -> Result | None:
        """The first result that is not a pass, an error of the sandbox before all others; None when everything passed."""
        faults = [result for result in self.results if result.status != "passed"]
        if not faults and len(self.results) < self.planned:
            return Result("error", f"only {len(self.results)} of {self.planned} tests were run")
        return next((fault for fault in faults if fault.status == "error"), faults[0] if faults else None)


@dataclass(frozen=True, slots=True)
class Feedback:
    """What compiler and tests said of one program: a line of training data for a reward model of code.  [Series, Coder-V2]

    E.g. Feedback("mbpp-3", "python", "def f(n): ...", "", ("passed", "wrong"), ("", "f(4): expected 16, got 8"), 0.5, "wrong").
    """

    prompt: str
    """The prompt's id."""
    language: str
    """What it is written in."""
    program: str
    """As it was taken from the response."""
    diagnostics: str
    """What the compiler said, errors and all; "" where nothing is compiled."""
    statuses: tuple[str, ...]
    """Of each test that was run."""
    notes: tuple[str, ...]
    """Why each test that was run did not pass; "" where it did."""
    fraction: float
    """The share of all tests that passed."""
    outcome: str
    """As in the score."""


class FeedbackLog:
    """A file of JSON lines that several processes may append to at one time."""

    def __init__(self, path: Path):
        """StorageError at once when the file cannot be written."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()
        except OSError as error:
            raise StorageError(f"feedback={path} cannot be written ({error}); give a file in a directory that you may write to") from None

    def append(self, record: Feedback) -> None:
        """Add one line, whole or not at all."""
        line = json.dumps(asdict(record)).encode() + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if os.write(descriptor, line) < len(line):
                os.ftruncate(descriptor, size)
                raise StorageError(f"the disk of feedback={self.path} is full; make room, or take the setting away")
        except OSError as error:
            raise StorageError(f"feedback={self.path} cannot be written ({error}); make room, or take the setting away") from None
        finally:
            os.close(descriptor)

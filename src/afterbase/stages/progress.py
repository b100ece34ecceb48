"""How far a long piece of work is: a bar on a terminal, a line now and then elsewhere, with rate and time left in both."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

EVERY = 5.0  # seconds between plain lines, so that a log of hours stays readable


class Progress:
    """Counts steps of known number, e.g. `with Progress(300, "zero") as progress: progress.advance(1, reward=0.4)`.

    It writes to standard error, so that what a command prints can be piped on.
    """

    def __init__(
        self,
        total: int,
        what: str,
        done: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.what, self.done, self.first = total, what, done, done
        self.console = console or Console(stderr=True, highlight=False)
        self.clock = clock
        self.numbers: dict[str, float] = {}
        self.told = done
        self.bar = _bar(self.console) if self.console.is_terminal else None
        self.task = self.bar.add_task(what, total=total, completed=done, numbers="") if self.bar else None

    def __enter__(self) -> Progress:
        """Start the clock."""
        self.started = self.last = self.clock()
        if self.bar:
            self.bar.start()
        return self

    def advance(self, n: int = 1, **numbers: float) -> None:
        """Count `n` more steps; `numbers` are shown beside them."""
        self.done += n
        self.numbers |= numbers
        if self.bar:
            self.bar.update(self.task, completed=self.done, numbers=f"{self._rate():.2f}/s {self._shown()}")
        elif self.clock() - self.last >= EVERY:
            self._tell()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Show the last state, also when the work was interrupted."""
        if self.bar:
            self.bar.stop()
        elif self.told != self.done:
            self._tell()

    def _rate(self) -> float:
        return (self.done - self.first) / max(self.clock() - self.started, 1e-9)

    def _tell(self) -> None:
        self.last, self.told = self.clock(), self.done
        rate = self._rate()
        left = f"{_clock((self.total - self.done) / rate)} left" if rate > 0 else "time left unknown"
        line = f"{self.what} {self.done}/{self.total}  {rate:.2f}/s  {left}  {self._shown()}"
        self.console.print(line.rstrip(), markup=False, soft_wrap=True)

    def _shown(self) -> str:
        return "  ".join(f"{name} {value:.4g}" for name, value in self.numbers.items())


def _bar(console: Console) -> Bar:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"))
    return Bar(*columns, TimeRemainingColumn(), console=console)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

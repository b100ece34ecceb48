"""Waiting for room: a write that a full disk refused is tried again, whole, until it succeeds."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import TypeVar

from afterbase.errors import FullDisk

T = TypeVar("T")

FIRST, LONGEST, TELL = 0.5, 15.0, 60.0
"""Seconds: the first pause between two attempts, which doubles up to the second number, and the time between two messages."""


def with_room(write: Callable[[], T], path: Path) -> T:
    """What `write` gives, as soon as the disk of `path` has room for it; `write` leaves nothing behind when it raises FullDisk.

    Hours of work must not end because a disk is full for a minute. There is no last attempt: Ctrl-C or SIGTERM end the waiting.
    """
    pause, told = FIRST, -TELL
    while True:
        try:
            return write()
        except FullDisk as error:
            full = error
        if monotonic() - told >= TELL:
            told = monotonic()
            remedy = "free some space and it goes on by itself; Ctrl-C ends it, and the same command resumes"
            print(f"afterbase: the disk is full, {path} waits for room; {remedy}", file=sys.stderr, flush=True)
        with _ended_by_sigterm(full):
            sleep(pause)
        pause = min(2 * pause, LONGEST)


@contextmanager
def _ended_by_sigterm(full: FullDisk) -> Iterator[None]:
    """While a process waits it cannot save, so SIGTERM ends it in the words of the error that it waits for."""

    def end(number: int, frame: FrameType | None) -> None:
        raise full

    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # the system's own way ends a waiting process as well
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

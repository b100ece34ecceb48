"""Leaving in good order when the system asks for it: SIGTERM, as a scheduler or a container's host sends it before it kills."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from afterbase.errors import Stopped

ASKED = b"afterbase: asked to stop; the state is saved as soon as this step allows (a second SIGTERM ends it at once)\n"


class Stopping:
    """Listens for SIGTERM while it is entered.

    A stage whose every result is on the disk already leaves at once, by Stopped. One that has a state to save says so by `later`: then
    the first signal is only remembered in `asked`, for the stage to look at between two steps. The second one has the system's effect.
    """

    def __init__(self) -> None:
        self.asked = False
        self.later = False
        self._before: Any = None
        self._process: int | None = None

    def __enter__(self) -> Stopping:
        """Listen, where this thread can."""
        if threading.current_thread() is threading.main_thread():
            self._before, self._process = signal.signal(signal.SIGTERM, self._hear), os.getpid()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the signal to whoever had it."""
        if self._process is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != self._process:
            os.kill(os.getpid(), signal.SIGTERM)  # a forked helper has nothing to save
        self.asked = True
        if not self.later:
            raise Stopped("all that was finished is on the disk")
        os.write(2, ASKED)  # not print: it may have been interrupted in the middle of a line

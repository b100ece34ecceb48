"""What a device's rows had drawn at one moment, for the host to read while the device goes on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Seen:
    """Copies of the running rows' states, made between two of the device's steps."""

    done: Int[Tensor, "n"]
    """Who had ended, and how."""
    counts: Int[Tensor, "n"]
    """How many tokens each had drawn."""
    aside: torch.cuda.Stream | None
    """Where the host reads them, and what they are about; None without a GPU, where nothing goes on by itself."""
    made: torch.cuda.Event | None
    """When they were made."""

    @classmethod
    def of(cls, done: Int[Tensor, "n"], counts: Int[Tensor, "n"], aside: torch.cuda.Stream | None) -> Seen:
        """Copies of these; nothing waits."""
        copies = done.clone(), counts.clone()
        return cls(*copies, aside, torch.cuda.current_stream(done.device).record_event() if aside else None)

    @property
    def ready(self) -> bool:
        """Whether the device has come as far as this."""
        return self.made is None or self.made.query()

    def beside(self) -> AbstractContextManager:
        """What the host asks of the device in here waits for this moment, and for nothing that the device was given later."""
        if self.aside is None:
            return nullcontext()
        self.aside.wait_event(self.made)
        return torch.cuda.stream(self.aside)

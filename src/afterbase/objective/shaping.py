"""What becomes of answers that were too long (DAPO)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from afterbase.config import Config


class OverlongConfig(Config):
    """Answers that reach the length cap, or come near it."""

    mask: bool = False
    """Whether an answer that was cut off at the cap is left out of the loss: that it was not finished does not make it wrong."""
    buffer: int = Field(0, ge=0)
    """Length in tokens, below the cap, over which the punishment grows from 0 to whole; 0 punishes nobody."""
    penalty: float = Field(1.0, ge=0)
    """What the reward loses at the cap."""


def overlong_penalty(lengths: Int[Tensor, "*n"], caps: Int[Tensor, "*n"], buffer: int) -> Float[Tensor, "*n"]:
    """0 up to `cap - buffer` tokens, falling in a straight line to -1 at the cap, and -1 from there on (DAPO's soft punishment)."""
    if not buffer:
        return torch.zeros_like(lengths, dtype=torch.float32)
    assert 0 < buffer <= int(caps.min()), f"a buffer of {buffer} tokens does not fit below a cap of {int(caps.min())}"
    return -((lengths - (caps - buffer)) / buffer).clamp(0, 1)

"""The learning rate over the steps of a run: warm-up, then constant or a cosine down to a floor.  [V3 5.1: 5e-6 to 1e-6]"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from afterbase.config import Config


class ScheduleConfig(Config):
    """How the learning rate moves."""

    kind: Literal["cosine", "constant"] = "cosine"
    """Shape after the warm-up."""
    peak: float = Field(5e-6, gt=0)
    """Highest learning rate."""
    floor: float = Field(0.2, ge=0, le=1)
    """Where the cosine ends, as a share of the peak; 0.2 is the paper's 5e-6 to 1e-6."""
    warmup: int = Field(0, ge=0)
    """Steps of linear warm-up from peak/warmup to the peak."""


def learning_rate(config: ScheduleConfig, step: int, steps: int) -> float:
    """The rate of update `step` (from 0) of `steps`; the last update runs at the floor."""
    if step < config.warmup:
        return config.peak * (step + 1) / config.warmup
    if config.kind == "constant":
        return config.peak
    done = (step - config.warmup) / max(steps - 1 - config.warmup, 1)
    return config.peak * (config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))

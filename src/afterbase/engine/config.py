"""What an engine is told once, when it is made."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from afterbase.config import Config
from afterbase.engine.speculative import SpeculativeConfig


class EngineConfig(Config):
    """How much runs at once."""

    rows: int = Field(256, gt=0)
    """Requests that decode together at most."""
    memory: float | None = Field(None, gt=0)
    """GiB of cache. Unset: as much as all rows take if each is as long as the longest request may become. Set: rows are as long as the
    longest one is by now; where that leaves too few of them, the youngest requests wait and go on later, with the same result."""
    queue: int | None = Field(None, ge=0)
    """Answers that may wait while all rows are taken; more are refused. Unset: any number."""
    context: int | None = Field(None, gt=0)
    """Longest prompt plus completion in tokens; unset means the model's own context length."""
    prefill_tokens: int = Field(8192, gt=0)
    """Prompt tokens read in one forward pass."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of matrix products; the same as the trainer's, or their log-probabilities part."""
    deterministic: bool = False
    """Give the same request the same tokens and log-probabilities, to the last bit, whatever shares its batch, drafted or not. Dense
    models on a GPU do so in any case, but for requests with top-p, top-k, min-p or penalties, which are then drawn one by one. Elsewhere it
    costs time: every prompt is read alone."""
    speculative: SpeculativeConfig | None = None
    """Guess several tokens and verify them in one pass, `{kind = "mtp"}` or `{kind = "ngram"}`; the same tokens, sooner when few run."""

"""What every engine offers: tokens in, tokens out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor

from afterbase.records import Completion, Sampling


class Engine(Protocol):
    """Samples from a model, wherever it runs."""

    room: int
    """Longest prompt plus completion in tokens."""

    async def generate(self, prompt: Sequence[int], sampling: Sampling, n: int = 1, *, tag: str = "") -> list[Completion]:
        """n completions of one prompt, whose cache they share; `tag` says what they are about, for counts such as accepted drafts."""

    async def score(self, tokens: Sequence[int]) -> list[float]:
        """Log-probability of each token after the first, at temperature 1."""

    async def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Sample from these weights from now on; every completion carries the version."""

    def checksum(self) -> int:
        """Which weights it samples from now, as a number below 2**53: the same for the same weights on every device."""

    async def close(self) -> None:
        """Stop; requests still running end as failures."""

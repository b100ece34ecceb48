"""What is asked of every engine: the workloads of random prompts with lengths set beforehand, and the models' shapes."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from common import shape

ROWS = 256
"""Requests that run together at most."""
LARGER = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
"""Qwen2-1.5B's, where it is not 0.5B's."""
WORKLOADS = {
    "A": "0.5B, 256 x (128 + 512)",
    "B": "0.5B, ragged: 1,024 x (32-512 + 16-1,024)",
    "C": "1.5B, 256 x (128 + 512)",
}


@dataclass(frozen=True)
class Work:
    """Requests: each a prompt and exactly how many tokens it is to get."""

    prompts: list[list[int]]
    """Token ids."""
    lengths: list[int]
    """New tokens."""
    rows: int
    """How many run together at most."""

    @property
    def tokens(self) -> int:
        """New tokens of all requests."""
        return sum(self.lengths)

    @property
    def context(self) -> int:
        """The longest request, prompt and answer."""
        return max(len(prompt) + length for prompt, length in zip(self.prompts, self.lengths, strict=True))


def work(name: str, rehearse: bool) -> Work:
    """The requests of a workload, the same ones for every engine."""
    draw, vocabulary = Random(0), model_shape(name, rehearse)["vocab_size"]
    count, rows, scale = (12, 4, 16) if rehearse else (1024 if name == "B" else ROWS, ROWS, 1)
    if name == "B":
        prompts = [draw.randint(32, 512) // scale for _ in range(count)]
        lengths = [int(min(1024, max(16, draw.lognormvariate(5.4, 0.8)))) // scale + 1 for _ in range(count)]
    else:
        prompts, lengths = [128 // scale] * count, [512 // scale] * count
    return Work([[draw.randrange(3, vocabulary) for _ in range(length)] for length in prompts], lengths, rows)


def model_shape(name: str, rehearse: bool) -> dict:
    """The config.json of a workload's model."""
    return {**shape(rehearse), **LARGER} if name == "C" and not rehearse else shape(rehearse)

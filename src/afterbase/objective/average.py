"""Each token's share of the optimizer step. The divisors are the whole step's, over all batches and ranks, so that parts simply add up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from afterbase.objective.ratio import answer_lengths
from afterbase.records import Batch

AverageKind = Literal["token", "sequence", "constant"]
Average = Callable[[Batch], Tensor]
"""A batch -> the factor [P] of each token's term."""


def over_tokens(batch: Batch) -> Float[Tensor, "P"]:
    """Every token of the step weighs the same (DAPO)."""
    return batch.weights / batch.total_tokens


def over_sequences(batch: Batch) -> Float[Tensor, "P"]:
    """Every answer of the step weighs the same: 1/G of Eq. 26 without, 1/|o| within."""
    return batch.weights / (answer_lengths(batch) * batch.total_sequences)


def over_constant(batch: Batch, length: int) -> Float[Tensor, "P"]:
    """Every token weighs the same whatever the answers' lengths are: as if each were `length` tokens long (Dr. GRPO)."""
    return batch.weights / (batch.total_sequences * length)


def average(kind: AverageKind, constant_length: int | None) -> Average:
    """The one that these knobs ask for."""
    if kind == "constant":
        return partial(over_constant, length=constant_length)
    return over_tokens if kind == "token" else over_sequences

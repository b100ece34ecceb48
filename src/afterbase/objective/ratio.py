"""The probability ratio pi/pi_old: one a token, one an answer [V3 Eq. 26], or one an answer with its length taken out (GSPO).

Whatever belongs to an answer as a whole stands at each of its tokens, so that everything after it is per token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from afterbase.objective.kl import LARGEST
from afterbase.records import Batch

RatioKind = Literal["token", "sequence", "gspo"]
Level = Callable[[Tensor, Batch], Tensor]
"""What log-probabilities [P] are taken together: those of a token, or those of an answer."""


def by_token(logs: Float[Tensor, "P"], batch: Batch) -> Float[Tensor, "P"]:
    """Each token for itself."""
    return logs


def by_sequence(logs: Float[Tensor, "P"], batch: Batch) -> Float[Tensor, "P"]:
    """log of the product over an answer's tokens: pi(o|q) as Eq. 26 writes it."""
    return logs.new_zeros(len(batch.segments.lengths)).index_add(0, batch.owner, logs)[batch.owner]


def by_geometric_mean(logs: Float[Tensor, "P"], batch: Batch) -> Float[Tensor, "P"]:
    """log of the geometric mean over an answer's tokens: s_i of GSPO."""
    return by_sequence(logs, batch) / answer_lengths(batch)


def answer_lengths(batch: Batch) -> Float[Tensor, "P"]:
    """|o| at each of the answer's tokens: how many are learned."""
    return by_sequence(torch.ones_like(batch.weights), batch)  # not bincount, which waits for the device


def ratio_of(logs: Float[Tensor, "P"]) -> Float[Tensor, "P"]:
    """e to the log-ratio, kept finite."""
    return logs.clamp(max=LARGEST).exp()


LEVELS: dict[RatioKind, Level] = {"token": by_token, "sequence": by_sequence, "gspo": by_geometric_mean}

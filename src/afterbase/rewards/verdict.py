"""What a comparison of two answers found; of its own page, because the processes that compare must start without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from afterbase.records import Outcome


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is the reference, e.g. Verdict("correct", "equal")."""

    outcome: Outcome
    """`timeout` when the answer used up its processor time or memory, `error` when the verifier itself failed."""
    note: str
    """Why, for the human who reads the rollout."""

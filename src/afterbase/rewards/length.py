"""A mild penalty on answers that run on: too many tokens, or the same words again and again.

`soft` and `hard` give the soft overlong punishment that DAPO describes: nothing up to the one, -1 from the other, a straight line between.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from afterbase.config import Config
from afterbase.records import Rollout, Score
from afterbase.rewards.repetition import penalty, repetition

__all__ = ["LengthConfig", "LengthPart", "repetition"]


class LengthConfig(Config):
    """Penalty between 0 (nothing wrong) and -1; it never adds reward."""

    kind: Literal["length"] = "length"
    weight: float = 0.1
    """Scales this part in the sum."""
    soft: int | None = Field(None, ge=1)
    """Tokens from which the penalty grows; none by default."""
    hard: int | None = Field(None, ge=1)
    """Tokens at which it reaches -1."""
    ngram: int = Field(8, ge=1)
    """How many words in a row make a repetition."""
    tolerance: float = Field(0.2, ge=0, lt=1)
    """The share of repeated n-grams that costs nothing: honest derivations repeat themselves a little. A recipe that
    weighs repetition apart (kind = "repetition") sets 0.99 here."""

    @model_validator(mode="after")
    def _limits_fit(self) -> LengthConfig:
        if (self.soft is None) != (self.hard is None) or (self.soft is not None and self.soft >= self.hard):
            raise ValueError("soft and hard come together, and soft is less than hard; for example soft = 3000, hard = 4000")
        return self

    def build(self) -> LengthPart:
        """The part that these settings describe."""
        return LengthPart(self.soft, self.hard, self.ngram, self.tolerance)


class LengthPart:
    """Judges how long and how repetitive one rollout is."""

    name = "length"
    verdict = False

    def __init__(self, soft: int | None = None, hard: int | None = None, ngram: int = 8, tolerance: float = 0.2):
        self.soft, self.hard, self.ngram, self.tolerance = soft, hard, ngram, tolerance

    async def __call__(self, rollout: Rollout) -> Score:
        """The worse of the two penalties, between -1 and 0."""
        tokens = len(rollout.completion.tokens)
        too_long = min(1.0, max(0.0, (tokens - self.soft) / (self.hard - self.soft))) if self.soft is not None else 0.0
        repeated = repetition(rollout.text, self.ngram)
        value = min(-too_long, penalty(repeated, self.tolerance)) or 0.0  # not -0.0
        return Score(value, {self.name: value}, "correct", f"{tokens} tokens, {repeated:.0%} of the {self.ngram}-grams repeated")

    async def close(self) -> None:
        """Nothing to end."""

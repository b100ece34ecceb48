"""Sources of questions as a recipe lists them, opened and mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from afterbase.prompts.auto import AutoSource
from afterbase.prompts.base import Source, SourceSettings
from afterbase.prompts.mixture import Mixture
from afterbase.prompts.procedural import ProceduralSource
from afterbase.prompts.rows import Columns, JsonlSource, ParquetSource, RowSource, held_out

__all__ = [
    "AutoSource",
    "Columns",
    "JsonlSource",
    "Mixture",
    "ParquetSource",
    "ProceduralSource",
    "RowSource",
    "Source",
    "SourceConfig",
    "held_out",
    "open_mixture",
]

SourceConfig = Annotated[JsonlSource | ParquetSource | AutoSource | ProceduralSource, Field(discriminator="kind")]
"""One entry of a recipe's `[[sources]]`, told apart by `kind`; a new kind is a Config with kind, weight and open(seed), added here."""


def open_mixture(configs: Sequence[SourceSettings], seed: int) -> Mixture:
    """Open every source and mix them by weight; ConfigError or DataError in words when one cannot be read."""
    return Mixture([config.open(seed) for config in configs], [config.weight for config in configs], seed)

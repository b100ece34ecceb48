"""Benchmarks as they were published: one file each, with its protocol in the docstring."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from afterbase.evals.benchmark import BenchmarkConfig
from afterbase.evals.suite.gsm8k import Gsm8k


def _kind(page: Any) -> str:
    return page.get("kind", "custom") if isinstance(page, dict) else getattr(page, "kind", "custom")


AnyBenchmark = Annotated[Annotated[BenchmarkConfig, Tag("custom")] | Annotated[Gsm8k, Tag("gsm8k")], Discriminator(_kind)]
"""One entry of a recipe's `[[benchmarks]]`: a published one by its `kind`, or without one the recipe's own questions."""

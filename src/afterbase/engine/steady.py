"""Engines in which a request's tokens and log-probabilities do not depend, to the last bit, on what shares its batch.

On a GPU dense models decode like that anyway (cuda/products.py, model/cuda/heads.py). On a CPU the order in which a product's sums are
taken changes with the number of its rows, so here products are of a fixed number of rows, and every prompt is read alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from afterbase.engine.runner import FusedRunner, PlainRunner
from afterbase.errors import EngineError
from afterbase.model.cache import CacheStep
from afterbase.segments import Segments

if TYPE_CHECKING:
    from afterbase.engine.cuda.runner import GraphRunner

ROWS = 16
"""Rows of every product; where in them a row stands changes nothing."""


class SteadyRunner(FusedRunner):
    """Decodes in blocks of `ROWS` rows, the last one filled up with zeros."""

    def prefill(self, tokens: Int[Tensor, "T"], segments: Segments, cache: CacheStep) -> Float[Tensor, "S V"]:
        """Read whole prompts into the cache, one by one; logits of what follows each."""
        logits, start = [], 0
        for length in segments.lengths:
            part = slice(start, start := start + length)
            alone = replace(cache, rows=cache.rows[part], positions=cache.positions[part])
            logits.append(super().prefill(tokens[part], Segments.of([length], segments.device), alone))
        return torch.cat(logits)

    def _product(
        self, rows: Float[Tensor, "n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, "o"] | None = None, what: str = "product"
    ) -> Float[Tensor, "n o"]:
        """The projection, block by block."""
        missing = -len(rows) % ROWS
        out = self._buffer(what, len(rows) + missing, len(weight))
        for part, to in zip(F.pad(rows, (0, 0, 0, missing)).split(ROWS), out.split(ROWS), strict=True):
            torch.mm(part, weight.t(), out=to) if bias is None else torch.addmm(bias, part, weight.t(), out=to)
        return out[: len(rows)]


def steadied(runner: PlainRunner | FusedRunner | GraphRunner, budgeted: bool, drafting: bool) -> SteadyRunner | GraphRunner:
    """The runner to take for engine.deterministic; EngineError where there is none."""
    if drafting:
        raise EngineError("engine.deterministic is not offered together with engine.speculative; leave one of them out")
    if runner.steady:
        return runner
    if type(runner) is not FusedRunner or not runner.compact:
        raise EngineError(
            "engine.deterministic is offered for dense models, on a GPU in bfloat16 and on a CPU with its compiled kernels, and this model "
            "has experts, latent attention or other biases, or runs elsewhere; leave engine.deterministic out"
        )
    if budgeted:
        raise EngineError(
            "engine.deterministic is not offered together with engine.memory on a CPU, where a request that had to wait goes on with other "
            "roundings; leave one of them out"
        )
    return SteadyRunner(runner.model, runner.dtype)

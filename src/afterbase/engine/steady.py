"""Engines in which a request's tokens and log-probabilities do not depend, to the last bit, on what shares its batch.

On a GPU dense models decode like that anyway (cuda/products.py, model/cuda/heads.py), and models of DeepSeek-V3's shape when told to
(cuda/latent.py). On a CPU the order in which a product's sums are taken changes with the number of its rows, so here products are of a
fixed number of rows, and every prompt is read alone. Drafts change nothing: they are verified by the same products and kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from afterbase.engine.latent import LatentCpuRunner
from afterbase.engine.runner import FusedRunner, PlainRunner
from afterbase.errors import EngineError
from afterbase.model.cache import CacheStep
from afterbase.segments import Segments

if TYPE_CHECKING:
    from afterbase.engine.cuda.runner import GraphRunner

ROWS = 16
"""Rows of every product; where in them a row stands changes nothing."""


def apart(tokens: Int[Tensor, "T"], segments: Segments, cache: CacheStep) -> Iterator[tuple[Int[Tensor, "t"], Segments, CacheStep]]:
    """Prompts that are read together as prompts that are read one by one."""
    start = 0
    for length in segments.lengths:
        part = slice(start, start := start + length)
        yield tokens[part], Segments.of([length], segments.device), replace(cache, rows=cache.rows[part], positions=cache.positions[part])


class SteadyRunner(FusedRunner):
    """Decodes in blocks of `ROWS` rows, the last one filled up with zeros."""

    steady = True

    def read(self, tokens: Int[Tensor, "T"], segments: Segments, cache: CacheStep) -> Float[Tensor, "T d"]:
        """Read whole prompts into the cache, one by one; their final states."""
        return torch.cat([super(SteadyRunner, self).read(*alone) for alone in apart(tokens, segments, cache)])

    def following(self, hidden: Float[Tensor, "T d"], segments: Segments) -> Float[Tensor, "S V"]:
        """Logits of what follows each prompt, one by one."""
        return torch.cat([self.model.logits(hidden[end - 1 : end]) for end in segments.starts[1:].tolist()])

    def _product(
        self, rows: Float[Tensor, "n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, "o"] | None = None, what: str = "product"
    ) -> Float[Tensor, "n o"]:
        """The projection, block by block."""
        missing = -len(rows) % ROWS
        out = self._buffer(what, len(rows) + missing, len(weight))
        for part, to in zip(F.pad(rows, (0, 0, 0, missing)).split(ROWS), out.split(ROWS), strict=True):
            torch.mm(part, weight.t(), out=to) if bias is None else torch.addmm(bias, part, weight.t(), out=to)
        return out[: len(rows)]


class SteadyLatentCpuRunner(SteadyRunner, LatentCpuRunner):
    """The same for DeepSeek-V3's shape, whose own kernels give a row its bits whatever shares its batch."""

    def _affinities(self, rows: Float[Tensor, "n d"], weight: Float[Tensor, "E d"]) -> Float[Tensor, "n E"]:
        """The router's products, block by block as well."""
        blocks = F.pad(rows, (0, 0, 0, -len(rows) % ROWS)).split(ROWS)
        return torch.cat([F.linear(block, weight) for block in blocks])[: len(rows)]


def steadied(runner: PlainRunner | FusedRunner | GraphRunner, budgeted: bool) -> SteadyRunner | GraphRunner:
    """The runner to take for engine.deterministic; EngineError where there is none."""
    if runner.steady:
        return runner
    if (kind := _steady(runner)) is None:
        raise EngineError(
            "engine.deterministic is offered for dense models and DeepSeek-V3's shape, on a GPU in bfloat16 and on a CPU with its compiled "
            "kernels, and this model has other experts, latents or biases, or runs elsewhere; leave engine.deterministic out"
        )
    if budgeted:
        raise EngineError(
            "engine.deterministic is not offered together with engine.memory on a CPU or for latent attention, where a request that had to "
            "wait goes on with other roundings; leave one of them out"
        )
    return kind(runner.model, runner.dtype)


def _steady(runner: PlainRunner | FusedRunner | GraphRunner) -> type[SteadyRunner] | type[GraphRunner] | None:
    """The kind of runner that does what this one does, but steadily."""
    if runner.alone:
        from afterbase.engine.cuda.latent import SteadyLatentRunner  # Triton is imported only where there is a GPU

        return SteadyLatentRunner
    return {FusedRunner: SteadyRunner, LatentCpuRunner: SteadyLatentCpuRunner}.get(type(runner)) if runner.compact else None

"""Blocks that forget what they computed and compute it again when the backward pass asks."""

from __future__ import annotations

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from afterbase.model.balance import Trace
from afterbase.model.block import Block
from afterbase.model.rope import Rotation
from afterbase.segments import Segments


def recomputed(
    block: Block, hidden: Tensor, delta: Tensor | None, segments: Segments, rotation: Rotation, trace: Trace | None
) -> tuple[Tensor, Tensor]:
    """The block, of which only what it reads is kept; the second time its routers are not counted again."""
    fresh = [trace]

    def run(hidden: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        seen = fresh.pop() if fresh else None if trace is None else Trace(trace.alpha)
        return block(hidden, delta, segments, rotation, None, seen)

    return checkpoint(run, hidden, delta, use_reentrant=False, preserve_rng_state=False)

"""What attention remembers of the tokens it has seen: keys and values, or MLA's latent, one row per running request."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from afterbase.model.config import ModelConfig
from afterbase.model.native import spread
from afterbase.segments import Segments


class Cache:
    """`rows` requests of up to `room` tokens, for every layer of one model.

    GQA keeps keys and values `[rows, heads, room, width]`; MLA keeps one latent `[rows, 1, room, d_c + d^R_h]` [V3 Eq. 1-5].
    """

    def __init__(self, config: ModelConfig, rows: int, room: int, dtype: torch.dtype, device: torch.device, ahead: int = 0) -> None:
        """`ahead` layers more than the trunk's, for MTP modules that draft."""
        if config.is_mla:
            widths = [(1, config.kv_lora_rank + config.qk_rope_head_dim)]
        else:
            widths = [(config.num_key_value_heads, config.head_dim)] * 2
        self.rows, self.room, depth = rows, room, config.num_hidden_layers + ahead
        self.blocks = [spread(torch.empty(depth, rows, heads, room, width, dtype=dtype, device=device)).zero_() for heads, width in widths]
        self.layers = list(zip(*self.blocks, strict=True))

    def filling(self, segments: Segments, rows: Int[Tensor, "S"]) -> CacheStep:
        """A step that reads whole prompts, one per segment, into the given rows."""
        return CacheStep(self, rows[segments.owner], segments.positions, 0)

    def decoding(self, segments: Segments, longest: int) -> CacheStep:
        """A step that adds equally many tokens to each of the first rows, of which the longest then holds `longest` tokens."""
        width = segments.lengths[0]
        rows = segments.owner if width > 1 else torch.arange(len(segments.lengths), device=segments.device)
        return CacheStep(self, rows, segments.positions, longest, width)

    def take(self, other: Cache) -> None:
        """Everything that a shorter cache of as many rows remembers."""
        for memory, shorter in zip(self.blocks, other.blocks, strict=True):
            memory[..., : other.room, :] = shorter

    def move(self, sources: Int[Tensor, "M"], targets: Int[Tensor, "M"], length: int) -> None:
        """Give the first `length` tokens of some rows to others: siblings share their prompt's, freed places take a running row's."""
        for memory in self.blocks:
            memory[:, targets, :, :length] = memory[:, sources, :, :length]


@dataclass(frozen=True)
class CacheStep:
    """One forward pass's view of the cache: where its tokens go and what they may see."""

    cache: Cache
    """The memory."""
    rows: Int[Tensor, "T"]
    """The row of each token."""
    positions: Int[Tensor, "T"]
    """The position of each token in its row."""
    longest: int
    """Decoding: L, how much of each row is read. 0 while filling: prompts attend within themselves."""
    width: int = 1
    """Decoding: w, new tokens of each row; more than one when drafts are verified, T = n w."""

    @cached_property
    def seen(self) -> Bool[Tensor, "T 1 1 L"] | None:
        """Which remembered tokens each new token attends to; None while filling."""
        if not self.longest:
            return None
        return (torch.arange(self.longest, device=self.positions.device) <= self.positions[:, None])[:, None, None, :]

    def layer(self, index: int) -> LayerStep:
        """This step as one layer sees it."""
        return LayerStep(self, self.cache.layers[index])


@dataclass(frozen=True, slots=True)
class LayerStep:
    """One layer's side of a step."""

    step: CacheStep
    """The step."""
    memories: tuple[Float[Tensor, "rows heads room width"], ...]
    """This layer's tensors."""

    @property
    def seen(self) -> Bool[Tensor, "T 1 1 L"] | None:
        """Which remembered tokens each new token attends to; None while filling."""
        return self.step.seen

    def write(self, *values: Float[Tensor, "T heads width"]) -> None:
        """Remember the new tokens."""
        for memory, value in zip(self.memories, values, strict=True):
            memory[self.step.rows, :, self.step.positions] = value.to(memory.dtype)

    def read(self) -> tuple[Float[Tensor, "n heads L width"], ...]:
        """What the decoding rows remember, this step's tokens included."""
        rows = len(self.step.rows) // self.step.width
        return tuple(memory[:rows, :, : self.step.longest] for memory in self.memories)

"""Where each sequence of a flat token stream begins and ends.

Packed training samples, the engine's prefill and micro-batches of rollouts are all one stream of tokens `[T]`; `Segments`
is what keeps them "isolated and mutually invisible" [V3 5.1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Segments:
    """The sequences of one flat stream, e.g. `Segments.of([3, 2])` for five tokens that hold two sequences."""

    lengths: tuple[int, ...]
    """Tokens in each sequence, in stream order."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where the index tensors live: the device of the tokens."""
    offsets: Tensor | None = None
    """[S] tokens of each sequence that a cache holds already (decoding); None when every sequence starts at position 0."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> Segments:
        """Segments of the given lengths, every one starting at position 0."""
        assert lengths and all(length > 0 for length in lengths), f"segments need positive lengths, got {lengths}"
        return cls(tuple(lengths), torch.device(device))

    @classmethod
    def decoding(cls, offsets: Tensor) -> Segments:
        """One new token for each row of a cache that holds `offsets` [S] tokens already."""
        return cls((1,) * len(offsets), offsets.device, offsets)

    @cached_property
    def num_tokens(self) -> int:
        """T, the length of the stream."""
        return sum(self.lengths)

    @cached_property
    def longest(self) -> int:
        """Tokens in the longest sequence."""
        return max(self.lengths)

    @cached_property
    def starts(self) -> Tensor:
        """[S+1] int32, the cumulative lengths (`cu_seqlens`): sequence s is `stream[starts[s]:starts[s+1]]`."""
        sums = torch.tensor((0, *self.lengths)).cumsum(0)
        return carried(sums.to(torch.int32), self.device)

    @cached_property
    def owner(self) -> Tensor:
        """[T] int64, which sequence each token belongs to."""
        lengths = torch.tensor(self.lengths)
        return carried(torch.repeat_interleave(torch.arange(len(lengths)), lengths), self.device)

    @cached_property
    def positions(self) -> Tensor:
        """[T] int64, each token's position within its own sequence (past cached tokens included)."""
        if self.offsets is not None and set(self.lengths) == {1}:
            return self.offsets
        within = torch.arange(self.num_tokens, device=self.device) - self.starts[:-1].long()[self.owner]
        return within if self.offsets is None else within + self.offsets[self.owner]

    @property
    def whole(self) -> Segments:
        """The sequences of the whole stream: these, unless other processes hold the rest of it (model/parallel/context.py)."""
        return self

    @cached_property
    def places(self) -> Tensor:
        """[T] int64, where each token lies in the whole stream."""
        return torch.arange(self.num_tokens, device=self.device)

    def reach(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """What attention remembers of these tokens, and before them of what the first sequence's tokens elsewhere left: nothing here."""
        return parts

    def together(self, counts: Tensor) -> Tensor:
        """What was counted of these tokens, with what other processes counted of the rest of the stream: nobody here."""
        return counts

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """The sequences gathered by similar length, so that padding them to rectangles wastes at most half the work."""
        by_size: dict[int, list[int]] = {}
        for sequence, length in enumerate(self.lengths):
            by_size.setdefault(length.bit_length(), []).append(sequence)
        return tuple(Bucket.of(self, members) for _, members in sorted(by_size.items()))

    @cached_property
    def cells(self) -> Tensor:
        """[C] int64, the stream position of every cell of the buckets' padded rows laid end to end."""
        return torch.cat([bucket.index.flatten() for bucket in self.buckets])

    @cached_property
    def inverse(self) -> Tensor:
        """[T] int64, where each token of the stream sits in the buckets' padded rows laid end to end."""
        inverse = torch.empty(self.num_tokens, dtype=torch.long)
        base = 0
        for bucket in self.buckets:
            real = bucket.real.cpu().flatten()
            inverse[bucket.index.cpu().flatten()[real]] = base + real.nonzero().squeeze(1)
            base += real.numel()
        return inverse.to(self.device)


@dataclass(frozen=True, eq=False)
class Bucket:
    """Sequences of similar length as one padded rectangle of indices into the stream."""

    index: Tensor
    """[S_b, L_b] int64, the stream position of each cell; cells past a sequence's end point at its first token."""
    real: Tensor
    """[S_b, L_b] bool, False in the padding. Padding comes last, so a causal mask alone hides it from real tokens."""

    @classmethod
    def of(cls, segments: Segments, members: list[int]) -> Bucket:
        """The rectangle of the sequences in `members`."""
        lengths = torch.tensor([segments.lengths[m] for m in members])
        starts = segments.starts.cpu()[:-1].long()[torch.tensor(members)]
        steps = torch.arange(int(lengths.max()))
        real = steps[None, :] < lengths[:, None]
        index = starts[:, None] + torch.where(real, steps[None, :], 0)
        return cls(index.to(segments.device), real.to(segments.device))


def carried(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on the device; a GPU fetches it when its turn comes, and the host need not wait for what is queued there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

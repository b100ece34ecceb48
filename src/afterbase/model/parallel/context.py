"""A slice of a stream: each rank of a context group holds some of its tokens, and asks the others for the keys and values before them.

Slices are equal runs of tokens, whatever sequences they cut. Queries stay where they are; what attention remembers (keys and values,
or MLA's latents) is gathered, so the head count sets no limit, and a rank keeps one layer's at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from afterbase.errors import ConfigError
from afterbase.model.parallel.talk import Gathered, summed
from afterbase.segments import Segments


@dataclass(frozen=True, eq=False)
class Slice(Segments):
    """The part of a stream that one rank holds: segments whose first may have begun on an earlier rank."""

    stream: Segments | None = None
    """The sequences of the whole stream."""
    bounds: tuple[int, ...] = ()
    """Where each rank's tokens begin, and where the last one's end."""
    place: int = 0
    """Which of the slices this is."""
    group: ProcessGroup | None = field(default=None, repr=False)
    """Those who hold the others."""

    @classmethod
    def cut(cls, stream: Segments, place: int, parts: int, group: ProcessGroup) -> Slice:
        """Slice number `place` of `parts`; ConfigError when there are not even tokens enough for one each."""
        total = stream.num_tokens
        if total < parts:
            raise ConfigError(f"a stream of {total} tokens cannot be sliced for trainer.mesh.context={parts}; make it {total} or less")
        bounds = tuple(total * part // parts for part in range(parts + 1))
        first, last = bounds[place], bounds[place + 1]
        lengths, offsets, begin = [], [], 0
        for length in stream.lengths:
            own = min(begin + length, last) - max(begin, first)
            if own > 0:
                lengths.append(own)
                offsets.append(max(first - begin, 0))
            begin += length
        return cls(tuple(lengths), stream.device, torch.tensor(offsets, device=stream.device), stream, bounds, place, group)

    @cached_property
    def whole(self) -> Segments:
        """The sequences of the whole stream."""
        return self.stream

    @cached_property
    def places(self) -> Tensor:
        """[T] int64, where each token of the slice lies in the stream."""
        return torch.arange(self.bounds[self.place], self.bounds[self.place + 1], device=self.device)

    @cached_property
    def before(self) -> int:
        """Tokens of the first sequence that lie on earlier ranks."""
        return int(self.offsets[0])

    def reach(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """What attention remembers of the slice's own tokens, and before them of the rest of its first sequence."""
        dtype = parts[-1].dtype
        flat = torch.cat([part.flatten(1).to(dtype) for part in parts], dim=1)
        sizes = [after - begin for begin, after in pairwise(self.bounds)]
        every = Gathered.apply(flat, self.group, sizes, False)
        seen = every[self.bounds[self.place] - self.before : self.bounds[self.place + 1]]
        pieces = seen.split([part[0].numel() for part in parts], dim=1)
        return tuple(piece.unflatten(1, part.shape[1:]) for piece, part in zip(pieces, parts, strict=True))

    def together(self, counts: Tensor) -> Tensor:
        """What was counted of the slice's tokens, added over the slices."""
        return summed(counts, self.group)

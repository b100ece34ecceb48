"""The weights that an engine samples from: taken over by `load`, and known by a number in the metrics of whoever trains them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from afterbase.errors import EngineError
from afterbase.model.checkpoint import hf_weights
from afterbase.model.transformer import Transformer

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers as wide as a weight, by bytes."""
WORD = 8
"""Bytes that are added at a time: int64 needs no conversion."""
LARGEST = 2**53
"""Checksums are below this, so that a log that keeps numbers as float64 keeps all of one."""
ODD = 0x9E3779B97F4A7C15 - 2**64
"""An odd 64-bit number with no pattern, which keeps every place's factor apart from the others."""


def take(model: Transformer, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
    """Make the model's weights these. Tensors that are the model's own are taken as they are; others are copied in."""
    own = dict(hf_weights(model))
    left = set(own)
    with torch.no_grad():
        for name, tensor in weights:
            left.discard(name)
            if name not in own or own[name].shape != tensor.shape:
                wanted = f"has it as {list(own[name].shape)}" if name in own else "has no such tensor"
                raise EngineError(f"weights {version} hold {name} {list(tensor.shape)}, the model {wanted}; load a model of its shape")
            if own[name].data_ptr() != tensor.data_ptr():
                own[name].copy_(tensor)
    if left:
        raise EngineError(f"weights {version} lack {len(left)} tensors of the model, {min(left)} among them; load all of them")


@torch.no_grad()
def checksum(tensors: Iterable[Tensor]) -> int:
    """A number below 2**53 that belongs to these tensors to the last bit, in this order; every device finds the same one.

    Each bit pattern counts in its row's sum and in its column's, and each sum has a factor of its own. Whole numbers wrap around, so that
    no order of adding gives another result.
    """
    sums = [line for tensor in tensors for line in _lines(tensor.detach())]
    joined = torch.cat(sums)
    factors = torch.arange(1, len(joined) + 1, device=joined.device) * ODD
    factors = (factors ^ (factors >> 29)) | 1
    return int((joined * factors).sum()) % LARGEST


def _lines(tensor: Tensor) -> list[Tensor]:
    """The sums of a tensor's bit patterns by row and by column; a vector's patterns themselves."""
    flat, size, rows = tensor.contiguous().flatten(), tensor.element_size(), len(tensor) if tensor.dim() > 1 else 1
    wide = len(flat) // rows * size % WORD == 0
    if wide and flat.storage_offset() * size % WORD:
        flat = flat.clone()  # wherever they lie, the same weights have the same patterns
    bits = flat.view(INTEGERS[WORD if wide else size])
    if tensor.dim() < 2:
        return [bits.long()]
    table = bits.unflatten(0, (rows, -1))
    return [table.sum(dim, dtype=torch.long) for dim in (1, 0)]

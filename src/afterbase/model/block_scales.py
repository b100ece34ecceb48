"""Weights in FP8 with one scale for each block of 128 x 128, as DeepSeek-V3 and Qwen3 publish them.  [V3 3.3.2; Slides, Mixed Precision]"""

from __future__ import annotations

from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

FP8 = torch.float8_e4m3fn
BLOCK = (128, 128)
"""Rows and columns that share a scale."""
SUFFIX = "_scale_inv"
"""The scales of `X.weight` are called `X.weight_scale_inv`: what a stored number is multiplied by."""
LARGEST = 448.0
"""The largest FP8 number (e4m3)."""
LEAST = 1e-30
"""The smallest scale, whose reciprocal is still a float32 number."""
AT_ONCE = 1 << 20
"""Numbers that are converted at a time, so that no whole matrix stands in float32 beside itself."""


def scales_shape(shape: tuple[int, ...] | torch.Size, block: tuple[int, int]) -> list[int]:
    """How many scales a matrix of this shape has."""
    return [ceil(size / part) for size, part in zip(shape, block, strict=True)]


def dequantize(into: Float[Tensor, "o i"], weight: Tensor, scales: Tensor, block: tuple[int, int]) -> None:
    """Fill a matrix with the numbers that FP8 `weight` and its scales stand for, a few rows of blocks at a time, on its own device."""
    for start, stop in _runs(weight, block):
        part = weight[start:stop].to(into.device).float()
        into[start:stop].copy_(part.mul_(_spread(scales[start // block[0] : ceil(stop / block[0])].to(into.device), part, block)))


def block_scales(weight: Float[Tensor, "o i"], block: tuple[int, int] = BLOCK) -> Float[Tensor, "blocks_o blocks_i"]:
    """The scale of each block: its largest number becomes FP8's largest."""
    found = torch.empty(scales_shape(weight.shape, block), device=weight.device)
    for start, stop in _runs(weight, block):
        part = weight[start:stop].float().abs()
        columns = torch.stack([piece.amax(1) for piece in part.split(block[1], dim=1)], dim=1)
        largest = torch.stack([piece.amax(0) for piece in columns.split(block[0])])
        found[start // block[0] : ceil(stop / block[0])] = scale_of(largest)
    return found


def scale_of(largest: Float[Tensor, "*some"]) -> Float[Tensor, "*some"]:
    """What makes a block's largest number FP8's largest; 1 for a block of zeros, or of what is as good as zero."""
    scales = largest / torch.full_like(largest, LARGEST)  # by a mere number a GPU divides as it multiplies by 1/448
    return scales.masked_fill_(scales < LEAST, 1.0)


def quantize(weight: Float[Tensor, "o i"], scales: Tensor, block: tuple[int, int] = BLOCK) -> Tensor:
    """The nearest FP8 numbers under these scales."""
    stored = torch.empty(weight.shape, dtype=FP8, device=weight.device)
    for start, stop in _runs(weight, block):
        part = weight[start:stop].float()
        by = scales[start // block[0] : ceil(stop / block[0])].float().reciprocal()
        stored[start:stop] = (part * _spread(by, part, block)).to(FP8)
    return stored


def _runs(weight: Tensor, block: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows from and to, in whole blocks."""
    step = block[0] * max(1, AT_ONCE // (block[0] * max(1, weight.shape[1])))
    return [(start, min(start + step, len(weight))) for start in range(0, len(weight), step)]


def _spread(scales: Tensor, part: Tensor, block: tuple[int, int]) -> Tensor:
    """A scale for each number; of a block that is larger than the matrix no more than that."""
    rows = scales.float().repeat_interleave(min(block[0], part.shape[0]), dim=0)[: part.shape[0]]
    return rows.repeat_interleave(min(block[1], part.shape[1]), dim=1)[:, : part.shape[1]]

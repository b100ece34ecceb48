"""What a layer does between its matrix products, forwards and backwards, each in one trip through memory.

The arithmetic is in float32, whatever the tensors hold. The caller has seen to it that tensors are dense where a kernel wants them so.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from afterbase.model.cuda.heads import shrinkage, turn
from afterbase.model.cuda.launch import on

COLUMNS = 1024
"""Numbers that one program of an elementwise kernel handles."""


def add_normalize(
    x: Float[Tensor, "*batch width"], delta: Float[Tensor, "*batch width"] | None, weight: Tensor, eps: float, dtype, in_place: bool
) -> tuple[Float[Tensor, "*batch width"], Float[Tensor, "*batch 1"], Float[Tensor, "*batch width"]]:
    """The sum, one over its root mean square, and the norm in `dtype`."""
    total = x if delta is None or in_place else torch.empty_like(x)
    inverse, normal = x.new_empty(*x.shape[:-1], 1), torch.empty_like(x, dtype=dtype)
    block = triton.next_power_of_2(x.shape[-1])
    if inverse.numel():
        with on(x):
            _add_normalize[(inverse.numel(),)](
                x, delta, weight, total, inverse, normal, x.shape[-1], eps, delta is not None, block, num_warps=_warps(block)
            )
    return total, inverse, normal


def normalize_heads(
    x: Float[Tensor, "*batch width"], weight: Float[Tensor, "width"], eps: float
) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch width"]]:
    """One over each row's root mean square, and the norm in float32, rounded to the input's dtype before the weight multiplies."""
    inverse = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    normal, block = torch.empty_like(x, dtype=torch.float32), triton.next_power_of_2(x.shape[-1])
    rows = max(1, 2 * COLUMNS // block)
    if inverse.numel():
        with on(x):
            _normalize_heads[(triton.cdiv(inverse.numel(), rows),)](
                x, weight, inverse, normal, inverse.numel(), x.shape[-1], eps, rows, block, num_warps=_warps(rows * block)
            )
    return inverse, normal


def normalize_backward(
    gradient: Tensor, past: Tensor | None, x: Tensor, weight: Tensor, inverse: Tensor, delta_dtype: torch.dtype | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The gradients of the sum, of the addend (the same, in its dtype), and of the weight."""
    width, rows = x.shape[-1], inverse.numel()
    dx, block = torch.empty_like(x), triton.next_power_of_2(width)
    apart = delta_dtype is not None and delta_dtype != dx.dtype
    ddelta = torch.empty_like(x, dtype=delta_dtype) if apart else None
    programs = max(1, min(rows, _programs(x.device)))
    shares = torch.empty(programs, width, dtype=torch.float32, device=x.device)
    with on(x):
        _normalize_backward[(programs,)](
            gradient, past, x, weight, inverse, dx, ddelta, shares, rows, width, past is not None, apart, block,
            num_warps=_warps(block),
        )  # fmt: skip
    return dx, dx if delta_dtype == dx.dtype else ddelta, shares.sum(0)


def swiglu(gate: Float[Tensor, "N inner"], up: Float[Tensor, "N inner"], out: Float[Tensor, "N inner"]) -> Float[Tensor, "N inner"]:
    """silu(gate) * up into `out`, which is dense; gate and up share their strides."""
    rows, width = gate.shape
    if gate.numel():
        with on(gate):
            _swiglu[rows, triton.cdiv(width, COLUMNS)](gate, up, out, width, gate.stride(0), COLUMNS)
    return out


def swiglu_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Both gradients, side by side, as the product before them wants them; `gradient` is dense."""
    (rows, width), both = gate.shape, gate.new_empty(gate.shape[0], 2 * gate.shape[1])
    if gate.numel():
        with on(gate):
            _swiglu_backward[rows, triton.cdiv(width, COLUMNS)](gradient, gate, up, both, width, gate.stride(0), COLUMNS)
    return both[:, :width], both[:, width:]


def rotate(heads: Float[Tensor, "T h rope"], cos: Tensor, sin: Tensor, interleaved: bool, back: bool) -> Float[Tensor, "T h rope"]:
    """Every pair turned; interleaved pairs are neighbours on the model's side and halves on the attention's."""
    out, half = heads.new_empty(heads.shape), heads.shape[-1] // 2
    if out.numel():
        block = triton.next_power_of_2(half)
        tokens = max(1, 2 * COLUMNS // block)
        with on(heads):
            _rotate[triton.cdiv(len(heads), tokens), heads.shape[1]](
                heads, cos, sin, out, len(heads), -1.0 if back else 1.0, heads.stride(0), heads.stride(1), half,
                interleaved and not back, interleaved and back, tokens, block,
            )  # fmt: skip
    return out


@triton.jit
def _add_normalize(x, delta, weight, total, inverse, normal, width, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    at = row * width + columns
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(total + at, value, mask=inside)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    tl.store(inverse + row, scale)
    by = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(normal + at, value * scale * by, mask=inside)


@triton.jit
def _normalize_heads(x, weight, inverse, normal, count, width, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (row < count)[:, None] & (columns < width)[None, :]
    at = row[:, None] * width + columns[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    scale = shrinkage(value, width, eps)
    tl.store(inverse + row, scale, mask=row < count)
    by = tl.load(weight + columns, mask=columns < width, other=0.0)
    tl.store(normal + at, (value * scale[:, None]).to(x.dtype.element_ty).to(tl.float32) * by[None, :], mask=inside)


@triton.jit
def _normalize_backward(
    gradient, past, x, weight, inverse, dx, ddelta, shares, rows, width, PAST: tl.constexpr, APART: tl.constexpr, BLOCK: tl.constexpr
):
    columns = tl.arange(0, BLOCK)
    by = tl.load(weight + columns, mask=columns < width, other=0.0).to(tl.float32)
    share = tl.zeros([BLOCK], dtype=tl.float32)
    row = tl.program_id(0).to(tl.int64)
    inside = columns < width
    while row < rows:
        at = row * width + columns
        scale = tl.load(inverse + row)
        slope = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        share += slope * value * scale
        slope *= by
        shared = tl.sum(slope * value, axis=0) * scale * scale * scale / width
        slope = slope * scale - value * shared
        if PAST:
            slope += tl.load(past + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + at, slope, mask=inside)
        if APART:
            tl.store(ddelta + at, slope, mask=inside)
        row += tl.num_programs(0)
    tl.store(shares + tl.program_id(0) * width + columns, share, mask=inside)


@triton.jit
def _swiglu(gate, up, out, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(gate + row * stride + columns, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + row * stride + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + columns, x * tl.sigmoid(x) * y, mask=inside)


@triton.jit
def _swiglu_backward(gradient, gate, up, both, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    slope = tl.load(gradient + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(gate + row * stride + columns, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + row * stride + columns, mask=inside, other=0.0).to(tl.float32)
    open_ = tl.sigmoid(x)
    tl.store(both + row * 2 * width + columns, slope * y * open_ * (1 + x * (1 - open_)), mask=inside)
    tl.store(both + row * 2 * width + width + columns, slope * x * open_, mask=inside)


@triton.jit
def _rotate(
    heads, cos, sin, out, count, sign, token_stride, head_stride, HALF: tl.constexpr,
    GATHER: tl.constexpr, SCATTER: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = (tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS))[:, None]
    head = tl.program_id(1)
    pair = tl.arange(0, BLOCK)[None, :]
    inside = (token < count) & (pair < HALF)
    base = heads + token * token_stride + head * head_stride
    if GATHER:
        a = tl.load(base + 2 * pair, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(base + 2 * pair + 1, mask=inside, other=0.0).to(tl.float32)
    else:
        a = tl.load(base + pair, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(base + pair + HALF, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(cos + token * HALF + pair, mask=inside, other=0.0)
    s = tl.load(sin + token * HALF + pair, mask=inside, other=0.0) * sign
    to = out + (token * tl.num_programs(1) + head) * (2 * HALF)
    first, second = turn(a, b, c, -s), turn(b, a, c, s)
    if SCATTER:
        tl.store(to + 2 * pair, first, mask=inside)
        tl.store(to + 2 * pair + 1, second, mask=inside)
    else:
        tl.store(to + pair, first, mask=inside)
        tl.store(to + pair + HALF, second, mask=inside)


def _warps(block: int) -> int:
    return max(1, min(16, block // 256))


@functools.cache
def _programs(device: torch.device) -> int:
    """Enough to keep every multiprocessor busy; the weight's gradient is summed over them at the end."""
    return 8 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3

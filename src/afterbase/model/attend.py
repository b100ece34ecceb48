"""Scaled dot-product attention over a packed stream, and over a cache.

Sequences of a stream never see each other [V3 5.1]. On CUDA in half precision a kernel does it whose bits decoding repeats
(cuda/packed.py), or torch's variable-length FlashAttention for heads that it does not know; elsewhere sequences of similar length are
gathered into padded rectangles, where the causal mask alone hides the padding.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from afterbase.model import cuda
from afterbase.model.rows import Pad, Take
from afterbase.segments import Segments

FLASH = 256
"""Numbers in the widest head that FlashAttention knows."""
EIGHT = 8
"""FlashAttention knows heads whose width is a multiple of this; others are filled up with zeros, which change no product."""
SHORT = 256
"""Tokens up to which a CPU attends by plain matrix products."""


def attend(
    queries: Float[Tensor, "T hq k"], keys: Float[Tensor, "T hk k"], values: Float[Tensor, "T hk v"], segments: Segments, scale: float
) -> Float[Tensor, "T hq v"]:
    """Causal attention of each token to itself and the earlier tokens of its own sequence, in the values' dtype."""
    queries, keys = queries.to(values.dtype), keys.to(values.dtype)  # rotation leaves them in float32
    if len(keys) > len(queries):
        return _continued(queries, keys, values, segments, scale)
    if cuda.packed_for(queries, values):
        return Packed.apply(queries, keys, values, segments, scale)
    if queries.is_cuda and queries.dtype in cuda.HALF and _width(keys, values) <= FLASH:
        return _varlen(queries, keys, values, segments, scale)
    if len(set(segments.lengths)) == 1:
        return _rectangle(queries, keys, values, len(segments.lengths), scale)
    return _padded(queries, keys, values, segments, scale)


class Packed(torch.autograd.Function):
    """The kernel, with FlashAttention's gradient, which wants no more than the output and the logarithms of its sums."""

    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor, values: Tensor, segments: Segments, scale: float) -> Tensor:
        """Each query's mixture of values."""
        mixed, sums = cuda.packed_for(queries, values).attention(queries, keys, values, segments.starts, segments.longest, scale)
        ctx.save_for_backward(queries, keys, values, mixed, sums)
        ctx.segments, ctx.scale = segments, scale
        return mixed

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """The gradients of queries, keys and values."""
        segments, unused = ctx.segments, torch.empty(2, dtype=torch.uint64, device=gradient.device)  # a seed, of no dropout
        bounds = segments.starts, segments.starts, segments.longest, segments.longest
        flash = torch.ops.aten._flash_attention_backward
        return *flash(gradient.contiguous(), *ctx.saved_tensors, *bounds, 0.0, True, unused, unused, scale=ctx.scale), None, None


def attend_memory(
    queries: Float[Tensor, "T hq k"],
    keys: Float[Tensor, "n hk L k"],
    values: Float[Tensor, "n hk L v"],
    seen: Bool[Tensor, "T 1 1 L"],
    scale: float,
) -> Float[Tensor, "T hq v"]:
    """Attention of each row's new tokens, T/n of them, to what the row remembers; the heads that share a key are its queries.

    Runs in the memory's own dtype: with so few queries per key it is bound by reading the memory, not by arithmetic.
    """
    rows, heads, length = keys.shape[0], keys.shape[1], keys.shape[2]
    if len(queries) > rows:
        return _attend_several(queries, keys, values, seen, scale)
    with torch.autocast(queries.device.type, enabled=False):
        grouped = queries.to(keys.dtype).reshape(rows * heads, -1, queries.shape[-1])
        scores = torch.bmm(grouped, matrices(keys).transpose(1, 2)).float() * scale
        scores = scores.unflatten(0, (rows, heads)).masked_fill_(~seen, -torch.inf)
        weights = scores.softmax(-1).to(values.dtype).view(rows * heads, -1, length)
        return torch.bmm(weights, matrices(values)).view(rows, queries.shape[1], -1)


def _attend_several(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor, scale: float) -> Tensor:
    """Several new tokens of a row, as so many more queries of each of its keys."""
    rows, heads, length = keys.shape[0], keys.shape[1], keys.shape[2]
    asked = queries.unflatten(1, (heads, -1)).unflatten(0, (rows, -1))  # [n w hk group k]
    allowed = seen.view(rows, 1, -1, length).repeat_interleave(asked.shape[3], dim=2)
    mixed = attend_memory(asked.transpose(1, 2).flatten(1, 3), keys, values, allowed, scale)
    return mixed.view(rows, heads, *asked.shape[1:4:2], -1).transpose(1, 2).reshape(*queries.shape[:2], -1)


def matrices(memory: Float[Tensor, "n h L width"]) -> Float[Tensor, "nh L width"]:
    """One matrix per row and head, as a view: `flatten` would copy the whole memory, whose rows are longer than L."""
    rows, heads, length, width = memory.shape
    assert memory.stride(0) == heads * memory.stride(1), "a cache row's heads lie one after the other"
    return memory.as_strided((rows * heads, length, width), (memory.stride(1), memory.stride(2), memory.stride(3)))


def _continued(queries: Tensor, keys: Tensor, values: Tensor, segments: Segments, scale: float) -> Tensor:
    """The first sequence began before these queries, with keys and values that nobody else sees."""
    before, first = len(keys) - len(queries), segments.lengths[0]
    if queries.is_cuda and queries.dtype in cuda.HALF and _width(keys, values) <= FLASH:
        return _varlen(queries, keys, values, segments, scale, before)
    ahead = torch.ones(first, before + first, dtype=torch.bool, device=queries.device).tril(before)
    q, k, v = (x[None, :end].transpose(1, 2) for x, end in ((queries, first), (keys, before + first), (values, before + first)))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=ahead, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    mixed = mixed.transpose(1, 2).squeeze(0)
    if first == len(queries):
        return mixed
    rest = Segments.of(segments.lengths[1:], segments.device)
    return torch.cat((mixed, attend(queries[first:], keys[before + first :], values[before + first :], rest, scale)))


def _rectangle(queries: Tensor, keys: Tensor, values: Tensor, rows: int, scale: float) -> Tensor:
    """Sequences of one length need no gathering: the stream is a rectangle already."""
    q, k, v = (x.unflatten(0, (rows, -1)).transpose(1, 2) for x in (queries, keys, values))
    return _causal(q, k, v, scale).transpose(1, 2).flatten(0, 1)


def _padded(queries: Tensor, keys: Tensor, values: Tensor, segments: Segments, scale: float) -> Tensor:
    """Attention within padded rectangles of sequences of similar length."""
    cells = [bucket.index.numel() for bucket in segments.buckets]
    padded = [Pad.apply(x.flatten(1), segments.cells, segments.inverse).split(cells) for x in (queries, keys, values)]
    outputs = []
    for bucket, *parts in zip(segments.buckets, *padded, strict=True):
        heads = (queries.shape[1], keys.shape[1], values.shape[1])
        q, k, v = (x.view(*bucket.index.shape, n, -1).transpose(1, 2) for x, n in zip(parts, heads, strict=True))
        outputs.append(_causal(q, k, v, scale).transpose(1, 2).flatten(0, 1).flatten(1))
    rows = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    return Take.apply(rows, segments.inverse).unflatten(1, (queries.shape[1], -1))


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """[S h L width] causal attention; a value head narrower than its key is padded, as the fused kernels need one width."""
    if q.shape[2] <= SHORT and q.device.type == "cpu":
        return _short(q, k, v, scale)
    width = v.shape[-1]
    if width < q.shape[-1]:
        v = F.pad(v, (0, q.shape[-1] - width))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out[..., :width]


def _short(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Short sequences on a CPU as plain matrix products: there the fused kernel's backward pass is several times slower."""
    sequences, kv_heads, length = k.shape[:3]
    repeat = q.shape[1] // kv_heads
    rows = q.reshape(sequences * kv_heads, repeat * length, -1)  # the heads that share a key are one matrix
    keys, values = k.reshape(sequences * kv_heads, length, -1), v.reshape(sequences * kv_heads, length, -1)
    ahead = torch.ones(length, length, dtype=torch.bool).triu(1).repeat(repeat, 1)
    hidden = torch.zeros(ahead.shape, dtype=rows.dtype).masked_fill_(ahead, -torch.inf)
    with torch.autocast("cpu", enabled=False):
        scores = torch.baddbmm(hidden, rows, keys.transpose(1, 2), alpha=scale)
        mixed = torch.bmm(scores.softmax(-1), values)
    return mixed.view(sequences, q.shape[1], length, -1)


def _width(queries: Tensor, values: Tensor) -> int:
    """What FlashAttention, which has one width for all, needs."""
    return -(-max(queries.shape[-1], values.shape[-1]) // EIGHT) * EIGHT


def _varlen(queries: Tensor, keys: Tensor, values: Tensor, segments: Segments, scale: float, before: int = 0) -> Tensor:
    """Torch's FlashAttention over cumulative lengths; below `varlen_attn`, which would have the shared keys repeated for every query.

    The first sequence's keys may be `before` more than its queries.
    """
    width, wide = values.shape[-1], _width(queries, values)
    queries, keys, values = (x if x.shape[-1] == wide else F.pad(x, (0, wide - x.shape[-1])) for x in (queries, keys, values))
    seen = segments.starts if not before else torch.cat((segments.starts[:1], segments.starts[1:] + before))
    bounds = segments.starts, seen, segments.longest, max(segments.longest, segments.lengths[0] + before)
    out = torch.ops.aten._flash_attention_forward(queries, keys, values, *bounds, 0.0, True, False, scale=scale)[0]
    return out[..., :width]

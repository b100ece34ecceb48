"""Moving rows of a stream about, with backward passes that are plain copies.

Autograd's own gradient of indexing accumulates, because an index might repeat; on CPU that goes row by row. Where every real
row is taken a known number of times, the gradient is another indexing, many times faster and always in the same order.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


class LookUp(torch.autograd.Function):
    """table[tokens], where a token may come any number of times: its gradients add up in float32, whatever the table holds.

    On a CPU autograd's own gradient of a bfloat16 table stops growing at the 256th equal one.
    """

    @staticmethod
    def forward(ctx, table: Float[Tensor, "V d"], tokens: Int[Tensor, "T"]) -> Float[Tensor, "T d"]:
        """table[tokens]."""
        ctx.save_for_backward(tokens)
        ctx.length = table.shape[0]
        return F.embedding(tokens, table)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """Each token's sum."""
        (tokens,) = ctx.saved_tensors
        return torch.ops.aten.embedding_dense_backward(gradient.float(), tokens, ctx.length, -1, False), None


class Take(torch.autograd.Function):
    """rows[index] where no index occurs twice; rows that nobody took have gradient zero."""

    @staticmethod
    def forward(ctx, rows: Float[Tensor, "N d"], index: Int[Tensor, "M"]) -> Float[Tensor, "M d"]:
        """rows[index]."""
        ctx.save_for_backward(index)
        ctx.length = rows.shape[0]
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """Each taken row's gradient, back in its place."""
        (index,) = ctx.saved_tensors
        whole = gradient.new_zeros(ctx.length, *gradient.shape[1:])
        return whole.index_copy(0, index, gradient), None


class Pad(torch.autograd.Function):
    """A stream laid into rectangles; padding cells repeat some real row, and their gradient is exactly zero.

    It is zero because padding comes after the real tokens of its row: a causal mask hides it, and nothing reads its output.
    So each token's gradient is that of the one cell it was laid into.
    """

    @staticmethod
    def forward(ctx, stream: Float[Tensor, "T d"], cells: Int[Tensor, "C"], inverse: Int[Tensor, "T"]) -> Float[Tensor, "C d"]:
        """stream[cells]; `inverse` says which cell each token was laid into."""
        ctx.save_for_backward(inverse)
        return stream.index_select(0, cells)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        """gradient[inverse]."""
        (inverse,) = ctx.saved_tensors
        return gradient.index_select(0, inverse), None, None


class Dispatch(torch.autograd.Function):
    """Copies of each token in expert order; backward adds a token's copies by one reshape instead of a scattered sum."""

    @staticmethod
    def forward(ctx, hidden: Float[Tensor, "T d"], order: Int[Tensor, "N"], place: Int[Tensor, "N"], copies: int) -> Float[Tensor, "N d"]:
        """hidden[order // copies]; `place` is the inverse of `order`."""
        ctx.save_for_backward(place)
        ctx.copies = copies
        return hidden.index_select(0, order // copies)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """The sum over a token's copies."""
        (place,) = ctx.saved_tensors
        return gradient.index_select(0, place).unflatten(0, (-1, ctx.copies)).sum(1), None, None, None


class Permute(torch.autograd.Function):
    """rows[order]; backward is the inverse order."""

    @staticmethod
    def forward(ctx, rows: Float[Tensor, "N d"], order: Int[Tensor, "N"], inverse: Int[Tensor, "N"]) -> Float[Tensor, "N d"]:
        """rows[order]."""
        ctx.save_for_backward(inverse)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        """gradient[inverse]."""
        (inverse,) = ctx.saved_tensors
        return gradient.index_select(0, inverse), None, None

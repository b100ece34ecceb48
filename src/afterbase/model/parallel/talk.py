"""What ranks say to each other in the midst of a forward pass, with the answer that the backward pass needs.

A value that every rank of a group computes alike has, on each, the whole gradient; one that each computes a part of, a part of the
gradient. Each function here turns one kind into the other, and its backward pass turns back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup

gather_rows = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
scatter_sums = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
"""Torch is giving both a new name."""


class Copied(torch.autograd.Function):
    """A value that all ranks have, read by parts of a layer: the gradients of the parts are added."""

    @staticmethod
    def forward(ctx, x: Tensor, group: ProcessGroup) -> Tensor:
        """x itself."""
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """The sum over the group."""
        return summed(gradient, ctx.group), None


class Added(torch.autograd.Function):
    """The sum of every rank's part, which all ranks have from here on."""

    @staticmethod
    def forward(ctx, x: Tensor, group: ProcessGroup) -> Tensor:
        """The sum over the group."""
        return summed(x, group)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """Each part counts once."""
        return gradient, None


class Scaled(torch.autograd.Function):
    """A value as it is, its gradient times a factor: for what all ranks compute alike where gradients are added over ranks."""

    @staticmethod
    def forward(ctx, x: Tensor, factor: float) -> Tensor:
        """x itself."""
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient times the factor."""
        return gradient * ctx.factor, None


class Gathered(torch.autograd.Function):
    """Every rank's rows, one below the other; `sizes` are their numbers.

    `alike` says that all ranks go on to compute the same of them, so that each has the whole gradient and takes its own rows of it;
    otherwise each computes something else, and a row's gradient is the sum over ranks.
    """

    @staticmethod
    def forward(ctx, rows: Float[Tensor, "n *width"], group: ProcessGroup, sizes: Sequence[int], alike: bool) -> Float[Tensor, "N *width"]:
        """All rows."""
        ctx.group, ctx.sizes, ctx.alike = group, sizes, alike
        most = max(sizes)
        mine = rows.new_zeros(most, *rows.shape[1:])
        mine[: len(rows)] = rows
        every = rows.new_empty(len(sizes) * most, *rows.shape[1:])
        gather_rows(every, mine, group=group)
        return torch.cat([part[:size] for part, size in zip(every.split(most), sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """This rank's rows of it."""
        rank, sizes = dist.get_rank(ctx.group), ctx.sizes
        parts = gradient.split(list(sizes))
        if ctx.alike:
            return parts[rank], None, None, None
        most = max(sizes)
        every = gradient.new_zeros(len(sizes), most, *gradient.shape[1:])
        for place, part in enumerate(parts):
            every[place, : len(part)] = part
        mine = gradient.new_empty(most, *gradient.shape[1:])
        scatter_sums(mine, every.flatten(0, 1), group=ctx.group)
        return mine[: sizes[rank]], None, None, None


class Exchanged(torch.autograd.Function):
    """Rows sent to and received from every rank of the group, in the order of ranks; backward they go home."""

    @staticmethod
    def forward(ctx, rows: Float[Tensor, "n d"], group: ProcessGroup, sent: Sequence[int], received: Sequence[int]) -> Float[Tensor, "m d"]:
        """The rows that this rank was sent."""
        ctx.group, ctx.sent, ctx.received = group, sent, received
        return exchanged(rows, group, sent, received)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradients of the rows that it had sent."""
        return exchanged(gradient, ctx.group, ctx.received, ctx.sent), None, None, None


def summed(x: Tensor, group: ProcessGroup) -> Tensor:
    """A new tensor: the sum of x over the group."""
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


def exchanged(rows: Tensor, group: ProcessGroup, sent: Sequence[int], received: Sequence[int]) -> Tensor:
    """The rows that every rank of the group had for this one."""
    out = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(out, rows.contiguous(), list(received), list(sent), group=group)
    return out

"""All routed experts of a layer on a GPU, from hidden states to their gated sum, with the gradient written out.

The gate multiplies between the two products, where rows are narrow, and not behind them: so nobody keeps the experts' outputs. Of what the
backward pass needs only the first product is kept; tokens are copied out again, and SwiGLU is computed again, while it passes by.
"""

from __future__ import annotations

from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from afterbase.model import cuda


class Routed(torch.autograd.Function):
    """base + sum over a token's experts of gate * down(silu(gate_proj x) * up_proj x), in half precision with sums in float32."""

    @staticmethod
    def forward(
        ctx,
        hidden: Float[Tensor, "T d"],
        base: Float[Tensor, "T d"] | None,
        gates: Float[Tensor, "T K"],
        sorting: tuple[Int[Tensor, "N"], Int[Tensor, "N"], Int[Tensor, "E"]],
        enter: Float[Tensor, "E two_inner d"],
        leave: Float[Tensor, "E d inner"],
        *parameters: Tensor,
    ) -> Float[Tensor, "T d"]:
        """`enter` and `leave` are copies, in the dtype of the products, of the parameters: gate and up side by side, and down."""
        (order, place, load), copies = sorting, gates.shape[1]
        ends = load.cumsum(0).to(torch.int32)
        weights = gates.float().flatten().contiguous()
        both = torch._grouped_mm(_copies(hidden, order, copies), enter.transpose(1, 2), offs=ends)
        inner = kernels().weighted(both, weights, order)
        ctx.save_for_backward(hidden, weights, order, place, ends, both, enter, leave)
        ctx.based, ctx.copies, ctx.gates = base is not None, copies, gates.dtype
        return kernels().added(torch._grouped_mm(inner, leave.transpose(1, 2), offs=ends), place, copies, base)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The experts' gradients come in the dtype of the products; frozen ones get none."""
        hidden, weights, order, place, ends, both, enter, leave = ctx.saved_tensors
        gradient = gradient.contiguous()
        slope = _copies(gradient, order, ctx.copies)
        into_both, into_gates, inner = kernels().weighted_backward(torch._grouped_mm(slope, leave, offs=ends), both, weights, order)
        learned = ctx.needs_input_grad[6]
        into_leave = torch._grouped_mm(slope.T, inner, offs=ends) if learned else None
        del slope, inner
        into: list[Tensor | None] = [None, None, None]
        if learned:
            into = [*torch._grouped_mm(into_both.T, _copies(hidden, order, ctx.copies), offs=ends).chunk(2, dim=1), into_leave]
        into_hidden = kernels().added(torch._grouped_mm(into_both, enter, offs=ends), place, ctx.copies, None)
        into_gates = into_gates.to(ctx.gates).view(-1, ctx.copies)
        return into_hidden, gradient if ctx.based else None, into_gates, None, None, None, *into


def kernels() -> ModuleType:
    """The kernels for experts, imported when they are first needed."""
    from afterbase.model.cuda import experts

    return experts


def fits(hidden: Tensor, dtype: torch.dtype, *weights: Tensor) -> bool:
    """Whether the kernels and torch's grouped product can do it: on a GPU, in bfloat16, rows of whole 16 bytes."""
    aligned = all(width * dtype.itemsize % 16 == 0 for weight in weights for width in weight.shape[1:])
    return bool(cuda.kernels_for(hidden)) and dtype == torch.bfloat16 and aligned


def _copies(hidden: Float[Tensor, "T d"], order: Int[Tensor, "N"], copies: int) -> Float[Tensor, "N d"]:
    """Each choice's token, in expert order."""
    return hidden.index_select(0, order // copies)

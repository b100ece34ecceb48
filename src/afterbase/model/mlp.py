"""SwiGLU, the feed-forward layer: down(silu(gate(x)) * up(x))."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from afterbase.model import cuda
from afterbase.model.joined import Joined
from afterbase.model.lora import Adapted
from afterbase.model.native import KINDS, kernels, kernels_for


class MLP(nn.Module):
    """A gated feed-forward layer; also one shared expert."""

    def __init__(self, width: int, inner: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)
        self.enter, self.leave = Joined(self.gate_proj, self.up_proj), Joined(self.down_proj)

    def forward(self, hidden: Float[Tensor, "T d"]) -> Float[Tensor, "T d"]:
        """SwiGLU of each token."""
        gate, up = self.enter(hidden)
        lone = self.down_proj.bias is None and not isinstance(self.down_proj, Adapted)
        alike = gate.dtype == up.dtype and gate.stride() == up.stride()  # one of them may have an adapter
        if alike and lone and self.leave.fits(gate) and gate.dtype in cuda.HALF and cuda.kernels():
            weight = self.down_proj.weight
            return Down.apply(gate, up, self.leave.weights(gate.dtype, weight), weight)
        return self.leave(swiglu(gate, up))[0]


def swiglu(gate: Float[Tensor, "N inner"], up: Float[Tensor, "N inner"]) -> Float[Tensor, "N inner"]:
    """silu(gate) * up; the halves of one product may be given as they lie."""
    rows = gate.dim() == 2 and gate.stride() == up.stride() and gate.stride(-1) == 1
    if rows and gate.dtype == up.dtype and (kernels_for(gate) or cuda.kernels_for(gate)):
        return SwiGLU.apply(gate, up)
    return F.silu(gate) * up


def multiplied(gate: Float[Tensor, "N inner"], up: Float[Tensor, "N inner"], out: Float[Tensor, "N inner"]) -> Float[Tensor, "N inner"]:
    """The kernel: silu(gate) * up into `out`, which is dense."""
    if gate.is_cuda:
        return cuda.kernels().swiglu(gate, up, out)
    kernels()("swiglu", KINDS[gate.dtype], *gate.shape, gate.stride(0), gate, up, out)
    return out


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up in one trip through memory, and both gradients in another."""

    @staticmethod
    def forward(ctx, gate: Float[Tensor, "N inner"], up: Float[Tensor, "N inner"]) -> Float[Tensor, "N inner"]:
        """The product, dense."""
        ctx.save_for_backward(gate, up)
        return multiplied(gate, up, gate.new_empty(gate.shape))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """d silu(x) = s (1 + x (1 - s)) with s = sigmoid(x)."""
        gate, up = ctx.saved_tensors
        gradient = gradient.to(gate.dtype).contiguous()
        if gate.is_cuda:
            return cuda.kernels().swiglu_backward(gradient, gate, up)
        dgate, dup = gate.new_empty(gate.shape), up.new_empty(up.shape)
        kernels()("swiglu_backward", KINDS[gate.dtype], *gate.shape, gate.stride(0), gradient, gate, up, dgate, dup)
        return dgate, dup


class Down(torch.autograd.Function):
    """weight (silu(gate) * up) on a GPU; of what it reads the product is made again for the backward pass, a third less to keep."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor, half: Float[Tensor, "d inner"], weight: Float[Tensor, "d inner"]) -> Float[Tensor, "N d"]:
        """`half` is the weight's copy in the dtype of gate and up, whose rows lie in one matrix."""
        ctx.save_for_backward(gate, up, half)
        return multiplied(gate, up, gate.new_empty(gate.shape)) @ half.T

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Those of gate and up in their dtype, the weight's in float32."""
        gate, up, half = ctx.saved_tensors
        into = cuda.kernels().swiglu_backward(gradient @ half, gate, up)
        again = multiplied(gate, up, gate.new_empty(gate.shape)) if ctx.needs_input_grad[3] else None
        return *into, None, None if again is None else cuda.product(gradient.T, again)

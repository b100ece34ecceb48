"""RMSNorm: scale by the root mean square, computed in float32."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Normalize(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight in float32, with its gradient written out: half the passes over memory of autograd's."""

    @staticmethod
    def forward(ctx, x: Float[Tensor, "*batch width"], weight: Float[Tensor, "width"], eps: float) -> Float[Tensor, "*batch width"]:
        """The normalized and weighted input."""
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = square.add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """dx = (g w - x <g w, x> inverse^2 / width) inverse, dw = sum of g x inverse."""
        x, weight, inverse = ctx.saved_tensors
        product = gradient * x
        shared = (product @ weight).unsqueeze(-1) * inverse.pow(3) / x.shape[-1]
        weight_gradient = product.mul_(inverse).flatten(0, -2).sum(0)
        return (gradient * weight).mul_(inverse).addcmul_(x, shared, value=-1), weight_gradient, None


class RMSNorm(nn.Module):
    """Divide by the root mean square of the last dimension, then multiply by a learned weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """The normalized input, in the input's dtype; under autocast in its dtype, cast once for all that read it."""
        if hidden.dtype == torch.float32:
            normal = Normalize.apply(hidden, self.weight.float(), self.eps)
            device = hidden.device.type
            return normal.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else normal
        # Half precision is rounded before the weight multiplies it: where Hugging Face rounds, so the logits agree.
        return F.rms_norm(hidden.float(), (hidden.shape[-1],), None, self.eps).to(hidden.dtype) * self.weight

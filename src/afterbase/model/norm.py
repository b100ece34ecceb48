"""RMSNorm: scale by the root mean square, computed in float32; alone, or together with the residual addition before it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from afterbase.model import cuda
from afterbase.model.native import KINDS, kernels_for


class AddNormalize(torch.autograd.Function):
    """s = x + delta, and s / sqrt(mean(s^2) + eps) * weight in float32: one trip through memory, with its gradient written out."""

    @staticmethod
    def forward(
        ctx, x: Float[Tensor, "*batch width"], delta: Float[Tensor, "*batch width"], weight: Float[Tensor, "width"], eps: float, dtype
    ) -> tuple[Float[Tensor, "*batch width"], Float[Tensor, "*batch width"]]:
        """The sum in float32, and the norm in `dtype`."""
        ctx.set_materialize_grads(False)
        ctx.delta_dtype = delta.dtype
        total, inverse, normal = add_normalize(x, delta, weight, eps, dtype)
        ctx.save_for_backward(total, weight, inverse)
        return total, normal

    @staticmethod
    def backward(ctx, from_sum: Tensor | None, gradient: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        """What comes back through the norm and past it, for both addends."""
        if gradient is None:
            return from_sum, from_sum if from_sum is None else from_sum.to(ctx.delta_dtype), None, None, None
        total, weight, inverse = ctx.saved_tensors
        dx, ddelta, dweight = normalize_backward(gradient, from_sum, total, weight, inverse, ctx.delta_dtype)
        return dx, ddelta, dweight, None, None


class Normalize(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight in float32, with its gradient written out."""

    @staticmethod
    def forward(ctx, x: Float[Tensor, "*batch width"], weight: Float[Tensor, "width"], eps: float, dtype) -> Float[Tensor, "*batch width"]:
        """The normalized and weighted input, in `dtype`."""
        _, inverse, normal = add_normalize(x, None, weight, eps, dtype)
        ctx.save_for_backward(x, weight, inverse)
        return normal

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """dx = (g w - x <g w, x> inverse^2 / width) inverse, dw = sum of g x inverse."""
        dx, _, dweight = normalize_backward(gradient, None, *ctx.saved_tensors, None)
        return dx, dweight, None, None


class NormalizeHeads(torch.autograd.Function):
    """The norm of half-precision numbers on a GPU, in float32; its sum of squares is exact, so that other kernels find the same."""

    @staticmethod
    def forward(ctx, x: Float[Tensor, "*batch width"], weight: Float[Tensor, "width"], eps: float) -> Float[Tensor, "*batch width"]:
        """The input over its root mean square, rounded to its own dtype, times the weight."""
        x = x.contiguous()
        inverse, normal = cuda.kernels().normalize_heads(x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        return normal

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """As `Normalize` has them."""
        dx, _, dweight = cuda.kernels().normalize_backward(gradient.contiguous(), None, *ctx.saved_tensors, None)
        return dx, dweight, None


def add_normalize(
    x: Float[Tensor, "*batch width"],
    delta: Float[Tensor, "*batch width"] | None,
    weight: Float[Tensor, "width"],
    eps: float,
    dtype: torch.dtype,
    in_place: bool = False,
) -> tuple[Float[Tensor, "*batch width"], Float[Tensor, "*batch 1"], Float[Tensor, "*batch width"]]:
    """The sum (x itself without a delta, or `in_place`), one over its root mean square, and the norm in `dtype`."""
    native = kernels_for(x)
    if native and _fits(x, weight, dtype) and (delta is None or (delta.dtype in KINDS and delta.is_contiguous())):
        total = x if delta is None or in_place else torch.empty_like(x)
        inverse, normal = x.new_empty(*x.shape[:-1], 1), torch.empty_like(x, dtype=dtype)
        kind, delta_kind = KINDS[dtype], 0 if delta is None else KINDS[delta.dtype]
        native("add_norm", kind, delta_kind, inverse.numel(), x.shape[-1], x, delta, weight, eps, total, inverse, normal)
        return total, inverse, normal
    if (triton := cuda.kernels_for(x)) and _fits_gpu(x, weight, dtype) and (delta is None or delta.is_contiguous()):
        return triton.add_normalize(x, delta, weight, eps, dtype, in_place)
    total = x if delta is None else x + delta
    square = torch.linalg.vector_norm(total, dim=-1, keepdim=True).square_().div_(total.shape[-1])
    inverse = square.add_(eps).rsqrt_()
    return total, inverse, (total * inverse).mul_(weight).to(dtype)


def normalize_backward(
    gradient: Tensor, from_sum: Tensor | None, x: Tensor, weight: Tensor, inverse: Tensor, delta_dtype: torch.dtype | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The gradients of the sum, of the addend (the same, in its dtype), and of the weight."""
    native, gradient = kernels_for(x), gradient.contiguous()
    if native and _fits(x, weight, gradient.dtype) and (from_sum is None or from_sum.dtype == torch.float32):
        dx, dweight = torch.empty_like(x), torch.empty_like(weight)
        ddelta = None if delta_dtype is None else torch.empty_like(x, dtype=delta_dtype)
        kinds = KINDS[gradient.dtype], KINDS.get(delta_dtype, 0)
        past = None if from_sum is None else from_sum.contiguous()
        native("norm_backward", *kinds, inverse.numel(), x.shape[-1], gradient, past, x, weight, inverse, dx, ddelta, dweight)
        return dx, ddelta, dweight
    if (triton := cuda.kernels_for(x)) and _fits_gpu(x, weight, gradient.dtype):
        past = None if from_sum is None else from_sum.contiguous()
        return triton.normalize_backward(gradient, past, x, weight, inverse, delta_dtype)
    product = gradient * x
    shared = (product @ weight).unsqueeze(-1) * inverse.pow(3) / x.shape[-1]
    dweight = product.mul_(inverse).flatten(0, -2).sum(0)
    dx = (gradient * weight).mul_(inverse).addcmul_(x, shared, value=-1)
    dx = dx if from_sum is None else dx.add_(from_sum)
    return dx, None if delta_dtype is None else dx.to(delta_dtype), dweight


def _fits(x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    dense = x.is_contiguous() and weight.is_contiguous()
    return x.dtype == weight.dtype == torch.float32 and dtype in KINDS and dense


def _fits_gpu(x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    dense = x.is_contiguous() and weight.is_contiguous() and x.shape[-1] <= cuda.WIDEST
    return x.dtype == weight.dtype == torch.float32 and dtype in cuda.KINDS and dense


class RMSNorm(nn.Module):
    """Divide by the root mean square of the last dimension, then multiply by a learned weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """The normalized input, in the input's dtype; under autocast in its dtype, cast once for all that read it."""
        if hidden.dtype in (torch.float32, torch.float64):
            return Normalize.apply(hidden, self.weight.to(hidden.dtype), self.eps, product_dtype(hidden))
        if cuda.kernels_for(hidden) and hidden.shape[-1] <= cuda.WIDEST and self.weight.dtype == torch.float32:
            return NormalizeHeads.apply(hidden, self.weight, self.eps)
        # Half precision is rounded before the weight multiplies it: where Hugging Face rounds, so the logits agree.
        return F.rms_norm(hidden.float(), (hidden.shape[-1],), None, self.eps).to(hidden.dtype) * self.weight

    def add(
        self, hidden: Float[Tensor, "*batch width"], delta: Float[Tensor, "*batch width"] | None
    ) -> tuple[Float[Tensor, "*batch width"], Float[Tensor, "*batch width"]]:
        """The residual stream with `delta` added (when there is one), and its norm."""
        if delta is None or hidden.dtype not in (torch.float32, torch.float64):
            hidden = hidden if delta is None else hidden + delta
            return hidden, self(hidden)
        return AddNormalize.apply(hidden, delta, self.weight.to(hidden.dtype), self.eps, product_dtype(hidden))


def product_dtype(hidden: Tensor) -> torch.dtype:
    """What matrix products will read: autocast's dtype inside it, else the input's own."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype

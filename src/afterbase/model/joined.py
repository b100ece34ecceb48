"""Linear layers that read the same input; on a GPU in half precision their product is one, with its gradients summed in float32.

The weights are float32, as autocast wants them, or in half precision already. What autocast would cast at every use is copied once for
each version of the weights, side by side, so that what narrow layers (a few shared keys) would do slowly by themselves is done by one wide
product.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afterbase.model import cuda
from afterbase.model.lora import Adapted, base_weight


class Joined:
    """Some linear layers of one input. It owns no weights: state dicts and devices are the layers' own business."""

    def __init__(self, *layers: nn.Linear) -> None:
        self.layers, self.weights, self.biases = layers, Halves(), Halves()
        self.apart = False
        """Whether each layer is asked by itself: where weights come and go (FSDP2), a copy would be of an older version, and stay."""

    def __call__(self, hidden: Float[Tensor, "T d"]) -> tuple[Tensor, ...]:
        """Each layer's product."""
        if not self.fits(hidden):
            return tuple(layer(hidden) for layer in self.layers)
        dtype = torch.get_autocast_dtype("cuda")
        hidden = hidden.to(dtype)
        with torch.autocast("cuda", enabled=False):
            biases = [layer.bias for layer in self.layers if layer.bias is not None]
            weights = [base_weight(layer) for layer in self.layers]
            bias = self.biases(dtype, *biases) if biases else None
            products = Product.apply(hidden, self.weights(dtype, *weights), bias, len(weights), *weights, *biases)
        return with_adapters(products, self.layers, hidden)

    def fits(self, hidden: Tensor) -> bool:
        """Whether this input is multiplied by copies in half precision."""
        half = hidden.is_cuda and torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") in cuda.HALF
        biased = {layer.bias is None for layer in self.layers}
        held = {base_weight(layer).dtype for layer in self.layers} <= {torch.float32, torch.get_autocast_dtype("cuda")}
        return half and not self.apart and hidden.dim() == 2 and len(biased) == 1 and held


def with_adapters(products: tuple[Tensor, ...], layers: tuple[nn.Linear, ...], hidden: Float[Tensor, "T d"]) -> tuple[Tensor, ...]:
    """The layers' products of this input, each with what its adapter adds."""
    pairs = zip(products, layers, strict=True)
    return tuple(layer.add(product, hidden) if isinstance(layer, Adapted) else product for product, layer in pairs)


class Halves:
    """Some weights in half precision, side by side, copied once for each version of them."""

    def __init__(self, dim: int = 0) -> None:
        """`dim` is the dimension along which they are joined."""
        self.dim = dim
        self.key: tuple | None = None
        self.copy = torch.empty(0)

    @torch.inference_mode(False)  # an engine may ask first, and autograd refuses to keep what was made in its mode
    @torch.no_grad()
    def __call__(self, dtype: torch.dtype, *weights: Tensor) -> Tensor:
        """The weights in `dtype`: a single one that has it already is its own copy."""
        if len(weights) == 1 and weights[0].dtype == dtype:
            return weights[0].detach()
        key = (dtype, *((weight._version, weight.data_ptr()) for weight in weights))
        if key != self.key:
            self.copy, self.key = torch.cat([weight.to(dtype) for weight in weights], dim=self.dim), key
        return self.copy


class Product(torch.autograd.Function):
    """hidden @ weight.T + bias in half precision, handed out in parts; the gradients of weights and biases come in float32."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, parts: int, *parameters: Tensor) -> tuple[Tensor, ...]:
        """One view of the product for each of the first `parts` parameters, which are the weights; the others are their biases."""
        ctx.save_for_backward(hidden, weight)
        ctx.widths, ctx.biased = [each.shape[0] for each in parameters[:parts]], bias is not None
        whole = hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)
        return whole.split(ctx.widths, dim=1)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The input's gradient in its dtype; those of weights and biases are not rounded to it."""
        hidden, weight = ctx.saved_tensors
        gradient = side_by_side(gradients)
        into_hidden = gradient @ weight if ctx.needs_input_grad[0] else None
        into: list[Tensor | None] = [None] * (len(ctx.widths) * (2 if ctx.biased else 1))
        if any(ctx.needs_input_grad[4:]):
            into[: len(ctx.widths)] = cuda.product(gradient.T, hidden).split(ctx.widths)
            if ctx.biased:
                into[len(ctx.widths) :] = gradient.sum(0, dtype=torch.float32).split(ctx.widths)
        return into_hidden, None, None, None, *into


def side_by_side(parts: tuple[Float[Tensor, "T part"], ...]) -> Float[Tensor, "T whole"]:
    """The matrix that these are the columns of: itself where they lie in one already, else a copy."""
    first, width = parts[0], sum(part.shape[1] for part in parts)
    place = first.data_ptr()
    for part in parts:
        if (
            part.stride() != (width, 1)
            or part.data_ptr() != place
            or part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
        ):
            return torch.cat(parts, dim=1)
        place += part.shape[1] * part.element_size()
    return first.as_strided((first.shape[0], width), (width, 1))

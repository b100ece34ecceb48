"""Linear layers that learn in FP8: activations and gradients scaled by tiles of 1 x 128, weights by blocks.  [Slides, Mixed Precision]

All three products of a layer (forward, input gradient, weight gradient) are of float8 e4m3 numbers. After every 128 numbers of the inner
dimension a partial sum is scaled and added up in float32. Embedding, head, norms, routers and gates, attention itself, what joins an MTP
module's inputs stay in the precision of autocast. Weights stay what they are: their copies in FP8 are made once for
each version of them. Of its input a layer keeps for the backward pass one byte a number.

Widths that are no multiple of 128 are filled up with zeros, which add nothing. The forward scales are a token's own, so packed sequences
still never see each other; the weight gradient's run along 128 tokens, whoever they belong to, so that gradients depend on the packing
within FP8's rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from afterbase.model import cuda
from afterbase.model.block_scales import FP8, block_scales, quantize, scale_of
from afterbase.model.joined import Joined, with_adapters
from afterbase.model.lora import base_weight
from afterbase.model.norm import product_dtype

TILE = 128
"""Numbers of the inner dimension that share a scale."""
SCALES_TOGETHER = 4
"""Block scales of a strip lie in rows of a multiple of this, filled up with zeros, as cuBLAS reads them."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """A matrix in FP8 of whole tiles, filled up with zeros, e.g. [256 384] with [256 3] by tiles, with [2 3] by blocks."""

    numbers: Tensor
    """What is stored, row by row."""
    scales: Float[Tensor, "strips tiles"]
    """What they are multiplied by: one for each row and 128 columns (column by column in memory), or one for each block."""

    @classmethod
    def tiles(cls, rows: int, width: int, device: torch.device) -> Scaled:
        """Room for a matrix scaled by tiles."""
        return cls(torch.empty(rows, width, dtype=FP8, device=device), torch.empty(width // TILE, rows, device=device).T)

    @classmethod
    def blocks(cls, rows: int, width: int, device: torch.device) -> Scaled:
        """Room for a matrix scaled by blocks."""
        scales = torch.zeros(rows // TILE, -(-width // TILE // SCALES_TOGETHER) * SCALES_TOGETHER, device=device)
        return cls(torch.empty(rows, width, dtype=FP8, device=device), scales[:, : width // TILE])

    def rows(self, start: int, stop: int) -> Scaled:
        """Whole tiles of its rows, as a view."""
        tall = len(self.numbers) // len(self.scales)
        return Scaled(self.numbers[start:stop], self.scales[start // tall : stop // tall])

    def columns(self, start: int, stop: int) -> Scaled:
        """Whole tiles of its columns, as a view."""
        return Scaled(self.numbers[:, start:stop], self.scales[:, start // TILE : stop // TILE])

    def fill(self, numbers: Tensor, scales: Tensor) -> None:
        """Put them there."""
        self.numbers.copy_(numbers)
        self.scales.copy_(scales)

    def wide(self) -> Float[Tensor, "rows width"]:
        """What it stands for, in float32."""
        tall = len(self.numbers) // len(self.scales)
        return self.numbers.float() * self.scales.repeat_interleave(tall, 0).repeat_interleave(TILE, 1)


def scaled_both_ways(parts: Sequence[Float[Tensor, "T part"]]) -> tuple[Scaled, Scaled]:
    """Matrices side by side by tiles: along the rows, and transposed, along the columns; each starts a tile of its own."""
    rows, width, device = filled(len(parts[0])), sum(filled(part.shape[1]) for part in parts), parts[0].device
    along, across = Scaled.tiles(rows, width, device), Scaled.tiles(width, rows, device)
    start = 0
    for part in parts:
        stop = start + filled(part.shape[1])
        _tiled(part, along.columns(start, stop), across.rows(start, stop))
        start = stop
    return along, across


def scaled_weights(weights: Sequence[Float[Tensor, "part i"]]) -> tuple[Scaled, Scaled]:
    """Matrices below each other by blocks, and the same numbers transposed; each starts a block of its own."""
    height, width, device = sum(filled(len(weight)) for weight in weights), filled(weights[0].shape[1]), weights[0].device
    plain, turned = Scaled.blocks(height, width, device), Scaled.blocks(width, height, device)
    start = 0
    for weight in weights:
        stop = start + filled(len(weight))
        _blocked(weight, plain.rows(start, stop), turned.columns(start, stop))
        start = stop
    return plain, turned


def product(a: Scaled, b: Scaled, dtype: torch.dtype) -> Float[Tensor, "n m"]:
    """a @ b.T, summed in float32 and rounded to `dtype`; `a` is scaled by tiles."""
    if kernels := kernels_for(a.numbers):
        return kernels.product(a.numbers, a.scales, b.numbers, b.scales, dtype)
    with torch.autocast(a.numbers.device.type, enabled=False):
        return (a.wide() @ b.wide().T).to(dtype)


def filled(size: int) -> int:
    """The next multiple of 128."""
    return -(-size // TILE) * TILE


def kernels_for(tensor: Tensor) -> ModuleType | None:
    """The kernels for FP8, on a GPU whose matrix units multiply it; elsewhere torch does the same in float32."""
    if not (tensor.is_cuda and cuda.kernels() and torch.cuda.get_device_capability(tensor.device) >= (8, 9)):
        return None
    from afterbase.model.cuda import fp8

    return fp8


def _tiled(part: Tensor, along: Scaled, across: Scaled) -> None:
    if kernels := kernels_for(part):
        return kernels.quantize(part, along.numbers, along.scales, across.numbers, across.scales, whole=False)
    whole = _filled_up(part)
    for matrix, into in ((whole, along), (whole.T, across)):
        tiles = matrix.unflatten(1, (-1, TILE))
        scales = scale_of(tiles.abs().amax(2))
        into.fill((tiles * scales.reciprocal().unsqueeze(2)).flatten(1), scales)


def _blocked(weight: Tensor, plain: Scaled, turned: Scaled) -> None:
    if kernels := kernels_for(weight):
        return kernels.quantize(weight, plain.numbers, plain.scales, turned.numbers, turned.scales, whole=True)
    whole = _filled_up(weight)
    scales = block_scales(whole)
    numbers = quantize(whole, scales)
    plain.fill(numbers, scales)
    turned.fill(numbers.T, scales.T)


def _filled_up(matrix: Tensor) -> Float[Tensor, "rows width"]:
    rows, width = matrix.shape
    return F.pad(matrix.float(), (0, filled(width) - width, 0, filled(rows) - rows))


class Eighths(Joined):
    """Some linear layers of one input, whose products are in FP8 while they learn; scoring and sampling read the weights as they are."""

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__(*layers)
        self.key: tuple | None = None
        self.copies: tuple[Scaled, Scaled] | None = None

    def __call__(self, hidden: Float[Tensor, "T d"]) -> tuple[Tensor, ...]:
        """Each layer's product."""
        if not torch.is_grad_enabled():
            return super().__call__(hidden)
        products = ScaledProduct.apply(hidden, self.scaled, product_dtype(hidden), *map(base_weight, self.layers))
        biased = zip(products, (layer.bias for layer in self.layers), strict=True)
        return with_adapters(tuple(out if bias is None else out + bias.to(out.dtype) for out, bias in biased), self.layers, hidden)

    def fits(self, hidden: Tensor) -> bool:
        """Whether this input is multiplied by copies in half precision: never while something learns."""
        return not torch.is_grad_enabled() and super().fits(hidden)

    @torch.no_grad()
    def scaled(self) -> tuple[Scaled, Scaled]:
        """The weights in FP8 and the same transposed, made once for each version of them."""
        weights = [base_weight(layer) for layer in self.layers]
        key = tuple((weight._version, weight.data_ptr()) for weight in weights)
        if key != self.key:
            self.copies, self.key = scaled_weights([weight.detach() for weight in weights]), key
        return self.copies


class ScaledProduct(torch.autograd.Function):
    """hidden @ weight.T for each of some weights, with both gradients, in FP8; those of the weights come in float32."""

    @staticmethod
    def forward(
        ctx, hidden: Float[Tensor, "T d"], scaled: Callable[[], tuple[Scaled, Scaled]], dtype: torch.dtype, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        """`scaled` gives the weights' copies; the products come in `dtype`."""
        plain, turned = scaled()
        along, across = scaled_both_ways([hidden])
        ctx.save_for_backward(across.numbers, across.scales, turned.numbers, turned.scales)
        ctx.kind, ctx.shapes = hidden.dtype, [weight.shape for weight in weights]
        whole = product(along, plain, dtype)[: len(hidden)]
        return tuple(whole[:, start : start + len(weight)] for start, weight in zip(_starts(ctx.shapes), weights, strict=True))

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The input's gradient in its dtype."""
        saved = ctx.saved_tensors
        across, turned = Scaled(*saved[:2]), Scaled(*saved[2:])
        along, columns = scaled_both_ways(gradients)
        into_hidden, width = None, ctx.shapes[0][1]
        if ctx.needs_input_grad[0]:
            into_hidden = product(along, turned, ctx.kind)[: len(gradients[0]), :width]
        if not any(ctx.needs_input_grad[3:]):
            return into_hidden, None, None, *(None for _ in ctx.shapes)
        whole = product(columns, across, torch.float32)[:, :width]
        return into_hidden, None, None, *(whole[at : at + shape[0]] for at, shape in zip(_starts(ctx.shapes), ctx.shapes, strict=True))


def _starts(shapes: Sequence[torch.Size]) -> list[int]:
    """Where each matrix begins below the others."""
    starts = [0]
    for rows, _ in shapes:
        starts.append(starts[-1] + filled(rows))
    return starts[:-1]


def layers_in_fp8(model: nn.Module) -> None:
    """Make the products of every joined linear layer, which are all but those named above and the experts', learn in FP8."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Joined):
                setattr(module, name, Eighths(*value.layers))
            elif isinstance(value, tuple) and value and all(isinstance(each, Joined) for each in value):
                setattr(module, name, tuple(Eighths(*each.layers) for each in value))

"""Routed experts that learn in FP8, scaled as the other linear layers are.  [Slides, Mixed Precision]

Each expert's tokens are filled up with rows of zeros to whole tiles of 128, so that no tile of the weight gradient, which runs along the
tokens, belongs to two experts. Routers and gates stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from afterbase.model.fp8 import TILE, Scaled, filled, kernels_for, layers_in_fp8, product, scaled_both_ways, scaled_weights
from afterbase.model.mlp import swiglu
from afterbase.model.moe import Experts, gated
from afterbase.model.norm import product_dtype
from afterbase.model.rows import Take


@dataclass(frozen=True, slots=True)
class Runs:
    """Where experts' tokens lie once each run is filled up, e.g. two experts with 130 and 5: starts 0, 2, 3 and tiles 0, 0, 1, -1."""

    target: Int[Tensor, "N"]
    """The row of each token in expert order."""
    starts: Int[Tensor, "E_and_one"]
    """The tile that each expert begins with, and the one behind the last."""
    tiles: Int[Tensor, "tiles"]
    """Whose each tile is; -1 where nobody needs it. How many there are depends on N alone, so that nobody waits for a GPU's count."""

    @classmethod
    def of(cls, load: Int[Tensor, "E"], total: int) -> Runs:
        """Of so many tokens for each expert, `total` in all."""
        load, device = load.long(), load.device
        ends = (-(-load // TILE)).cumsum(0)
        starts = torch.cat((ends.new_zeros(1), ends))
        expert = torch.searchsorted(load.cumsum(0), torch.arange(total, device=device), right=True)
        target = torch.arange(total, device=device) - (load.cumsum(0) - load)[expert] + starts[expert] * TILE
        tiles = torch.searchsorted(ends, torch.arange(filled(total) // TILE + len(load), device=device), right=True)
        return cls(target, starts.int(), torch.where(tiles < len(load), tiles, -1).int())


class Lay(torch.autograd.Function):
    """Copies of each token in expert order, every expert's run filled up; backward adds a token's copies by one reshape."""

    @staticmethod
    def forward(
        ctx, hidden: Float[Tensor, "T d"], runs: Runs, order: Int[Tensor, "N"], cells: Int[Tensor, "N"], copies: int
    ) -> Float[Tensor, "P d"]:
        """`cells` says which row each choice of each token was laid into."""
        ctx.save_for_backward(cells)
        ctx.copies = copies
        laid = hidden.new_zeros(len(runs.tiles) * TILE, hidden.shape[1])
        return laid.index_copy_(0, runs.target, hidden.index_select(0, order // copies))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The sum over a token's copies."""
        (cells,) = ctx.saved_tensors
        return gradient.index_select(0, cells).unflatten(0, (-1, ctx.copies)).sum(1), None, None, None, None


class GroupedProduct(torch.autograd.Function):
    """Each expert's matrices times its own run of rows, with both gradients, in FP8; those of the weights come in float32."""

    @staticmethod
    def forward(
        ctx, laid: Float[Tensor, "P i"], runs: Runs, scaled: Callable[[], tuple[Scaled, Scaled]], dtype: torch.dtype, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        """`scaled` gives the stacked weights' copies; one product for each stack."""
        plain, turned = scaled()
        along, across = scaled_both_ways([laid])
        ctx.save_for_backward(across.numbers, across.scales, turned.numbers, turned.scales)
        ctx.kind, ctx.runs, ctx.widths = laid.dtype, runs, [weight.shape[1] for weight in weights]
        return by_run(along, plain, runs, False, dtype).split(ctx.widths, dim=1)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The rows' gradient in their dtype."""
        saved = ctx.saved_tensors
        along, columns = scaled_both_ways(gradients)
        into_laid = by_run(along, Scaled(*saved[2:]), ctx.runs, True, ctx.kind)
        return into_laid, None, None, None, *along_runs(columns, Scaled(*saved[:2]), ctx.runs).split(ctx.widths, dim=1)


class ScaledExperts(Experts):
    """Experts whose products are in FP8 while they learn."""

    entering: Kept
    """The copies of gate and up."""
    leaving: Kept
    """Those of down."""

    def forward(
        self,
        hidden: Float[Tensor, "T d"],
        shared: Float[Tensor, "T d"] | None,
        gates: Float[Tensor, "T K"],
        sorting: tuple[Int[Tensor, "N"], Int[Tensor, "N"], Int[Tensor, "E"]],
    ) -> Float[Tensor, "T d"]:
        """The gated sum of each token's experts, added to what the shared ones gave; no token is dropped."""
        if not torch.is_grad_enabled():
            return super().forward(hidden, shared, gates, sorting)
        (order, place, load), dtype = sorting, product_dtype(hidden)
        runs = Runs.of(load, len(order))
        cells = runs.target.index_select(0, place)
        laid = Lay.apply(hidden, runs, order, cells, gates.shape[1])
        gate, up = GroupedProduct.apply(laid, runs, self.entering, dtype, self.gate_proj, self.up_proj)
        (outputs,) = GroupedProduct.apply(swiglu(gate, up), runs, self.leaving, dtype, self.down_proj)
        return gated(Take.apply(outputs, cells), gates, shared)


class Kept:
    """Stacks of matrices in FP8, each expert's below each other, made once for each version of them."""

    def __init__(self, *stacks: nn.Parameter) -> None:
        self.stacks = stacks
        self.key: tuple | None = None
        self.copies: tuple[Scaled, Scaled] | None = None

    @torch.no_grad()
    def __call__(self) -> tuple[Scaled, Scaled]:
        """The numbers as they lie, and transposed."""
        key = tuple((stack._version, stack.data_ptr()) for stack in self.stacks)
        if key != self.key:
            self.copies, self.key = scaled_weights([torch.cat([stack.detach() for stack in self.stacks], dim=1).flatten(0, 1)]), key
        return self.copies


def by_run(rows: Scaled, stacked: Scaled, runs: Runs, turned: bool, dtype: torch.dtype) -> Float[Tensor, "P o"]:
    """Each run of rows @ its expert's matrix.T: matrices [o i] below each other, or, as their transposes lie, side by side; 0 in no run."""
    experts, inner = len(runs.starts) - 1, rows.numbers.shape[1]
    width = len(stacked.numbers) if turned else len(stacked.numbers) // experts
    if kernels := kernels_for(rows.numbers):
        return kernels.by_run(rows.numbers, rows.scales, stacked.numbers, stacked.scales, runs.tiles, width, turned, dtype)
    out = torch.zeros(len(rows.numbers), width, dtype=dtype, device=rows.numbers.device)
    for expert, (start, stop) in enumerate(pairwise((runs.starts * TILE).tolist())):
        if start == stop:
            continue
        matrix = stacked.columns(expert * inner, (expert + 1) * inner) if turned else stacked.rows(expert * width, (expert + 1) * width)
        out[start:stop] = product(rows.rows(start, stop), matrix, dtype)
    return out


def along_runs(a: Scaled, b: Scaled, runs: Runs) -> Float[Tensor, "E n m"]:
    """a @ b.T over the columns of each expert's run, in float32."""
    if kernels := kernels_for(a.numbers):
        return kernels.along_runs(a.numbers, a.scales, b.numbers, b.scales, runs.starts)
    spans = pairwise((runs.starts * TILE).tolist())
    return torch.stack([product(a.columns(start, stop), b.columns(start, stop), torch.float32) for start, stop in spans])


def learn_in_fp8(model: nn.Module) -> None:
    """Make the model's linear layers and experts learn in FP8; experts whose widths are no whole tiles stay as they are.

    A block of theirs would reach over two experts.
    """
    layers_in_fp8(model)
    for module in model.modules():
        if isinstance(module, Experts) and all(width % TILE == 0 for width in module.gate_proj.shape[1:]):
            # They become another class and stay the same object, whose parameters others hold on to.
            module.__class__ = ScaledExperts
            module.entering, module.leaving = Kept(module.gate_proj, module.up_proj), Kept(module.down_proj)

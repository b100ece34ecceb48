"""The parts of a model's weights that one rank holds, and the whole tensors that all ranks' parts make.

Every matrix is cut in up to three ways: over shards (FSDP2), over tensor ranks, and for experts over expert ranks; vectors and routers
are whole everywhere. Optimizers, clipping and checkpoints see one rank's parts as plain tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from afterbase.model.parallel.mesh import Mesh


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """What one rank holds of one weight."""

    name: str
    """As in the model's state dict."""
    weight: nn.Parameter
    """The model's own parameter: a DTensor of FSDP2's, or a plain tensor that is whole on each shard."""
    own: nn.Parameter
    """The same memory as a plain tensor: what an optimizer updates."""
    shape: torch.Size
    """Of the whole weight."""
    cuts: dict[str, int]
    """The dimension cut along each side of the mesh: shard, expert, tensor."""
    routed: bool
    """Whether it belongs to routed experts, whose shards lie along other ranks."""
    partial: tuple[str, ...]
    """Sides along which each rank has only a part of the gradient when the backward pass is over."""

    def whole(self, mesh: Mesh, part: Tensor | None = None) -> DTensor:
        """The whole tensor, of which each rank holds its part; `part` is another one of the same layout, such as a moment."""
        over = mesh.experts if self.routed else mesh.dense
        places: list[Placement] = [Shard(self.cuts[side]) if side in self.cuts else Replicate() for side in over.mesh_dim_names]
        stride = torch.empty(self.shape, device="meta").stride()
        local = self.own.detach() if part is None else part
        return DTensor.from_local(local, over, places, run_check=False, shape=self.shape, stride=stride)

    def place(self, mesh: Mesh) -> tuple[slice, ...]:
        """Where this rank's part lies in the whole tensor."""
        over, place = mesh.experts if self.routed else mesh.dense, [slice(0, size) for size in self.shape]
        for side, dimension in self.cuts.items():  # no dimension is cut twice
            size, rank = -(-self.shape[dimension] // over[side].size()), over[side].get_local_rank()
            place[dimension] = slice(min(rank * size, self.shape[dimension]), min((rank + 1) * size, self.shape[dimension]))
        return tuple(place)

    def copies(self, mesh: Mesh) -> int:
        """How many ranks hold this very part."""
        over = mesh.experts if self.routed else mesh.dense
        parts = 1
        for side in self.cuts:
            parts *= over.size(over.mesh_dim_names.index(side))
        return dist.get_world_size() // parts


def collect_gradients(pieces: list[Piece], mesh: Mesh) -> list[Piece]:
    """Give each part the gradient that all ranks together have for it; returns those that have one."""
    learned = []
    for piece in pieces:
        gradient = piece.weight.grad
        if gradient is not None and piece.own.numel():
            piece.own.grad = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            learned.append(piece)
    for sides in sorted({piece.partial for piece in learned if piece.partial}):  # in one order on every rank
        group = None if len(sides) == 2 else mesh.dense.get_group(sides[0])
        if group is not None and group.size() == 1:
            continue
        gradients = [piece.own.grad for piece in learned if piece.partial == sides]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat, group=group)
        for gradient, summed in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))
    return learned


def norm_of(pieces: list[Piece], mesh: Mesh, unsound: Tensor) -> tuple[Tensor, bool]:
    """The norm of the whole gradient over all ranks, and whether it and every rank's losses are finite (`unsound` counts others)."""
    device = mesh.device
    squares = [piece.own.grad.float().square().sum() / piece.copies(mesh) for piece in pieces]
    told = torch.stack([torch.stack(squares).sum() if squares else torch.zeros((), device=device), unsound.float()])
    dist.all_reduce(told)
    norm = told[0].sqrt()
    return norm, bool(norm.isfinite() & (told[1] == 0))


def forget_gradients(pieces: list[Piece]) -> None:
    """Drop them."""
    for piece in pieces:
        piece.weight.grad = piece.own.grad = None


class Parts(nn.Module):
    """One rank's parts under the names of the whole, as a module that owns nothing else: what an optimizer is made for."""

    def __init__(self, pieces: list[Piece]) -> None:
        super().__init__()
        for piece in pieces:
            *path, last = piece.name.split(".")
            module: nn.Module = self
            for step in path:
                if step not in module._modules:
                    module.add_module(step, nn.Module())
                module = module._modules[step]
            module.register_parameter(last, piece.own)

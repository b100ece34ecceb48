"""A checkpoint read in parts: every rank takes what it holds of each tensor, and never has a whole model in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from afterbase.model.checkpoint import Stored
from afterbase.model.parallel.export import named
from afterbase.model.parallel.mesh import Mesh
from afterbase.model.parallel.pieces import Piece
from afterbase.model.shards import fill


def fill_parts(stored: Stored, pieces: list[Piece], mesh: Mesh) -> None:
    """Read this rank's parts of a checkpoint whose model was laid out over the mesh; other ranks need not be doing the same."""
    targets: dict[str, Tensor] = {}
    parts: dict[str, tuple[slice, ...]] = {}
    for piece in pieces:
        whole, part, own = torch.empty(piece.shape, device="meta"), piece.place(mesh), piece.own.detach()
        if not own.numel():
            continue
        for number, (outer, view) in enumerate(named(stored.model.config, piece.name, whole)):
            if view.dim() == whole.dim():
                targets[outer], parts[outer] = own, part
            elif part[0].start <= number < part[0].stop:  # one of the experts of a stack, of which this rank has some
                targets[outer], parts[outer] = own[number - part[0].start], part[1:]
    for name, buffer in stored.model.named_buffers():
        targets |= named(stored.model.config, name, buffer)
    fill(targets, stored.found, stored.model.config.weight_block_size, parts)

"""Checkpoints in parts: every rank writes what it holds, and ranks of any mesh read what they need (torch.distributed.checkpoint)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.tensor import DTensor

from afterbase.errors import CheckpointError
from afterbase.model.parallel.mesh import Mesh
from afterbase.model.parallel.pieces import Piece, forget_gradients


def save_shards(directory: Path, model: nn.Module, pieces: list[Piece], mesh: Mesh, optimizer: torch.optim.Optimizer) -> None:
    """Write this rank's parts into `directory`, which all ranks see; parts that several ranks hold are written once."""
    checkpoint.save(_table(model, pieces, mesh, optimizer), checkpoint_id=directory)


def load_shards(directory: Path, model: nn.Module, pieces: list[Piece], mesh: Mesh, optimizer: torch.optim.Optimizer) -> None:
    """Read this rank's parts in place; CheckpointError when they are not all there."""
    _make_moments(pieces, optimizer)
    with _reading(directory):
        there = checkpoint.FileSystemReader(directory).read_metadata().state_dict_metadata
        for piece in pieces:
            if not any(f"{key}/{piece.name}" in there for key in optimizer.state.get(piece.own, {})):
                optimizer.state.pop(piece.own, None)  # a weight that had learned nothing yet
        checkpoint.load(_table(model, pieces, mesh, optimizer), checkpoint_id=directory)


def load_moments(directory: Path) -> dict[str, dict[str, Tensor]]:
    """What the optimizer kept of each weight, whole and on the host; for a process that trains alone."""
    with _reading(directory):
        there = checkpoint.FileSystemReader(directory).read_metadata().state_dict_metadata
        table = {name: torch.empty(about.size, dtype=about.properties.dtype) for name, about in there.items() if _is_moment(name)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that this process is alone, which it says it is
            checkpoint.load(table, checkpoint_id=directory, no_dist=True)
    moments: dict[str, dict[str, Tensor]] = {}
    for name, tensor in table.items():
        key, _, weight = name.partition("/")
        moments.setdefault(weight, {})[key] = tensor
    return moments


def _is_moment(name: str) -> bool:
    return not name.startswith(("weight/", "buffer/"))


@contextmanager
def _reading(directory: Path) -> Iterator[None]:
    """CheckpointError in place of whatever a damaged directory makes the reader raise, which has no common kind."""
    try:
        yield
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{directory} does not hold the parts of this model and optimizer ({why})") from None


def _table(model: nn.Module, pieces: list[Piece], mesh: Mesh, optimizer: torch.optim.Optimizer) -> dict[str, Tensor | DTensor]:
    """Everything under names that no mesh changes: weights, buffers, and the optimizer's state by weight."""
    table: dict[str, Tensor | DTensor] = {f"weight/{piece.name}": piece.whole(mesh) for piece in pieces}
    table |= {f"buffer/{name}": buffer for name, buffer in model.named_buffers()}
    for piece in pieces:
        for key, value in optimizer.state.get(piece.own, {}).items():
            moment = isinstance(value, Tensor) and value.shape == piece.own.shape and value.dim()
            table[f"{key}/{piece.name}"] = piece.whole(mesh, value) if moment else value
    return table


def _make_moments(pieces: list[Piece], optimizer: torch.optim.Optimizer) -> None:
    """An optimizer makes its state in its first step: let it take one that changes nothing, to have what is read into."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for piece in pieces:
        piece.own.grad = torch.zeros_like(piece.own) if piece.own.numel() else None
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    forget_gradients(pieces)

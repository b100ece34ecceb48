"""A model in parts, written in Hugging Face's layout: the first rank asks for one whole tensor after the other, the others lend theirs.

The first rank holds one tensor at a time; of experts, whose layout asks for them one by one, the latest three stacks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from afterbase.dist import told
from afterbase.model.config import ModelConfig
from afterbase.model.layout import hf_weights, slots
from afterbase.model.parallel.mesh import Mesh
from afterbase.model.parallel.pieces import Piece
from afterbase.model.saving import Entry, save_entries
from afterbase.model.transformer import Transformer

STACKS = 3
"""Gate, up and down projections of a layer's experts."""


def named(config: ModelConfig, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """One tensor of a state dict under the names of the published layout."""
    yield from slots(SimpleNamespace(config=config, state_dict=lambda: {name: tensor}))


def repeated(model: Transformer, embedding: Tensor, head: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What the published layout repeats in each MTP module."""
    trunk, last = SimpleNamespace(embed_tokens=SimpleNamespace(weight=embedding)), SimpleNamespace(weight=head)
    yield from hf_weights(SimpleNamespace(config=model.config, state_dict=dict, mtp=model.mtp, model=trunk, lm_head=last))


class Lending:
    """Whole tensors by name: the first rank `fetch`es, while the others `lend` what they hold."""

    def __init__(self, model: Transformer, pieces: list[Piece], mesh: Mesh) -> None:
        self.model, self.mesh = model, mesh
        self.pieces: Mapping[str, Piece] = {piece.name: piece for piece in pieces}
        self.latest: OrderedDict[str, Tensor] = OrderedDict()

    def lend(self, name: str) -> Tensor:
        """The whole tensor; all ranks must call this, in step."""
        return self.pieces[name].whole(self.mesh).full_tensor()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Everything under its name in the published layout, on every rank; all must ask, in step."""
        for name in self.pieces:
            whole = self.lend(name)
            yield from named(self.model.config, name, whole)
            for outer, piece in self._repeated():
                if piece.name == name:
                    yield outer, whole
        for name, buffer in self.model.named_buffers():
            yield from named(self.model.config, name, buffer)

    def export(self, directory: Path, dtype: torch.dtype | None = None) -> None:
        """On the first rank: write `config.json` and safetensors; the others must be in `lend`, name by name as `told`."""
        entries = []
        for name, shape, kind in [(p.name, p.shape, p.own.dtype) for p in self.pieces.values()]:
            whole = torch.empty(shape, dtype=kind, device="meta")
            for place, (outer, view) in enumerate(named(self.model.config, name, whole)):
                index = place if view.dim() < whole.dim() else None
                entries.append(Entry(outer, list(view.shape), dtype or kind, partial(self._fetch, name, index)))
        for name, buffer in self.model.named_buffers():
            for outer, view in named(self.model.config, name, buffer):
                entries.append(Entry(outer, list(view.shape), view.dtype, partial(Tensor.detach, view)))
        for outer, piece in self._repeated():
            entries.append(Entry(outer, list(piece.shape), dtype or piece.own.dtype, partial(self._fetch, piece.name, None)))
        save_entries(entries, self.model.config, len(self.model.mtp), directory)
        self.latest.clear()

    def _repeated(self) -> Iterator[tuple[str, Piece]]:
        """What the published layout repeats."""
        embedding = self.pieces["model.embed_tokens.weight"]
        head = self.pieces.get("lm_head.weight", embedding)
        for outer, _ in repeated(self.model, embedding.own, head.own):
            yield outer, embedding if outer.endswith("embed_tokens.weight") else head

    def _fetch(self, name: str, index: int | None) -> Tensor:
        if name not in self.latest:
            told(("tensor", name))
            whole = self.lend(name)
            if index is None:
                return whole
            self.latest[name] = whole
            if len(self.latest) > STACKS:
                self.latest.popitem(last=False)
        return self.latest[name][index]

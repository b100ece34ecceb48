"""Low-rank adapters: frozen matrices, each with a small product of two learned ones beside it.  [Hu et al. 2021, LoRA]

Legend: W the layer's own matrix, A [r i] and B [o r] the learned factors, s = alpha / r; a layer gives (W + s B A) x, as W x + s B (A x).
B begins at zero, so that the adapted model begins as the model it stands on. A begins evenly within +-1/sqrt(i), as PEFT has it (the
paper: a Gaussian).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from afterbase.config import Config
from afterbase.errors import ConfigError

if TYPE_CHECKING:
    from afterbase.model.transformer import Transformer  # whose layers stand on this file

LAYERS = "model.layers."
"""Where adapters may be: in the trunk's blocks. Embedding, head, routers and MTP modules have none."""
ENDS = ".lora_A", ".lora_B"
"""How the names of A and B end."""


class LoraConfig(Config):
    """Adapters in place of the model's own weights, which then never change: routers' biases included, whatever `balance_speed` is."""

    rank: int = Field(16, gt=0)
    """r: a matrix [o i] learns r (o + i) numbers."""
    alpha: float = Field(32.0, gt=0)
    """alpha: what an adapter gives counts alpha / r times."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's inputs that are zero while it learns, the others being scaled up; drawing and scoring leave none out, so that
    in RL the first update's ratios are no longer 1."""
    targets: list[str] | Literal["all-linear"] = "all-linear"
    """Layers that get one, by the last part of their names, e.g. ["q_proj", "v_proj"]; "all-linear" means every projection of attention
    and of the feed-forward layers, in a model with routed experts of attention alone."""
    merge: bool = True
    """Whether final and best checkpoints are whole models with the adapters merged in, which load everywhere; false saves the adapters
    alone. They lie in adapter/ either way, in PEFT's format."""


class Adapted(nn.Linear):
    """A linear layer with an adapter: its own weight and bias are frozen, A and B learn."""

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    scale: float
    """s."""
    dropout: float
    """Share of inputs left out in learning."""
    active: bool
    """Whether the adapter counts."""

    @property
    def base(self) -> Float[Tensor, "o i"]:
        """W, under whose name it is saved and moved like any layer's."""
        return self._parameters["weight"]

    @property
    @torch.no_grad()
    def weight(self) -> Float[Tensor, "o i"]:
        """W + s B A, computed at every reading: what an engine copies and a checkpoint holds."""
        return (self.base.float() + self.scale * (self.lora_B @ self.lora_A)).to(self.base.dtype) if self.active else self.base.detach()

    def forward(self, hidden: Float[Tensor, "T i"]) -> Float[Tensor, "T o"]:
        """W x + b + s B (A x)."""
        return self.add(F.linear(hidden, self.base, self.bias), hidden)

    def add(self, product: Float[Tensor, "T o"], hidden: Float[Tensor, "T i"]) -> Float[Tensor, "T o"]:
        """What the adapter gives, added to the layer's own product."""
        if not self.active:
            return product
        if self.dropout and torch.is_grad_enabled():
            hidden = F.dropout(hidden, self.dropout)
        return torch.addmm(product, F.linear(hidden, self.lora_A), self.lora_B.T, alpha=self.scale)


def base_weight(layer: nn.Linear) -> Tensor:
    """A layer's own matrix, without what an adapter makes of it."""
    return layer.base if isinstance(layer, Adapted) else layer.weight


def adapters(model: nn.Module) -> dict[str, Adapted]:
    """The model's adapted layers by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, Adapted)}


def adapt(model: Transformer, config: LoraConfig) -> None:
    """Freeze the model and give the target layers adapters, of a fixed seed; ConfigError when a target names no layer."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for layer in _targets(model, config):
        # The layer becomes another class and stays the same object: products of several layers hold on to it.
        layer.__class__ = Adapted
        layer.scale, layer.dropout, layer.active = config.alpha / config.rank, config.dropout, True
        a = (2 * torch.rand(config.rank, layer.in_features, generator=generator) - 1) / layer.in_features**0.5
        layer.lora_A = nn.Parameter(a.to(layer.base.device))
        layer.lora_B = nn.Parameter(torch.zeros(layer.out_features, config.rank, device=layer.base.device))


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The model that the adapters stand on, for as long as this is open."""
    layers = adapters(model).values()
    for layer in layers:
        layer.active = False
    try:
        yield
    finally:
        for layer in layers:
            layer.active = True


def _targets(model: Transformer, config: LoraConfig) -> list[nn.Linear]:
    """The layers that get adapters, in the model's order.

    Routed experts are stacked and have none; and beside them none of their names may be used, for PEFT means the stacks by them.
    """
    found = [(name, layer) for name, layer in model.named_modules() if name.startswith(LAYERS) and isinstance(layer, nn.Linear)]
    if model.config.n_routed_experts:
        found = [(name, layer) for name, layer in found if ".self_attn." in name]
    known = {name.rpartition(".")[2] for name, _ in found}
    wanted = known if config.targets == "all-linear" else set(config.targets)
    if strange := sorted(wanted - known) or ([] if wanted else ["no layer"]):
        raise ConfigError(
            f"trainer.lora.targets names {', '.join(strange)}; this model takes adapters on {', '.join(sorted(known))}, and one with "
            'routed experts on none of its feed-forward layers: name some of those, or give "all-linear"'
        )
    return [layer for name, layer in found if name.rpartition(".")[2] in wanted]

"""AdamW, with weight decay on matrices only, or Muon for the matrices between embedding and head; and the clipping of the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from afterbase.config import Config
from afterbase.model.moe import Router
from afterbase.model.transformer import Transformer
from afterbase.train.muon import Muon
from afterbase.train.schedule import ScheduleConfig


class OptimConfig(Config):
    """How gradients become updates."""

    kind: Literal["adamw", "muon"] = "adamw"
    """AdamW keeps two moments of each parameter, 8 bytes. Muon keeps one, 4 bytes, of the blocks' matrices, experts' included, and leaves
    embedding, head, routers and vectors to AdamW; learning rate and weight decay mean the same for both."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate over the run."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of AdamW's first and second moment."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Decay of Muon's moment."""
    epsilon: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(0.1, ge=0)
    """Pull of matrices towards zero, per step and unit of learning rate; norms and biases have none."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the whole gradient."""


class Together:
    """Several optimizers of different parameters, as one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """All groups, whose settings may be changed in place."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """One update of each."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Theirs, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """The optimizer of a model's trainable parameters; after each step whoever keeps copies of them can see that they changed."""
    return _adamw([p for p in model.parameters() if p.requires_grad], config)


def optimizer(model: Transformer, config: OptimConfig, updated: Mapping[nn.Parameter, Tensor]) -> torch.optim.AdamW | Together:
    """The optimizer of a model's trainable parameters, which works on what `updated` holds in their place."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.kind == "adamw":
        return _adamw([updated[p] for p in parameters], config)
    hidden = _hidden_matrices(model)
    muon = Muon([updated[p] for p in parameters if p in hidden], config.schedule.peak, config.momentum, config.weight_decay)
    return Together(muon, _adamw([updated[p] for p in parameters if p not in hidden], config))


def _hidden_matrices(model: Transformer) -> set[nn.Parameter]:
    """The blocks' matrices and stacks of them, but no router's, whose rows are centroids and not directions."""
    routers = {module.weight for module in model.modules() if isinstance(module, Router)}
    return {p for part in (model.model.layers, model.mtp) for p in part.parameters() if p.dim() > 1} - routers


def _adamw(parameters: Sequence[Tensor], config: OptimConfig) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.schedule.peak, betas=config.betas, eps=config.epsilon, fused=True)
    # The fused kernel does not count its changes itself; engines and joined weights watch for them.
    optimizer.register_step_post_hook(lambda *_: torch.autograd.graph.increment_version(parameters))
    return optimizer

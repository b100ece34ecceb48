"""AdamW, with weight decay on matrices only, and the clipping of the gradient's norm."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from afterbase.config import Config
from afterbase.train.schedule import ScheduleConfig


class OptimConfig(Config):
    """How gradients become updates."""

    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate over the run."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of AdamW's first and second moment."""
    epsilon: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(0.1, ge=0)
    """Pull of matrices towards zero, per step and unit of learning rate; norms and biases have none."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the whole gradient."""


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """The optimizer of a model's trainable parameters; after each step whoever keeps copies of them can see that they changed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.schedule.peak, betas=config.betas, eps=config.epsilon, fused=True)
    # The fused kernel does not count its changes itself; engines and joined weights watch for them.
    optimizer.register_step_post_hook(lambda *_: torch.autograd.graph.increment_version(parameters))
    return optimizer

"""An optimizer's state by weight: what a checkpoint of one process and one of several have in common, though neither is kept so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

Moments = Mapping[str, Mapping[str, Tensor]]
"""By the name of a weight: AdamW's two moments and the number of its steps."""


def by_weight(state: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> Moments:
    """Those of an AdamW of one process, whose `state_dict` numbers the weights; `shapes` are of all that learn, in the model's order."""
    return {name: state["state"][number] for number, name in enumerate(_numbered(shapes)) if number in state["state"]}


def numbered(moments: Moments, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The other way round: what the AdamW of a model in one process can load."""
    names = _numbered({name: parameter.shape for name, parameter in model.named_parameters() if parameter.requires_grad})
    state = {number: dict(moments[name]) for number, name in enumerate(names) if name in moments}
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}


def _numbered(shapes: Mapping[str, torch.Size]) -> list[str]:
    """As `optim.adamw` groups them: matrices before vectors."""
    return sorted(shapes, key=lambda name: len(shapes[name]) < 2)

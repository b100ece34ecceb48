"""Muon: momentum whose matrices are made orthogonal before they are applied.  [Jordan et al. 2024; Liu et al. 2025 for the rate]"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

STEPS, FACTORS = 5, (3.4445, -4.7750, 2.0315)
"""Newton-Schulz iterations, and a, b, c of x -> a x + b x^3 + c x^5, which pulls every singular value to between 0.7 and 1.2."""
SMALLEST = 1e-7
"""Norms below this are taken for it: a zero gradient stays zero."""
LIKE_ADAMW = 0.2
"""Root mean square of AdamW's usual update: with it, one learning rate and one weight decay serve both."""


class Muon(torch.optim.Optimizer):
    """Updates matrices, and stacks of them one by one."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update of every parameter that has a gradient."""
        assert closure is None, "the trainer computes gradients itself"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        past = state["momentum"]
        past.lerp_(gradient, 1 - group["momentum"])
        direction = orthogonal(gradient.lerp(past, group["momentum"]))  # Nesterov's: where the momentum will be
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction, alpha=-group["lr"] * LIKE_ADAMW * math.sqrt(max(parameter.shape[-2:])))


def orthogonal(matrices: Float[Tensor, "*stack n m"], dtype: torch.dtype = torch.bfloat16) -> Float[Tensor, "*stack n m"]:
    """U V^T of each matrix U S V^T, roughly: its singular values come out between 0.7 and 1.2."""
    a, b, c = FACTORS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(dtype)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(SMALLEST)
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.mT if tall else x

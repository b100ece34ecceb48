"""The weights in float32 where the optimizer updates them: beside a model in half precision, or on the host.

Bytes per parameter: on the device that holds them 4 for the master, beside the optimizer's own 8 (AdamW) or 4 (Muon); on the host 4 more,
in which gradients arrive. Weights that are float32 already, where the optimizer wants them, are their own masters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from afterbase.model.moe import Router


class Masters:
    """What an optimizer updates in place of some parameters."""

    def __init__(self, parameters: Sequence[nn.Parameter], on_host: bool) -> None:
        self.parameters, self.on_host = list(parameters), on_host
        self.copies = [_master(parameter, on_host) for parameter in self.parameters]
        self.pairs = [(p, copy) for p, copy in zip(self.parameters, self.copies, strict=True) if copy is not p]
        self.arrived: list[Tensor | None] = [None] * len(self.pairs)
        """Host memory in which gradients arrive."""

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Give each master its parameter's gradient; those on the host are waited for."""
        for place, (parameter, copy) in enumerate(self.pairs):
            if parameter.grad is None or copy.device == parameter.device:
                copy.grad = parameter.grad
                continue
            if self.arrived[place] is None:
                self.arrived[place] = torch.empty_like(copy, pin_memory=True)
            copy.grad = self.arrived[place].copy_(parameter.grad, non_blocking=True)
        if self.on_host and self.pairs and self.pairs[0][0].is_cuda:
            torch.cuda.current_stream(self.pairs[0][0].device).synchronize()

    @torch.no_grad()
    def give_back(self) -> None:
        """Make the parameters what their masters are, rounded to their dtype."""
        for parameter, copy in self.pairs:
            parameter.copy_(copy, non_blocking=True)
            copy.grad = None

    @property
    def updated(self) -> dict[nn.Parameter, nn.Parameter]:
        """Each parameter's master."""
        return dict(zip(self.parameters, self.copies, strict=True))

    def state(self) -> list[Tensor]:
        """The masters, which a model in half precision does not tell."""
        return [copy.detach() for _, copy in self.pairs]

    @torch.no_grad()
    def restore(self, state: Sequence[Tensor]) -> None:
        """Go on from these."""
        for (_, copy), saved in zip(self.pairs, state, strict=True):
            copy.copy_(saved)


def halve(model: nn.Module) -> None:
    """Round the model's matrices to bfloat16, their gradients to come in float32; vectors and routers stay as they are.

    Norms and biases are small, and a router's choice flips on rounding.
    """
    routers = {id(module.weight) for module in model.modules() if isinstance(module, Router)}
    for parameter in model.parameters():
        if parameter.dim() > 1 and id(parameter) not in routers:
            parameter.data = parameter.data.to(torch.bfloat16)
            parameter.grad_dtype = torch.float32


def _master(parameter: nn.Parameter, on_host: bool) -> nn.Parameter:
    """The parameter itself, or a float32 copy of it."""
    if parameter.dtype == torch.float32 and not (on_host and parameter.is_cuda):
        return parameter
    copy = parameter.detach().to("cpu" if on_host else parameter.device, torch.float32)
    return nn.Parameter(copy.pin_memory() if on_host and parameter.is_cuda else copy)

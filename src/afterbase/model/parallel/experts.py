"""Experts shared out over ranks: each token's copies travel to the experts that they chose, and what those make of them travels back."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import ProcessGroup
from torch.nn import functional as F

from afterbase.model.moe import Experts, gated
from afterbase.model.parallel.talk import Exchanged, gather_rows
from afterbase.model.rows import Dispatch, Permute


class SharedOut(Experts):
    """This rank's share of a layer's experts, which are called by the tokens of every rank of the group; none is dropped."""

    def __init__(self, experts: Experts, group: ProcessGroup) -> None:
        """Takes over the weights, already cut to the share."""
        nn.Module.__init__(self)
        self.group = group
        for name, parameter in experts.named_parameters():
            self.register_parameter(name, parameter)

    def forward(
        self,
        hidden: Float[Tensor, "T d"],
        shared: Float[Tensor, "T d"] | None,
        gates: Float[Tensor, "T K"],
        sorting: tuple[Int[Tensor, "N"], Int[Tensor, "N"], Int[Tensor, "E"]],
    ) -> Float[Tensor, "T d"]:
        """The gated sum of each token's experts, wherever they live, added to what the shared ones gave."""
        order, place, load = sorting
        tokens = Dispatch.apply(hidden, order, place, gates.shape[1])
        if self.group.size() == 1:
            return gated(Permute.apply(self._each(tokens, load), place, order), gates, shared)
        loads = self._loads(load.long())
        here, there = dist.get_rank(self.group), loads.sum(-1)
        sent, received = there[here].tolist(), there[:, here].tolist()
        outputs = self._run(Exchanged.apply(tokens, self.group, sent, received), loads[:, here])
        returned = Exchanged.apply(outputs, self.group, received, sent)
        return gated(Permute.apply(returned, place, order), gates, shared)

    def _loads(self, load: Int[Tensor, "E"]) -> Int[Tensor, "ranks ranks share"]:
        """On the host: how many tokens each rank has for each rank's experts."""
        ranks = self.group.size()
        every = load.new_empty(ranks * len(load))
        gather_rows(every, load, group=self.group)
        return every.view(ranks, ranks, -1).cpu()

    def _run(self, tokens: Float[Tensor, "m d"], loads: Int[Tensor, "ranks share"]) -> Float[Tensor, "m d"]:
        """Tokens as they came, rank by rank and sorted by expert within each, through the experts of this share."""
        if not len(tokens):  # a row of zeros, so that every weight has a gradient to add to that of other ranks
            one = torch.zeros_like(loads[0]).index_fill_(0, torch.tensor(0), 1)
            return self._each(F.pad(tokens, (0, 0, 0, 1)), one.to(tokens.device))[:0]
        share = loads.shape[1]
        expert = torch.arange(share).repeat(len(loads)).repeat_interleave(loads.flatten())
        order = expert.argsort(stable=True)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        order, inverse = order.to(tokens.device), inverse.to(tokens.device)
        sorted_outputs = self._each(Permute.apply(tokens, order, inverse), loads.sum(0).to(tokens.device))
        return Permute.apply(sorted_outputs, inverse, order)

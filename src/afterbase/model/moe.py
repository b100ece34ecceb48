"""DeepSeekMoE: shared experts for every token, and a few routed experts chosen by their scores.  [V3 Eq. 12-16; Slides, MoE]"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from afterbase.model import cuda
from afterbase.model.balance import Trace
from afterbase.model.config import ModelConfig
from afterbase.model.joined import Halves
from afterbase.model.mlp import MLP, swiglu
from afterbase.model.norm import product_dtype
from afterbase.model.routed import Routed, fits, kernels
from afterbase.model.rows import Dispatch, Permute
from afterbase.segments import Segments


class Router(nn.Module):
    """Which experts a token goes to: top-K of sigmoid affinity plus a bias that balances the load without a loss (DeepSeek-V3)."""

    e_score_correction_bias: Tensor | None
    best = 2
    """How many of its experts a group counts by."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.groups = config.n_group
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))  # e_i, the expert centroids
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))  # b_i [V3 Eq. 16]

    def forward(self, hidden: Float[Tensor, "T d"]) -> tuple[Int[Tensor, "T K"], Float[Tensor, "T K"], Float[Tensor, "T E"]]:
        """The chosen experts, their gates, and every expert's affinity; in float32, for routing flips on rounding."""
        with torch.autocast(hidden.device.type, enabled=False):
            affinity = self.affinity(F.linear(hidden.float(), self.weight.float()))  # s_{i,t}
        chosen = self._chosen(self.wish(affinity.detach()))
        gates = affinity.gather(1, chosen)  # the bias chooses, it never weighs
        if self.config.norm_topk_prob:
            gates = gates / (gates.sum(-1, keepdim=True) + 1e-20)
        return chosen, gates * self.config.routed_scaling_factor, affinity

    def affinity(self, scores: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        """Each expert's by itself.  [V3 Eq. 15]"""
        return scores.sigmoid()

    def wish(self, affinity: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        """What the choice goes by."""
        return affinity + self.e_score_correction_bias

    def _chosen(self, scores: Float[Tensor, "T E"]) -> Int[Tensor, "T K"]:
        """The experts of the highest scores, within the groups that a token may use."""
        copies = self.config.num_experts_per_tok
        if cuda.kernels_for(scores):
            best = min(self.best, scores.shape[1] // self.groups)
            return kernels().choose(scores, self.groups, min(self.config.topk_group, self.groups), best, copies)
        return self._limited(scores).topk(copies, sorted=False)[1]

    def _limited(self, scores: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        """Scores outside the best `topk_group` groups struck out; a group counts by its `best` experts."""
        if self.groups == 1:
            return scores
        grouped = scores.unflatten(1, (self.groups, -1))
        group_scores = grouped.topk(min(self.best, grouped.shape[-1]), dim=-1)[0].sum(-1)
        best = group_scores.topk(self.config.topk_group, dim=-1, sorted=False)[1]
        keep = torch.zeros_like(group_scores, dtype=torch.bool).scatter(1, best, True)
        return grouped.masked_fill(~keep.unsqueeze(-1), -torch.inf).flatten(1)


class SoftmaxRouter(Router):
    """Top-K of what all experts share out among them, without a bias (DeepSeek-V2, Qwen3)."""

    best = 1

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.groups = 1 if config.topk_method == "greedy" else config.n_group
        self.e_score_correction_bias = None

    def affinity(self, scores: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        """Shares of one."""
        return scores.softmax(-1)

    def wish(self, affinity: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        """The share itself."""
        return affinity


class Experts(nn.Module):
    """All routed experts of a layer, stacked; a token's copies are sorted by expert so that each expert runs once."""

    def __init__(self, num: int, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(num, inner, width))
        self.up_proj = nn.Parameter(torch.empty(num, inner, width))
        self.down_proj = nn.Parameter(torch.empty(num, width, inner))
        self.enter, self.leave = Halves(1), Halves(1)

    def forward(
        self,
        hidden: Float[Tensor, "T d"],
        shared: Float[Tensor, "T d"] | None,
        gates: Float[Tensor, "T K"],
        sorting: tuple[Int[Tensor, "N"], Int[Tensor, "N"], Int[Tensor, "E"]],
    ) -> Float[Tensor, "T d"]:
        """The gated sum of each token's experts, added to what the shared ones gave; no token is dropped."""
        parameters, dtype = (self.gate_proj, self.up_proj, self.down_proj), product_dtype(hidden)
        if fits(hidden, dtype, *parameters):
            copies = self.enter(dtype, self.gate_proj, self.up_proj), self.leave(dtype, self.down_proj)
            return Routed.apply(hidden.to(dtype), shared, gates, sorting, *copies, *parameters)
        order, place, load = sorting
        tokens = Dispatch.apply(hidden, order, place, gates.shape[1])
        return gated(Permute.apply(self._each(tokens, load), place, order), gates, shared)

    def _each(self, tokens: Float[Tensor, "N d"], load: Int[Tensor, "E"]) -> Float[Tensor, "N d"]:
        """What each expert makes of its own run of tokens, of which `load` counts them."""
        inner = swiglu(grouped_linear(tokens, self.gate_proj, load), grouped_linear(tokens, self.up_proj, load))
        return grouped_linear(inner, self.down_proj, load)


class MoE(nn.Module):
    """A feed-forward layer of experts: DeepSeek's, or Qwen3's, which shares none."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config) if config.scoring_func == "sigmoid" else SoftmaxRouter(config)
        self.experts = Experts(config.n_routed_experts, config.hidden_size, config.moe_intermediate_size)
        shared = config.moe_intermediate_size * config.n_shared_experts
        self.shared_experts = MLP(config.hidden_size, shared) if shared else None

    def forward(self, hidden: Float[Tensor, "T d"], segments: Segments, trace: Trace | None) -> Float[Tensor, "T d"]:
        """Shared plus routed experts; `trace` collects the load for balancing."""
        chosen, gates, affinity = self.gate(hidden)
        sorting = by_expert(chosen, affinity.shape[1])
        if trace is not None:
            trace.record(self.gate, sorting[2], chosen, affinity, segments)
        shared = None if self.shared_experts is None else self.shared_experts(hidden)
        return self.experts(hidden, shared, gates, sorting)


def gated(outputs: Float[Tensor, "N d"], gates: Float[Tensor, "T K"], shared: Float[Tensor, "T d"] | None) -> Float[Tensor, "T d"]:
    """The outputs of each token's experts, token by token, weighed and added to what the shared ones gave."""
    routed = (outputs.unflatten(0, gates.shape) * gates.unsqueeze(-1).to(outputs.dtype)).sum(1)
    return routed if shared is None else shared + routed


def by_expert(chosen: Int[Tensor, "T K"], experts: int) -> tuple[Int[Tensor, "N"], Int[Tensor, "N"], Int[Tensor, "E"]]:
    """The choices in expert order, the place of each in it, and how many each expert got."""
    if chosen.is_cuda and cuda.kernels():
        return kernels().sort(chosen, experts)
    order = chosen.flatten().argsort(stable=True)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return order, place, torch.bincount(chosen.flatten(), minlength=experts)


def grouped_linear(tokens: Float[Tensor, "N i"], weight: Float[Tensor, "E o i"], load: Int[Tensor, "E"]) -> Float[Tensor, "N o"]:
    """Each expert's matrix times its own run of tokens; `tokens` are sorted by expert, `load` counts them."""
    if torch.is_autocast_enabled(tokens.device.type):
        dtype = torch.get_autocast_dtype(tokens.device.type)
        tokens, weight = tokens.to(dtype), weight.to(dtype)
    aligned = all(width * tokens.element_size() % 16 == 0 for width in weight.shape[1:])  # the grouped kernel wants rows of 16 bytes
    if aligned and (not tokens.is_cuda or tokens.dtype == torch.bfloat16):
        return torch._grouped_mm(tokens, weight.transpose(1, 2), offs=load.cumsum(0).to(torch.int32))
    runs = tokens.split(load.tolist())
    return torch.cat([F.linear(run, matrix) for run, matrix in zip(runs, weight.unbind(0), strict=True)])

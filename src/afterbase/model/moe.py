"""DeepSeekMoE: shared experts for every token, and a few routed experts chosen by sigmoid scores.  [V3 Eq. 12-16; Slides, MoE]"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from afterbase.model.balance import Trace
from afterbase.model.config import ModelConfig
from afterbase.model.mlp import MLP, swiglu
from afterbase.model.rows import Dispatch, Permute
from afterbase.segments import Segments


class Router(nn.Module):
    """Which experts a token goes to: top-K of sigmoid affinity plus a bias that balances the load without a loss."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))  # e_i, the expert centroids
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))  # b_i [V3 Eq. 16]

    def forward(self, hidden: Float[Tensor, "T d"]) -> tuple[Int[Tensor, "T K"], Float[Tensor, "T K"], Float[Tensor, "T E"]]:
        """The chosen experts, their gates, and every expert's affinity; in float32, for routing flips on rounding."""
        with torch.autocast(hidden.device.type, enabled=False):
            affinity = F.linear(hidden.float(), self.weight.float()).sigmoid()  # s_{i,t}
        chosen = self._limited(affinity.detach() + self.e_score_correction_bias).topk(self.config.num_experts_per_tok, sorted=False)[1]
        gates = affinity.gather(1, chosen)  # the bias chooses, it never weighs
        if self.config.norm_topk_prob:
            gates = gates / (gates.sum(-1, keepdim=True) + 1e-20)
        return chosen, gates * self.config.routed_scaling_factor, affinity

    def _limited(self, scores: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        """Scores outside the best `topk_group` groups struck out; a group counts by its two best experts."""
        if self.config.n_group == 1:
            return scores
        grouped = scores.unflatten(1, (self.config.n_group, -1))
        group_scores = grouped.topk(min(2, grouped.shape[-1]), dim=-1)[0].sum(-1)
        best = group_scores.topk(self.config.topk_group, dim=-1, sorted=False)[1]
        keep = torch.zeros_like(group_scores, dtype=torch.bool).scatter(1, best, True)
        return grouped.masked_fill(~keep.unsqueeze(-1), -torch.inf).flatten(1)


class Experts(nn.Module):
    """All routed experts of a layer, stacked; a token's copies are sorted by expert so that each expert runs once."""

    def __init__(self, num: int, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(num, inner, width))
        self.up_proj = nn.Parameter(torch.empty(num, inner, width))
        self.down_proj = nn.Parameter(torch.empty(num, width, inner))

    def forward(
        self, hidden: Float[Tensor, "T d"], chosen: Int[Tensor, "T K"], gates: Float[Tensor, "T K"], load: Int[Tensor, "E"]
    ) -> Float[Tensor, "T d"]:
        """The gated sum of each token's experts; no token is dropped."""
        copies = chosen.shape[1]
        order = chosen.flatten().argsort(stable=True)
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        tokens = Dispatch.apply(hidden, order, place, copies)
        inner = swiglu(grouped_linear(tokens, self.gate_proj, load), grouped_linear(tokens, self.up_proj, load))
        outputs = Permute.apply(grouped_linear(inner, self.down_proj, load), place, order)
        return (outputs.unflatten(0, (-1, copies)) * gates.unsqueeze(-1).to(outputs.dtype)).sum(1)


class MoE(nn.Module):
    """The feed-forward layer of DeepSeek-V3."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config.n_routed_experts, config.hidden_size, config.moe_intermediate_size)
        self.shared_experts = MLP(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def forward(self, hidden: Float[Tensor, "T d"], segments: Segments, trace: Trace | None) -> Float[Tensor, "T d"]:
        """Shared plus routed experts; `trace` collects the load for balancing."""
        chosen, gates, affinity = self.gate(hidden)
        load = torch.bincount(chosen.flatten(), minlength=affinity.shape[1])
        if trace is not None:
            trace.record(self.gate, load, chosen, affinity, segments)
        return self.shared_experts(hidden) + self.experts(hidden, chosen, gates, load)


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

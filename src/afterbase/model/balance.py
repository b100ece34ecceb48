"""Keeping experts equally busy: the bias that is nudged after every step, and a small loss within each sequence.  [V3 Eq. 16-20]"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from afterbase.segments import Segments

if TYPE_CHECKING:
    from afterbase.model.moe import Router


@dataclass(eq=False)
class Trace:
    """What the routers did in the forward passes of one optimizer step; give the same one to each of them."""

    alpha: float = 0.0
    """Weight of the sequence-wise balance loss [V3 Eq. 17]; 0 computes none."""
    loads: dict[Router, Int[Tensor, "E"]] = field(default_factory=dict)
    """Tokens sent to each expert, by router."""
    losses: list[Tensor] = field(default_factory=list)
    """Balance losses of the latest forward pass, one a layer; the trainer takes them with `take_loss`."""

    def record(self, router: Router, load: Tensor, chosen: Tensor, affinity: Tensor, segments: Segments) -> None:
        """Count one layer's routing."""
        self.loads[router] = self.loads[router] + load if router in self.loads else load
        if self.alpha > 0:
            self.losses.append(self.alpha * sequence_balance(affinity, chosen, segments))

    def take_loss(self) -> Tensor | None:
        """The summed balance loss since the last call, or None."""
        losses, self.losses = self.losses, []
        return torch.stack(losses).sum() if losses else None


def sequence_balance(affinity: Float[Tensor, "T E"], chosen: Int[Tensor, "T K"], segments: Segments) -> Float[Tensor, ""]:
    """sum_i f_i P_i of each sequence, averaged over sequences: 1 when routing is even, more when it is not.  [V3 Eq. 17-20]

    f_i counts the experts that were used, bias and group limit included: it is their load that is to be even.
    """
    experts, copies = affinity.shape[1], chosen.shape[1]
    lengths = torch.tensor(segments.lengths, device=affinity.device, dtype=affinity.dtype)[:, None]
    sequences = len(segments.lengths)
    used = affinity.new_zeros(sequences, experts)
    used = used.index_put((segments.owner[:, None].expand_as(chosen), chosen), affinity.new_ones(()), accumulate=True)
    fraction = used * experts / (copies * lengths)  # f_i
    share = affinity / affinity.sum(-1, keepdim=True)  # s'_{i,t}
    probability = affinity.new_zeros(sequences, experts).index_add(0, segments.owner, share) / lengths  # P_i
    return (fraction * probability).sum(-1).mean()


@torch.no_grad()
def update_bias(loads: dict[Router, Int[Tensor, "E"]], speed: float) -> dict[str, float]:
    """Raise the bias of experts that saw less than their share, lower the others, by `speed` (gamma).  [V3 Eq. 16, 2.1.2]

    Returns the worst layer's load of its busiest expert as a multiple of an even share.
    """
    worst = 1.0
    for router, load in loads.items():
        even = load.float().mean()
        router.e_score_correction_bias += speed * torch.sign(even - load.float())
        worst = max(worst, float(load.max() / even.clamp_min(1e-9)))
    return {"train/expert_load/max_over_mean": worst} if loads else {}

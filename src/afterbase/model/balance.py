"""Keeping experts equally busy: the bias that is nudged after every step, and a small loss within each sequence.  [V3 Eq. 16-20]"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from afterbase.segments import Segments

if TYPE_CHECKING:
    from afterbase.model.moe import Router


class Trace:
    """What the routers did in the forward passes of one optimizer step; give the same one to each of them.

    No dataclass: FSDP2 looks into those among a layer's arguments, and would hand on a copy once there are losses in it.
    """

    def __init__(self, alpha: float = 0.0) -> None:
        """`alpha` is the weight of the sequence-wise balance loss [V3 Eq. 17]; 0 computes none."""
        self.alpha = alpha
        self.loads: dict[Router, Int[Tensor, "E"]] = {}
        """Tokens sent to each expert, by router."""
        self.losses: list[Tensor] = []
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

    f_i counts the experts that were used, bias and group limit included: it is their load that is to be even. Of a part of a stream
    this is that part's share of the loss.
    """
    experts, copies = affinity.shape[1], chosen.shape[1]
    whole, owner = segments.whole, segments.whole.owner[segments.places]
    lengths, sequences = whole.starts.diff().to(affinity.dtype)[:, None], len(whole.lengths)
    places = (owner[:, None] * experts + chosen).flatten()
    used = affinity.new_zeros(sequences * experts).scatter_add(0, places, torch.ones_like(places, dtype=affinity.dtype))
    used = used.unflatten(0, (sequences, experts))  # whole numbers: their sum is the same in any order
    fraction = segments.together(used) * experts / (copies * lengths)  # f_i
    share = affinity / affinity.sum(-1, keepdim=True)  # s'_{i,t}
    probability = affinity.new_zeros(sequences, experts).index_add(0, owner, share) / lengths  # P_i
    return (fraction * probability).sum(-1).mean()


@torch.no_grad()
def update_bias(loads: dict[Router, Int[Tensor, "E"]], speed: float) -> dict[str, float]:
    """Raise the bias of experts that saw less than their share, lower the others, by `speed` (gamma).  [V3 Eq. 16, 2.1.2]

    Returns the worst layer's load of its busiest expert as a multiple of an even share, and the worst layer's share of idle experts.
    """
    worst = []
    for router, load in loads.items():
        even = load.float().mean()
        if router.e_score_correction_bias is not None:
            router.e_score_correction_bias += speed * torch.sign(even - load.float())
        worst.append(torch.stack((load.max() / even.clamp_min(1e-9), (load == 0).float().mean())))
    if not worst:
        return {}
    busiest, idle = torch.stack(worst).amax(0).tolist()  # one question to the device for all layers
    return {"train/expert_load/max_over_mean": max(1.0, busiest), "train/idle_experts/max": idle}

"""Multi-token prediction: small modules that each look one token further ahead.  [V3 Eq. 21-25; Slides, MTP]"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afterbase.model.balance import Trace
from afterbase.model.block import Block
from afterbase.model.cache import LayerStep
from afterbase.model.config import ModelConfig
from afterbase.model.norm import RMSNorm
from afterbase.model.rope import Rotation
from afterbase.segments import Segments


class MTP(nn.Module):
    """Depth k: joins the previous depth's hidden state at i with the embedding of token i+k, and predicts token i+k+1.

    The embedding and the output head are the trunk's own; this module adds a projection M_k, one transformer block TRM_k and
    norms. The join puts the embedding first, as in the published checkpoint's `eh_proj` (the paper writes it second).
    """

    def __init__(self, config: ModelConfig, depth: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.enorm = RMSNorm(width, eps)
        self.hnorm = RMSNorm(width, eps)
        self.eh_proj = nn.Linear(2 * width, width, bias=False)  # M_k
        self.block = Block(config, config.num_hidden_layers + depth - 1)  # TRM_k
        self.norm = RMSNorm(width, eps)  # shared_head.norm in the published checkpoint

    def forward(
        self,
        hidden: Float[Tensor, "T d"],
        ahead: Float[Tensor, "T d"],
        segments: Segments,
        rotation: Rotation,
        trace: Trace | None = None,
        cache: LayerStep | None = None,
    ) -> Float[Tensor, "T d"]:
        """h^k, which the next depth reads as it is, and the head through `norm`.  `ahead` holds Emb(t_{i+k}).

        Rows past a sequence's end are never read.
        """
        joined = self.eh_proj(torch.cat((self.enorm(ahead), self.hnorm(hidden)), dim=-1))  # h'^k [V3 Eq. 21]
        hidden, delta = self.block(joined, None, segments, rotation, cache, trace)  # [V3 Eq. 22]
        return hidden + delta

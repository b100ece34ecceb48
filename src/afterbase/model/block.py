"""One transformer layer: attention, then a feed-forward, each behind a norm and added to the residual stream."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from afterbase.model.balance import Trace
from afterbase.model.cache import LayerStep
from afterbase.model.config import ModelConfig
from afterbase.model.gqa import GQA
from afterbase.model.mla import MLA
from afterbase.model.mlp import MLP
from afterbase.model.moe import MoE
from afterbase.model.norm import RMSNorm
from afterbase.model.rope import Rotation
from afterbase.segments import Segments


class Dense(MLP):
    """A feed-forward without experts, called like one with them."""

    def forward(self, hidden: Float[Tensor, "T d"], segments: Segments, trace: Trace | None) -> Float[Tensor, "T d"]:
        """SwiGLU; nothing to route, nothing to trace."""
        return super().forward(hidden)


class Block(nn.Module):
    """A layer of any supported family; which attention and which feed-forward is settled when it is built."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = MLA(config) if config.is_mla else GQA(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MoE(config) if config.is_moe(layer) else Dense(config.hidden_size, config.intermediate_size, config.mlp_bias)

    def forward(
        self,
        hidden: Float[Tensor, "T d"],
        delta: Float[Tensor, "T d"] | None,
        segments: Segments,
        rotation: Rotation,
        cache: LayerStep | None = None,
        trace: Trace | None = None,
    ) -> tuple[Float[Tensor, "T d"], Float[Tensor, "T d"]]:
        """Learning and sampling are the same line; only the cache differs.

        The residual stream comes with what the layer before wants added to it, and goes on the same way: each addition is done by the
        norm that reads the sum.
        """
        hidden, normal = self.input_layernorm.add(hidden, delta)
        hidden, normal = self.post_attention_layernorm.add(hidden, self.self_attn(normal, segments, rotation, cache))
        return hidden, self.mlp(normal, segments, trace)

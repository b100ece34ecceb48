"""One decoding step as few operations: fused projections, cast once, over the rows that run.

On a CPU a small model's step is bound by the number of operations and not by arithmetic, so the engine keeps its own fused copies of
the weights and refreshes them on `load`; the model itself is never changed. Models with experts or latent attention decode by their
own forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from afterbase.model.attend import matrices
from afterbase.model.cache import CacheStep
from afterbase.model.norm import RMSNorm
from afterbase.model.rope import Rotation
from afterbase.model.transformer import Transformer
from afterbase.segments import Segments


class PlainRunner:
    """Decodes by the model's own forward pass, on the trainer's own tensors."""

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def refresh(self) -> None:
        """Nothing is copied, so nothing is stale."""

    def decode(self, tokens: Int[Tensor, "n"], segments: Segments, cache: CacheStep) -> Float[Tensor, "n V"]:
        """Logits of the next tokens."""
        return self.model.logits(self.model(tokens, segments, cache=cache))


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """One layer's weights as decoding uses them."""

    qkv: Float[Tensor, "out d"]
    """Query, key and value projections, stacked."""
    qkv_bias: Float[Tensor, "out"] | None
    """Their biases, when the family has them."""
    gate_up: Float[Tensor, "two_inner d"]
    """Gate and up projections, stacked."""
    out: Float[Tensor, "d query"]
    """Output projection."""
    down: Float[Tensor, "d inner"]
    """Down projection."""


class FusedRunner:
    """Decodes dense models with grouped-query attention from fused copies of their weights."""

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype
        self.layers: list[FusedLayer] = []
        self.refresh()

    @staticmethod
    def fits(model: Transformer) -> bool:
        """Whether this model decodes faster this way: dense, grouped-query, without biases outside q, k and v, on a CPU."""
        config = model.config
        plain = not (config.is_mla or config.n_routed_experts or config.o_bias or config.mlp_bias)
        return plain and model.lm_head.weight.device.type == "cpu"

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights as they are now."""
        self.layers = [self._fused(block) for block in self.model.model.layers]
        self.head = self.model.lm_head.weight.detach().to(self.dtype)

    def decode(self, tokens: Int[Tensor, "n"], segments: Segments, cache: CacheStep) -> Float[Tensor, "n V"]:
        """Logits of the next tokens."""
        with torch.autocast(tokens.device.type, enabled=False):
            trunk = self.model.model
            hidden = F.embedding(tokens, trunk.embed_tokens.weight)
            rotation = self.model.rotary(segments.positions)
            # 0 where a row may look and -inf where not, once for all layers; a row's key heads lie one after the other.
            mask = torch.zeros(cache.seen.shape, dtype=torch.float32).masked_fill_(~cache.seen, -torch.inf)
            mask = mask.view(len(tokens), 1, -1).repeat_interleave(self.model.config.num_key_value_heads, dim=0)
            for index, (block, layer) in enumerate(zip(trunk.layers, self.layers, strict=True)):
                self._attend(hidden, block, layer, rotation, cache, index, mask)
                gate, up = F.linear(self._normal(hidden, block.post_attention_layernorm), layer.gate_up).chunk(2, dim=-1)
                hidden += F.linear(F.silu(gate).mul_(up), layer.down)
            return F.linear(self._normal(hidden, trunk.norm), self.head).float()

    def _attend(self, hidden: Tensor, block, layer: FusedLayer, rotation: Rotation, cache: CacheStep, index: int, mask: Tensor) -> None:
        """Add one layer's attention to the residual stream."""
        config, attention, rows = self.model.config, block.self_attn, len(hidden)
        heads = F.linear(self._normal(hidden, block.input_layernorm), layer.qkv, layer.qkv_bias).unflatten(-1, (-1, config.head_dim))
        queries, keys, values = heads.split([config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads], dim=1)
        if config.qk_norm:
            queries, keys = rotation(attention.q_norm(queries)), rotation(attention.k_norm(keys))
        else:
            queries, keys = rotation(heads[:, : -config.num_key_value_heads]).split([queries.shape[1], keys.shape[1]], dim=1)
        step = cache.layer(index)
        step.write(keys, values)
        memory_keys, memory_values = (matrices(memory) for memory in step.read())
        asked = queries.to(memory_keys.dtype).reshape(len(memory_keys), -1, config.head_dim)
        scores = torch.baddbmm(mask, asked, memory_keys.transpose(1, 2), alpha=config.head_dim**-0.5)
        mixed = torch.bmm(scores.softmax(-1), memory_values).view(rows, -1)
        hidden += F.linear(mixed.to(self.dtype), layer.out)

    def _normal(self, hidden: Float[Tensor, "n d"], norm: RMSNorm) -> Float[Tensor, "n d"]:
        """RMSNorm, written out in the projections' dtype by the last multiplication."""
        square = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True).square_().div_(hidden.shape[-1])
        scaled = hidden * square.add_(norm.eps).rsqrt_()
        return torch.mul(scaled, norm.weight, out=torch.empty_like(hidden, dtype=self.dtype))

    def _fused(self, block) -> FusedLayer:
        attention, mlp = block.self_attn, block.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        bias = torch.cat([p.bias for p in projections]).to(self.dtype) if attention.q_proj.bias is not None else None
        return FusedLayer(
            qkv=torch.cat([p.weight for p in projections]).to(self.dtype),
            qkv_bias=bias,
            gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).to(self.dtype),
            out=attention.o_proj.weight.to(self.dtype),
            down=mlp.down_proj.weight.to(self.dtype),
        )

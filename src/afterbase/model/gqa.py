"""Grouped-query attention: several query heads share one key and value head (Llama, Qwen)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from afterbase.model.attend import attend, attend_memory
from afterbase.model.cache import LayerStep
from afterbase.model.config import ModelConfig
from afterbase.model.joined import Joined
from afterbase.model.norm import RMSNorm
from afterbase.model.rope import Rotation
from afterbase.segments import Segments


class GQA(nn.Module):
    """Self-attention with `num_key_value_heads` shared keys; biases for Qwen2, normalized heads for Qwen3."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        query_width = config.num_attention_heads * config.head_dim
        key_width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=config.o_bias)
        self.enter, self.leave = Joined(self.q_proj, self.k_proj, self.v_proj), Joined(self.o_proj)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self, hidden: Float[Tensor, "T d"], segments: Segments, rotation: Rotation, cache: LayerStep | None
    ) -> Float[Tensor, "T d"]:
        """Attention within each sequence, or over what the cache remembers."""
        queries, keys, values = (flat.unflatten(-1, (-1, self.head_dim)) for flat in self.enter(hidden))
        queries, keys = rotation(self.q_norm(queries)), rotation(self.k_norm(keys))
        scale = self.head_dim**-0.5
        if cache is not None:
            cache.write(keys, values)
        if cache is None or cache.seen is None:
            mixed = attend(queries, *segments.reach(keys, values), segments, scale)
        else:
            mixed = attend_memory(queries, *cache.read(), cache.seen, scale)
        return self.leave(mixed.flatten(1))[0]

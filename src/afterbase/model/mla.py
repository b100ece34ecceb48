"""Multi-head latent attention: keys and values are rebuilt from one small latent per token.  [V3 Eq. 1-11; Slides, MLA]

Legend: h hidden, c^{KV} latent, k^R shared rotary key, q^C and q^R query parts, W^{UK} and W^{UV} the two halves of kv_b_proj.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afterbase.model import cuda
from afterbase.model.attend import attend, attend_memory
from afterbase.model.cache import LayerStep
from afterbase.model.config import ModelConfig
from afterbase.model.joined import Joined
from afterbase.model.norm import RMSNorm
from afterbase.model.rope import Rotation, softmax_scale
from afterbase.segments import Segments


class MLA(nn.Module):
    """Latent attention in both its forms: plain (keys rebuilt, for training and prompts) and absorbed (for decoding)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads = config.num_attention_heads
        self.num_heads, self.nope_dim, self.rope_dim = heads, config.qk_nope_head_dim, config.qk_rope_head_dim
        self.value_dim, self.rank, self.scale = config.v_head_dim, config.kv_lora_rank, softmax_scale(config)
        query_width = heads * (self.nope_dim + self.rope_dim)
        bias = bool(config.kept.get("attention_bias"))
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(config.hidden_size, query_width, bias=False)
        else:
            self.q_a_proj = nn.Linear(config.hidden_size, config.q_lora_rank, bias=bias)  # W^{DQ}
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, config.rms_norm_eps)
            self.q_b_proj = nn.Linear(config.q_lora_rank, query_width, bias=False)  # W^{UQ}, W^{QR}
        self.kv_a_proj_with_mqa = nn.Linear(config.hidden_size, self.rank + self.rope_dim, bias=bias)  # W^{DKV}, W^{KR}
        self.kv_a_layernorm = RMSNorm(self.rank, config.rms_norm_eps)
        self.kv_b_proj = nn.Linear(self.rank, heads * (self.nope_dim + self.value_dim), bias=False)  # W^{UK}, W^{UV}
        self.o_proj = nn.Linear(heads * self.value_dim, config.hidden_size, bias=bias)  # W^O
        first = self.q_proj if config.q_lora_rank is None else self.q_a_proj
        alike = (first.bias is None) == (self.kv_a_proj_with_mqa.bias is None)
        self.enter = (Joined(first, self.kv_a_proj_with_mqa),) if alike else (Joined(first), Joined(self.kv_a_proj_with_mqa))
        self.raise_query = None if config.q_lora_rank is None else Joined(self.q_b_proj)
        self.raise_key, self.leave = Joined(self.kv_b_proj), Joined(self.o_proj)
        self.fillable = self.value_dim <= self.nope_dim + self.rope_dim  # values can be filled up to the width of a key

    def forward(
        self, hidden: Float[Tensor, "T d"], segments: Segments, rotation: Rotation, cache: LayerStep | None
    ) -> Float[Tensor, "T d"]:
        """Attention within each sequence, or over what the cache remembers."""
        asked, squeezed = (flat for joined in self.enter for flat in joined(hidden))
        asked = asked if self.raise_query is None else self.raise_query(self.q_a_layernorm(asked))[0]
        latent, key = squeezed.split([self.rank, self.rope_dim], dim=-1)  # c^{KV} and, not yet turned, k^R  [V3 Eq. 1]
        latent = self.kv_a_layernorm(latent)
        if cache is None and segments.whole is segments and self.fillable and cuda.kernels_for(asked):
            return self._leave(attend(*self._together(asked, latent, key, rotation), segments, self.scale)[..., : self.value_dim])
        content, rotary = asked.unflatten(-1, (self.num_heads, -1)).split([self.nope_dim, self.rope_dim], dim=-1)  # q^C, q^R [V3 Eq. 6-9]
        rotary, key = rotation(rotary), rotation(key.unsqueeze(1))  # [V3 Eq. 3, 8]
        if cache is not None:
            cache.write(torch.cat((latent, key.squeeze(1)), dim=-1).unsqueeze(1))
        if cache is None or cache.seen is None:
            return self._leave(self._plain(content, rotary, latent, key, segments))
        return self._leave(self._absorbed(content, rotary, cache))

    def _leave(self, mixed: Float[Tensor, "T h v"]) -> Float[Tensor, "T d"]:
        """All heads' mixtures through W^O.  [V3 Eq. 11]"""
        return self.leave(mixed.flatten(1))[0]

    def _together(self, asked: Tensor, latent: Tensor, key: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Every head's query, key and value as attention wants them, by one kernel; values are filled up to the width of a key."""
        from afterbase.model.cuda.joints import LatentHeads  # Triton is imported only where there is a GPU

        sizes = self.num_heads, self.nope_dim, self.rope_dim, self.value_dim
        raised = self.raise_key(latent)[0].to(asked.dtype)
        return LatentHeads.apply(asked, raised, key.to(asked.dtype), rotation.cos, rotation.sin, rotation.interleaved, sizes)

    def _plain(self, content: Tensor, rotary: Tensor, latent: Tensor, key: Tensor, segments: Segments) -> Tensor:
        """Rebuild every head's key and value, then attend.  [V3 Eq. 2, 4, 5, 10]"""
        latent, key = segments.reach(latent, key)
        heads = self.raise_key(latent)[0].unflatten(-1, (self.num_heads, -1))
        keys, values = heads.split([self.nope_dim, self.value_dim], dim=-1)  # k^C, v^C
        keys = torch.cat((keys, key.expand(-1, self.num_heads, -1)), dim=-1)
        return attend(torch.cat((content, rotary), dim=-1), keys, values, segments, self.scale)

    def _absorbed(self, content: Tensor, rotary: Tensor, cache: LayerStep) -> Tensor:
        """W^{UK} moves into the query and W^{UV} behind the sum, so attention runs on the latents themselves."""
        up = self.kv_b_proj.weight.unflatten(0, (self.num_heads, -1)).to(content.dtype)
        up_key, up_value = up.split([self.nope_dim, self.value_dim], dim=1)  # W^{UK}, W^{UV} [h . rank]
        absorbed = torch.einsum("thn,hnr->thr", content, up_key)
        (memory,) = cache.read()
        queries = torch.cat((absorbed, rotary), dim=-1)
        mixed = attend_memory(queries, memory, memory[..., : self.rank], cache.seen, self.scale)
        return torch.einsum("thr,hvr->thv", mixed.to(content.dtype), up_value)

"""One decoding step of DeepSeek-V3's shape on a CPU: latent attention in its absorbed form and experts, each by one compiled kernel.

There is no second version in torch: without a compiler the model's own forward pass is it (`PlainRunner`), and a test holds the two
against each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from afterbase.engine.runner import Attend, FusedRunner, in_training, places
from afterbase.model.block import Block
from afterbase.model.cache import CacheStep, LayerStep
from afterbase.model.mla import MLA
from afterbase.model.mlp import MLP
from afterbase.model.moe import Experts, MoE
from afterbase.model.native import KINDS, kernels
from afterbase.model.rope import Rotation
from afterbase.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """One layer's attention as decoding uses it."""

    enter: Float[Tensor, "out d"]
    """W^{DQ}, or the query projection itself, and W^{DKV} with W^{KR}, stacked."""
    enter_bias: Float[Tensor, "out"] | None
    """Their biases, when the model has them."""
    queries: Float[Tensor, "query rank"] | None
    """W^{UQ} and W^{QR}, where queries are compressed."""
    up_key: Float[Tensor, "h nope rank"]
    """W^{UK}, head by head."""
    up_value: Float[Tensor, "h rank v"]
    """W^{UV}, head by head, turned round."""
    out: Float[Tensor, "d values"]
    """W^O."""
    out_bias: Float[Tensor, "d"] | None
    """Its bias, when the model has one."""

    @classmethod
    def of(cls, attention: MLA, dtype: torch.dtype) -> LatentAttention:
        """Copies of the weights as they are now."""
        weights, biases = entering(attention)
        up_key, up_value = attention.kv_b_proj.weight.unflatten(0, (attention.num_heads, -1)).split(
            [attention.nope_dim, attention.value_dim], dim=1
        )
        return cls(
            enter=torch.cat(weights).to(dtype),
            enter_bias=torch.cat(biases).to(dtype) if biases else None,
            queries=attention.q_b_proj.weight.detach().to(dtype) if hasattr(attention, "q_b_proj") else None,
            up_key=up_key.to(dtype).contiguous(),
            up_value=up_value.transpose(1, 2).to(dtype).contiguous(),
            out=attention.o_proj.weight.detach().to(dtype),
            out_bias=None if attention.o_proj.bias is None else attention.o_proj.bias.detach().to(dtype),
        )


def entering(attention: MLA) -> tuple[list[Tensor], list[Tensor]]:
    """The weights that read a layer's input, to be stacked, and their biases, zeros beside another's; none where there are none."""
    first, last = getattr(attention, "q_a_proj", None) or attention.q_proj, attention.kv_a_proj_with_mqa
    bias = first.weight.new_zeros(len(first.weight)) if first.bias is None else first.bias
    return [first.weight, last.weight], [] if last.bias is None else [bias, last.bias]


@dataclass(frozen=True, slots=True)
class DepthFirst:
    """A layer's routed experts as their kernel reads them: a row for each input."""

    gate_up: Float[Tensor, "E d two_inner"]
    """Gate and up projections, side by side."""
    down: Float[Tensor, "E inner d"]
    """Down projections."""

    @classmethod
    def of(cls, experts: Experts, dtype: torch.dtype) -> DepthFirst:
        """Copies of the weights as they are now."""
        gate_up = torch.cat((experts.gate_proj, experts.up_proj), dim=1)
        return cls(*(matrix.transpose(1, 2).to(dtype).contiguous() for matrix in (gate_up, experts.down_proj)))


@dataclass(frozen=True, slots=True)
class LatentLayer:
    """One layer's weights as decoding uses them."""

    attention: LatentAttention
    """Its attention's."""
    gate_up: Float[Tensor, "two_inner d"]
    """Gate and up projections, of a dense layer or of the shared experts, stacked."""
    down: Float[Tensor, "d inner"]
    """Down projection of the same."""
    experts: DepthFirst | None
    """Routed experts; None in a dense layer."""

    @classmethod
    def of(cls, block: Block, dtype: torch.dtype) -> LatentLayer:
        """Copies of this block's weights as they are now."""
        routing = isinstance(block.mlp, MoE)
        dense: MLP = block.mlp.shared_experts if routing else block.mlp
        return cls(
            LatentAttention.of(block.self_attn, dtype),
            torch.cat((dense.gate_proj.weight, dense.up_proj.weight)).to(dtype),
            dense.down_proj.weight.detach().to(dtype),
            DepthFirst.of(block.mlp.experts, dtype) if routing else None,
        )


class LatentCpuRunner(FusedRunner):
    """Decodes models with latent attention from fused copies of their weights; routers and norms are the model's own."""

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        super().__init__(model, dtype)
        self.compact = True

    @staticmethod
    def fits(model: Transformer) -> bool:
        """Whether this model decodes faster this way: one in training on a CPU that has a compiler."""
        here = model.lm_head.weight.device.type == "cpu" and kernels() is not None
        return here and model.config.is_mla and model.config.has_v3_experts and not model.config.mlp_bias and in_training(model)

    def _layer(self, block: Block) -> LatentLayer:
        return LatentLayer.of(block, self.dtype)

    def _attention(self, rotation: Rotation, cache: CacheStep) -> Attend:
        """Attention by the compiled kernel, which also normalizes, rotates and remembers."""
        config = self.model.config
        heads, rank, rope = config.num_attention_heads, config.kv_lora_rank, config.qk_rope_head_dim
        widths = heads, config.qk_nope_head_dim, rope, rank, config.v_head_dim

        def attend(normal: Tensor, block: Block, layer: LatentLayer, step: LayerStep) -> Tensor:
            weights, attention, (memory,) = layer.attention, block.self_attn, step.memories
            queries, latents = self._product(normal, weights.enter, weights.enter_bias).tensor_split([-rank - rope], dim=1)
            if weights.queries is not None:
                asked = self._add(queries.float().contiguous(), None, attention.q_a_layernorm)[1]
                queries = self._product(asked, weights.queries, what="queries")
            mixed = self._buffer("mixed", len(normal), heads * config.v_head_dim)
            norm, strides = attention.kv_a_layernorm, (queries.stride(0), latents.stride(0))
            for part in places(cache):  # each sees the ones before it
                turn = rotation.cos[part], rotation.sin[part], cache.positions[part], attention.scale
                taken = queries[part], latents[part], norm.weight, norm.eps, *turn, weights.up_key, weights.up_value
                sizes = len(taken[0]), *widths, memory.shape[2], *strides, int(rotation.interleaved)
                kernels()("decode_latents", KINDS[self.dtype], *sizes, *taken, memory, mixed[part])
            return self._product(mixed, weights.out, weights.out_bias)

        return attend

    def _feed_forward(self, normal: Float[Tensor, "n d"], block: Block, layer: LatentLayer) -> Float[Tensor, "n d"]:
        """A dense layer, or shared experts to which the kernel adds the routed ones."""
        dense = super()._feed_forward(normal, block, layer)
        if layer.experts is None:
            return dense
        config, router = self.model.config, block.mlp.gate
        affinities = self._affinities(normal.float(), router.weight.float())
        sizes = *normal.shape, *layer.experts.down.shape[1::-1]  # n, d, inner, E
        limits = config.num_experts_per_tok, config.n_group, config.topk_group, int(config.norm_topk_prob), config.routed_scaling_factor
        weights = layer.experts.gate_up, layer.experts.down
        kernels()("add_experts", KINDS[self.dtype], *sizes, *limits, normal, affinities, router.e_score_correction_bias, *weights, dense)
        return dense

    def _affinities(self, rows: Float[Tensor, "n d"], weight: Float[Tensor, "E d"]) -> Float[Tensor, "n E"]:
        """The router's products."""
        return F.linear(rows, weight)

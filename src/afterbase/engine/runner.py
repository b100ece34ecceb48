"""One decoding step as few operations: fused projections, cast once, over the rows that run.

On a CPU a small model's step is bound by the number of operations and not by arithmetic, so the engine keeps its own fused copies of
the weights and refreshes them on `load`; the model itself is never changed. Between the products run the compiled kernels, or the same
in torch where there is no compiler. What differs for latent attention and experts stands in latent.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from afterbase.errors import ConfigError
from afterbase.model import cuda
from afterbase.model.attend import matrices
from afterbase.model.block import Block
from afterbase.model.cache import CacheStep, LayerStep
from afterbase.model.config import ModelConfig
from afterbase.model.gqa import GQA
from afterbase.model.mlp import multiplied
from afterbase.model.native import KINDS, WIDEST_HEAD, kernels
from afterbase.model.norm import RMSNorm, add_normalize
from afterbase.model.rope import Rotation
from afterbase.model.transformer import Transformer
from afterbase.segments import Segments

if TYPE_CHECKING:
    from afterbase.engine.cuda.runner import GraphRunner

Attend = Callable[[Tensor, Block, "FusedLayer", LayerStep], Tensor]
"""One layer's attention of this step: normalized states [n, d] in, what is to be added to the residual stream out."""
Mix = Callable[[Tensor, GQA, LayerStep], Tensor]
"""Its middle: the stacked projections [n, out] in, the heads' mixtures [n, query] out."""


class PlainRunner:
    """Decodes by the model's own forward pass, on the trainer's own tensors."""

    compact = False
    """Whether the cache pays for half precision on a CPU: torch reads a float32 memory as fast."""
    alone = False
    """Whether it takes several steps without the host."""
    steady = False
    """Whether the bits of a row never depend on the others."""

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def refresh(self) -> None:
        """Nothing is copied, so nothing is stale."""

    def release(self) -> None:
        """No memory is held on to."""

    def decode(self, tokens: Int[Tensor, "n"], segments: Segments, cache: CacheStep) -> Float[Tensor, "n V"]:
        """Logits of the next tokens."""
        return self.model.logits(self.model(tokens, segments, cache=cache))

    def prefill(self, tokens: Int[Tensor, "T"], segments: Segments, cache: CacheStep) -> Float[Tensor, "S V"]:
        """Read whole prompts into the cache; logits of what follows each."""
        return self.following(self.read(tokens, segments, cache), segments)

    def read(self, tokens: Int[Tensor, "T"], segments: Segments, cache: CacheStep) -> Float[Tensor, "T d"]:
        """Read whole prompts into the cache; their final states."""
        return self.model(tokens, segments, cache=cache)

    def following(self, hidden: Float[Tensor, "T d"], segments: Segments) -> Float[Tensor, "S V"]:
        """Logits of what follows each of the prompts that have these final states."""
        return self.model.logits(hidden[segments.starts[1:].long() - 1])

    def verify(
        self, tokens: Int[Tensor, "n w"], segments: Segments, cache: CacheStep
    ) -> tuple[Float[Tensor, "n w d"], Float[Tensor, "n w V"]]:
        """Final states of several new tokens of each row, and logits of what follows each of them."""
        hidden = self.model(tokens.flatten(), segments, cache=cache)
        return hidden.view(*tokens.shape, -1), self.model.logits(hidden).view(*tokens.shape, -1)


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

    @classmethod
    def of(cls, block: Block, dtype: torch.dtype) -> FusedLayer:
        """Copies of this block's weights as they are now."""
        return cls(**stacked(_parts(block), dtype))

    def refresh(self, block: Block) -> None:
        """The same into the same memory, which a recorded graph keeps reading."""
        renew(self, _parts(block))


def stacked(parts: dict[str, list[Tensor]], dtype: torch.dtype) -> dict[str, Tensor | None]:
    """Copies of weights, those of one name as one tensor; None where there are none."""
    return {name: torch.cat([each.detach().to(dtype) for each in weights]) if weights else None for name, weights in parts.items()}


def renew(layer: object, parts: dict[str, list[Tensor]]) -> None:
    """Copy weights into the stacked copies that an object has of them, by name; what has no parts stays None."""
    for name, weights in parts.items():
        if weights:
            for copy, weight in zip(getattr(layer, name).split([len(weight) for weight in weights]), weights, strict=True):
                copy.copy_(weight)


def _parts(block: Block) -> dict[str, list[Tensor]]:
    """What each fused weight of a dense layer is stacked from."""
    attention, mlp = block.self_attn, block.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return {
        "qkv": [projection.weight for projection in projections],
        "qkv_bias": [projection.bias for projection in projections if projection.bias is not None],
        "gate_up": [mlp.gate_proj.weight, mlp.up_proj.weight],
        "out": [attention.o_proj.weight],
        "down": [mlp.down_proj.weight],
    }


def is_plain(config: ModelConfig) -> bool:
    """Dense, with grouped-query attention and no biases outside q, k and v: what the fused step is written for."""
    return not (config.is_mla or config.n_routed_experts or config.o_bias or config.mlp_bias)


class FusedRunner(PlainRunner):
    """Decodes dense models with grouped-query attention from fused copies of their weights."""

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        super().__init__(model)
        self.dtype = dtype
        self.compact = kernels() is not None and model.config.head_dim <= WIDEST_HEAD
        self.layers: list[FusedLayer] = []
        self.buffers: dict[tuple[str, int], Tensor] = {}
        self.refresh()

    @staticmethod
    def fits(model: Transformer) -> bool:
        """Whether this model decodes faster this way: a plain one in training on a CPU."""
        return is_plain(model.config) and model.lm_head.weight.device.type == "cpu" and in_training(model)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights as they are now."""
        self.layers = [self._layer(block) for block in self.model.model.layers]
        self.head = self.model.lm_head.weight.detach().to(self.dtype)

    def decode(self, tokens: Int[Tensor, "n"], segments: Segments, cache: CacheStep) -> Float[Tensor, "n V"]:
        """Logits of the next tokens, as the products give them."""
        with torch.autocast(tokens.device.type, enabled=False):
            return self._product(self._states(tokens, cache), self.head)

    def verify(
        self, tokens: Int[Tensor, "n w"], segments: Segments, cache: CacheStep
    ) -> tuple[Float[Tensor, "n w d"], Float[Tensor, "n w V"]]:
        """As so many steps would find them: products of all tokens at once, attention place by place."""
        if not self.compact:
            return super().verify(tokens, segments, cache)
        rows, positions = (each.view(tokens.shape).t().flatten() for each in (cache.rows, cache.positions))  # place by place, row by row
        with torch.autocast(tokens.device.type, enabled=False):
            hidden = self._states(tokens.t().flatten(), replace(cache, rows=rows, positions=positions))
            logits = self._product(hidden, self.head)
        return tuple(each.view(*tokens.t().shape, -1).transpose(0, 1) for each in (hidden, logits))

    def _states(self, tokens: Int[Tensor, "T"], cache: CacheStep) -> Float[Tensor, "T d"]:
        """The final states of new tokens, place by place where a row has several."""
        trunk = self.model.model
        hidden, delta = F.embedding(tokens, trunk.embed_tokens.weight).float(), None
        attend = self._attention(self.model.rotary(cache.positions), cache)
        for index, (block, layer) in enumerate(zip(trunk.layers, self.layers, strict=True)):
            hidden, normal = self._add(hidden, delta, block.input_layernorm)
            hidden, normal = self._add(hidden, attend(normal, block, layer, cache.layer(index)), block.post_attention_layernorm)
            delta = self._feed_forward(normal, block, layer)
        return self._add(hidden, delta, trunk.norm)[1]

    def _layer(self, block: Block) -> FusedLayer:
        """One layer's weights."""
        return FusedLayer.of(block, self.dtype)

    def _attention(self, rotation: Rotation, cache: CacheStep) -> Attend:
        """Attention of this step, its projections included."""
        mix = self._kernel(rotation, cache) if self.compact else self._plain(rotation, cache)

        def attend(normal: Tensor, block: Block, layer: FusedLayer, step: LayerStep) -> Tensor:
            return self._product(mix(self._product(normal, layer.qkv, layer.qkv_bias), block.self_attn, step), layer.out)

        return attend

    def _feed_forward(self, normal: Float[Tensor, "n d"], block: Block, layer: FusedLayer) -> Float[Tensor, "n d"]:
        """SwiGLU between two products."""
        return self._product(self._gated(self._product(normal, layer.gate_up)), layer.down)

    def _product(
        self, rows: Float[Tensor, "n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, "o"] | None = None, what: str = "product"
    ) -> Float[Tensor, "n o"]:
        """The projection, where no other of the same name and width is in use."""
        out = self._buffer(what, len(rows), len(weight))
        return torch.mm(rows, weight.t(), out=out) if bias is None else torch.addmm(bias, rows, weight.t(), out=out)

    def _gated(self, both: Float[Tensor, "n two_inner"]) -> Float[Tensor, "n inner"]:
        """SwiGLU of the gate's and the raised half."""
        gate, up = both.chunk(2, dim=-1)
        return multiplied(gate, up, self._buffer("gated", *gate.shape)) if self.compact else F.silu(gate).mul_(up)

    def _buffer(self, what: str, rows: int, width: int) -> Tensor:
        """Memory that the next layer or step uses again: fresh pages cost as much as what is written on them."""
        buffer = self.buffers.get((what, width))
        if buffer is None or len(buffer) < rows:
            buffer = self.buffers[what, width] = torch.empty(rows, width, dtype=self.dtype)
        return buffer[:rows]

    def _add(self, hidden: Tensor, delta: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
        """The residual stream with `delta` added, and its norm in the projections' dtype."""
        total, _, normal = add_normalize(hidden, delta, norm.weight, norm.eps, self.dtype, in_place=True)
        return total, normal

    def _kernel(self, rotation: Rotation, cache: CacheStep) -> Mix:
        """Attention by the compiled kernel, which also rotates and remembers."""
        config = self.model.config
        heads = config.num_attention_heads, config.num_key_value_heads, config.head_dim

        def attend(qkv: Tensor, attention: GQA, step: LayerStep) -> Tensor:
            keys, values = step.memories
            norms = (attention.q_norm.weight, attention.k_norm.weight) if config.qk_norm else (None, None)
            mixed = self._buffer("mixed", len(qkv), heads[0] * heads[2])
            for part in places(cache):  # each sees the ones before it
                turn = rotation.cos[part], rotation.sin[part], cache.positions[part], config.head_dim**-0.5
                taken = qkv[part], *norms, config.rms_norm_eps, *turn, keys, values
                kernels()("decode_attention", KINDS[self.dtype], len(taken[0]), *heads, keys.shape[2], *taken, mixed[part])
            return mixed

        return attend

    def _plain(self, rotation: Rotation, cache: CacheStep) -> Mix:
        """The same in torch."""
        config = self.model.config
        # 0 where a row may look and -inf where not, once for all layers; a row's key heads lie one after the other.
        mask = torch.zeros(cache.seen.shape, dtype=torch.float32).masked_fill_(~cache.seen, -torch.inf)
        mask = mask.view(len(mask), 1, -1).repeat_interleave(config.num_key_value_heads, dim=0)

        def attend(qkv: Tensor, attention: GQA, step: LayerStep) -> Tensor:
            heads = qkv.unflatten(-1, (-1, config.head_dim))
            queries, keys, values = heads.split([config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads], dim=1)
            queries, keys = rotation(attention.q_norm(queries)), rotation(attention.k_norm(keys))
            step.write(keys, values)
            memory_keys, memory_values = (matrices(memory) for memory in step.read())
            asked = queries.to(memory_keys.dtype).reshape(len(memory_keys), -1, config.head_dim)
            scores = torch.baddbmm(mask, asked, memory_keys.transpose(1, 2), alpha=config.head_dim**-0.5)
            return torch.bmm(scores.softmax(-1), memory_values).view(len(qkv), -1).to(self.dtype)

        return attend


def places(cache: CacheStep) -> list[slice]:
    """Where a step's tokens lie that are the first new ones of their rows, then the second ones, and so on."""
    rows = len(cache.rows) // cache.width
    return [slice(place * rows, (place + 1) * rows) for place in range(cache.width)]


def in_training(model: Transformer) -> bool:
    """Whether the model is held as trainers hold it: vectors in float32, matrices too or in bfloat16 (`trainer.weights`)."""
    return model.model.norm.weight.dtype == torch.float32 and model.lm_head.weight.dtype in (torch.float32, torch.bfloat16)


def runner_for(model: Transformer, dtype: torch.dtype) -> PlainRunner | FusedRunner | GraphRunner:
    """The fastest there is for this model where it lies, multiplying in `dtype`; ConfigError when the weights have fewer digits."""
    if in_training(model) and model.lm_head.weight.dtype == torch.bfloat16 and dtype == torch.float32:
        raise ConfigError('the weights are held in bfloat16 and the engine would multiply in float32; set engine.precision = "bfloat16"')
    if FusedRunner.fits(model):
        return FusedRunner(model, dtype)
    if model.config.is_mla:
        from afterbase.engine.latent import LatentCpuRunner  # stands on this file

        if LatentCpuRunner.fits(model):
            return LatentCpuRunner(model, dtype)
    if model.lm_head.weight.is_cuda and dtype == torch.bfloat16 and cuda.kernels():
        from afterbase.engine.cuda.latent import LatentRunner  # Triton is imported only where there is a GPU
        from afterbase.engine.cuda.runner import GraphRunner

        if GraphRunner.fits(model):
            return GraphRunner(model, dtype)
        if LatentRunner.fits(model):
            return LatentRunner(model, dtype)
    return PlainRunner(model)

"""The tokens a second that no program exceeds on a card: bytes over its measured copy rate, operations over its matrix rate.

A decoding step reads every weight that it uses once, in bfloat16, and what is remembered of every running row; it computes two operations
per weight and row, and attention. The larger of both times is the floor. Prompts count with their products alone, without attention.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

BFLOAT16 = 2
"""Bytes."""


@dataclass(frozen=True)
class Costs:
    """What a model's passes cost."""

    dense: float
    """Weights that every token uses, the head left out."""
    head: float
    """Weights of the head."""
    remembered: float
    """Numbers that one token leaves in the cache."""
    attention: float
    """Operations of one token's attention to one remembered token."""
    expert: float = 0.0
    """Weights of one routed expert, times the layers that have them."""
    experts: int = 0
    """Routed experts of a layer."""
    chosen: int = 0
    """Of which a token uses so many."""

    def seconds(self, rates: dict, tokens: int, context: float, headed: int | None = None) -> float:
        """A pass over `tokens`, which attend to `context` remembered ones in all; `headed` of them need the head."""
        headed = tokens if headed is None else headed
        touched = self.experts * (1 - (1 - self.chosen / self.experts) ** tokens) if self.experts else 0
        moved = BFLOAT16 * (self.dense + self.head + touched * self.expert + context * self.remembered)
        computed = 2 * (tokens * (self.dense + self.chosen * self.expert) + headed * self.head) + context * self.attention
        return max(moved / rates["bytes_per_second"], computed / rates["flops_per_second"])


def costs(shape: dict) -> Costs:
    """Of the trunk of a model with this config.json."""
    return _latent(shape, shape["num_hidden_layers"], shape.get("first_k_dense_replace", 0)) if "kv_lora_rank" in shape else _plain(shape)


def module_costs(shape: dict) -> Costs:
    """Of one MTP module: a layer with experts behind the join of a state and an embedding, and the head."""
    layer = _latent(shape, 1, 0)
    join = 2 * shape["hidden_size"] ** 2
    return Costs(layer.dense + join, layer.head, layer.remembered, layer.attention, layer.expert, layer.experts, layer.chosen)


def least_seconds(costs: Costs, rates: dict, prompts: Sequence[int], lengths: Sequence[int], rows: int) -> float:
    """All requests, taken in order as places come free: each gets its first token with its prompt and one at every step from then on."""
    steps: dict[int, list[int]] = {}  # step -> running rows, what they remember
    free = [0] * rows
    heapq.heapify(free)
    for prompt, length in zip(prompts, lengths, strict=True):
        begun = heapq.heappop(free)
        heapq.heappush(free, begun + length - 1)
        for drawn in range(1, length):
            step = steps.setdefault(begun + drawn, [0, 0])
            step[0] += 1
            step[1] += prompt + drawn
    reading = costs.seconds(rates, sum(prompts), 0, len(prompts))
    return reading + sum(costs.seconds(rates, running, context) for running, context in steps.values())


def drafting_seconds(trunk: Costs, module: Costs, rates: dict, rows: int, context: float, drafts: int) -> float:
    """One step that drafts so many tokens for each row and verifies them in one pass; `context` is what a row remembers."""
    verifying = trunk.seconds(rates, rows * (drafts + 1), rows * context)
    return verifying + drafts * module.seconds(rates, rows, rows * context)


def _plain(shape: dict) -> Costs:
    """Llama's kind: grouped-query attention, dense layers."""
    width, layers, heads = shape["hidden_size"], shape["num_hidden_layers"], shape["num_attention_heads"]
    head_width = shape.get("head_dim") or width // heads
    shared = 2 * shape["num_key_value_heads"] * head_width
    layer = width * (2 * heads * head_width + shared) + 3 * width * shape["intermediate_size"]
    return Costs(layers * layer, shape["vocab_size"] * width, layers * shared, 4 * layers * heads * head_width)


def _latent(shape: dict, layers: int, plain_layers: int) -> Costs:
    """DeepSeek's kind: attention to latents in its absorbed form, the first layers dense, experts in the others."""
    width, heads, latent, rope = shape["hidden_size"], shape["num_attention_heads"], shape["kv_lora_rank"], shape["qk_rope_head_dim"]
    query, compressed = shape["qk_nope_head_dim"] + rope, shape.get("q_lora_rank")
    queries = width * compressed + compressed * heads * query if compressed else width * heads * query
    keys = width * (latent + rope) + latent * heads * (shape["qk_nope_head_dim"] + shape["v_head_dim"])
    attention = queries + keys + heads * shape["v_head_dim"] * width
    expert, routed = 3 * width * shape["moe_intermediate_size"], layers - plain_layers
    dense = layers * attention + plain_layers * 3 * width * shape["intermediate_size"]
    dense += routed * (shape["n_shared_experts"] * expert + width * shape["n_routed_experts"])
    absorbed = 2 * layers * heads * (2 * latent + rope)
    chosen = shape["n_routed_experts"], shape["num_experts_per_tok"]
    return Costs(dense, shape["vocab_size"] * width, layers * (latent + rope), absorbed, routed * expert, *chosen)

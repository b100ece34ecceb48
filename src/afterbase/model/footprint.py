"""What a model takes in memory, in bytes and from its config alone: its weights, and what a training pass keeps of each token.

What is kept is what autograd holds on to between the two passes, in bfloat16 on a GPU unless it says otherwise: counted from the code of
the layers, and held against it by tests that run that code on tensors without data.

Legend, per token: d the width, q and k all query and all key heads together, f the feed-forward's width, K the chosen experts.
"""

from __future__ import annotations

from dataclasses import dataclass

from afterbase.model.config import ModelConfig

FLASH = (16, 32, 64, 128, 256)
"""Head widths that need no filling up; the same as of the kernels, which are not imported here because Triton may be missing."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Numbers of a model by kind, e.g. Weights(0, 1_310_000_000, 0, 0, 100_000, 233_000_000, 0, 0) of Qwen2-1.5B."""

    experts: int
    """Of routed experts."""
    matrices: int
    """Of the blocks' other matrices, routers apart."""
    abreast: int
    """How many of `matrices` are multiplied side by side, so that products read a copy even of bfloat16."""
    routers: int
    """Rows of experts' centroids."""
    vectors: int
    """Norms and biases."""
    embedding: int
    """V d."""
    head: int
    """V d, or 0 where the head is the embedding."""
    joints: int
    """The matrices M_k of multi-token prediction."""

    @property
    def halved(self) -> int:
        """Those that `trainer.weights` may hold in bfloat16."""
        return self.experts + self.matrices + self.embedding + self.head + self.joints

    @property
    def total(self) -> int:
        """All parameters."""
        return self.halved + self.routers + self.vectors


def weights(config: ModelConfig) -> Weights:
    """Every parameter of `Transformer(config)`, counted."""
    layers = [*range(config.num_hidden_layers), *(config.num_hidden_layers + k for k in range(config.num_nextn_predict_layers))]
    routed = sum(map(config.is_moe, layers))
    dense, d = len(layers) - routed, config.hidden_size
    shared = config.moe_intermediate_size * config.n_shared_experts if routed else 0
    inner = dense * config.intermediate_size + routed * shared
    into, rest, vectors = _attention(config)
    biases = dense * (2 * config.intermediate_size + d) if config.mlp_bias else 0
    ahead = config.num_nextn_predict_layers
    return Weights(
        experts=routed * (config.n_routed_experts or 0) * 3 * d * config.moe_intermediate_size,
        matrices=len(layers) * (into + rest) + 3 * d * inner,
        abreast=len(layers) * into + 2 * d * inner,
        routers=routed * (config.n_routed_experts or 0) * d,
        vectors=len(layers) * (2 * d + vectors) + biases + d + ahead * 3 * d,
        embedding=config.vocab_size * d,
        head=0 if config.tie_word_embeddings else config.vocab_size * d,
        joints=ahead * 2 * d * d,
    )


def _attention(config: ModelConfig) -> tuple[int, int, int]:
    """One layer's projections that read its input side by side, its other matrices, and its norms and biases."""
    d, heads = config.hidden_size, config.num_attention_heads
    if not config.is_mla:
        q, k = heads * config.head_dim, config.num_key_value_heads * config.head_dim
        biases = (q + 2 * k if config.qkv_bias else 0) + (d if config.o_bias else 0)
        return d * (q + 2 * k), q * d, biases + (2 * config.head_dim if config.qk_norm else 0)
    rank, rope, value, asked = config.kv_lora_rank, config.qk_rope_head_dim, config.v_head_dim, config.q_lora_rank
    assert rank is not None
    queries = heads * (config.qk_nope_head_dim + rope)
    biased = bool(config.kept.get("attention_bias"))
    biases = (rank + rope + d + (asked or 0)) if biased else 0
    first, second = (queries, 0) if asked is None else (asked, asked * queries)
    rest = second + rank * heads * (config.qk_nope_head_dim + value) + heads * value * d
    return d * (first + rank + rope), rest, rank + (asked or 0) + biases


def kept(config: ModelConfig, routed: bool, cut: int = 1, apart: bool = False) -> int:
    """Bytes for each token of one block, with experts if it is `routed`, its heads and widths `cut` among so many ranks.

    `apart`: each layer is asked by itself, as where FSDP2 gathers weights: then SwiGLU's product is kept too.
    """
    d = config.hidden_size
    stream = 2 * (4 * d + 2 * d + 4)  # both sums in float32, their norms, one over their root mean square
    return stream + _kept_attention(config, cut) + _kept_forward(config, routed, cut, apart)


def _kept_attention(config: ModelConfig, cut: int) -> int:
    heads, wide = config.num_attention_heads // cut, _wide(config)
    if not config.is_mla:
        keys = config.num_key_value_heads // cut
        q, k = heads * config.head_dim, keys * config.head_dim
        normed = 2 * (q + k) + 4 * (heads + keys) if config.qk_norm else 0
        # The projections stay as a whole, for values are a view of them; queries and keys turned, mixtures, sums of exponentials.
        whole = 2 * (q + 2 * k) + 2 * (q + k) + 2 * q if wide == config.head_dim else 2 * (q + 2 * k) + 2 * wide * (2 * heads + 2 * keys)
        return whole + normed + 4 * heads
    ranks = (config.kv_lora_rank, config.q_lora_rank)
    compressed = sum(4 * rank + 4 for rank in ranks if rank)  # what is normalized and its norm
    values = heads * config.v_head_dim
    narrow = 2 * values if config.v_head_dim < wide else 0
    return compressed + 4 * 2 * heads * wide + narrow + 4 * heads


def _kept_forward(config: ModelConfig, routed: bool, cut: int, apart: bool) -> int:
    made = 6 if apart or config.mlp_bias else 4  # gate and up; their product is made again
    if not routed:
        return made * config.intermediate_size // cut
    experts, chosen, inner = config.n_routed_experts or 0, config.num_experts_per_tok, config.moe_intermediate_size // cut
    routing = 4 * config.hidden_size + 8 * experts + 24 * chosen + 16  # float32 states; affinities and shares; choices, places, gates
    return routing + (4 if apart else made) * config.n_shared_experts * inner + 4 * chosen * inner


def kept_in_float32(config: ModelConfig, routed: bool, cut: int = 1) -> int:
    """The same where products are of float32 numbers: roughly, for attention fills up sequences of similar length."""
    d, heads = config.hidden_size, config.num_attention_heads // cut
    if config.is_mla:
        ranks = (config.kv_lora_rank or 0) + (config.q_lora_rank or 0)
        attention = 4 * heads * (4 * _wide(config) + 2 * config.v_head_dim) + 8 * ranks
    else:
        q, k = heads * config.head_dim, config.num_key_value_heads // cut * config.head_dim
        attention = 4 * (q + 2 * k) + 8 * q + 4 * heads
    inner = config.moe_intermediate_size // cut
    chosen, experts = config.num_experts_per_tok, config.n_routed_experts or 0
    forward = 12 * config.intermediate_size // cut
    if routed:
        forward = 12 * inner * (config.n_shared_experts + chosen) + 4 * d * (3 * chosen + 2) + 8 * experts
    return 16 * d + attention + forward


def working(config: ModelConfig, routed: bool, tokens: int, cut: int = 1, shared_out: int = 1) -> int:
    """What one block's backward pass takes besides, at its most: the gradients of its tokens, and in passing those of its weights.

    Routed experts may be `shared_out` among so many ranks.
    """
    d = config.hidden_size
    if not routed:
        inner = config.intermediate_size // cut
        down, both = tokens * max(2 * d + 6 * inner, 8 * d) + 4 * d * inner, tokens * (2 * d + 4 * inner) + 8 * d * inner
        return max(down, both)
    inner, chosen = config.moe_intermediate_size // cut, config.num_experts_per_tok
    through = 2 * d + chosen * (2 * d + 8 * inner + 4)
    after = 2 * d + chosen * (2 * d + 4 * inner)
    return max(tokens * through, tokens * after + 10 * (config.n_routed_experts or 0) // shared_out * d * inner)


def ends(config: ModelConfig) -> int:
    """Bytes for each token outside the blocks: the last norm's sum and output, and the angles."""
    return 6 * config.hidden_size + 4 + 4 * config.rotary_dim + (8 if config.n_routed_experts else 0)


def _wide(config: ModelConfig) -> int:
    """A key's width as the attention kernel reads it."""
    width = config.qk_nope_head_dim + config.qk_rope_head_dim if config.is_mla else config.head_dim
    return width if width in FLASH else -(-width // 8) * 8

"""Tiny models of every family: small enough to check by eye, random enough that every weight matters."""

import os
from collections.abc import Callable

import pytest
import torch

from afterbase.model.config import ModelConfig
from afterbase.model.transformer import Transformer

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported

COMMON = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
    "max_position_embeddings": 64, "initializer_range": 0.25,
}  # fmt: skip
FAMILIES = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 6},
    "qwen3_moe": {
        "num_key_value_heads": 2, "head_dim": 6, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 8,
        "norm_topk_prob": True,
    },
    "deepseek_v2": {
        "q_lora_rank": None, "kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5, "n_routed_experts": 8,
        "num_experts_per_tok": 2, "moe_intermediate_size": 8, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
        "topk_method": "group_limited_greedy", "routed_scaling_factor": 4.0,
    },
    "deepseek_v3": {
        "q_lora_rank": 12, "kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5, "n_routed_experts": 8,
        "num_experts_per_tok": 2, "moe_intermediate_size": 8, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
        "routed_scaling_factor": 1.5,
    },
}  # fmt: skip


def build(family: str, seed: int = 0, **changes) -> Transformer:
    """A random model; norms, biases and routing biases are random too, so that forgetting one shows."""
    config = ModelConfig.from_hf({"model_type": family, **COMMON, **FAMILIES[family], **changes})
    model = Transformer(config).initialize(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        for buffer in model.buffers():
            buffer.copy_(0.05 * torch.randn(buffer.shape, generator=generator))
    return model


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Transformer]:
    """`tiny("qwen2", seed=1, num_hidden_layers=3)` builds a random model of the family."""
    return build


@pytest.fixture(scope="session")
def random_tokens() -> Callable[..., list[int]]:
    """`random_tokens(5, seed=1)` gives five token ids below 40."""
    return lambda length, seed=0: torch.randint(0, 40, (length,), generator=torch.Generator().manual_seed(seed)).tolist()

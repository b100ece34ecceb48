"""The settings of published checkpoints, as their config.json files have them, give models of the published sizes."""

import pytest
import torch

from afterbase.model.config import ModelConfig
from afterbase.model.layout import hf_weights
from afterbase.model.transformer import Transformer

LLAMA3 = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}
LLAMA = {
    "model_type": "llama", "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 131072, "mlp_bias": False, "num_attention_heads": 32,
    "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": LLAMA3, "rope_theta": 500000.0, "use_cache": True,
    "torch_dtype": "bfloat16", "vocab_size": 128256,
}  # fmt: skip
QWEN = {
    "hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "use_sliding_window": False, "sliding_window": None, "rope_scaling": None, "vocab_size": 151936,
}  # fmt: skip
FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}
YARN = {"beta_fast": 32, "beta_slow": 1, "factor": 40, "original_max_position_embeddings": 4096, "type": "yarn"}
DEEPSEEK = {
    "attention_bias": False, "aux_loss_alpha": 0.001, "ep_size": 1, "hidden_act": "silu", "max_position_embeddings": 163840,
    "moe_layer_freq": 1,
    "kv_lora_rank": 512, "pretraining_tp": 1, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000,
    "seq_aux": True, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "v_head_dim": 128,
}  # fmt: skip
V2 = {
    **DEEPSEEK, "model_type": "deepseek_v2", "norm_topk_prob": False, "scoring_func": "softmax", "vocab_size": 102400,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6, "first_k_dense_replace": 1, "rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
}  # fmt: skip
PUBLISHED = {
    "Llama-3.1-8B": ({**LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "tie_word_embeddings": False},
        8_030_261_248),
    "Llama-3.2-1B": ({**LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
        "tie_word_embeddings": True, "rope_scaling": {**LLAMA3, "factor": 32.0}}, 1_235_814_400),
    "Qwen2.5-7B": ({**QWEN, "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "vocab_size": 152064,
        "num_attention_heads": 28, "num_key_value_heads": 4, "max_window_layers": 28, "sliding_window": 131072, "use_mrope": False},
        7_615_616_512),
    "Qwen3-8B": ({**QWEN, "model_type": "qwen3", "attention_bias": False, "head_dim": 128, "hidden_size": 4096, "intermediate_size": 12288,
        "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "max_window_layers": 36}, 8_190_735_360),
    "Qwen3-30B-A3B-FP8": ({**QWEN, "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 128,
        "hidden_size": 2048, "intermediate_size": 6144, "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": True,
        "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
        "output_router_logits": False, "router_aux_loss_coef": 0.001, "quantization_config": {**FP8,
        "modules_to_not_convert": ["lm_head"]}},
        30_532_122_624),
    "DeepSeek-V2-Lite": ({**V2, "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_group": 1,
        "topk_group": 1,
        "n_routed_experts": 64, "num_attention_heads": 16, "num_hidden_layers": 27, "num_key_value_heads": 16, "q_lora_rank": None,
        "routed_scaling_factor": 1.0, "topk_method": "greedy"}, 15_706_484_224),
    "DeepSeek-V2": ({**V2, "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536, "n_group": 8, "topk_group": 3,
        "n_routed_experts": 160, "num_attention_heads": 128, "num_hidden_layers": 60, "num_key_value_heads": 128, "q_lora_rank": 1536,
        "routed_scaling_factor": 16.0, "topk_method": "group_limited_greedy"}, 235_741_434_880),
    "DeepSeek-R1": ({**DEEPSEEK, "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "n_group": 8, "topk_group": 4, "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 128, "num_experts_per_tok": 8,
        "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "first_k_dense_replace": 3,
        "norm_topk_prob": True, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "vocab_size": 129280,
        "quantization_config": FP8, "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}, 671_026_404_352),
}  # fmt: skip


@pytest.mark.parametrize(("table", "published"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_a_published_config_gives_a_model_of_the_published_size(table, published):
    """Counted without what looks ahead, which is not counted there either."""
    with torch.device("meta"):
        model = Transformer(ModelConfig.from_hf(table))
    assert sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.mtp.parameters()) == published
    assert (model.config.weight_block_size == (128, 128)) == ("quantization_config" in table)


def test_the_module_that_looks_ahead_is_layer_61():
    """Of its tensors in the published index: 2 norms and a join, 9 of attention, 2 norms of the layer, experts, and its own two ends."""
    with torch.device("meta"):
        model = Transformer(ModelConfig.from_hf(PUBLISHED["DeepSeek-R1"][0]))
    names = [name.removeprefix("model.layers.61.") for name, _ in hf_weights(model) if name.startswith("model.layers.61.")]
    experts = [name for name in names if name.startswith("mlp.experts.")]
    assert len(experts) == 3 * 256 and set(names) - set(experts) == {
        "enorm.weight", "hnorm.weight", "eh_proj.weight", "embed_tokens.weight", "shared_head.norm.weight", "shared_head.head.weight",
        "input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.q_a_proj.weight", "self_attn.q_a_layernorm.weight",
        "self_attn.q_b_proj.weight", "self_attn.kv_a_proj_with_mqa.weight", "self_attn.kv_a_layernorm.weight", "self_attn.kv_b_proj.weight",
        "self_attn.o_proj.weight", "mlp.gate.weight", "mlp.gate.e_score_correction_bias", "mlp.shared_experts.gate_proj.weight",
        "mlp.shared_experts.up_proj.weight", "mlp.shared_experts.down_proj.weight",
    }  # fmt: skip

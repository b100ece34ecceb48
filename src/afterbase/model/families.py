"""What tells one family of models from another: what its config.json must say, may leave out and may not ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from afterbase.errors import ConfigError
from afterbase.model.check import shown

_LATENT = (
    "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_routed_experts", "n_shared_experts",
    "num_experts_per_tok", "moe_intermediate_size", "first_k_dense_replace", "n_group", "topk_group", "norm_topk_prob",
    "routed_scaling_factor", "topk_method", "scoring_func",
)  # fmt: skip
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_EXPERTS = ("n_routed_experts", "moe_intermediate_size", "num_experts_per_tok")
_MLA = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


@dataclass(frozen=True, slots=True)
class Family:
    """One family, e.g. Family("Qwen2ForCausalLM", {"qkv_bias": True})."""

    architecture: str
    """The class that transformers and vLLM know it by."""
    defaults: Mapping[str, Any]
    """Fields of `ModelConfig` that a config.json may leave out, or that every model of the family has."""
    required: tuple[str, ...] = _SIZES
    """What a config.json cannot leave out."""
    written: tuple[str, ...] = ()
    """What other readers would fill with defaults of their own if a config left it out, so saving always writes it."""
    called: Mapping[str, str] = field(default_factory=dict)
    """Names that the family has for fields of `ModelConfig`, the published one first."""
    routing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Which `topk_method` and `scoring_func` its models may have."""
    attention_bias: bool = False
    """Whether `attention_bias` gives all four projections of grouped-query attention a bias."""


FAMILIES = {
    "llama": Family("LlamaForCausalLM", {"num_key_value_heads": None}, written=("head_dim",), attention_bias=True),
    "qwen2": Family("Qwen2ForCausalLM", {"num_key_value_heads": 32, "qkv_bias": True}),
    "qwen3": Family(
        "Qwen3ForCausalLM", {"num_key_value_heads": 32, "head_dim": 128, "qk_norm": True}, written=("head_dim",), attention_bias=True
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        {"num_key_value_heads": 4, "qk_norm": True, "n_shared_experts": 0, "norm_topk_prob": False}
        | {"topk_method": "greedy", "scoring_func": "softmax"},
        required=(*_SIZES, *_EXPERTS),
        written=(
            "head_dim", "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step",
            "mlp_only_layers",
        ),
        called={"num_experts": "n_routed_experts", "num_local_experts": "n_routed_experts"},
        routing={"topk_method": ("greedy",), "scoring_func": ("softmax",)},
        attention_bias=True,
    ),
    "deepseek_v2": Family(
        "DeepseekV2ForCausalLM",
        {"num_key_value_heads": None, "rope_interleave": True, "n_shared_experts": 2, "norm_topk_prob": False}
        | {"topk_method": "greedy", "scoring_func": "softmax"},
        required=(*_SIZES, *_MLA, *_EXPERTS),
        written=_LATENT,
        routing={"topk_method": ("greedy", "group_limited_greedy"), "scoring_func": ("softmax",)},
    ),
    "deepseek_v3": Family(
        "DeepseekV3ForCausalLM",
        {"num_key_value_heads": None, "rope_interleave": True},
        required=(*_SIZES, *_MLA, *_EXPERTS),
        written=(*_LATENT, "num_nextn_predict_layers", "rope_interleave"),
        routing={"topk_method": ("noaux_tc",), "scoring_func": ("sigmoid",)},
    ),
}  # fmt: skip

_ONLY = {"hidden_act": ("silu",), "partial_rotary_factor": (1,), "moe_layer_freq": (1,), "use_sliding_window": (False,)}
"""Settings of which one value is built."""


def refuse_unsupported(raw: Mapping[str, Any], source: str) -> None:
    """ConfigError names what would silently change the numbers if it were ignored."""
    name, family = raw["model_type"], FAMILIES[raw["model_type"]]
    for key, allowed in {**_ONLY, **family.routing}.items():
        if (value := raw.get(key)) is not None and value not in allowed:
            words = " or ".join(shown(each) for each in allowed)
            raise ConfigError(f"{source}: {key}={shown(value)} is not supported for {name}, only {words}; take a model that has it so")
    if windows := [kind for kind in _listed(raw.get("layer_types")) if kind != "full_attention"]:
        raise ConfigError(f"{source}: layer_types hold {shown(windows[0])}, and only 'full_attention' is supported; take another model")
    if name == "deepseek_v2" and raw.get("norm_topk_prob"):
        raise ConfigError(f"{source}: norm_topk_prob=true is read in different ways for deepseek_v2, and not supported; set it to false")
    own = {*family.required} - {*family.called.values()}
    if strangers := [key for key in ("kv_lora_rank", "n_routed_experts") if raw.get(key) is not None and key not in own]:
        other = next((key for key, ours in family.called.items() if ours == strangers[0]), None)
        hint = f"call it {other}" if other else "take it out, or set model_type to 'deepseek_v3'"
        raise ConfigError(f"{source}: a {name} has no {strangers[0]}; {hint}")
    _refuse_quantized(raw.get("quantization_config"), source)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _refuse_quantized(table: Any, source: str) -> None:
    """Anything but published FP8: blocks of weights, each with a scale."""
    if not table:
        return
    method = table.get("quant_method") if isinstance(table, Mapping) else table
    if method != "fp8" or not isinstance(table, Mapping):
        raise ConfigError(
            f"{source}: {shown(method)} quantized weights are not supported, only a table of 'fp8' with weight_block_size; "
            "convert the checkpoint to bfloat16 first"
        )
    block = table.get("weight_block_size")
    whole = isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block)
    if not whole:
        raise ConfigError(
            f"{source}: weight_block_size={shown(block)} of quantization_config must be two sizes, such as [128, 128]; "
            "FP8 with one scale a tensor is not supported, convert the checkpoint to bfloat16 first"
        )
    if table.get("activation_scheme", "dynamic") != "dynamic":
        raise ConfigError(
            f"{source}: activation_scheme={shown(table['activation_scheme'])} of quantization_config is not supported, only 'dynamic'; "
            "convert the checkpoint to bfloat16 first"
        )

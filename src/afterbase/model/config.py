"""The shape of a model, read from a Hugging Face `config.json` (llama, qwen2, qwen3, deepseek_v3) and written back."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from afterbase.config import nearest
from afterbase.errors import ConfigError
from afterbase.model.check import check_kinds, check_parts, check_scaling, check_sizes, shown

FAMILIES = ("llama", "qwen2", "qwen3", "deepseek_v3")
ROPE_KINDS = ("default", "linear", "llama3", "yarn")

_BY_FAMILY: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": None, "rms_norm_eps": 1e-6},
    "qwen2": {"num_key_value_heads": 32, "qkv_bias": True},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128, "qk_norm": True},
    "deepseek_v3": {"rope_interleave": True, "num_key_value_heads": None},
}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of one transformer; names are Hugging Face's, symbols are the paper's."""

    model_type: str
    """Family: llama, qwen2, qwen3 or deepseek_v3."""
    vocab_size: int
    """V, rows of the embedding."""
    hidden_size: int
    """d, width of the residual stream."""
    num_hidden_layers: int
    """L, layers of the trunk (multi-token prediction modules come on top)."""
    num_attention_heads: int
    """n_h."""
    num_key_value_heads: int
    """Heads of keys and values (GQA); n_h for MLA."""
    intermediate_size: int
    """Width of a dense feed-forward layer."""
    head_dim: int = 0
    """Width of one head (GQA)."""
    max_position_embeddings: int = 2048
    """Context length in tokens."""
    rms_norm_eps: float = 1e-6
    """Added to the mean square in RMSNorm."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    rope_scaling: Mapping[str, Any] = field(default_factory=dict)
    """Hugging Face's rope scaling table; empty for plain rotary embedding."""
    rope_interleave: bool = False
    """Whether a rotary pair is two neighbours (DeepSeek) instead of two halves (Llama)."""
    tie_word_embeddings: bool = False
    """Whether the output head is the embedding."""
    qkv_bias: bool = False
    """Whether q, k and v projections have a bias (Qwen2)."""
    o_bias: bool = False
    """Whether the output projection has a bias (llama with attention_bias)."""
    mlp_bias: bool = False
    """Whether the feed-forward projections have a bias (llama with mlp_bias)."""
    qk_norm: bool = False
    """Whether each query and key head is normalized (Qwen3)."""
    q_lora_rank: int | None = None
    """d'_c, rank of the compressed query (MLA); None projects queries directly."""
    kv_lora_rank: int | None = None
    """d_c, rank of the latent that MLA caches; None means grouped-query attention."""
    qk_nope_head_dim: int = 0
    """d_h, width of a head's part without position (MLA)."""
    qk_rope_head_dim: int = 0
    """d^R_h, width of the shared rotary key (MLA)."""
    v_head_dim: int = 0
    """Width of a value head (MLA)."""
    n_routed_experts: int | None = None
    """N_r; None means every layer is dense."""
    n_shared_experts: int = 1
    """N_s, experts that see every token."""
    num_experts_per_tok: int = 8
    """K_r, routed experts a token is sent to."""
    moe_intermediate_size: int = 0
    """Width of one expert."""
    first_k_dense_replace: int = 0
    """How many leading layers stay dense."""
    n_group: int = 1
    """Groups of experts for group-limited routing."""
    topk_group: int = 1
    """Groups a token may use."""
    norm_topk_prob: bool = True
    """Whether the chosen gates are normalized to sum to 1."""
    routed_scaling_factor: float = 1.0
    """Multiplies the routed experts' output."""
    num_nextn_predict_layers: int = 0
    """D, multi-token prediction modules."""
    initializer_range: float = 0.02
    """Standard deviation of a fresh weight."""
    kept: Mapping[str, Any] = field(default_factory=dict)
    """Every key of the original config.json, so that saving loses none."""

    @property
    def is_mla(self) -> bool:
        """Whether attention is multi-head latent attention."""
        return self.kv_lora_rank is not None

    @property
    def rotary_dim(self) -> int:
        """Width of the part of a head that is rotated."""
        return self.qk_rope_head_dim if self.is_mla else self.head_dim

    def is_moe(self, layer: int) -> bool:
        """Whether this layer's feed-forward is a mixture of experts (MTP modules, numbered from L, are)."""
        return self.n_routed_experts is not None and layer >= self.first_k_dense_replace

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
        """The configuration in a Hugging Face table; ConfigError names what is unsupported or missing."""
        family = raw.get("model_type")
        if family not in FAMILIES:
            near = difflib.get_close_matches(str(family)[:40], FAMILIES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{source}: model_type {shown(family)} is not supported, only {', '.join(FAMILIES)}{hint}")
        check_kinds(raw, cls, source)
        _refuse_unsupported(raw, source)
        known = {**_BY_FAMILY[family], **{key: value for key, value in raw.items() if key in cls.__dataclass_fields__}}
        missing = [key for key in _REQUIRED + (_REQUIRED_MLA if family == "deepseek_v3" else ()) if known.get(key) is None]
        if missing:
            raise ConfigError(f"{source}: a {family} config needs {', '.join(missing)}; add them or use a complete config.json")
        known |= _rope(raw, source)
        check_sizes(known, source)
        known |= _heads(known, source)
        if family in ("llama", "qwen3") and raw.get("attention_bias"):
            known |= {"qkv_bias": True, "o_bias": True}
        given = {key: value for key, value in known.items() if key != "kept" and value is not None}
        # A config may write 1 for 1.0; below here a number is of the kind that it is declared to be.
        reals = {key: float(value) for key, value in given.items() if cls.__annotations__[key] == "float"}
        config = cls(**{**given, **reals}, kept=dict(raw))
        check_parts(config, source)
        return config

    @classmethod
    def from_recipe(cls, raw: Mapping[str, Any], source: str = "architecture") -> ModelConfig:
        """The configuration in a recipe's table, where a key that nothing reads is a mistake; a config.json may hold any."""
        known = {*cls.__dataclass_fields__, *_READ_TOO} - {"kept", "qkv_bias", "o_bias", "qk_norm"}
        for key, value in raw.items():
            if key not in known:
                raise ConfigError(f"{source}: unknown key {key!r}{nearest(key, sorted(known))}")
            if not isinstance(value, str | int | float | list | dict):
                raise ConfigError(f"{source}: {key}={value} is no value that a config.json can hold; give text, a number or a list")
        return cls.from_hf(raw, source)

    def to_hf(self) -> dict[str, Any]:
        """The Hugging Face table, with the keys that serving engines need and transformers leaves out."""
        table = {**self.kept, **{name: getattr(self, name) for name in (*_SHARED_FIELDS, *_FIELDS_OF[self.model_type])}}
        if self.model_type == "deepseek_v3":
            table |= {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "architectures": ["DeepseekV3ForCausalLM"]}
        else:
            name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[self.model_type]
            table["architectures"] = [f"{name}ForCausalLM"]
        return table


_SHARED_FIELDS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "initializer_range",
)  # fmt: skip
_FIELDS_OF = {
    "llama": ("head_dim",),
    "qwen2": (),
    "qwen3": ("head_dim",),
    "deepseek_v3": (
        "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_routed_experts", "n_shared_experts",
        "num_experts_per_tok", "moe_intermediate_size", "first_k_dense_replace", "n_group", "topk_group", "norm_topk_prob",
        "routed_scaling_factor", "num_nextn_predict_layers", "rope_interleave",
    ),
}  # fmt: skip
"""What other readers would fill with defaults of their own if a config left it out, so saving always writes it."""

_READ_TOO = ("model_type", "rope_parameters", "attention_bias", "hidden_act", "torch_dtype", "eos_token_id", "bos_token_id", "pad_token_id")

_REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_REQUIRED_MLA = (
    "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
    "n_routed_experts", "moe_intermediate_size", "num_experts_per_tok",
)  # fmt: skip


def _refuse_unsupported(raw: Mapping[str, Any], source: str) -> None:
    """What would silently change the numbers if it were ignored is refused by name."""
    if raw.get("use_sliding_window"):
        raise ConfigError(f"{source}: use_sliding_window=true is not supported; only full attention is")
    if quantization := raw.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else quantization
        raise ConfigError(f"{source}: {shown(method)} quantized weights are not supported; convert the checkpoint to bfloat16 first")
    strangers = [key for key in ("kv_lora_rank", "n_routed_experts") if raw.get(key) is not None and raw["model_type"] != "deepseek_v3"]
    if strangers:
        raise ConfigError(f"{source}: a {raw['model_type']} has no {strangers[0]}; take it out, or set model_type to 'deepseek_v3'")
    if raw.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"{source}: hidden_act={shown(raw['hidden_act'])} is not supported, only 'silu'")
    if raw.get("partial_rotary_factor", 1.0) != 1.0:
        raise ConfigError(f"{source}: partial_rotary_factor={shown(raw['partial_rotary_factor'])} is not supported, only 1")
    if raw.get("moe_layer_freq", 1) != 1:
        raise ConfigError(f"{source}: moe_layer_freq={shown(raw['moe_layer_freq'])} is not supported, only 1 (DeepSeek-V3)")
    if raw.get("topk_method", "noaux_tc") != "noaux_tc":
        raise ConfigError(f"{source}: topk_method={shown(raw['topk_method'])} is not supported, only 'noaux_tc' (DeepSeek-V3)")
    if raw.get("scoring_func", "sigmoid") != "sigmoid":
        raise ConfigError(f"{source}: scoring_func={shown(raw['scoring_func'])} is not supported, only 'sigmoid' (DeepSeek-V3)")


def _rope(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Rotary settings from either of Hugging Face's layouts: `rope_parameters` (5.x) or `rope_theta` + `rope_scaling`."""
    table = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    theta = table.pop("rope_theta", None)
    theta = raw.get("rope_theta") if theta is None else theta
    kind = table.get("rope_type") or table.pop("type", None) or "default"
    if kind not in ROPE_KINDS:
        raise ConfigError(f"{source}: rope type {shown(kind)} is not supported, only {', '.join(ROPE_KINDS)}")
    check_scaling(kind, table, source)
    check_kinds({"rope_theta": theta}, ModelConfig, source)
    return {
        "rope_theta": 10000.0 if theta is None else float(theta),
        "rope_scaling": {} if kind == "default" else {**table, "rope_type": kind},
    }


def _heads(known: Mapping[str, Any], source: str) -> dict[str, int]:
    """Heads of keys and values, and the width of a head, where the config leaves them to be worked out."""
    width, heads = known["hidden_size"], known["num_attention_heads"]
    found = {"num_key_value_heads": known.get("num_key_value_heads") or heads, "head_dim": known.get("head_dim") or width // heads}
    if known.get("head_dim") is None and known["model_type"] != "deepseek_v3" and width % heads:
        raise ConfigError(
            f"{source}: hidden_size={width} does not divide into num_attention_heads={heads}; make it a multiple, or give head_dim"
        )
    return found

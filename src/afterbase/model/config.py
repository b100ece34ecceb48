"""The shape of a model, read from a Hugging Face `config.json` of any family in families.py and written back."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from afterbase.config import nearest
from afterbase.errors import ConfigError
from afterbase.model.check import check_kinds, check_parts, check_scaling, check_sizes, shown
from afterbase.model.families import FAMILIES, Family, refuse_unsupported

ROPE_KINDS = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of one transformer; names are Hugging Face's, symbols are the paper's."""

    model_type: str
    """Family, a key of `families.FAMILIES`."""
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
    """N_s, experts that see every token; 0 in Qwen3."""
    num_experts_per_tok: int = 8
    """K_r, routed experts a token is sent to."""
    moe_intermediate_size: int = 0
    """Width of one expert."""
    first_k_dense_replace: int = 0
    """How many leading layers stay dense (DeepSeek)."""
    decoder_sparse_step: int = 1
    """Every how many layers one has experts (Qwen3)."""
    mlp_only_layers: tuple[int, ...] = ()
    """Layers that stay dense all the same (Qwen3)."""
    scoring_func: str = "sigmoid"
    """How a token's affinities are made of scores: each by itself (`sigmoid`) or all together (`softmax`)."""
    topk_method: str = "noaux_tc"
    """How experts are chosen: with a bias that balances them, group by group (`noaux_tc`), or by affinity, among all (`greedy`) or
    within the best groups (`group_limited_greedy`)."""
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
    def weight_block_size(self) -> tuple[int, int] | None:
        """Rows and columns of the weights that share one FP8 scale, where the checkpoint is quantized."""
        table = self.kept.get("quantization_config")
        return tuple(table["weight_block_size"]) if table else None

    @property
    def is_mla(self) -> bool:
        """Whether attention is multi-head latent attention."""
        return self.kv_lora_rank is not None

    @property
    def has_v3_experts(self) -> bool:
        """Whether experts are chosen and shared as in DeepSeek-V3, which is what the engine's own steps are written for."""
        return self.n_routed_experts is not None and self.scoring_func == "sigmoid" and self.n_shared_experts > 0

    @property
    def rotary_dim(self) -> int:
        """Width of the part of a head that is rotated."""
        return self.qk_rope_head_dim if self.is_mla else self.head_dim

    def is_moe(self, layer: int) -> bool:
        """Whether this layer's feed-forward is a mixture of experts (MTP modules, numbered from L, are)."""
        if self.n_routed_experts is None or layer < self.first_k_dense_replace or layer in self.mlp_only_layers:
            return False
        return (layer + 1) % self.decoder_sparse_step == 0

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
        """The configuration in a Hugging Face table; ConfigError names what is unsupported or missing."""
        name = raw.get("model_type")
        if not isinstance(name, str) or name not in FAMILIES:
            near = difflib.get_close_matches(str(name)[:40], FAMILIES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{source}: model_type {shown(name)} is not supported, only {', '.join(FAMILIES)}{hint}")
        family = FAMILIES[name]
        check_kinds(raw, cls, family.called, source)
        refuse_unsupported(raw, source)
        known, words = _known(raw, family), {ours: key for key, ours in reversed(family.called.items())}
        if missing := [words.get(key, key) for key in family.required if known.get(key) is None]:
            raise ConfigError(f"{source}: a {name} config needs {', '.join(missing)}; add them or use a complete config.json")
        known |= _rope(raw, source)
        check_sizes(known, words, source)
        known |= _heads(known, source)
        if family.attention_bias and raw.get("attention_bias"):
            known |= {"qkv_bias": True, "o_bias": True}
        given = {key: value for key, value in known.items() if value is not None}
        # A config may write 1 for 1.0; below here a number is of the kind that it is declared to be, and a list cannot be changed.
        reals = {key: float(value) for key, value in given.items() if cls.__annotations__[key] == "float"}
        lists = {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
        config = cls(**{**given, **reals, **lists}, kept=dict(raw))
        check_parts(config, source)
        return config

    @classmethod
    def from_recipe(cls, raw: Mapping[str, Any], source: str = "architecture") -> ModelConfig:
        """The configuration in a recipe's table, where a key that nothing reads is a mistake; a config.json may hold any."""
        called = {key for family in FAMILIES.values() for key in family.called}
        known = {*cls.__dataclass_fields__, *_READ_TOO, *called} - set(_MADE)
        for key, value in raw.items():
            if key not in known:
                raise ConfigError(f"{source}: unknown key {key!r}{nearest(key, sorted(known))}")
            if not isinstance(value, str | int | float | list | dict):
                raise ConfigError(f"{source}: {key}={value} is no value that a config.json can hold; give text, a number or a list")
        return cls.from_hf(raw, source)

    def to_hf(self) -> dict[str, Any]:
        """The Hugging Face table, with the keys that serving engines need and transformers leaves out."""
        family = FAMILIES[self.model_type]
        words = {ours: key for key, ours in reversed(family.called.items())}
        table = {**self.kept, **{words.get(name, name): getattr(self, name) for name in (*_SHARED_FIELDS, *family.written)}}
        table |= {key: getattr(self, ours) for key, ours in family.called.items() if key in self.kept}
        table.pop("quantization_config", None)  # the model's own weights are not quantized
        return {**table, "architectures": [family.architecture]}


_SHARED_FIELDS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "initializer_range",
)  # fmt: skip
"""What every reader of a config.json looks for."""

_MADE = ("kept", "qkv_bias", "o_bias", "qk_norm")
"""Fields that follow from others, and cannot be given."""

_NONE_COUNTS = ("num_key_value_heads", "head_dim")
"""Where null is not the family's default: as many as heads of queries, and the width divided by their number."""

_READ_TOO = ("model_type", "rope_parameters", "attention_bias", "hidden_act", "torch_dtype", "eos_token_id", "bos_token_id", "pad_token_id")


def _known(raw: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The fields that a table gives, and what its family is known to have where it gives none."""
    named = {**raw, **{ours: raw[key] for key, ours in reversed(family.called.items()) if raw.get(key) is not None}}
    given = {key: value for key, value in named.items() if key in ModelConfig.__dataclass_fields__ and key not in _MADE}
    if "n_shared_experts" in given:
        given["n_shared_experts"] = given["n_shared_experts"] or 0
    return {**family.defaults, **{key: value for key, value in given.items() if value is not None or key in _NONE_COUNTS}}


def _rope(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Rotary settings from either of Hugging Face's layouts: `rope_parameters` (5.x) or `rope_theta` + `rope_scaling`."""
    table = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    theta = table.pop("rope_theta", None)
    theta = raw.get("rope_theta") if theta is None else theta
    kind = table.get("rope_type") or table.pop("type", None) or "default"
    if kind not in ROPE_KINDS:
        raise ConfigError(f"{source}: rope type {shown(kind)} is not supported, only {', '.join(ROPE_KINDS)}")
    check_scaling(kind, table, source)
    check_kinds({"rope_theta": theta}, ModelConfig, {}, source)
    return {
        "rope_theta": 10000.0 if theta is None else float(theta),
        "rope_scaling": {} if kind == "default" else {**table, "rope_type": kind},
    }


def _heads(known: Mapping[str, Any], source: str) -> dict[str, int]:
    """Heads of keys and values, and the width of a head, where the config leaves them to be worked out."""
    width, heads = known["hidden_size"], known["num_attention_heads"]
    found = {"num_key_value_heads": known.get("num_key_value_heads") or heads, "head_dim": known.get("head_dim") or width // heads}
    if known.get("head_dim") is None and known.get("kv_lora_rank") is None and width % heads:
        raise ConfigError(
            f"{source}: hidden_size={width} does not divide into num_attention_heads={heads}; make it a multiple, or give head_dim"
        )
    return found

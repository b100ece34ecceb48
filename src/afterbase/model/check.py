"""Whether a `config.json` can be that of a model: the right kinds of values, sizes within reason, and parts that fit together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from afterbase.errors import ConfigError

if TYPE_CHECKING:
    from afterbase.model.config import ModelConfig

SWITCHES = ("attention_bias", "use_sliding_window")
"""True or false, and no fields of `ModelConfig`: they turn into others or are refused."""

MOST = {
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 31,
    "num_hidden_layers": 10_000,
    "n_routed_experts": 1 << 14,
    "num_nextn_predict_layers": 100,
}
LARGEST = 1 << 20
"""The largest size that is believed. Beyond it a damaged number would not be refused but fill the memory."""
ENORMOUS = 1e30
"""No setting is a number like this one."""

_GQA = ("head_dim",)
_MLA = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_EXPERTS = ("n_routed_experts", "moe_intermediate_size", "num_experts_per_tok", "n_group", "topk_group", "decoder_sparse_step")
_ALL = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "max_position_embeddings",
)  # fmt: skip
_MAY_BE_ZERO = ("n_shared_experts", "first_k_dense_replace", "num_nextn_predict_layers")
_ABOVE = {"rms_norm_eps": 0, "routed_scaling_factor": 0, "rope_theta": 1}

_SCALING = {  # what each kind of scaling cannot do without
    "linear": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
_SCALING_NUMBERS = (*_SCALING["llama3"], "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim")
_SCALING_MAY_BE_ZERO = ("mscale", "mscale_all_dim")


def check_kinds(raw: Mapping[str, Any], fields: type[ModelConfig], called: Mapping[str, str], source: str) -> None:
    """ConfigError names every value of the wrong kind, such as "128" for a number; None means that the key is left out.

    `called` are names of the family's own for some of the fields.
    """
    wanted = {**get_type_hints(fields), **dict.fromkeys(SWITCHES, bool), "rope_parameters": Mapping[str, Any]}
    wanted |= {key: wanted[ours] for key, ours in called.items()}
    wrong = []
    for key, value in raw.items():
        fits, words = _kind(wanted.get(key))
        if value is not None and not fits(value):
            wrong.append(f"{key}={shown(value)} must be {words}")
    _refuse(wrong, source)


def check_sizes(known: Mapping[str, Any], words: Mapping[str, str], source: str) -> None:
    """ConfigError names every number that is too small or too large; keys that are absent or None are passed over.

    `words` are the family's own names for some of them.
    """
    latent = known.get("kv_lora_rank") is not None
    wrong = []
    for names, least in (((*_ALL, *_EXPERTS, *(_MLA if latent else _GQA)), 1), (_MAY_BE_ZERO, 0)):
        for name in names:
            most = MOST.get(name, LARGEST)
            if known.get(name) is not None and not least <= known[name] <= most:
                wrong.append(f"{words.get(name, name)}={shown(known[name])} must be from {least} to {most:,}")
    wrong += [
        f"{name}={known[name]} must be above {low}" for name, low in _ABOVE.items() if known.get(name) is not None and known[name] <= low
    ]
    if known.get("initializer_range") is not None and known["initializer_range"] < 0:
        wrong.append(f"initializer_range={known['initializer_range']} must not be negative")
    _refuse(wrong, source)


def check_scaling(kind: str, scaling: Mapping[str, Any], source: str) -> None:
    """ConfigError names what a rope scaling table lacks, or holds of the wrong kind."""
    wrong = []
    for key, value in scaling.items():
        if key in _SCALING_NUMBERS and value is not None:
            least = "a number from 0 on" if key in _SCALING_MAY_BE_ZERO else "a number above 0"
            if not _is_number(value) or value < 0 or (value == 0 and key not in _SCALING_MAY_BE_ZERO):
                wrong.append(f"{key}={shown(value)} must be {least}")
        elif isinstance(value, Mapping):
            wrong.append(f"{key}={shown(value)} must not be a table (one rope for all layers is supported)")
        elif key == "truncate" and not isinstance(value, bool):
            wrong.append(f"{key}={shown(value)} must be true or false")
    absent = [key for key in _SCALING.get(kind, ()) if scaling.get(key) is None]
    if absent:
        wrong.append(f"rope type {kind!r} needs {', '.join(absent)}")
    if not wrong and kind == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        wrong.append(f"low_freq_factor={scaling['low_freq_factor']} must be below high_freq_factor={scaling['high_freq_factor']}")
    if not wrong and kind == "default" and scaling.get("factor") is not None:
        wrong.append(f"rope scaling has factor={scaling['factor']} and no rope_type, which must be one of {', '.join(_SCALING)}")
    _refuse(wrong, source)


def check_parts(config: ModelConfig, source: str) -> None:
    """ConfigError names the first two numbers that do not fit each other."""
    if config.rotary_dim % 2:
        name = "qk_rope_head_dim" if config.is_mla else "head_dim"
        raise ConfigError(f"{source}: {name}={config.rotary_dim} is odd, and rotary embedding turns pairs; make it even")
    if not config.is_mla and config.num_attention_heads % config.num_key_value_heads:
        raise ConfigError(
            f"{source}: num_attention_heads={config.num_attention_heads} does not divide into "
            f"num_key_value_heads={config.num_key_value_heads} groups; make it a multiple"
        )
    if config.n_routed_experts is not None:
        _check_experts(config, config.n_routed_experts, source)
    if strange := [layer for layer in config.mlp_only_layers if not 0 <= layer < config.num_hidden_layers]:
        raise ConfigError(
            f"{source}: mlp_only_layers holds {strange[0]}, and there are num_hidden_layers={config.num_hidden_layers}, counted from 0; "
            "correct either"
        )


def _check_experts(config: ModelConfig, experts: int, source: str) -> None:
    if experts % config.n_group:
        raise ConfigError(f"{source}: n_routed_experts={experts} does not divide into n_group={config.n_group}; make it a multiple")
    if config.topk_method == "greedy":
        if config.num_experts_per_tok > experts:
            raise ConfigError(f"{source}: num_experts_per_tok={config.num_experts_per_tok} exceeds the {experts} experts; lower it")
        return
    if config.topk_group > config.n_group:
        raise ConfigError(f"{source}: topk_group={config.topk_group} exceeds n_group={config.n_group}; lower it")
    reachable = experts // config.n_group * config.topk_group
    if config.num_experts_per_tok > reachable:
        raise ConfigError(
            f"{source}: num_experts_per_tok={config.num_experts_per_tok} exceeds the {reachable} experts in "
            f"topk_group={config.topk_group} of n_group={config.n_group} groups; lower it or allow more groups"
        )


def _kind(annotation: Any) -> tuple[Callable[[Any], bool], str]:
    """Whether a value is of an annotation's kind, and that kind in words; everything fits where nothing is wanted."""
    if annotation is bool:
        return lambda value: isinstance(value, bool), "true or false"
    if annotation in (int, int | None):
        return lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"
    if annotation is float:
        return _is_number, "a number"
    if annotation == tuple[int, ...]:
        return lambda value: isinstance(value, list) and all(type(item) is int for item in value), "a list of whole numbers"
    if annotation is str:
        return lambda value: isinstance(value, str), "text"
    if annotation == Mapping[str, Any]:
        return lambda value: isinstance(value, Mapping), "a table"
    return lambda value: True, "anything"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < ENORMOUS  # NaN is not below it either


def shown(value: Any) -> str:
    """A value for an error, short whatever came."""
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 40 else f"{text[:37]}..."


def _refuse(wrong: Iterable[str], source: str) -> None:
    if complaints := list(wrong):
        raise ConfigError(f"{source}: {', '.join(complaints)}; correct it there, or bring the model's own config.json")

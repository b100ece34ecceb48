"""Every config.json that cannot be a model's is told in one sentence that names the key, what came and what was allowed."""

import datetime
import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afterbase.errors import ConfigError
from afterbase.model.config import ModelConfig
from afterbase.model.transformer import Transformer
from afterbase.segments import Segments

SIZES = {
    "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 8,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False, "attention_bias": False,
}  # fmt: skip
DENSE = {"model_type": "llama", **SIZES}
SPARSE = {
    "model_type": "deepseek_v3", **SIZES, "q_lora_rank": 4, "kv_lora_rank": 4, "qk_nope_head_dim": 2, "qk_rope_head_dim": 2,
    "v_head_dim": 2, "n_routed_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 4, "n_group": 2, "topk_group": 1,
    "norm_topk_prob": True, "routed_scaling_factor": 1.0, "n_shared_experts": 1,
}  # fmt: skip
SHARED = {
    "model_type": "qwen3_moe", **SIZES, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 4, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "layer_types": ["full_attention"],
}  # fmt: skip
OLD = {**SPARSE, "model_type": "deepseek_v2", "topk_method": "group_limited_greedy", "scoring_func": "softmax", "norm_topk_prob": False}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 32}


def without(table, key):
    return {name: value for name, value in table.items() if name != key}


REFUSED = {
    "text for a number": (DENSE | {"hidden_size": "128"}, "hidden_size='128' must be a whole number"),
    "a switch for a number": (DENSE | {"num_hidden_layers": True}, "num_hidden_layers=true must be a whole number"),
    "a fraction of a layer": (DENSE | {"num_hidden_layers": 1.5}, "num_hidden_layers=1.5 must be a whole number"),
    "text for a switch": (DENSE | {"attention_bias": "false"}, "attention_bias='false' must be true or false"),
    "no number": (DENSE | {"rms_norm_eps": float("nan")}, "rms_norm_eps=nan must be a number"),
    "two at once": (DENSE | {"vocab_size": [8], "rope_theta": "1e4"}, "vocab_size=[8] must be a whole number, rope_theta='1e4' must be a"),
    "no heads": (DENSE | {"num_attention_heads": 0}, "num_attention_heads=0 must be from 1 to"),
    "no key heads": (DENSE | {"num_key_value_heads": 0}, "num_key_value_heads=0 must be from 1 to"),
    "negative layers": (DENSE | {"num_hidden_layers": -1}, "num_hidden_layers=-1 must be from 1 to 10,000"),
    "absurd vocabulary": (DENSE | {"vocab_size": 10**12}, "vocab_size=1000000000000 must be from 1 to 16,777,216"),
    "heads that do not divide": (DENSE | {"hidden_size": 9}, "hidden_size=9 does not divide into num_attention_heads=2"),
    "odd rotary width": (DENSE | {"head_dim": 3}, "head_dim=3 is odd"),
    "odd latent rotary width": (SPARSE | {"qk_rope_head_dim": 3}, "qk_rope_head_dim=3 is odd"),
    "more groups than there are": (SPARSE | {"topk_group": 3}, "topk_group=3 exceeds n_group=2"),
    "more experts than there are": (SPARSE | {"num_experts_per_tok": 5}, "num_experts_per_tok=5 exceeds the 2 experts"),
    "no experts": (SPARSE | {"n_routed_experts": 0}, "n_routed_experts=0 must be from 1 to"),
    "a key of another family": (DENSE | {"kv_lora_rank": 4}, "a llama has no kv_lora_rank; take it out"),
    "a missing key": (without(SPARSE, "v_head_dim"), "a deepseek_v3 config needs v_head_dim; add them"),
    "quantized in text": (DENSE | {"quantization_config": "fp8"}, "'fp8' quantized weights are not supported, only"),
    "scaling no table": (DENSE | {"rope_scaling": "yarn"}, "rope_scaling='yarn' must be a table"),
    "parameters no table": (DENSE | {"rope_parameters": [1]}, "rope_parameters=[1] must be a table"),
    "parameters by layer": (DENSE | {"rope_parameters": {"full_attention": {}}}, "full_attention={} must not be a table"),
    "yarn without factor": (DENSE | {"rope_scaling": without(YARN, "factor")}, "rope type 'yarn' needs factor"),
    "yarn in text": (DENSE | {"rope_scaling": YARN | {"factor": "4"}}, "factor='4' must be a number above 0"),
    "llama3 without its keys": (DENSE | {"rope_scaling": {"rope_type": "llama3"}}, "'llama3' needs factor, low_freq_factor, high_freq"),
    "llama3 upside down": (DENSE | {"rope_scaling": LLAMA3 | {"low_freq_factor": 4}}, "low_freq_factor=4 must be below high_freq_factor=4"),
    "scaling of no type": (DENSE | {"rope_scaling": {"factor": 2.0}}, "factor=2.0 and no rope_type, which must be one of linear"),
    "a base of 1": (DENSE | {"rope_theta": 1}, "rope_theta=1.0 must be above 1"),
}  # fmt: skip


@pytest.mark.parametrize(("table", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_a_config_that_cannot_be_is_refused_by_key(table, said):
    with pytest.raises(ConfigError, match=r"^there: ") as caught:
        ModelConfig.from_hf(json.loads(json.dumps(table)), "there")
    assert said in str(caught.value) and "; " in str(caught.value)


def test_a_recipes_architecture_must_fit_into_a_config_json():
    with pytest.raises(ConfigError, match=r"torch_dtype=2026-01-01 is no value that a config\.json can hold"):
        ModelConfig.from_recipe(DENSE | {"torch_dtype": datetime.date(2026, 1, 1)})


def test_a_whole_number_where_a_real_one_belongs_is_that_real_number():
    config = ModelConfig.from_hf(DENSE | {"rms_norm_eps": 1, "rope_theta": 10_000})
    assert (type(config.rms_norm_eps), type(config.rope_theta)) == (float, float) and config.rms_norm_eps == 1.0


STRANGE = st.sampled_from(["128", "", True, None, 0, -1, 1, 3, 7, 1.5, float("nan"), float("inf"), 10**400, 1 << 40, [], [1], {}, {"a": 1}])


@settings(max_examples=300, deadline=None)
@given(table=st.sampled_from([DENSE, SHARED, OLD, SPARSE]), scaling=st.sampled_from([None, YARN, LLAMA3]), value=STRANGE, data=st.data())
def test_any_value_anywhere_gives_a_model_that_runs_or_one_sentence(table, scaling, value, data):
    table = {**table, "rope_scaling": dict(scaling or {}), "num_nextn_predict_layers": 0, "quantization_config": None}
    inside = data.draw(st.booleans()) and bool(scaling)
    place = table["rope_scaling"] if inside else table
    place[data.draw(st.sampled_from(sorted(place)))] = value
    try:
        model = Transformer(ModelConfig.from_hf(table)).initialize(0)
    except ConfigError as error:
        assert re.fullmatch(r"config\.json: [^\n]{10,400}", str(error))
        return
    logits = model(torch.zeros(3, dtype=torch.long), Segments.of([3]))
    assert torch.isfinite(logits).all() and json.dumps(model.config.to_hf())

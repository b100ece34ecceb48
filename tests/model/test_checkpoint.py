"""Checkpoints in and out, and what is said of damaged ones."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from afterbase.errors import AfterbaseError, CheckpointError, ConfigError
from afterbase.model.checkpoint import hf_weights, load_config, load_model, save_model
from afterbase.model.config import ModelConfig
from afterbase.model.transformer import Transformer


@pytest.fixture
def saved(tiny, tmp_path):
    """A directory with a small qwen3 in it."""
    save_model(tiny("qwen3"), tmp_path)
    return tmp_path


def edit(directory, change) -> None:
    """Let `change` loose on the tensors of a checkpoint."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def same(first, second) -> bool:
    first, second = dict(hf_weights(first)), dict(hf_weights(second))
    assert first.keys() == second.keys()
    return all(first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "qwen3_moe", "deepseek_v2", "deepseek_v3"])
def test_what_was_saved_is_loaded_bitwise(tiny, tmp_path, family):
    model = tiny(family)
    save_model(model, tmp_path)
    assert same(load_model(tmp_path), model)


def test_a_checkpoint_saved_again_is_the_same_file(tiny, tmp_path):
    (tmp_path / "again").mkdir()
    save_model(tiny("deepseek_v3", num_nextn_predict_layers=1), tmp_path)
    save_model(load_model(tmp_path), tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_mtp_modules_survive_under_their_published_names(tiny, tmp_path):
    """Behind two layers, module 0 is layer 2 and carries its own copies of the embedding and the head."""
    model = tiny("deepseek_v3", num_nextn_predict_layers=2)
    save_model(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    names = {name.removeprefix("model.layers.2.") for name in tensors if name.startswith("model.layers.2.")}
    assert {
        "enorm.weight",
        "hnorm.weight",
        "eh_proj.weight",
        "shared_head.norm.weight",
        "shared_head.head.weight",
        "embed_tokens.weight",
    } < names
    assert {"self_attn.q_a_proj.weight", "mlp.experts.7.up_proj.weight", "mlp.gate.e_score_correction_bias"} < names
    assert "model.layers.3.eh_proj.weight" in tensors
    assert torch.equal(tensors["model.layers.2.embed_tokens.weight"], tensors["model.embed_tokens.weight"])
    again = load_model(tmp_path)
    assert len(again.mtp) == 2 and same(again, model)


def test_announced_mtp_modules_that_are_not_there_are_left_out(tiny, tmp_path):
    """transformers drops their weights and still announces them."""
    save_model(tiny("deepseek_v3", num_nextn_predict_layers=1), tmp_path)
    edit(tmp_path, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("model.layers.2.")])
    model = load_model(tmp_path)
    assert len(model.mtp) == model.config.num_nextn_predict_layers == model.config.to_hf()["num_nextn_predict_layers"] == 0


def test_half_an_mtp_module_is_an_error(tiny, tmp_path):
    save_model(tiny("deepseek_v3", num_nextn_predict_layers=1), tmp_path)
    edit(tmp_path, lambda tensors: tensors.pop("model.layers.2.eh_proj.weight"))
    with pytest.raises(CheckpointError, match=r"missing model\.layers\.2\.eh_proj\.weight"):
        load_model(tmp_path)


def test_a_tied_head_is_one_tensor_and_stays_one(tiny, tmp_path):
    model = tiny("qwen2")
    save_model(model, tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = load_model(tmp_path, dtype=torch.bfloat16)
    assert again.lm_head.weight is again.model.embed_tokens.weight and again.lm_head.weight.dtype == torch.bfloat16


def test_a_tied_head_written_out_anyway_is_ignored(tiny, tmp_path):
    save_model(tiny("qwen2"), tmp_path)
    edit(
        tmp_path,
        lambda tensors: tensors.update({"lm_head.weight": torch.zeros(40, 16), "model.layers.0.rotary_emb.inv_freq": torch.ones(2)}),
    )
    assert load_model(tmp_path).lm_head.weight.any()


def test_a_model_keeps_the_files_dtype_unless_told_otherwise(tiny, tmp_path):
    """Routing biases stay float32: their steps of 0.001 would vanish in bfloat16."""
    model = tiny("deepseek_v3")
    save_model(model, tmp_path, dtype=torch.bfloat16)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    half, full = load_model(tmp_path), load_model(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16} and {p.dtype for p in full.parameters()} == {torch.float32}
    assert torch.equal(full.lm_head.weight, model.lm_head.weight.bfloat16().float())
    for loaded in (half, full):
        assert all(b.dtype == torch.float32 and torch.equal(b, own) for b, own in zip(loaded.buffers(), model.buffers(), strict=True))


def test_the_dtype_that_is_written_is_that_of_the_weights_and_the_only_one(tiny, tmp_path):
    save_model(tiny("qwen2", torch_dtype="bfloat16"), tmp_path)
    table = json.loads((tmp_path / "config.json").read_text())
    assert table["dtype"] == "float32" and "torch_dtype" not in table


def test_weights_are_views_of_the_model(tiny):
    """What a trainer hands to an engine on the same device costs nothing."""
    model = tiny("deepseek_v3")
    weights = dict(hf_weights(model))
    expert = model.model.layers[1].mlp.experts.up_proj
    assert weights["model.layers.1.mlp.experts.3.up_proj.weight"].data_ptr() == expert[3].data_ptr()
    assert weights["lm_head.weight"].data_ptr() == model.lm_head.weight.data_ptr()
    assert not any(tensor.requires_grad for tensor in weights.values())


def test_a_large_model_is_sharded_and_found_again_by_its_index(tiny, tmp_path):
    model = tiny("deepseek_v3", num_nextn_predict_layers=1)
    save_model(model, tmp_path, shard_bytes=10_000)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert sum(tensor.nbytes for tensor in load_file(tmp_path / files[0]).values()) <= 10_000
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == dict(hf_weights(model)).keys()
    assert same(load_model(tmp_path), model)


def misshape(tensors) -> None:
    tensors["model.norm.weight"] = torch.ones(17)


def cast(tensors, dtype) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(dtype)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), r"missing model\.norm\.weight"),
        (lambda tensors: tensors.update({"extra.weight": torch.ones(1)}), r"not in this model: extra\.weight"),
        (misshape, r"model\.norm\.weight is \[17\], the config wants \[16\] \(in .*/model\.safetensors\)"),
        (lambda tensors: cast(tensors, torch.int64), r"model\.norm\.weight holds I64, not one of F32, BF16, F16, F64"),
        (lambda tensors: cast(tensors, torch.float8_e4m3fn), r"model\.norm\.weight holds F8_E4M3, not one of"),
        (lambda tensors: [tensors.pop(name) for name in list(tensors) if ".0." in name], r"missing model\.layers\.0\..* and 5 more"),
    ],
    ids=["missing", "extra", "misshapen", "whole numbers", "scaled numbers", "many"],
)
def test_tensors_that_do_not_fit_are_named(saved, change, said):
    edit(saved, change)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(saved)
    assert str(saved) in str(caught.value)


def test_a_model_too_large_for_the_memory_is_told_in_words(saved, monkeypatch):
    def full(self, device):
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB\nMore advice")

    monkeypatch.setattr(Transformer, "to_empty", full)
    with pytest.raises(CheckpointError, match=r"a model of [\d,]+ bytes does not fit into memory \(CUDA out of memory.* 9 GiB\); take a"):
        load_model(saved)


def cut(directory) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "cut short": (cut, "not a whole safetensors file"),
    "not safetensors": (lambda d: (d / "model.safetensors").write_text("hello"), "not a whole safetensors file"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), r"no \*\.safetensors files"),
    "no config": (lambda d: (d / "config.json").unlink(), r"no config\.json; give a Hugging Face model directory"),
    "a file for a directory": (lambda d: (shutil.rmtree(d), d.write_text("")), r"is no checkpoint: it has no config\.json"),
    "bottomless config": (lambda d: (d / "config.json").write_text("[" * 100_000), "cannot be read as JSON"),
    "bottomless index": (lambda d: (d / "model.safetensors.index.json").write_text("[" * 100_000), "needs a 'weight_map'"),
    "header cut": (lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:40]), "not a whole safetensors"),
    "a directory for weights": (
        lambda d: ((d / "model.safetensors").unlink(), (d / "model.safetensors").mkdir()),
        "not a whole safetensor",
    ),
    "broken config": (lambda d: (d / "config.json").write_text('{"model_type": '), "cannot be read as JSON"),
    "config not a table": (lambda d: (d / "config.json").write_text("[]"), "JSON list, not a table"),
    "index without map": (lambda d: (d / "model.safetensors.index.json").write_text("{}"), "needs a 'weight_map'"),
    "index not a table": (lambda d: (d / "model.safetensors.index.json").write_text("[1]"), "needs a 'weight_map'"),
    "index of another model": (
        lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}'),
        r"gone\.safetensors is named by the index and missing",
    ),
    "index of files elsewhere": (
        lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors", "b": "/dev/stdin"}}'),
        r"index\.json names \.\./a\.safetensors, /dev/stdin, not the \*\.safetensors files beside it",
    ),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_told_in_words(saved, damage, said):
    damage(saved)
    with pytest.raises(CheckpointError, match=said):
        load_model(saved)


def test_an_index_that_names_what_its_file_lacks_is_an_incomplete_checkpoint(saved):
    names = dict.fromkeys(load_file(saved / "model.safetensors"), "model.safetensors")
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    edit(saved, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match=r"missing model\.norm\.weight"):
        load_model(saved)


BASE = {
    "vocab_size": 8,
    "num_key_value_heads": 1,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
LATENT = {"kv_lora_rank": 4, "qk_nope_head_dim": 2, "qk_rope_head_dim": 2, "v_head_dim": 2, "moe_intermediate_size": 2}
FEW = {"n_routed_experts": 6, "num_experts_per_tok": 1}
QWEN = {"num_experts": 4, "moe_intermediate_size": 2, "num_experts_per_tok": 2}
REFUSED = {
    "nearest family": ({"model_type": "qwen4"}, r"'qwen4' is not supported, only llama, .*; did you mean 'qwen[23]'\?"),
    "no family": ({}, "model_type None is not supported"),
    "missing sizes": ({"model_type": "llama", **BASE, "vocab_size": None, "hidden_size": None}, "needs vocab_size, hidden_size"),
    "missing latent": ({"model_type": "deepseek_v3", **BASE}, "needs kv_lora_rank"),
    "sliding window": ({"model_type": "qwen2", **BASE, "use_sliding_window": True}, "use_sliding_window=true is not supported"),
    "quantized": ({"model_type": "llama", **BASE, "quantization_config": {"quant_method": "awq"}}, "'awq' quantized weights"),
    "activation": ({"model_type": "llama", **BASE, "hidden_act": "gelu"}, "hidden_act='gelu'"),
    "rope": ({"model_type": "llama", **BASE, "rope_scaling": {"type": "dynamic"}}, "rope type 'dynamic' is not supported"),
    "heads": ({"model_type": "llama", **BASE, "num_attention_heads": 4, "num_key_value_heads": 3}, "num_attention_heads=4 does not divide"),
    "other routing": (
        {"model_type": "deepseek_v2", **BASE, **LATENT, **FEW, "topk_method": "noaux_tc"},
        "topk_method='noaux_tc' is not supported for deepseek_v2, only 'greedy' or 'group_limited_greedy'",
    ),
    "old gates": ({"model_type": "deepseek_v2", **BASE, **LATENT, **FEW, "norm_topk_prob": True}, "norm_topk_prob=true is read in diff"),
    "expert count": ({"model_type": "qwen3_moe", **BASE, **QWEN, "num_experts": None}, "a qwen3_moe config needs num_experts;"),
    "expert name": ({"model_type": "qwen3_moe", **BASE, **QWEN, **FEW}, "a qwen3_moe has no n_routed_experts; call it num_experts"),
    "too many asked": ({"model_type": "qwen3_moe", **BASE, **QWEN, "num_experts": 1}, "num_experts_per_tok=2 exceeds the 1 experts"),
    "no experts": ({"model_type": "qwen3_moe", **BASE, **QWEN, "num_experts": 0}, "num_experts=0 must be from 1 to 16,384"),
    "dense beyond": ({"model_type": "qwen3_moe", **BASE, **QWEN, "mlp_only_layers": [1]}, "mlp_only_layers holds 1, and there are num_"),
    "windows by layer": ({"model_type": "qwen3", **BASE, "layer_types": ["sliding_attention"]}, "layer_types hold 'sliding_attention'"),
    "groups": (
        {"model_type": "deepseek_v3", **BASE, **LATENT, "n_routed_experts": 6, "num_experts_per_tok": 1, "n_group": 4},
        "n_routed_experts=6 does not divide into n_group=4",
    ),
    "reach": (
        {"model_type": "deepseek_v3", **BASE, **LATENT, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 1},
        "num_experts_per_tok=3 exceeds the 2 experts",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("table", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_a_model_that_would_come_out_wrong_is_refused_by_name(tmp_path, table, said):
    (tmp_path / "config.json").write_text(json.dumps(table))
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(tmp_path)
    assert isinstance(caught.value, AfterbaseError) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size"])
def test_a_damaged_size_is_refused_before_memory_is_asked_for(saved, name):
    """A size that would take minutes to lay out, or terabytes to allocate, costs neither."""
    table = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**table, name: 9_600}))
    with pytest.raises(CheckpointError, match=r"the files and config\.json are of different models"):
        load_model(saved)


def test_both_layouts_of_rope_settings_are_read():
    """transformers 4 has rope_theta beside rope_scaling with `type`; transformers 5 has one table."""
    yarn = {"factor": 4.0, "original_max_position_embeddings": 32}
    old = ModelConfig.from_hf({"model_type": "qwen2", **BASE, "rope_theta": 5e5, "rope_scaling": {"type": "yarn", **yarn}})
    new = ModelConfig.from_hf({"model_type": "qwen2", **BASE, "rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, **yarn}})
    assert (old.rope_theta, old.rope_scaling) == (new.rope_theta, new.rope_scaling) == (5e5, {"rope_type": "yarn", **yarn})


def test_fresh_weights_follow_from_the_seed(tiny):
    assert same(tiny("qwen3", seed=3), tiny("qwen3", seed=3)) and not same(tiny("qwen3", seed=3), tiny("qwen3", seed=4))

"""Law 1: a checkpoint gives the logits and gradients of Hugging Face transformers, and is a copy in and out."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from afterbase.model.checkpoint import load_model, save_model
from afterbase.model.transformer import Transformer
from afterbase.segments import Segments

COMMON = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 64, "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5, "n_routed_experts": 8,
    "num_experts_per_tok": 3, "moe_intermediate_size": 8, "first_k_dense_replace": 1, "num_nextn_predict_layers": 0,
}  # fmt: skip
OLD_LATENT = {key: value for key, value in LATENT.items() if key != "num_nextn_predict_layers"}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 8}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
CASES = {
    "llama": ("llama", {"rope_scaling": LLAMA3}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 6}),
    "llama linear": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0}}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 6}),
    "qwen3 yarn": ("qwen3", {"head_dim": 16, "rope_scaling": YARN}),
    "qwen2.5 with its window off": ("qwen2", {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3 moe": ("qwen3_moe", {**EXPERTS, "head_dim": 6, "norm_topk_prob": True}),
    "qwen3 moe, some layers dense": (
        "qwen3_moe",
        {**EXPERTS, "num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [1], "attention_bias": True}
        | {"tie_word_embeddings": True},
    ),
    "deepseek v2 lite": ("deepseek_v2", {**OLD_LATENT, "q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1}),
    "deepseek v2": (
        "deepseek_v2",
        {**OLD_LATENT, "q_lora_rank": 12, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}
        | {"qk_rope_head_dim": 8, "routed_scaling_factor": 16.0, "n_shared_experts": 2, "num_experts_per_tok": 3}
        | {"rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707, "beta_fast": 32, "beta_slow": 1}},
    ),
    "deepseek direct queries": ("deepseek_v3", {**LATENT, "q_lora_rank": None, "n_group": 1, "topk_group": 1, "n_shared_experts": 2}),
    "deepseek groups": ("deepseek_v3", {**LATENT, "q_lora_rank": 12, "n_group": 4, "topk_group": 2, "norm_topk_prob": False}),
    "deepseek yarn": (
        "deepseek_v3",
        {**LATENT, "q_lora_rank": 12, "n_group": 2, "topk_group": 1, "attention_bias": True}
        | {"qk_rope_head_dim": 8, "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 4, "beta_slow": 1}},
    ),
}
LENGTHS = (40, 7, 12)
"""Tokens of three sequences; the first runs past the 16 positions that the stretched embeddings were made for."""


@dataclass
class Pair:
    """The same weights in transformers and here."""

    theirs: torch.nn.Module
    ours: Transformer
    directory: Path


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory) -> Pair:
    from transformers import AutoConfig, AutoModelForCausalLM

    family, sizes = CASES[request.param]
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(COMMON | sizes)), dtype=torch.float32).eval()
    with torch.no_grad():  # norms and biases start as ones and zeros, which would hide a forgotten one
        for parameter in theirs.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in theirs.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.05 * torch.randn_like(buffer))
    directory = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(directory)
    return Pair(theirs, load_model(directory), directory)


def sequences() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 40, (length,), generator=generator) for length in LENGTHS]


def their_logits(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([model(tokens[None], use_cache=False).logits[0] for tokens in sequences()])


def our_logits(model: Transformer) -> torch.Tensor:
    return model.logits(model(torch.cat(sequences()), Segments.of(LENGTHS)))


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_logits_are_those_of_transformers(pair):
    with torch.no_grad():
        theirs, ours = their_logits(pair.theirs), our_logits(pair.ours)
    assert theirs.std() > 0.3
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_transformers(pair, tmp_path):
    """Each side saves a model whose weights are its gradients, so that names and stacking are compared with them."""
    weight = torch.randn(sum(LENGTHS), 40, generator=torch.Generator().manual_seed(2)) / sum(LENGTHS)
    for side, logits, save in (
        (pair.theirs, their_logits, lambda model, path: model.save_pretrained(path)),
        (pair.ours, our_logits, save_model),
    ):
        model = copy.deepcopy(side)
        (logits(model).log_softmax(-1) * weight).sum().backward()
        for parameter in model.parameters():
            parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        path = tmp_path / type(side).__name__
        path.mkdir()
        save(model, path)
    theirs, ours = tensors(tmp_path / type(pair.theirs).__name__), tensors(tmp_path / "Transformer")
    assert theirs.keys() == ours.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_load_then_save_keeps_names_and_tensors(pair, tmp_path):
    save_model(pair.ours, tmp_path)
    assert_same(tensors(pair.directory), tensors(tmp_path))


def test_transformers_loads_what_we_save_and_saves_it_back(pair, tmp_path):
    from transformers import AutoModelForCausalLM

    save_model(pair.ours, tmp_path)
    back = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(their_logits(back), their_logits(pair.theirs))
    back.save_pretrained(tmp_path / "back")
    assert_same(tensors(tmp_path), tensors(tmp_path / "back"))


def test_saved_config_keeps_their_keys_and_adds_what_serving_engines_need(pair, tmp_path):
    save_model(pair.ours, tmp_path)
    theirs, ours = (json.loads((path / "config.json").read_text()) for path in (pair.directory, tmp_path))
    assert {key: ours[key] for key in theirs} == theirs
    routing = {"deepseek_v2": (theirs.get("topk_method"), "softmax"), "deepseek_v3": ("noaux_tc", "sigmoid")}
    if theirs["model_type"] in routing:
        assert (ours["topk_method"], ours["scoring_func"]) == routing[theirs["model_type"]]
    if theirs["model_type"] == "qwen3_moe":
        assert ours["num_experts"] == theirs["num_local_experts"]


def test_shards_are_found_in_both_directions(pair, tmp_path):
    from transformers import AutoModelForCausalLM

    pair.theirs.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    (tmp_path / "ours").mkdir()
    save_model(pair.ours, tmp_path / "ours", shard_bytes=10_000)
    assert all((tmp_path / side / "model.safetensors.index.json").exists() for side in ("theirs", "ours"))
    assert_same(tensors(tmp_path / "theirs"), tensors(tmp_path / "ours"))
    ours, theirs = load_model(tmp_path / "theirs"), AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(our_logits(ours), our_logits(pair.ours)) and torch.equal(their_logits(theirs), their_logits(pair.theirs))


def test_the_layout_that_transformers_has_in_memory_is_read(pair, tmp_path):
    """Experts of a layer stacked, gate and up projections in one."""
    pair.theirs.save_pretrained(tmp_path, save_original_format=False)
    with torch.no_grad():
        assert torch.equal(our_logits(load_model(tmp_path)), our_logits(pair.ours))


@pytest.fixture
def ahead(tiny, tmp_path) -> Path:
    """A checkpoint with a module for multi-token prediction, which is its layer 2."""
    yarn = {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}
    save_model(tiny("deepseek_v3", num_nextn_predict_layers=1, rope_scaling=yarn), tmp_path)
    return tmp_path


def test_the_trunk_of_a_model_that_looks_ahead_goes_through_transformers_and_back(ahead, tmp_path):
    """They leave the module out, and we load what they left."""
    from transformers import AutoModelForCausalLM

    theirs, ours = AutoModelForCausalLM.from_pretrained(ahead, dtype=torch.float32), load_model(ahead)
    theirs.save_pretrained(tmp_path / "back")
    back = load_model(tmp_path / "back")
    assert (len(ours.mtp), len(back.mtp)) == (1, 0)
    with torch.no_grad():
        torch.testing.assert_close(our_logits(ours), their_logits(theirs), atol=1e-5, rtol=1e-5)
        assert torch.equal(our_logits(back), our_logits(ours))


def test_the_module_that_looks_ahead_is_the_papers_equations_on_the_published_tensors(ahead):
    """h' = M [RMSNorm(Emb(t_{i+1})); RMSNorm(h_i)], one layer of transformers' own, then the shared head.  [V3 Eq. 21-23]"""
    from transformers import AutoModelForCausalLM

    ours, stored = load_model(ahead), {name.removeprefix("model.layers.2."): tensor for name, tensor in tensors(ahead).items()}
    table = json.loads((ahead / "config.json").read_text())
    (ahead / "config.json").write_text(json.dumps({**table, "num_hidden_layers": 3, "num_nextn_predict_layers": 0}))
    theirs = AutoModelForCausalLM.from_pretrained(ahead, dtype=torch.float32).model  # its layer 2 is the module's

    def normal(rows, name):
        return rows / (rows.square().mean(-1, keepdim=True) + 1e-6).sqrt() * stored[name]

    tokens = sequences()[0]
    segments, places = Segments.of([len(tokens)]), torch.arange(len(tokens) - 1)
    with torch.no_grad():
        hidden = ours(tokens, segments)
        found = ours.logits(ours.look_ahead(hidden, tokens, segments)[0])[:-1]
        following = normal(stored["embed_tokens.weight"][tokens[1:]], "enorm.weight")
        joined = torch.cat((following, normal(hidden[:-1], "hnorm.weight")), dim=-1) @ stored["eh_proj.weight"].T
        turned = theirs.layers[2](joined[None], position_embeddings=theirs.rotary_emb(joined, places[None]), position_ids=places[None])
        wanted = normal(turned[0], "shared_head.norm.weight") @ stored["shared_head.head.weight"].T
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)

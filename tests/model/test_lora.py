"""Adapters: W x + s B (A x) in place of W x, merged or not, saved as PEFT saves them; W itself never changes."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from afterbase.errors import CheckpointError, ConfigError
from afterbase.model.adapter_files import ADAPTER, read_adapter, save_adapter
from afterbase.model.checkpoint import load_model, save_model
from afterbase.model.joined import Joined, with_adapters
from afterbase.model.lora import LoraConfig, adapt, adapters, without_adapters
from afterbase.model.moe import by_expert
from afterbase.model.routed import Routed
from afterbase.segments import Segments

FAMILIES = ["llama", "qwen2", "qwen3", "qwen3_moe", "deepseek_v2", "deepseek_v3"]
LORA = LoraConfig(rank=3, alpha=6)


def stir(model):
    """Adapters as training leaves them: B no longer zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in adapters(model).values():
            layer.lora_B.copy_(0.1 * torch.randn(layer.lora_B.shape, generator=generator))
    return model


def adapted(model, lora=LORA):
    adapt(model, lora)
    return stir(model)


def logits(model, tokens):
    return model.logits(model(torch.tensor(tokens), Segments.of([len(tokens)])))


@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_start_the_model_is_the_one_it_stands_on_bit_for_bit(tiny, random_tokens, family):
    model, tokens = tiny(family), random_tokens(9)
    before = logits(model, tokens)
    adapt(model, LORA)
    assert torch.equal(logits(model, tokens), before)


@pytest.mark.parametrize(
    ("family", "wanted"),
    [
        (
            "qwen2",
            {
                "self_attn.q_proj",
                "self_attn.k_proj",
                "self_attn.v_proj",
                "self_attn.o_proj",
                "mlp.gate_proj",
                "mlp.up_proj",
                "mlp.down_proj",
            },
        ),
        ("qwen3_moe", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}),
        (
            "deepseek_v3",
            {"self_attn.q_a_proj", "self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj", "self_attn.o_proj"},
        ),
    ],
)
def test_all_linear_is_every_projection_of_the_trunk_and_nothing_else_learns(tiny, family, wanted):
    model = tiny(family, **({"num_nextn_predict_layers": 1} if family == "deepseek_v3" else {}))
    adapt(model, LORA)
    last = f"model.layers.{model.config.num_hidden_layers - 1}."
    assert {name.removeprefix(last) for name in adapters(model) if name.startswith(last)} == wanted
    assert all(name.startswith("model.layers.") for name in adapters(model))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {f"{name}.{factor}" for name in adapters(model) for factor in ("lora_A", "lora_B")}


def test_named_targets_alone_are_adapted(tiny):
    model = tiny("qwen2")
    adapt(model, LoraConfig(targets=["q_proj", "down_proj"]))
    assert {name.rpartition(".")[2] for name in adapters(model)} == {"q_proj", "down_proj"} and len(adapters(model)) == 4


@pytest.mark.parametrize("targets", [["q_proj", "gate_proj"], []])
def test_a_target_that_no_layer_has_is_refused_with_those_there_are(tiny, targets):
    with pytest.raises(
        ConfigError, match=r"(gate_proj|no layer); this model takes adapters on k_proj, o_proj, q_proj, v_proj, and one with"
    ):
        adapt(tiny("qwen3_moe"), LoraConfig(targets=targets))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_model_says_what_the_adapted_one_says(tiny, random_tokens, family, tmp_path):
    """To 2e-5 of logits of size 10: W x + s B (A x) and (W + s B A) x are rounded elsewhere."""
    model, tokens = tiny(family), random_tokens(12)
    plain = logits(model, tokens)
    adapted(model)
    wanted = logits(model, tokens)
    assert (wanted - plain).abs().max() > 0.1  # the adapters matter
    save_model(model, tmp_path)
    torch.testing.assert_close(logits(load_model(tmp_path), tokens), wanted, rtol=2e-5, atol=2e-5)
    with without_adapters(model):
        assert torch.equal(logits(model, tokens), plain)
        assert all(torch.equal(layer.weight, layer.base) for layer in adapters(model).values())
    assert torch.equal(logits(model, tokens), wanted)


def test_gradients_are_those_of_the_formula_in_float64(tiny, random_tokens):
    """One layer by itself: dA = s B^T G x^T, dB = s G x^T A^T, dx = (W + s B A)^T G; W gets none."""
    model = adapted(tiny("qwen2"))
    layer, generator = adapters(model)["model.layers.0.self_attn.q_proj"], torch.Generator().manual_seed(1)
    hidden = torch.randn(7, 16, generator=generator, requires_grad=True)
    upstream = torch.randn(7, 16, generator=generator)
    layer(hidden).backward(upstream)
    x, g, a, b, w = (tensor.detach().double() for tensor in (hidden, upstream, layer.lora_A, layer.lora_B, layer.base))
    torch.testing.assert_close(layer.lora_A.grad.double(), 2 * b.T @ g.T @ x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.lora_B.grad.double(), 2 * g.T @ x @ a.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), g @ (w + 2 * b @ a), rtol=1e-5, atol=1e-5)
    assert layer.base.grad is None and layer.bias.grad is None


@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_the_whole_models_gradients_are_those_of_its_merged_weights(tiny, random_tokens, family):
    """The chain rule through W + s B A, where autograd sees the merged matrix: all in float64, so to 1e-10."""
    model, tokens = adapted(tiny(family, first_k_dense_replace=2).double()), torch.tensor(random_tokens(11))
    for layer in adapters(model).values():
        layer.lora_A.data, layer.lora_B.data = layer.lora_A.data.double(), layer.lora_B.data.double()
    whole = copy.deepcopy(model)
    segments, names = Segments.of([5, 6]), list(adapters(model))
    model(tokens, segments).square().sum().backward()
    factors = {
        name: [factor.detach().clone().requires_grad_() for factor in (layer.lora_A, layer.lora_B)]
        for name, layer in adapters(whole).items()
    }
    layers = adapters(whole)
    matrices = {f"{name}.weight": layers[name].base.detach() + 2 * factors[name][1] @ factors[name][0] for name in names}
    with without_adapters(whole):
        torch.func.functional_call(whole, matrices, (tokens, segments)).square().sum().backward()
    for name, layer in adapters(model).items():
        for found, wanted in zip((layer.lora_A, layer.lora_B), factors[name], strict=True):
            assert wanted.grad.abs().max() > 0
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-10, atol=1e-10)


def test_layers_that_are_one_product_each_get_what_their_adapter_adds(tiny):
    """As on a GPU: the product of W for all of them, then each layer's own addition; a layer without adapter adds nothing."""
    model, hidden = adapted(tiny("qwen2"), LoraConfig(rank=3, alpha=6, targets=["q_proj", "v_proj"])), torch.randn(5, 16)
    attention = model.model.layers[0].self_attn
    layers = attention.enter.layers
    products = tuple(F.linear(hidden, layer._parameters["weight"], layer.bias) for layer in layers)
    for found, layer in zip(with_adapters(products, layers, hidden), layers, strict=True):
        torch.testing.assert_close(found, F.linear(hidden, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)


def test_dropout_is_for_learning_alone(tiny):
    model = adapted(tiny("qwen2"), LoraConfig(rank=3, dropout=0.5))
    layer, hidden = adapters(model)["model.layers.0.self_attn.q_proj"], torch.randn(5, 16)
    with torch.no_grad():
        assert torch.equal(layer(hidden), layer(hidden))
        still = layer(hidden)
    assert not torch.equal(layer(hidden), layer(hidden)) and not torch.equal(layer(hidden), still)


def saved(model, directory, lora=LORA):
    save_adapter(model, lora, directory / "base", directory)
    return directory


def test_files_are_named_and_shaped_as_peft_wants_them(tiny, tmp_path):
    targets = {"q_a_proj": (12, 16), "q_b_proj": (40, 12), "kv_a_proj_with_mqa": (12, 16)}
    model = adapted(tiny("deepseek_v3"), LoraConfig(rank=3, alpha=6, targets=list(targets)))
    saved(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers"
    shapes = {f"{layer}.self_attn.{name}": shape for layer in (0, 1) for name, shape in targets.items()}
    wanted = {f"{prefix}.{name}.lora_A.weight": (3, shape[1]) for name, shape in shapes.items()}
    wanted |= {f"{prefix}.{name}.lora_B.weight": (shape[0], 3) for name, shape in shapes.items()}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == wanted
    table = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (table["peft_type"], table["task_type"], table["r"], table["lora_alpha"], table["bias"]) == ("LORA", "CAUSAL_LM", 3, 6, "none")
    assert table["target_modules"] == ["kv_a_proj_with_mqa", "q_a_proj", "q_b_proj"]
    assert table["base_model_name_or_path"] == str(tmp_path / "base")


def test_what_the_files_say_of_the_base_is_the_adapted_model(tiny, random_tokens, tmp_path):
    """Read as PEFT reads them: alpha / r times B A on every layer whose name ends with a target, taken from the keys."""
    base, tokens = tiny("qwen2"), random_tokens(10)
    plain = copy.deepcopy(base)
    saved(adapted(base), tmp_path)
    table, tensors = json.loads((tmp_path / "adapter_config.json").read_text()), load_file(tmp_path / "adapter_model.safetensors")
    with torch.no_grad():
        for name, layer in plain.named_modules():
            if name.rpartition(".")[2] in table["target_modules"]:
                a, b = (tensors[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
                layer.weight += table["lora_alpha"] / table["r"] * b @ a
    torch.testing.assert_close(logits(plain, tokens), logits(base, tokens), rtol=2e-5, atol=2e-5)


def test_adapters_come_back_bit_for_bit(tiny, tmp_path):
    model = adapted(tiny("deepseek_v3"))
    other = tiny("deepseek_v3")
    adapt(other, LORA)
    read_adapter(other, LORA, saved(model, tmp_path))
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("lora", "damage", "words"),
    [
        (LoraConfig(rank=4, alpha=6), None, "rank 3 and alpha 6, trainer.lora asks for 4 and 6"),
        (
            LoraConfig(rank=3, alpha=6, targets=["q_proj"]),
            None,
            r"down_proj.lora_A.weight is missing, left over or of another shape, and 23 more",
        ),
        (LORA, lambda path: (path / "adapter_model.safetensors").write_bytes(b"half"), "cannot be read"),
        (LORA, lambda path: (path / "adapter_config.json").unlink(), "cannot be read"),
    ],
)
def test_adapters_that_are_others_or_damaged_are_refused_and_none_is_taken_over(tiny, tmp_path, lora, damage, words):
    saved(adapted(tiny("qwen2")), tmp_path)
    if damage:
        damage(tmp_path)
    other = tiny("qwen2")
    adapt(other, lora)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(CheckpointError, match=words):
        read_adapter(other, lora, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_adapters_of_a_model_of_another_width_are_refused(tiny, tmp_path):
    saved(adapted(tiny("qwen2", hidden_size=24, head_dim=4)), tmp_path)
    other = tiny("qwen2")
    adapt(other, LORA)
    with pytest.raises(CheckpointError, match="of another shape"):
        read_adapter(other, LORA, tmp_path)


def test_a_directory_that_holds_adapters_alone_is_no_model_and_says_whose_they_are(tiny, tmp_path):
    inner = tmp_path / ADAPTER
    inner.mkdir()
    save_adapter(adapted(tiny("qwen2")), LORA, tmp_path / "base", inner)
    for directory in (tmp_path, inner):
        with pytest.raises(CheckpointError, match=f"holds an adapter and no model; give its base, {tmp_path / 'base'}, or a checkpoint"):
            load_model(directory)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Linear layers of one input are one product in half precision, and SwiGLU is done with the product behind it, as by the kernels."""
    pytest.importorskip("triton")
    from afterbase.model.cuda import layers

    def two_passes(gradient, gate, up):
        with torch.enable_grad():
            gate, up = gate.detach().requires_grad_(), up.detach().requires_grad_()
            return torch.autograd.grad(F.silu(gate) * up, (gate, up), gradient)

    monkeypatch.setattr(Joined, "fits", lambda self, hidden: torch.is_autocast_enabled("cpu"))
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.bfloat16)
    monkeypatch.setattr(layers, "swiglu_backward", two_passes)


@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_joined_layers_in_half_precision_have_the_gradients_of_float32_within_rounding(as_on_a_gpu, tiny, random_tokens, family):
    model, tokens, found = adapted(tiny(family)), torch.tensor(random_tokens(11)), {}
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model(tokens, Segments.of([11])).float().square().mean()
        loss.backward()
        found[half] = {
            f"{name}.{factor}": getattr(layer, factor).grad for name, layer in adapters(model).items() for factor in ("lora_A", "lora_B")
        }
        model.zero_grad()
    for name, gradient in found[True].items():
        assert gradient.dtype == torch.float32
        assert (gradient - found[False][name]).norm() < 0.1 * found[False][name].norm(), name


def test_frozen_experts_on_a_gpu_pass_the_gradient_on_and_their_own_is_not_computed(monkeypatch):
    """Of six grouped products, two forwards and four backwards, two are for the experts' own gradients."""
    pytest.importorskip("triton")
    calls, product = [], torch._grouped_mm
    monkeypatch.setattr(torch, "_grouped_mm", lambda *arguments, **options: calls.append(1) or product(*arguments, **options))
    generator = torch.Generator().manual_seed(0)
    hidden, gates, found = torch.randn(6, 8, generator=generator), torch.rand(6, 2, generator=generator), []
    stacks = [torch.randn(5, *shape, generator=generator) for shape in ((16, 8), (16, 8), (8, 16))]
    sorting = by_expert(torch.randint(0, 5, (6, 2), generator=generator), 5)
    for learned in (True, False):
        stacks = [stack.detach().requires_grad_(learned) for stack in stacks]
        leaf = hidden.clone().requires_grad_()
        Routed.apply(leaf, None, gates, sorting, torch.cat(stacks[:2], 1).detach(), stacks[2].detach(), *stacks).square().sum().backward()
        found.append(leaf.grad)
        assert all((stack.grad is not None) == learned for stack in stacks)
    assert torch.equal(*found) and len(calls) == 6 + 4

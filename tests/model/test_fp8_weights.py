"""Weights in FP8 with block scales: read as what they stand for, written as they are published.  [V3 3.3.2]"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from afterbase.errors import CheckpointError, ConfigError
from afterbase.model.block_scales import FP8, block_scales, dequantize, quantize
from afterbase.model.checkpoint import hf_weights, load_config, load_model, save_model
from afterbase.segments import Segments

NUMBER = {"quant_method": "fp8", "weight_block_size": [8, 8], "activation_scheme": "dynamic"}
LATENT = {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
SHAPES = {
    "llama": {},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {"head_dim": 8},
    "deepseek_v2": LATENT,
    "deepseek_v3": {**LATENT, "q_lora_rank": 16, "num_nextn_predict_layers": 1},
}
"""Blocks of 8 that divide every matrix: transformers reads no others on a CPU."""


def by_hand(weight: torch.Tensor, scales: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """Number by number."""
    rows, columns = weight.shape
    return torch.tensor([[float(weight[i, j]) * float(scales[i // block[0], j // block[1]]) for j in range(columns)] for i in range(rows)])


def test_two_blocks_by_hand():
    """Rows of 2 in blocks of 1 x 2: the largest of each block becomes 448, its half 224."""
    weight = torch.tensor([[1.0, 0.5, 4.48], [0.0, 0.0, -896.0]])
    scales = block_scales(weight, (1, 2))
    assert scales.tolist() == [pytest.approx([1 / 448, 0.01]), [1.0, 2.0]]
    assert quantize(weight, scales, (1, 2)).float().tolist() == [[448.0, 224.0, 448.0], [0.0, 0.0, -448.0]]


@pytest.mark.parametrize("shape", [(16, 24), (17, 9), (3, 50), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ragged_blocks_are_read_number_by_number_and_written_back_alike(shape, dtype):
    """A block's rounding is at most half a step of FP8, 1/16 of a number or 1/2^10 of the block's scale of smallest numbers."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3
    scales = block_scales(weight, (8, 8))
    stored = quantize(weight, scales, (8, 8))
    read = torch.empty(shape, dtype=dtype)
    dequantize(read, stored, scales, (8, 8))
    assert torch.equal(read, by_hand(stored, scales, (8, 8)).to(dtype))
    torch.testing.assert_close(read.float(), weight, rtol=1 / 15, atol=0.003)
    assert torch.equal(quantize(read, block_scales(read, (8, 8)), (8, 8)).float(), stored.float())


@pytest.mark.parametrize("block", [(10**12, 4), (2, 10**12), (10**30, 10**30)])
def test_a_block_of_any_size_takes_no_more_memory_than_its_matrix(block):
    weight, scales = torch.ones(3, 5).to(FP8), torch.full([-(-size // part) for size, part in zip((3, 5), block, strict=True)], 2.0)
    read = torch.empty(3, 5)
    dequantize(read, weight, scales, block)
    assert torch.equal(read, torch.full((3, 5), 2.0))


def test_a_matrix_larger_than_what_is_converted_at_a_time(monkeypatch):
    weight = torch.randn(40, 20, generator=torch.Generator().manual_seed(0))
    whole = block_scales(weight, (8, 8))
    numbers = quantize(weight, whole, (8, 8)).float()
    monkeypatch.setattr("afterbase.model.block_scales.AT_ONCE", 320)  # 16 rows
    assert torch.equal(block_scales(weight, (8, 8)), whole) and torch.equal(quantize(weight, whole, (8, 8)).float(), numbers)
    read = torch.empty(40, 20)
    dequantize(read, numbers.to(FP8), whole, (8, 8))
    assert torch.equal(read, by_hand(numbers.to(FP8), whole, (8, 8)))


@pytest.mark.parametrize("family", SHAPES)
def test_what_is_written_in_fp8_is_what_transformers_reads(tiny, random_tokens, tmp_path, family):
    from transformers import AutoModelForCausalLM

    save_model(tiny(family, **SHAPES[family], quantization_config=NUMBER), tmp_path, FP8)
    ours, tokens = load_model(tmp_path, dtype=torch.float32), torch.tensor(random_tokens(20))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).float()  # what is not FP8 they leave in bfloat16
    with torch.no_grad():
        logits = theirs(tokens[None], use_cache=False).logits[0]
        torch.testing.assert_close(ours.logits(ours(tokens, Segments.of([20]))), logits, atol=1e-4, rtol=1e-4)


def test_the_published_layout(tiny, tmp_path):
    """Projections have scales of float32 for blocks of 128, the rest is bfloat16; the module ahead is quantized but for its join."""
    save_model(tiny("deepseek_v3", num_nextn_predict_layers=1), tmp_path, FP8)
    stored, table = load_file(tmp_path / "model.safetensors"), json.loads((tmp_path / "config.json").read_text())
    scaled = {name.removesuffix("_scale_inv") for name in stored if name.endswith("_scale_inv")}
    assert scaled == {name for name in stored if "_proj" in name and "scale_inv" not in name and "eh_proj" not in name}
    assert all(stored[name].dtype == FP8 and list(stored[name + "_scale_inv"].shape) == [1, 1] for name in scaled)
    rest = {stored[name].dtype for name in stored.keys() - scaled if not name.endswith(("_scale_inv", "correction_bias"))}
    assert rest == {torch.bfloat16} and stored["model.layers.1.mlp.gate.e_score_correction_bias"].dtype == torch.float32
    assert {stored[f"{name}_scale_inv"].dtype for name in scaled} == {torch.float32}
    quantization = table["quantization_config"]
    assert (quantization["quant_method"], quantization["weight_block_size"], table["dtype"]) == ("fp8", [128, 128], "bfloat16")
    assert quantization["modules_to_not_convert"] == [
        "lm_head",
        "model.layers.1.mlp.gate",
        "model.layers.2.eh_proj",
        "model.layers.2.mlp.gate",
    ]


def test_a_checkpoint_in_fp8_read_and_written_again_is_the_same(tiny, tmp_path):
    (tmp_path / "again").mkdir()
    save_model(tiny("deepseek_v3", num_nextn_predict_layers=1), tmp_path, FP8)
    model = load_model(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    save_model(model, tmp_path / "again", FP8)
    first, second = (load_file(path / "model.safetensors") for path in (tmp_path, tmp_path / "again"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        if name.endswith("_scale_inv"):
            torch.testing.assert_close(second[name], tensor, rtol=2**-8, atol=0)  # a bfloat16 weight has eight bits
        else:
            assert torch.equal(second[name].float(), tensor.float()), name


def test_written_in_another_kind_it_says_nothing_of_fp8_any_more(tiny, tmp_path):
    (tmp_path / "again").mkdir()
    save_model(tiny("qwen3"), tmp_path, FP8)
    model = load_model(tmp_path)
    save_model(model, tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())
    again = dict(hf_weights(load_model(tmp_path / "again")))
    assert all(torch.equal(again[name], tensor) for name, tensor in hf_weights(model))


def test_scales_in_another_file_and_in_half_precision(tiny, tmp_path):
    """Qwen3's are bfloat16, and an index may part a weight from its scales."""
    save_model(tiny("qwen3"), tmp_path, FP8)
    before = dict(hf_weights(load_model(tmp_path, dtype=torch.float32)))
    stored = load_file(tmp_path / "model.safetensors")
    scales = {name: stored.pop(name).bfloat16() for name in list(stored) if name.endswith("_scale_inv")}
    save_file(stored, tmp_path / "model.safetensors")
    save_file(scales, tmp_path / "aside.safetensors")
    for name, tensor in hf_weights(load_model(tmp_path, dtype=torch.float32)):
        torch.testing.assert_close(tensor, before[name], rtol=2**-8, atol=0)


PART = "model.layers.0.mlp.up_proj.weight"
WRONG = {
    "no scales": (lambda tensors: tensors.pop(PART + "_scale_inv"), rf"{PART} holds F8_E4M3, not one of F32"),
    "scales of another shape": (
        lambda t: t.update({PART + "_scale_inv": torch.ones(2, 1)}),
        r"_scale_inv is F32 \[2, 1\], the config wants \[1, 1\]",
    ),
    "whole scales": (lambda t: t.update({PART + "_scale_inv": torch.ones(1, 1, dtype=torch.int32)}), r"_scale_inv is I32"),
    "scales of what is not FP8": (lambda t: t.update({PART: torch.ones(24, 16)}), r"up_proj\.weight holds F32 \[24, 16\] and has scales"),
    "scales of nothing": (lambda t: t.update({"more.weight_scale_inv": torch.ones(1)}), r"not in this model: more\.weight_scale_inv"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG.keys())
def test_scales_that_do_not_fit_are_named(tiny, tmp_path, change, said):
    save_model(tiny("qwen3"), tmp_path, FP8)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"quant_method": "fp8"}, r"weight_block_size=None of quantization_config must be two sizes, such as \[128, 128\]"),
        ({"quant_method": "fp8", "weight_block_size": [128, "a"]}, "must be two sizes"),
        ({**NUMBER, "activation_scheme": "static"}, "activation_scheme='static' of quantization_config is not supported, only 'dynamic'"),
        ({"quant_method": "gptq"}, "'gptq' quantized weights are not supported, only a table of 'fp8'"),
    ],
)
def test_other_quantizations_are_refused_by_name(tiny, tmp_path, table, said):
    save_model(tiny("qwen3"), tmp_path, FP8)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": table}))
    with pytest.raises(ConfigError, match=said):
        load_config(tmp_path)

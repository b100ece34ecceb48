"""Decoding DeepSeek-V3's shape by compiled kernels is decoding it by the model's own forward pass."""

import pytest
import torch

from afterbase.engine import latent
from afterbase.engine.latent import LatentCpuRunner
from afterbase.engine.runner import PlainRunner, runner_for
from afterbase.model.cache import Cache
from afterbase.model.native import KINDS, kernels
from afterbase.segments import Segments

compiled = pytest.mark.skipif(kernels() is None, reason="there is no C++ compiler here, so the model's own forward pass decodes")
BF16 = torch.bfloat16
DTYPES = [torch.float32, BF16]
SHAPES = {  # widths below, at and past the kernels' vectors of 16 and blocks of 32; heads that do and do not go into fours
    "compressed queries": {},
    "direct queries, halves": {"q_lora_rank": None, "rope_interleave": False},
    "biases": {"attention_bias": True},
    "direct queries, biases": {"q_lora_rank": None, "attention_bias": True},
    "whole vectors": {"hidden_size": 64, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "moe_intermediate_size": 32},
    "past whole vectors": {"hidden_size": 48, "kv_lora_rank": 35, "num_attention_heads": 6, "v_head_dim": 33, "moe_intermediate_size": 19},
    "stretched": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 16}},
    "dense": {"first_k_dense_replace": 2},
}
ROUTERS = {
    "two of four groups": {},
    "one group": {"n_group": 1, "topk_group": 1},
    "groups of one": {"n_group": 8, "topk_group": 3},
    "raw gates": {"norm_topk_prob": False, "num_experts_per_tok": 3},
    "every expert": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 8},
}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def slack(dtype):
    """float32's rounding, or that of bfloat16 several times in a row."""
    return 2e-5 if dtype == torch.float32 else 0.1


def steps_of(runner, dtype, config):
    """Two steps of three rows of different lengths over a memory that any dtype can hold: logits and memories."""
    cache = Cache(config, 4, 32, dtype if runner.compact else torch.float32, torch.device("cpu"), ahead=1)
    cache.blocks[0].copy_(normal(*cache.blocks[0].shape).to(BF16))
    lengths, found = torch.tensor([0, 6, 19]), []
    for step in range(2):
        segments = Segments.decoding(lengths + step)
        tokens = torch.tensor([3, 9, 21]) + step
        with torch.inference_mode(), torch.autocast("cpu", BF16, enabled=dtype == BF16):
            found.append(runner.decode(tokens, segments, cache.decoding(segments, 20 + step)).float().clone())
    return torch.stack(found), cache.blocks[0].float()


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_a_step_is_the_models_own(tiny, name, dtype):
    """Logits and what is remembered, then the same after the weights have changed and been loaded."""
    model = tiny("deepseek_v3", **SHAPES[name])
    runner, plain = LatentCpuRunner(model, dtype), PlainRunner(model)
    for _ in range(2):
        for found, wanted in zip(steps_of(runner, dtype, model.config), steps_of(plain, dtype, model.config), strict=True):
            torch.testing.assert_close(found, wanted, atol=slack(dtype) * max(1.0, float(wanted.abs().max())), rtol=0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.75)
        runner.refresh()


@compiled
@pytest.mark.parametrize("crowd", [False, True])
@pytest.mark.parametrize("name", ROUTERS)
@torch.inference_mode()
def test_tokens_go_where_the_models_router_sends_them(tiny, name, crowd):
    """Ninety tokens; biases as large as the affinities, so that choosing and weighing differ, or so large that all choose alike."""
    model = tiny("deepseek_v3", **ROUTERS[name])
    block = model.model.layers[1]
    block.mlp.gate.e_score_correction_bias.mul_(1000 if crowd else 10)
    runner, hidden = LatentCpuRunner(model, torch.float32), normal(90, model.config.hidden_size)
    found = runner._feed_forward(hidden, block, runner.layers[1])
    torch.testing.assert_close(found, block.mlp(hidden, Segments.of([90]), None), atol=1e-6, rtol=1e-5)


def experts_of(rows, logits, dtype):
    """What the kernel adds for 8 experts of 40 inner numbers, two a token."""
    out, (gate_up, down) = torch.zeros(rows.shape, dtype=dtype), (normal(8, *shape).to(dtype) for shape in ((48, 80), (40, 48)))
    sizes = *rows.shape, 40, 8, 2, 1, 1, 1
    kernels()("add_experts", KINDS[dtype], *sizes, 1.0, rows.to(dtype), logits, torch.zeros(8), gate_up, down, out)
    return out


def mixtures_of(queries, latents, positions, memory):
    """What the kernel attends to: 3 heads of 7 + 8 numbers, latents of 40, values of 33."""
    out, (up_key, up_value) = queries.new_zeros(len(queries), 99), (normal(3, *shape).to(queries.dtype) for shape in ((7, 40), (40, 33)))
    angles = positions[:, None] * normal(1, 4)
    sizes = len(queries), 3, 7, 8, 40, 33, memory.shape[1], queries.stride(0), latents.stride(0), 1
    norm = torch.ones(40), 1e-6
    turn = angles.cos(), angles.sin(), positions, 0.3
    kernels()("decode_latents", KINDS[queries.dtype], *sizes, queries, latents, *norm, *turn, up_key, up_value, memory, out)
    return out


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_whatever_shares_its_batch(dtype):
    """Of fifty rows in blocks of eight, four and one each is what it is alone."""
    rows, logits = normal(50, 48), normal(50, 8)
    queries, latents, memory = (normal(*shape).to(dtype) for shape in ((50, 45), (50, 48), (50, 20, 48)))
    positions = torch.arange(50) % 20
    experts, mixtures = experts_of(rows, logits, dtype), mixtures_of(queries, latents, positions, memory)
    for row in range(50):
        one = slice(row, row + 1)
        assert torch.equal(experts_of(rows[one], logits[one], dtype)[0], experts[row])
        assert torch.equal(mixtures_of(queries[one], latents[one], positions[one], memory[one])[0], mixtures[row])


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_stays_visible_and_with_its_row(dtype):
    """A bad state, or a bad affinity alone, must reach the logits; the other rows' must not know of it."""
    rows, logits = normal(9, 48), normal(9, 8)
    good = experts_of(rows, logits, dtype)
    rows[3], logits[3], logits[5, 6] = torch.nan, torch.nan, torch.nan
    bad = experts_of(rows, logits, dtype)
    assert bad[[3, 5]].isnan().all()
    others = [row for row in range(9) if row not in (3, 5)]
    assert torch.equal(bad[others], good[others])


@compiled
def test_a_model_with_latents_gets_the_kernels_and_others_do_not(tiny):
    assert type(runner_for(tiny("deepseek_v3"), torch.float32)) is LatentCpuRunner
    assert not LatentCpuRunner.fits(tiny("qwen2")) and not LatentCpuRunner.fits(tiny("deepseek_v3").double())


def test_without_a_compiler_the_models_own_forward_pass_decodes(tiny, monkeypatch):
    monkeypatch.setattr(latent, "kernels", lambda: None)
    assert type(runner_for(tiny("deepseek_v3"), torch.float32)) is PlainRunner

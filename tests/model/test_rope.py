"""Rotary embedding on numbers to check by hand; its stretched forms are held against transformers in the parity law."""

import math

import pytest
import torch

from afterbase.model.config import ModelConfig
from afterbase.model.rope import Rotary, softmax_scale


def rotary(width=4, **changes) -> Rotary:
    sizes = {"vocab_size": 2, "hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 2}
    return Rotary(ModelConfig.from_hf({"model_type": "llama", **sizes, **changes}))


def test_the_first_token_is_not_turned():
    heads = torch.randn(1, 2, 4)
    assert torch.equal(rotary()(torch.tensor([0]))(heads), heads)


def test_pairs_turn_by_position_times_frequency():
    """With theta 100 and width 4 the frequencies are 1 and 1/10: at position 2, (1, 0) becomes (cos 2, sin 2) and (cos .2, sin .2)."""
    turned = rotary(rope_theta=100.0)(torch.tensor([2]))(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]))
    assert turned.flatten().tolist() == pytest.approx([math.cos(2), math.cos(0.2), math.sin(2), math.sin(0.2)])


def test_neighbouring_pairs_come_out_as_halves():
    """(a b c d) interleaved is (a c b d) in halves: the same pairs, so the same dot products."""
    heads, places = torch.randn(3, 2, 4), torch.tensor([0, 5, 9])
    halves = rotary()(places)(heads[..., [0, 2, 1, 3]])
    assert torch.equal(rotary(rope_interleave=True)(places)(heads), halves)


def test_only_the_distance_matters():
    query, key = torch.randn(2, 1, 1, 4)
    products = [(rotary()(torch.tensor([at + 3]))(query) * rotary()(torch.tensor([at]))(key)).sum().item() for at in (0, 4, 50)]
    assert products == pytest.approx([products[0]] * 3, abs=1e-5)


def test_linear_scaling_divides_positions():
    scaled = rotary(rope_scaling={"type": "linear", "factor": 4.0})
    heads = torch.randn(1, 1, 4)
    assert torch.equal(scaled(torch.tensor([8]))(heads), rotary()(torch.tensor([2]))(heads))


def test_yarn_turns_scores_up_by_mscale_twice():
    """mscale = 0.1 ln 40 + 1 = 1.3689; MLA's scale is 1/sqrt(16) times its square."""
    sizes = {"vocab_size": 2, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 2}
    latent = {"qk_nope_head_dim": 12, "qk_rope_head_dim": 4, "kv_lora_rank": 4, "v_head_dim": 4}
    yarn = {"rope_type": "yarn", "factor": 40.0, "mscale_all_dim": 1.0}
    scales = [
        softmax_scale(ModelConfig("deepseek_v3", **sizes, num_key_value_heads=1, **latent, rope_scaling=table)) for table in ({}, yarn)
    ]
    assert scales == pytest.approx([0.25, 0.25 * (0.1 * math.log(40) + 1) ** 2])

"""Muon against a plain Newton-Schulz iteration in float64, and torch's own."""

import math

import pytest
import torch

from afterbase.train.muon import Muon, orthogonal
from afterbase.train.optim import OptimConfig, Together, optimizer
from afterbase.train.schedule import ScheduleConfig


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def iterated(matrix):
    """On singular values alone: x -> 3.4445 x - 4.775 x^3 + 2.0315 x^5, five times, from x / norm."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u * s @ v


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (12, 5), (1, 6)])
def test_a_matrix_becomes_what_the_iteration_makes_of_its_singular_values(shape):
    matrix = rand(*shape)
    torch.testing.assert_close(orthogonal(matrix, torch.float64), iterated(matrix), atol=1e-9, rtol=1e-9)
    near = torch.linalg.svdvals(orthogonal(matrix).float())
    assert near.min() > 0.3 and near.max() < 1.4


def test_a_stack_is_its_matrices_one_by_one_and_nothing_stays_nothing():
    stack = rand(3, 4, 6)
    together = orthogonal(stack, torch.float64)
    for matrix, found in zip(stack, together, strict=True):
        torch.testing.assert_close(found, iterated(matrix), atol=1e-9, rtol=1e-9)
    assert orthogonal(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2


def test_three_steps_are_those_of_torch():
    """Whose rate is matched to AdamW's as well; the iterations in bfloat16 differ in the order of additions only."""
    ours, theirs = (torch.nn.Parameter(rand(12, 20)) for _ in range(2))
    mine = Muon([ours], 0.02, 0.95, 0.1)
    other = torch.optim.Muon([theirs], 0.02, 0.1, 0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        ours.grad, theirs.grad = rand(12, 20, seed=step + 1), rand(12, 20, seed=step + 1)
        mine.step(), other.step()
    assert not torch.equal(ours, rand(12, 20))
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


def test_the_first_step_is_the_rate_times_a_matrix_of_adamws_size():
    weight = torch.nn.Parameter(torch.zeros(16, 64))
    weight.grad = rand(16, 64)
    Muon([weight], 0.5, 0.9, 0.1).step()
    torch.testing.assert_close(weight.detach().double(), -0.5 * 0.2 * math.sqrt(64) * iterated(rand(16, 64)), atol=2e-2, rtol=0)


def test_muon_takes_the_blocks_matrices_and_adamw_everything_else(tiny):
    model = tiny("deepseek_v3", num_nextn_predict_layers=1)
    names = {parameter: name for name, parameter in model.named_parameters()}
    config = OptimConfig(kind="muon", schedule=ScheduleConfig(peak=0.01))
    both = optimizer(model, config, {p: p for p in model.parameters()})
    assert isinstance(both, Together)
    muon, adamw = ({names[p] for group in part.param_groups for p in group["params"]} for part in both.parts)
    assert muon | adamw == set(names.values()) and not muon & adamw
    assert {"model.layers.1.mlp.experts.up_proj", "mtp.0.eh_proj.weight", "model.layers.0.self_attn.o_proj.weight"} <= muon
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.gate.weight", "model.norm.weight"} <= adamw
    assert all(names_of.endswith(("weight", "_proj")) for names_of in muon) and not any("norm" in name for name in muon)

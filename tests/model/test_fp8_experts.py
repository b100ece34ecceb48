"""Routed experts that learn in FP8 are a loop over experts in FP8.  [Slides, Mixed Precision]"""

import pytest
import torch

from afterbase.model.fp8 import Eighths
from afterbase.model.fp8_experts import Runs, ScaledExperts, learn_in_fp8
from afterbase.model.mlp import swiglu
from afterbase.model.moe import Experts, by_expert


def test_runs_are_filled_up_to_whole_tiles():
    """130 and 5 tokens and none: two tiles, one, none; room for one more that nobody needed."""
    runs = Runs.of(torch.tensor([130, 0, 5]), 135)
    assert runs.starts.tolist() == [0, 2, 2, 3] and runs.tiles.tolist() == [0, 0, 2, -1, -1]
    assert runs.target.tolist() == [*range(130), *range(256, 261)]


@pytest.mark.parametrize("load", [[128, 128], [1, 0, 0, 0], [0, 127, 129, 256], [0, 0, 5]])
def test_there_is_always_room(load):
    runs = Runs.of(torch.tensor(load), sum(load))
    assert runs.starts[-1] <= len(runs.tiles) and runs.target.unique().numel() == sum(load)
    for expert, count in enumerate(load):
        assert (runs.tiles == expert).sum() == -(-count // 128)
        mine = runs.target[sum(load[:expert]) : sum(load[: expert + 1])]
        assert (runs.tiles[mine // 128] == expert).all()


def experts(count=3, width=128, inner=256):
    torch.manual_seed(0)
    module = Experts(count, width, inner)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    learn_in_fp8(module)
    return module


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shared", [True, False])
def test_outputs_and_gradients_are_those_of_one_layer_in_fp8_for_each_expert(shared):
    """The middle expert gets no token. Tiles along tokens are an expert's own in both."""
    module, hidden, base = experts(), noise(150, 128).requires_grad_(), noise(150, 128, seed=1).requires_grad_()
    gates = noise(150, 2, seed=2).sigmoid().requires_grad_()
    chosen = torch.where(noise(150, 1, seed=3) > 0, torch.tensor([[0, 2]]), torch.tensor([[2, 0]]))
    out = module(hidden, base if shared else None, gates, by_expert(chosen, 3))
    wanted, parts = torch.zeros(150, 128) + (base if shared else 0), {}
    for expert in (0, 2):
        layers = [torch.nn.Linear(*reversed(stack.shape[1:]), bias=False) for stack in module.parameters()]
        for layer, stack in zip(layers, module.parameters(), strict=True):
            layer.weight.data.copy_(stack[expert])
        tokens, copy = (chosen == expert).nonzero(as_tuple=True)
        inner = swiglu(*Eighths(*layers[:2])(hidden[tokens]))
        wanted = wanted.index_add(0, tokens, Eighths(layers[2])(inner)[0] * gates[tokens, copy].unsqueeze(1))
        parts[expert] = [layer.weight for layer in layers]
    torch.testing.assert_close(out, wanted)
    slope, leaves = noise(150, 128, seed=4), [hidden, gates, *([base] if shared else [])]
    found = torch.autograd.grad(out, [*leaves, *module.parameters()], slope)
    expected = torch.autograd.grad(wanted, [*leaves, *parts[0], *parts[2]], slope)
    for one, other in zip(found, expected[: len(leaves)], strict=False):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    for number, stack in enumerate(found[len(leaves) :]):
        assert not stack[1].any()
        for place, expert in enumerate((0, 2)):
            torch.testing.assert_close(stack[expert], expected[len(leaves) + 3 * place + number], rtol=1e-4, atol=1e-4)


def test_who_does_not_learn_reads_the_weights_as_they_are():
    module, plain = experts(), experts()
    plain.__class__ = Experts
    given = noise(20, 128), None, noise(20, 2).sigmoid(), by_expert(torch.tensor([[0, 2]]).expand(20, 2), 3)
    with torch.no_grad():
        assert torch.equal(module(*given), plain(*given))
    assert not torch.equal(module(*given), plain(*given))


def test_stacks_are_scaled_once_a_version():
    module = experts()
    first = module.leaving()
    assert module.leaving() is first
    with torch.no_grad():
        module.down_proj.mul_(2)
    assert torch.equal(module.leaving()[0].wide(), 2 * first[0].wide())


def test_experts_of_no_whole_tiles_stay_as_they_are():
    assert type(experts(inner=64)) is Experts and type(experts()) is ScaledExperts

"""A feed-forward layer that makes its widest product again instead of keeping it."""

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("triton")

from afterbase.model.cuda import layers
from afterbase.model.mlp import MLP, Down

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch):
    """The same kernel on a machine that has no C++ compiler."""
    if DEVICE == "cpu":
        monkeypatch.setattr("afterbase.model.mlp.multiplied", layers.swiglu)


@pytest.mark.parametrize("learns", [True, False])
def test_its_values_and_gradients_are_those_of_plain_torch_in_float64(learns):
    both, weight, slope = rand(5, 24), rand(7, 12, seed=1).requires_grad_(learns), rand(5, 7, seed=2)
    leaves = [both.requires_grad_(), *([weight] if learns else [])]
    exact = [each.detach().double().requires_grad_() for each in leaves]
    found = Down.apply(*both.chunk(2, dim=1), weight.detach(), weight)
    gate, up = exact[0].chunk(2, dim=1)
    wanted = (F.silu(gate) * up) @ (exact[1] if learns else weight.double()).T
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-4)
    ours, theirs = torch.autograd.grad(found, leaves, slope), torch.autograd.grad(wanted, exact, slope.double())
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), right, atol=1e-4, rtol=1e-4)


def test_the_product_is_not_kept():
    """Of five rows, twelve wide: gate and up, and the weight."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tuple(tensor.shape)) or tensor, lambda tensor: tensor):
        Down.apply(*rand(5, 24).requires_grad_().chunk(2, dim=1), rand(7, 12), rand(7, 12).requires_grad_())
    assert kept == [(5, 12), (5, 12), (7, 12)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="made for a GPU")
def test_on_a_gpu_a_layer_under_autocast_takes_this_way_and_agrees_with_its_linear_layers():
    layer, hidden = MLP(32, 48).cuda(), rand(64, 32).requires_grad_()
    inputs = [hidden, *layer.parameters()]
    with torch.autocast("cuda", torch.bfloat16):
        found = layer(hidden)
        wanted = layer.down_proj(F.silu(layer.gate_proj(hidden)) * layer.up_proj(hidden))
    assert type(found.grad_fn).__name__ == "DownBackward"
    gradients = [torch.autograd.grad(each.float().square().sum(), inputs) for each in (found, wanted)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)

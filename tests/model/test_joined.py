"""Linear layers that share an input may be one product, and nobody can tell but by the clock."""

import pytest
import torch
from torch import nn

from afterbase.model.joined import Halves, Joined, Product, side_by_side
from afterbase.train.optim import OptimConfig, adamw


def layers(bias=True):
    torch.manual_seed(0)
    return [nn.Linear(8, width, bias=bias) for width in (6, 2, 2)]


@pytest.mark.parametrize("bias", [False, True])
def test_one_product_has_the_values_and_gradients_of_the_layers_by_themselves(bias):
    parts, hidden = layers(bias), torch.randn(5, 8, requires_grad=True)
    weight = torch.cat([each.weight for each in parts]).detach()
    both = torch.cat([each.bias for each in parts]).detach() if bias else None
    parameters = [*(each.weight for each in parts), *(each.bias for each in parts if bias)]
    found = Product.apply(hidden, weight, both, 3, *parameters)
    wanted = [each(hidden) for each in parts]
    upstream = [torch.randn_like(each) for each in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(
        torch.autograd.grad(found, [hidden, *parameters], upstream),
        torch.autograd.grad(wanted, [hidden, *parameters], upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_frozen_layers_pass_the_gradient_on_and_get_none():
    parts, hidden = [each.requires_grad_(False) for each in layers(False)], torch.randn(5, 8, requires_grad=True)
    found = Product.apply(hidden, torch.cat([each.weight for each in parts]), None, 3, *[each.weight for each in parts])
    torch.cat(found, dim=1).sum().backward()
    torch.testing.assert_close(hidden.grad, sum(each.weight.sum(0) for each in parts).expand(5, 8))


def copies(halves, parts):
    return halves(torch.bfloat16, *(each.weight for each in parts))


def test_copies_are_made_anew_when_a_weight_has_changed_and_only_then():
    parts, halves = layers(), Halves()
    first = copies(halves, parts)
    assert copies(halves, parts) is first and first.dtype == torch.bfloat16
    optimizer = adamw(nn.ModuleList(parts), OptimConfig())
    for change in (
        lambda: parts[1].weight.data.__setitem__(slice(None), 1.0) or parts[1].load_state_dict(parts[1].state_dict()),
        lambda: (parts[0](torch.ones(1, 8)).sum().backward(), optimizer.step()),
        lambda: parts[2].to(torch.float64).to(torch.float32),
    ):
        change()
        before, after = first, copies(halves, parts)
        assert after is not before
        assert torch.equal(after, torch.cat([each.weight for each in parts]).bfloat16())
        first = after


def test_a_single_weight_in_the_wanted_dtype_is_not_copied():
    (part,) = layers()[:1]
    assert Halves()(torch.float32, part.weight).data_ptr() == part.weight.data_ptr()


def test_copies_that_an_engine_had_made_serve_training_too():
    halves, parts = Halves(), layers()
    with torch.inference_mode():
        copy = copies(halves, parts)
    assert not copy.is_inference() and not copy.requires_grad


def test_columns_of_one_matrix_are_joined_without_a_copy_and_others_with_one():
    whole = torch.randn(3, 10)
    assert side_by_side(whole.split([6, 2, 2], dim=1)).data_ptr() == whole.data_ptr()
    swapped = side_by_side((whole[:, 6:], whole[:, :6]))
    assert torch.equal(swapped, torch.cat((whole[:, 6:], whole[:, :6]), dim=1))
    apart = side_by_side((whole[:, :4].contiguous(), whole[:, 4:]))
    assert torch.equal(apart, whole) and apart.data_ptr() != whole.data_ptr()
    flat = torch.arange(6.0)
    assert side_by_side((flat[:4].view(2, 2), flat[2:].view(2, 2))).tolist() == [[0, 1, 2, 3], [2, 3, 4, 5]]


def test_outside_half_precision_the_layers_are_asked_one_by_one():
    parts, hidden = layers(), torch.randn(5, 8)
    assert all(torch.equal(a, layer(hidden)) for a, layer in zip(Joined(*parts)(hidden), parts, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="joins only on a GPU")
def test_on_a_gpu_autocast_and_one_product_agree():
    parts, hidden = [each.cuda() for each in layers()], torch.randn(64, 8, device="cuda", requires_grad=True)
    parameters = [hidden, *(tensor for each in parts for tensor in each.parameters())]
    with torch.autocast("cuda", torch.bfloat16):
        found, wanted = Joined(*parts)(hidden), [each(hidden) for each in parts]
        loss = [sum(each.float().square().sum() for each in them) for them in (found, wanted)]
    assert type(found[0].grad_fn).__name__ == "ProductBackward"
    for ours, theirs in zip(torch.autograd.grad(loss[0], parameters), torch.autograd.grad(loss[1], parameters), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.02)

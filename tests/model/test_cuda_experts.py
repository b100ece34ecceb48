"""The kernels of experts in training do what torch does; without a GPU in Triton's interpreter, which runs the same source."""

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("triton")

from afterbase.model.cuda import experts as kernels
from afterbase.model.routed import Routed

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if torch.cuda.is_available() else torch.float32


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize(("groups", "top", "best", "copies"), [(1, 1, 2, 3), (4, 2, 2, 2), (3, 1, 1, 4), (12, 12, 1, 1)])
def test_the_best_experts_of_the_best_groups_are_chosen(groups, top, best, copies):
    scores = rand(9, 12)
    by_group = scores.unflatten(1, (groups, -1))
    worth = by_group.topk(best, dim=-1)[0].sum(-1)
    allowed = torch.zeros_like(worth).scatter(1, worth.topk(top, dim=-1)[1], 1.0).bool()
    wanted = by_group.masked_fill(~allowed[..., None], -torch.inf).flatten(1).topk(copies)[1]
    assert torch.equal(kernels.choose(scores, groups, top, best, copies), wanted)


def test_of_equal_experts_the_first_is_chosen_and_none_twice():
    assert kernels.choose(torch.zeros(2, 5, device=DEVICE), 1, 1, 2, 3).tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize(("tokens", "experts"), [(1, 3), (50, 6), (200, 5)])
def test_counting_sorts_as_a_stable_sort_does(tokens, experts):
    """Two hundred tokens are more than one program's; expert 0 gets none."""
    chosen = torch.randint(1, experts, (tokens, 2), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    order, place, load = kernels.sort(chosen, experts)
    assert order.tolist() == chosen.flatten().argsort(stable=True).tolist()
    assert order[place.long()].tolist() == list(range(2 * tokens))
    assert load.tolist() == torch.bincount(chosen.flatten(), minlength=experts).tolist()


@pytest.mark.parametrize("based", [True, False])
@pytest.mark.parametrize(("tokens", "width", "inner", "copies"), [(1, 8, 16, 2), (30, 16, 8, 3)])
def test_routed_experts_are_a_loop_over_experts_with_its_gradients(tokens, width, inner, copies, based):
    """In float64, one expert after the other; one token leaves experts idle, whose gradient is zero."""
    hidden, base = rand(tokens, width), rand(tokens, width, seed=1) if based else None
    gates, slope = rand(tokens, copies, seed=2).sigmoid(), rand(tokens, width, seed=3)
    stacks = rand(5, inner, width, seed=4), rand(5, inner, width, seed=5), rand(5, width, inner, seed=6)
    chosen = rand(tokens, 5, seed=7).topk(copies)[1]
    leaves = [each.to(DTYPE).requires_grad_() for each in (hidden, *([base] if based else []), *stacks)] + [gates.requires_grad_()]
    exact = [each.detach().double().requires_grad_() for each in leaves]

    def ours(hidden, *others):
        *base, gate, up, down, gates = others
        halves = torch.cat((gate, up), dim=1).detach(), down.detach()
        return Routed.apply(hidden, base[0] if base else None, gates, kernels.sort(chosen, 5), *halves, gate, up, down)

    def loop(hidden, *others):
        *base, gate, up, down, gates = others
        out = base[0] if base else torch.zeros_like(hidden)
        for expert in range(5):
            weight = (gates * (chosen == expert)).sum(1, keepdim=True)
            out = out + weight * (F.silu(hidden @ gate[expert].T) * (hidden @ up[expert].T)) @ down[expert].T
        return out

    found, wanted = ours(*leaves), loop(*exact)
    gradients = torch.autograd.grad(found, leaves, slope.to(DTYPE)), torch.autograd.grad(wanted, exact, slope.double())
    for mine, theirs in zip((found, *gradients[0]), (wanted, *gradients[1]), strict=True):
        off = (mine.double() - theirs).norm() / theirs.norm()  # bfloat16 has 8 bits, and numbers here cancel
        assert off < (2e-2 if torch.bfloat16 == DTYPE else 1e-5)

"""Latent attention's heads, put together by a kernel, are what the model's own lines make of them."""

import pytest
import torch

pytest.importorskip("triton")

from afterbase.model.cuda.joints import LatentHeads
from afterbase.model.rope import Rotation

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("tokens", "heads", "nope", "rope", "value"), [(1, 1, 4, 2, 3), (21, 3, 6, 4, 10)])
def test_heads_are_parts_laid_side_by_side_with_their_gradients(interleaved, tokens, heads, nope, rope, value):
    """Twenty-one tokens are more than one program's; the key lies in the rows of a wider matrix."""
    asked, raised = rand(tokens, heads * (nope + rope), seed=1), rand(tokens, heads * (nope + value), seed=2)
    squeezed, angles = rand(tokens, 5 + rope, seed=3), rand(tokens, 1, rope // 2, seed=4)
    rotation = Rotation(angles.cos(), angles.sin(), interleaved)

    def ours(asked, raised, squeezed):
        return LatentHeads.apply(asked, raised, squeezed[:, 5:], rotation.cos, rotation.sin, interleaved, (heads, nope, rope, value))

    def plain(asked, raised, squeezed):
        content, rotary = asked.unflatten(1, (heads, -1)).split([nope, rope], dim=-1)
        keys, values = raised.unflatten(1, (heads, -1)).split([nope, value], dim=-1)
        shared = rotation(squeezed[:, None, 5:]).expand(-1, heads, -1)
        filled = torch.cat((values, values.new_zeros(tokens, heads, nope + rope - value)), dim=-1)
        return torch.cat((content, rotation(rotary)), dim=-1), torch.cat((keys, shared), dim=-1), filled

    leaves = [each.requires_grad_() for each in (asked, raised, squeezed)]
    found, wanted = ours(*leaves), plain(*leaves)
    slopes = [rand(*each.shape, seed=5 + place) for place, each in enumerate(wanted)]
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(torch.autograd.grad(found, leaves, slopes), torch.autograd.grad(wanted, leaves, slopes), strict=True):
        torch.testing.assert_close(mine, theirs)

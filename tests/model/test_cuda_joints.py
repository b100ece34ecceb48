"""Latent attention's heads, put together by a kernel, are what the model's own lines make of them."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("triton")

from afterbase.model import attend, mla
from afterbase.model.cuda.joints import LatentHeads
from afterbase.model.rope import Rotation
from afterbase.segments import Segments

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


@pytest.mark.parametrize(("value", "filled"), [(5, True), (10, True), (12, False)])
def test_values_wider_than_keys_go_without_the_kernel(tiny, random_tokens, monkeypatch, value, filled):
    """Keys are 6 + 4 wide, and nothing can be filled up to less than it is."""
    model, taken = tiny("deepseek_v3", v_head_dim=value).to(DEVICE), []
    tokens, segments = torch.tensor(random_tokens(20), device=DEVICE), Segments.of((13, 7), DEVICE)
    wanted = model(tokens, segments)
    together = mla.MLA._together
    monkeypatch.setattr(mla.MLA, "_together", lambda *given: taken.append(1) or together(*given))
    monkeypatch.setattr(mla, "cuda", SimpleNamespace(kernels_for=lambda tensor: True))
    torch.testing.assert_close(model(tokens, segments), wanted)
    assert bool(taken) == filled


@pytest.mark.parametrize(("key", "value"), [(10, 5), (8, 8), (6, 20)])
def test_flash_attention_gets_heads_of_one_width_none_of_which_is_cut(monkeypatch, key, value):
    """Played here by torch's own attention, of a stream of 5 and 4 tokens."""
    queries, keys, values = rand(9, 4, key, seed=1), rand(9, 2, key, seed=2), rand(9, 2, value, seed=3)
    segments = Segments.of((5, 4), DEVICE)

    def flash(queries, keys, values, starts, *_, scale):
        assert queries.shape[-1] == keys.shape[-1] == values.shape[-1] and values.shape[-1] % 8 == 0
        parts = [[x[begin:end].transpose(0, 1) for x in (queries, keys, values)] for begin, end in pairwise(starts)]
        mixed = [F.scaled_dot_product_attention(*part, is_causal=True, scale=scale, enable_gqa=True) for part in parts]
        return (torch.cat([part.transpose(0, 1) for part in mixed]),)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", flash)
    torch.testing.assert_close(attend._varlen(queries, keys, values, segments, 0.3), attend._padded(queries, keys, values, segments, 0.3))

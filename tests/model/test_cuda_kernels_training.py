"""The Triton kernels of training do what torch does; without a GPU in Triton's interpreter, which runs the same source."""

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("triton")

from afterbase.model import cuda, logprob, norm, rope
from afterbase.model.cuda import layers, vocabulary
from afterbase.model.joined import side_by_side

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDING = {torch.float32: {"atol": 2e-5, "rtol": 2e-5}, torch.bfloat16: {"atol": 2e-2, "rtol": 2e-2}}


@pytest.fixture(autouse=True)
def triton_everywhere(monkeypatch):
    """The kernels are used for tensors that the interpreter can read, on a machine without a GPU too."""
    monkeypatch.setattr(cuda, "kernels_for", lambda tensor: layers if tensor.dtype in cuda.KINDS else None)
    for module in (norm, rope):
        monkeypatch.setattr(module, "kernels_for", lambda tensor: None)


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def leaves(*tensors, wide=False):
    return [(each.detach().double() if wide else each.detach().clone()).requires_grad_() for each in tensors]


def close(found, wanted, dtype):
    for ours, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.double(), exact, **ROUNDING[dtype])


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adding_and_normalizing_is_float64s_with_its_gradients(rows, dtype):
    x, delta, weight = rand(rows, 37), rand(rows, 37, seed=1, dtype=dtype), rand(37, seed=2)
    past, gradient = rand(rows, 37, seed=3), rand(rows, 37, seed=4).to(dtype)
    ours, exact = leaves(x, delta, weight), leaves(x, delta, weight, wide=True)
    total, normal = norm.AddNormalize.apply(*ours, 1e-5, dtype)
    summed = exact[0] + exact[1]
    wanted = summed * (summed.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * exact[2]
    torch.autograd.backward([total, normal], [past, gradient])
    torch.autograd.backward([summed, wanted], [past.double(), gradient.double()])
    assert total.dtype == torch.float32 and normal.dtype == dtype and ours[1].grad.dtype == dtype
    close([total], [summed], torch.float32)
    close([normal], [wanted], dtype)
    close([each.grad for each in ours], [each.grad for each in exact], dtype)


def test_a_norm_alone_is_float64s_with_its_gradients_over_several_dimensions():
    x, weight, gradient = rand(2, 3, 128), rand(128, seed=1), rand(2, 3, 128, seed=2)
    ours, exact = leaves(x, weight), leaves(x, weight, wide=True)
    found = norm.Normalize.apply(*ours, 1e-6, torch.float32)
    wanted = F.rms_norm(exact[0], (128,), exact[1], 1e-6)
    found.backward(gradient), wanted.backward(gradient.double())
    close([found, *(each.grad for each in ours)], [wanted, *(each.grad for each in exact)], torch.float32)


def test_nothing_to_normalize_has_gradients_of_zero():
    x, weight = leaves(rand(0, 16), rand(16))
    norm.Normalize.apply(x, weight, 1e-6, torch.float32).sum().backward()
    assert x.grad.shape == (0, 16) and not weight.grad.any()


def test_a_norm_writes_its_sum_where_it_is_told_to():
    x, delta = rand(3, 16), rand(3, 16, seed=1)
    wanted = x + delta
    total, _, _ = norm.add_normalize(x, delta, torch.ones(16, device=DEVICE), 1e-6, torch.float32, in_place=True)
    assert total.data_ptr() == x.data_ptr() and torch.equal(x, wanted)


def test_a_number_that_is_not_finite_stays_visible():
    x = rand(2, 16)
    x[1, 3] = torch.nan
    _, _, normal = norm.add_normalize(x, None, torch.ones(16, device=DEVICE), 1e-6, torch.float32)
    assert normal[0].isfinite().all() and normal[1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [24, 1500])
def test_swiglu_of_two_halves_of_one_product_is_float64s_with_its_gradients_side_by_side(dtype, width):
    both, gradient = rand(3, 2 * width, dtype=dtype), rand(3, width, seed=1, dtype=dtype)
    gate, up = both.chunk(2, dim=1)
    found = layers.swiglu(gate, up, torch.full((3, width), torch.nan, dtype=dtype, device=DEVICE))
    slopes = layers.swiglu_backward(gradient, gate, up)
    (exact,) = leaves(both, wide=True)
    wanted = F.silu(exact[:, :width]) * exact[:, width:]
    wanted.backward(gradient.double())
    assert side_by_side(slopes).data_ptr() == slopes[0].data_ptr()
    close([found, *slopes], [wanted, *exact.grad.chunk(2, dim=1)], dtype)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_turning_heads_is_torchs_and_turning_back_undoes_it(monkeypatch, interleaved, dtype):
    heads = rand(5, 3 * 8 + 2, dtype=dtype)[:, 2:].unflatten(1, (3, 8))  # rows that are part of longer ones
    angles = rand(5, 1, 4, seed=1)
    turned = rope.turned(heads, angles.cos(), angles.sin(), interleaved, back=False)
    again = rope.turned(turned, angles.cos(), angles.sin(), interleaved, back=True)
    close([again], [heads.double()], dtype)
    monkeypatch.setattr(cuda, "kernels_for", lambda tensor: None)
    wanted = rope.turned(heads, angles.cos(), angles.sin(), interleaved, back=False)
    assert turned.dtype == dtype
    close([turned], [wanted.double()], dtype)


@pytest.mark.parametrize("logits", [1, 40, 29 * 13, 1 << 20], ids=["one", "some", "one exact chunk", "all"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_entropies_and_gradients_are_float64s(monkeypatch, logits, temperature):
    monkeypatch.setattr(vocabulary, "LOGITS", logits)
    monkeypatch.setattr(vocabulary, "BLOCK", 8)  # several steps for 29 entries
    hidden, head = rand(13, 16), rand(29, 16, seed=1)
    targets = torch.randint(0, 29, (13,), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    first, second = rand(2, 13, seed=3)
    ours, exact = leaves(hidden, head), leaves(hidden, head, wide=True)
    logprobs, entropy = logprob.token_statistics(*ours, targets, temperature, "learned")
    wanted = torch.distributions.Categorical(logits=exact[0] @ exact[1].T / temperature)
    (logprobs * first + entropy * second).sum().backward()
    (wanted.log_prob(targets) * first.double() + wanted.entropy() * second.double()).sum().backward()
    close([logprobs, entropy], [wanted.log_prob(targets), wanted.entropy()], torch.float32)
    close([each.grad for each in ours], [each.grad for each in exact], torch.float32)


def test_without_entropy_and_without_tokens_the_gradients_are_right_too():
    for tokens in (0, 3):
        hidden, head = rand(tokens, 16), rand(29, 16, seed=1)
        targets = torch.arange(tokens, device=DEVICE)
        ours, exact = leaves(hidden, head), leaves(hidden, head, wide=True)
        logprob.token_logprobs(*ours, targets).sum().backward()
        (exact[0] @ exact[1].T).log_softmax(-1).gather(1, targets[:, None]).sum().backward()
        close([each.grad for each in ours], [each.grad for each in exact], torch.float32)


def test_certain_and_impossible_tokens_have_finite_log_probabilities():
    hidden, head = torch.tensor([[100.0]], device=DEVICE), torch.tensor([[3.0], [-3.0]], device=DEVICE)
    found, entropy = logprob.token_statistics(hidden.expand(2, 1), head, torch.tensor([0, 1], device=DEVICE), 1.0, "measured")
    assert found.tolist() == pytest.approx([0.0, -600.0]) and entropy.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kept", [0, 1 << 20], ids=["made again", "kept"])
def test_slopes_kept_in_bfloat16_and_logits_made_again_give_the_same_gradients_within_rounding(monkeypatch, kept):
    monkeypatch.setattr(vocabulary, "KEPT", kept)
    monkeypatch.setattr(cuda, "product", lambda a, b, out=None: torch.mm(a.float(), b.float(), out=out))  # the CPU has no mixed product
    monkeypatch.setattr(vocabulary, "product", cuda.product)
    hidden, head = rand(13, 16, dtype=torch.bfloat16), rand(29, 16, seed=1, dtype=torch.bfloat16)
    targets, scale = torch.arange(13, device=DEVICE), rand(13, seed=2)
    total, picked, _, slopes = vocabulary.statistics(hidden, head, targets, 0.6, False, keep=True)
    assert (slopes is None) == (kept == 0)
    exact = leaves(hidden, head, wide=True)
    wanted = (exact[0] @ exact[1].T / 0.6).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    (wanted * scale.double()).sum().backward()
    found = vocabulary.gradients(hidden, head, targets, 0.6, total, scale / 0.6, None, total, slopes)
    close([picked - total], [wanted], torch.float32)
    for ours, each in zip(found, exact, strict=True):
        assert (ours.double() - each.grad).norm() < 6e-3 * each.grad.norm()

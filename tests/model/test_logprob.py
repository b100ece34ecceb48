"""Log-probabilities of chosen tokens: exact, and never holding [T, vocabulary]."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from afterbase.model import logprob
from afterbase.model.logprob import token_logprobs, token_statistics


def inputs(tokens=13, width=5, vocabulary=29):
    generator = torch.Generator().manual_seed(0)
    hidden, head = (2 * torch.randn(n, width, generator=generator) for n in (tokens, vocabulary))
    return hidden, head, torch.randint(0, vocabulary, (tokens,), generator=generator)


@pytest.fixture(params=[1, 29 * 4, 29 * 13, 1 << 21], ids=["row by row", "chunks of 4", "one exact chunk", "default"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(logprob, "CHUNK", request.param)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_are_log_softmax_in_float64(chunk, temperature):
    hidden, head, targets = inputs()
    weight = torch.randn(13, generator=torch.Generator().manual_seed(1))
    mine = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
    exact = [hidden.double().requires_grad_(), head.double().requires_grad_()]
    found = token_logprobs(*mine, targets, temperature)
    wanted = (exact[0] @ exact[1].T / temperature).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    (found * weight).sum().backward()
    (wanted * weight.double()).sum().backward()
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(mine, exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_entropies_and_their_gradients_are_those_of_the_distribution_in_float64(chunk, temperature):
    hidden, head, targets = inputs()
    first, second = torch.randn(2, 13, generator=torch.Generator().manual_seed(1))
    mine = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
    exact = [hidden.double().requires_grad_(), head.double().requires_grad_()]
    logprobs, found = token_statistics(*mine, targets, temperature, "learned")
    distribution = torch.distributions.Categorical(logits=exact[0] @ exact[1].T / temperature)
    torch.testing.assert_close(found.double(), distribution.entropy(), atol=1e-5, rtol=1e-5)
    (logprobs * first + found * second).sum().backward()
    (distribution.log_prob(targets) * first.double() + distribution.entropy() * second.double()).sum().backward()
    for ours, theirs in zip(mine, exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=2e-5, rtol=1e-5)


def test_a_measured_entropy_passes_no_gradient_on_and_an_unused_one_is_not_computed():
    hidden, head, targets = inputs()
    gradients = []
    for use in ("measured", "unused"):
        mine = hidden.clone().requires_grad_()
        logprobs, entropy = token_statistics(mine, head, targets, 1.0, use)
        assert (entropy is None) == (use == "unused") and (entropy is None or not entropy.requires_grad)
        logprobs.sum().backward()
        gradients.append(mine.grad)
    assert torch.equal(*gradients)


def test_a_flat_distribution_has_the_log_of_its_size():
    hidden, head = torch.zeros(2, 3), torch.ones(8, 3)
    assert token_logprobs(hidden, head, torch.tensor([0, 7])).tolist() == pytest.approx([-2.0794415] * 2)
    assert token_statistics(hidden, head, torch.tensor([0, 7]), 1.0, "measured")[1].tolist() == pytest.approx([2.0794415] * 2)


def test_no_tokens_have_no_log_probabilities():
    """A sequence too short for an MTP module leaves it nothing to predict, and its weights a gradient of zero."""
    _, head, _ = inputs()
    hidden, head = torch.zeros(0, 5, requires_grad=True), head.requires_grad_()
    found = token_logprobs(hidden, head, torch.zeros(0, dtype=torch.long))
    found.sum().backward()
    assert found.shape == (0,) and not head.grad.any()


def test_bfloat16_autocast_is_close_and_keeps_float32_gradients():
    hidden, head, targets = inputs()
    hidden.requires_grad_(), head.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = token_logprobs(hidden, head, targets)
    found.sum().backward()
    torch.testing.assert_close(found, token_logprobs(hidden, head, targets), atol=0.2, rtol=0.05)
    assert found.dtype == hidden.grad.dtype == head.grad.dtype == torch.float32


class Largest(TorchDispatchMode):
    """Watches every tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [tensor.numel() for tensor in tree_leaves(result) if isinstance(tensor, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


def test_the_logits_of_a_batch_are_never_held_at_once(monkeypatch):
    """200 tokens over 1,000 entries would be 200,000 logits; in chunks of 10 rows nothing exceeds 10,000, backward included."""
    monkeypatch.setattr(logprob, "CHUNK", 10_000)
    hidden, head, targets = inputs(200, 4, 1000)
    hidden.requires_grad_(), head.requires_grad_()
    with Largest() as largest:
        token_logprobs(hidden, head, targets).sum().backward()
        logprobs, entropy = token_statistics(hidden, head, targets, 1.0, "learned")
        (logprobs + entropy).sum().backward()
    assert largest.elements == 10_000

"""Estimates of the distance from the reference, over all outcomes of small distributions."""

import math

import pytest
import torch

from afterbase.objective.grpo import Grpo, GrpoConfig
from afterbase.objective.kl import ESTIMATORS, k1, k3, penalties
from afterbase.records import Sample
from afterbase.train.packing import pack

POLICY, OLD, REFERENCE = ([0.6, 0.3, 0.1], [0.5, 0.2, 0.3], [0.2, 0.2, 0.6])


def divergence(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    logprobs = logits.log_softmax(0)
    return (logprobs.exp() * (logprobs - reference.log())).sum()


def gradients(name: str, drawn_from: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """The estimator's mean gradient over the outcomes of `drawn_from`, and the true divergence's."""
    drawn, reference = (torch.tensor(values, dtype=torch.float64) for values in (drawn_from, REFERENCE))
    logits = torch.tensor(POLICY, dtype=torch.float64).log().requires_grad_()
    (drawn * ESTIMATORS[name](logits.log_softmax(0), reference.log(), drawn.log())).sum().backward()
    estimated, logits.grad = logits.grad, None
    divergence(logits, reference).backward()
    return estimated, logits.grad


def test_k3_is_never_negative_and_zero_only_when_equal():
    """pi_ref/pi of 2, 1 and 1/2 give 2 - ln 2 - 1, 0 and 1/2 + ln 2 - 1."""
    values = k3(torch.tensor([0.0, 0.0, 0.0]), torch.tensor([math.log(2), 0.0, -math.log(2)]))
    assert values.tolist() == pytest.approx([1 - math.log(2), 0.0, math.log(2) - 0.5], abs=1e-6)


@pytest.mark.parametrize("drawn_from", [POLICY, OLD], ids=["on policy", "off policy"])
def test_the_unbiased_estimate_has_the_true_gradient_whoever_drew(drawn_from):
    torch.testing.assert_close(*gradients("unbiased", drawn_from))


def test_k2_has_the_true_gradient_on_policy_and_k3_has_not():
    torch.testing.assert_close(*gradients("k2", POLICY))
    assert not torch.allclose(*gradients("k3", POLICY), rtol=0.1)


def test_k1_in_the_loss_pulls_nowhere():
    estimated, _ = gradients("k1", POLICY)
    torch.testing.assert_close(estimated, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_k1_and_k3_estimate_the_divergence_without_bias(name):
    """Their mean under pi is KL(pi || pi_ref), here 0.75 ln(0.75/0.5) + 0.25 ln(0.25/0.5)."""
    policy, reference = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
    mean = (policy * {"k1": k1, "k3": k3}[name](policy.log(), reference.log())).sum()
    assert mean.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)


@pytest.mark.parametrize(("estimator", "expected"), [("k1", 1.0), ("k2", 2.5), ("k3", math.exp(-2) + 2 - 1 + math.e - 1 - 1)])
def test_a_reward_loses_beta_times_the_sum_over_its_tokens(estimator, expected):
    """Log-ratios of 2 and -1: 2 - 1, (4 + 1) / 2, and e^-2 + 2 - 1 and e - 1 - 1; who agrees or says nothing loses nothing."""
    far = Sample((1, 2, 3), (False, True, True), old=(-1.0, -2.0), reference=(-3.0, -1.0))
    near = Sample((1, 2), (False, True), old=(-1.0,), reference=(-1.0,))
    lost = penalties([far, near, Sample((1,), (False,))], 0.1, estimator)
    assert lost.tolist() == pytest.approx([0.1 * expected, 0.0, 0.0]) and lost.dtype == torch.float32


def test_in_the_reward_the_loss_has_no_pull():
    """The reference may then be left out of the batch."""
    (batch,) = pack([Sample((1, 2), (False, True), advantage=1.0, old=(0.0,))], 10)
    loss, _ = Grpo(GrpoConfig(kl=5.0, kl_in="reward"))(torch.zeros(1), batch)
    assert loss.item() == -1.0


def test_the_metric_is_k3_in_nats_a_token_whatever_the_loss_takes():
    """pi_ref/pi of 2 and 1 on two tokens: (2 - ln 2 - 1) / 2."""
    sample = Sample((1, 2, 3), (False, True, True), old=(0.0, 0.0), reference=(math.log(2), 0.0))
    (batch,) = pack([sample], 10)
    for knobs in ({"ratio": "sequence"}, {"kl_estimator": "k1"}, {"kl_in": "reward"}):
        _, metrics = Grpo(GrpoConfig(kl=1.0, **knobs))(torch.zeros(2), batch)
        assert metrics["train/reference_kl/mean"] == pytest.approx((1 - math.log(2)) / 2)

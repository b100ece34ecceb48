"""The correction for answers that another distribution drew, on weights to check in the head."""

import math

import pytest
import torch

from afterbase.objective.grpo import Grpo, GrpoConfig
from afterbase.records import Sample
from afterbase.train.packing import pack

WEIGHTS = (0.5, 4.0, 1.0)
"""pi_old/behaviour of three tokens, the first two of one answer; its product is 2."""


def batch_of(weights=WEIGHTS):
    logs = [math.log(weight) for weight in weights]
    samples = [
        Sample((1, 2, 3), (False, True, True), advantage=1.0, old=(-1.0, -1.0), behaviour=(-1.0 - logs[0], -1.0 - logs[1])),
        Sample((1, 2), (False, True), advantage=-1.0, old=(-1.0,), behaviour=(-1.0 - logs[2],)),
    ]
    (batch,) = pack(samples, 10)
    return batch


@pytest.mark.parametrize(
    ("level", "mode", "low", "high", "weights", "outside"),
    [
        ("token", "clip", 0.0, 2.0, (0.5, 2.0, 1.0), 1),
        ("token", "clip", 0.8, 3.0, (0.8, 3.0, 1.0), 2),
        ("token", "mask", 0.0, 2.0, (0.5, 0.0, 1.0), 1),
        ("token", "mask", 0.8, 5.0, (0.0, 4.0, 1.0), 1),
        ("sequence", "clip", 0.0, 1.5, (1.5, 1.5, 1.0), 2),
        ("sequence", "clip", 0.0, 3.0, (2.0, 2.0, 1.0), 0),
        ("sequence", "mask", 0.0, 1.5, (0.0, 0.0, 1.0), 2),
    ],
)
def test_the_policy_gradient_is_weighed(level, mode, low, high, weights, outside):
    """On policy the gradient of a token is minus its advantage; here times its weight, a third each."""
    logprobs = torch.full((3,), -1.0, requires_grad=True)
    config = GrpoConfig(correction={"level": level, "mode": mode, "low": low, "high": high})
    loss, metrics = Grpo(config)(logprobs, batch_of())
    loss.backward()
    assert (3 * logprobs.grad).tolist() == pytest.approx([-weights[0], -weights[1], weights[2]], rel=1e-5)
    assert metrics["train/correction/mean"] == pytest.approx(sum(weights) / 3, rel=1e-5)
    assert metrics["train/correction_clipped/fraction"] == pytest.approx(outside / 3)


def test_what_pi_old_drew_itself_is_left_as_it_is():
    logprobs = torch.tensor([-0.9, -1.1, -1.0])
    without, _ = Grpo(GrpoConfig())(logprobs, batch_of())
    drawn, _ = Grpo(GrpoConfig(correction={}))(logprobs, batch_of((1.0, 1.0, 1.0)))
    assert drawn.item() == pytest.approx(without.item())


def test_the_pull_and_the_bonus_are_not_weighed():
    """A masked answer still feels both."""
    (batch,) = pack([Sample((1, 2), (False, True), 1.0, 1.0, (0.0,), (1.0,), (-9.0,))], 10)
    config = GrpoConfig(kl=1.0, kl_estimator="k2", entropy=0.5, correction={"mode": "mask"})
    loss, _ = Grpo(config)(torch.zeros(1), batch, torch.ones(1))
    assert loss.item() == pytest.approx(0.5 - 0.5 * 1.0)


def test_it_needs_to_know_what_drew_the_tokens():
    (batch,) = pack([Sample((1, 2), (False, True), old=(0.0,))], 10)
    with pytest.raises(AssertionError, match="distribution that was drawn from"):
        Grpo(GrpoConfig(correction={}))(torch.zeros(1), batch)

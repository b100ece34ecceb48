"""Maximum likelihood on numbers to check in the head."""

import pytest
import torch

from afterbase.objective.likelihood import Likelihood
from afterbase.records import Sample
from afterbase.train.packing import pack


def test_the_loss_is_the_mean_over_the_steps_tokens():
    """Tokens of log-probability -1, -2 and -6 cost 3 on average, however they are batched."""
    samples = [Sample((1, 2, 3), (False, True, True)), Sample((1, 2), (False, True))]
    (whole,) = pack(samples, 100)
    assert float(Likelihood()(torch.tensor([-1.0, -2.0, -6.0]), whole)[0]) == 3.0
    first, second = pack(samples, 1)
    losses = [Likelihood()(torch.tensor([-1.0, -2.0]), first)[0], Likelihood()(torch.tensor([-6.0]), second)[0]]
    assert sum(losses) == 3.0 and losses[0] == 1.0


def test_a_weight_scales_its_sequence():
    """-1 counts double and -6 half: (2 + 4 + 3) / 3."""
    samples = [Sample((1, 2, 3), (False, True, True), weight=2.0), Sample((1, 2), (False, True), weight=0.5)]
    (batch,) = pack(samples, 100)
    logprobs = torch.tensor([-1.0, -2.0, -6.0], requires_grad=True)
    loss, metrics = Likelihood()(logprobs, batch)
    loss.backward()
    assert loss.item() == metrics["train/loss/mean"] == 3.0
    assert logprobs.grad.tolist() == pytest.approx([-2 / 3, -2 / 3, -0.5 / 3])

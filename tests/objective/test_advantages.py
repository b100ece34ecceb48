"""Eq. 28 on numbers to check in the head."""

import pytest
import torch

from afterbase.objective.advantage import group_advantages


def test_rewards_are_centred_and_divided_by_the_population_spread():
    """0, 0, 0, 4 have mean 1 and variance (1 + 1 + 1 + 9) / 4 = 3."""
    advantages, equal = group_advantages(torch.tensor([[0.0, 0.0, 0.0, 4.0]]))
    assert advantages[0].tolist() == pytest.approx([-(3**-0.5)] * 3 + [3**0.5])
    assert equal.tolist() == [False]


def test_a_half_right_group_has_advantages_of_one():
    assert group_advantages(torch.tensor([[1.0, 0.0, 1.0, 0.0]]))[0].tolist() == [[1.0, -1.0, 1.0, -1.0]]


def test_the_slides_example_uses_the_population_spread():
    """1.0, 0.9, 0.0, 1.0 have mean 0.725 and spread 0.4206; the 0.453 printed in [Slides] is neither that nor the sample's 0.4856."""
    advantages, _ = group_advantages(torch.tensor([[1.0, 0.9, 0.0, 1.0]]))
    assert advantages[0].tolist() == pytest.approx([0.275 / 0.42057, 0.175 / 0.42057, -0.725 / 0.42057, 0.275 / 0.42057], rel=1e-4)


def test_without_scale_rewards_are_only_centred():
    assert group_advantages(torch.tensor([[0.0, 0.0, 0.0, 4.0]]), scale=False)[0].tolist() == [[-1.0, -1.0, -1.0, 3.0]]


def test_groups_do_not_see_each_other():
    rewards = torch.tensor([[1.0, 0.0], [100.0, 300.0]])
    assert group_advantages(rewards)[0].tolist() == [[1.0, -1.0], [-1.0, 1.0]]


def test_a_failed_verifier_leaves_the_group_a_mean_of_the_others():
    """Of 3, 5 and a failure the mean is 4 and the spread 1."""
    advantages, equal = group_advantages(torch.tensor([[3.0, 5.0, 0.0]]), torch.tensor([[True, True, False]]))
    assert advantages.tolist() == [[-1.0, 1.0, 0.0]] and equal.tolist() == [False]


def test_advantages_keep_the_rewards_dtype():
    assert group_advantages(torch.tensor([[1.0, 0.0]]))[0].dtype == torch.float32

"""DAPO's soft punishment on lengths to check in the head."""

import pytest
import torch

from afterbase.objective.shaping import overlong_penalty


def test_the_punishment_grows_in_a_straight_line_over_the_buffer():
    """A cap of 20 and a buffer of 4: nothing up to 16, a quarter for each token more, whole at 20 and beyond."""
    found = overlong_penalty(torch.tensor([0, 16, 17, 18, 20, 25]), torch.tensor(20), 4)
    assert found.tolist() == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


def test_each_row_has_its_own_cap():
    assert overlong_penalty(torch.tensor([[8, 10], [8, 20]]), torch.tensor([[10], [20]]), 2).tolist() == [[0.0, -1.0], [0.0, -1.0]]


def test_without_a_buffer_nobody_is_punished():
    assert overlong_penalty(torch.tensor([5, 10, 11]), torch.tensor(10), 0).tolist() == [0.0, 0.0, 0.0]


def test_a_buffer_longer_than_the_cap_is_our_own_mistake():
    with pytest.raises(AssertionError, match="does not fit below a cap of 3"):
        overlong_penalty(torch.tensor([1, 2]), torch.tensor([[9], [3]]), 4)

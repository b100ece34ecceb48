"""The learning rate by hand.  [V3 5.1: cosine from 5e-6 to 1e-6]"""

import pytest

from afterbase.train.schedule import ScheduleConfig, learning_rate


def rates(steps, **settings):
    return [learning_rate(ScheduleConfig(**settings), step, steps) for step in range(steps)]


def test_the_paper_goes_from_5e_6_to_1e_6():
    """Halfway the cosine is at the middle, 3e-6."""
    found = rates(5)
    assert (found[0], found[2], found[4]) == pytest.approx((5e-6, 3e-6, 1e-6)) and found == sorted(found, reverse=True)


def test_warm_up_climbs_in_equal_steps_to_the_peak():
    """Peak 8 over 4 steps: 2, 4, 6, 8; then 8 is held or the cosine starts from it."""
    assert rates(6, kind="constant", peak=8.0, warmup=4) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]
    assert rates(7, peak=8.0, warmup=4, floor=0.0)[3:] == pytest.approx([8.0, 8.0, 4.0, 0.0])


def test_a_floor_of_one_is_constant_and_of_zero_ends_at_nothing():
    assert rates(4, peak=2.0, floor=1.0) == pytest.approx([2.0] * 4)
    assert rates(4, peak=2.0, floor=0.0)[-1] == pytest.approx(0.0)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_runs_shorter_than_their_warm_up_still_learn(steps):
    assert all(0 < rate <= 1.0 for rate in rates(steps, peak=1.0, warmup=2))


def test_steps_past_the_end_stay_at_the_floor():
    """Half as far again past step 10, the cosine alone would be back in the middle."""
    assert learning_rate(ScheduleConfig(peak=1.0, floor=0.1), 15, 11) == pytest.approx(0.1)

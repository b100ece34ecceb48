"""Eq. 28 and its variants on numbers to check in the head."""

from statistics import mean, pstdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from afterbase.objective.advantage import AdvantageConfig, advantages, spread


def values(rewards, valid=None, domains=(), **config) -> list[list[float]]:
    valid = None if valid is None else torch.tensor(valid)
    return advantages(torch.tensor(rewards), valid, domains, AdvantageConfig(**config)).values.tolist()


def test_rewards_are_centred_and_divided_by_the_population_spread():
    """0, 0, 0, 4 have mean 1 and variance (1 + 1 + 1 + 9) / 4 = 3."""
    found = advantages(torch.tensor([[0.0, 0.0, 0.0, 4.0]]))
    assert found.values[0].tolist() == pytest.approx([-(3**-0.5)] * 3 + [3**0.5])
    assert found.equal.tolist() == [False]


def test_a_half_right_group_has_advantages_of_one():
    assert values([[1.0, 0.0, 1.0, 0.0]]) == [[1.0, -1.0, 1.0, -1.0]]


def test_the_slides_example_uses_the_population_spread():
    """1.0, 0.9, 0.0, 1.0 have mean 0.725 and spread 0.4206; the 0.453 printed in [Slides] is neither that nor the sample's 0.4856."""
    (found,) = values([[1.0, 0.9, 0.0, 1.0]])
    assert found == pytest.approx([0.275 / 0.42057, 0.175 / 0.42057, -0.725 / 0.42057, 0.275 / 0.42057], rel=1e-4)


def test_without_scale_rewards_are_only_centred():
    assert values([[0.0, 0.0, 0.0, 4.0]], scale="none") == [[-1.0, -1.0, -1.0, 3.0]]


def test_groups_do_not_see_each_other():
    assert values([[1.0, 0.0], [100.0, 300.0]]) == [[1.0, -1.0], [-1.0, 1.0]]


def test_a_failed_verifier_leaves_the_group_a_mean_of_the_others():
    """Of 3, 5 and a failure the mean is 4 and the spread 1; each is 2 away from the other."""
    rewards, valid = [[3.0, 5.0, 0.0]], [[True, True, False]]
    assert values(rewards, valid) == [[-1.0, 1.0, 0.0]]
    assert values(rewards, valid, scale="none", centre="leave_one_out") == [[-2.0, 2.0, 0.0]]
    assert values(rewards, valid, scale="none", centre="none") == [[3.0, 5.0, 0.0]]


def test_leaving_one_out_compares_with_the_mean_of_the_others():
    """6 with the mean 1 of 0 and 2, 0 with that of 6 and 2, 2 with that of 6 and 0."""
    assert values([[6.0, 0.0, 2.0]], centre="leave_one_out", scale="none") == [[5.0, -4.0, -1.0]]


def test_nothing_taken_off_leaves_the_rewards_but_equal_ones_teach_nothing_all_the_same():
    assert values([[3.0, 1.0], [5.0, 5.0]], centre="none", scale="none") == [[3.0, 1.0], [0.0, 0.0]]


def test_the_rounds_spread_counts_every_valid_answer_once():
    """1, 3 and 6, 6 have mean 4 and spread sqrt((9 + 1 + 4 + 4) / 4); the 100 is a failure's."""
    unit = 4.5**0.5
    found = values([[1.0, 3.0, 100.0], [6.0, 6.0, 100.0]], [[True, True, False]] * 2, scale="batch")
    assert found[0] == pytest.approx([-1 / unit, 1 / unit, 0.0]) and found[1] == [0.0, 0.0, 0.0]


def test_by_domain_each_domain_is_measured_by_its_own_spread():
    """Rewards of 0 and 1 in one domain and of 0 and 1000 in another pull alike, groups of equal rewards counted in."""
    rewards = [[0.0, 1.0], [0.0, 1000.0], [1.0, 1.0], [1000.0, 1000.0]]
    small, large, *equal = values(rewards, domains=["math", "code", "math", "code"], scale="domain")
    assert small == pytest.approx(large) and small[1] == pytest.approx(0.5 / 0.1875**0.5)
    assert equal == [[0.0, 0.0]] * 2


def test_by_domain_needs_the_domains():
    with pytest.raises(AssertionError, match="1 domains were named for 2 groups"):
        values([[0.0, 1.0], [0.0, 1.0]], domains=["math"], scale="domain")


def test_advantages_keep_the_rewards_dtype():
    assert advantages(torch.tensor([[1.0, 0.0]])).values.dtype == torch.float32


@pytest.mark.parametrize("scale", ["group", "batch", "domain", "none"])
@pytest.mark.parametrize("centre", ["mean", "leave_one_out", "none"])
@pytest.mark.parametrize("valid", [[[True, False], [False, False]], [[True, True], [True, True]]])
def test_equal_or_lonely_answers_teach_nothing_under_every_choice(scale, centre, valid):
    """Even in a round that has no spread at all to divide by, and 7 float32 rewards of 1000.1 have a mean that is off."""
    found = advantages(torch.full((2, 2), 1000.1), torch.tensor(valid), ["a", "b"], AdvantageConfig(centre=centre, scale=scale))
    assert found.equal.tolist() == [True, True] and found.values.tolist() == [[0.0, 0.0]] * 2


REWARDS = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=4, max_size=4)


@given(st.lists(REWARDS, min_size=1, max_size=4), st.sampled_from(["mean", "leave_one_out", "none"]), st.data())
def test_any_round_is_as_the_definitions_say(rows, centre, data):
    scale = data.draw(st.sampled_from(["group", "batch", "domain", "none"]))
    domains = [data.draw(st.sampled_from("ab")) for _ in rows]
    kept = [[float(reward) for reward, counts in row if counts] for row in rows]
    found = values([[float(r) for r, _ in row] for row in rows], [[c for _, c in row] for row in rows], domains, centre=centre, scale=scale)
    for place, (row, group, advantage) in enumerate(zip(rows, kept, found, strict=True)):
        together = {
            "group": group,
            "batch": [reward for each in kept for reward in each],
            "domain": [reward for domain, each in zip(domains, kept, strict=True) if domain == domains[place] for reward in each],
        }
        expected = []
        for number, (reward, counts) in enumerate(row):
            others = [float(r) for other, (r, c) in enumerate(row) if c and other != number]
            if not counts or len(set(group)) < 2:
                expected.append(0.0)
                continue
            baseline = {"mean": mean(group), "leave_one_out": mean(others), "none": 0.0}[centre]
            expected.append((reward - baseline) / (1 if scale == "none" else pstdev(together[scale])))
        assert advantage == pytest.approx(expected, abs=1e-6)


def test_the_spread_is_that_of_the_valid_rewards():
    found = spread(torch.tensor([[3.0, 5.0, 100.0], [7.0, 7.0, 7.0]]), torch.tensor([[True, True, False], [True, True, True]]))
    assert found.tolist() == [1.0, 0.0] and found.dtype == torch.float32

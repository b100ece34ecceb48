import pytest

from afterbase.evals.metrics import UNKNOWN, difference, disjoint, interval, t_quantile, wilson


def ends(interval):
    return round(interval.low, 3), round(interval.high, 3)


def test_eight_of_ten_lies_between_49_and_94_percent():
    assert ends(wilson(8, 10)) == (0.490, 0.943)
    assert wilson(8, 10).mean == 0.8


def test_none_and_all_of_ten_stay_between_0_and_1_and_stay_open_on_one_side():
    none, every = wilson(0, 10), wilson(10, 10)
    assert ends(none) == (0.0, 0.278) and ends(every) == (0.722, 1.0)
    assert all(wilson(0, n).low == 0.0 and wilson(n, n).high == 1.0 for n in range(1, 300))


def test_nothing_judged_means_nothing_known():
    assert wilson(0, 0) == interval([]) == interval([[], []]) == UNKNOWN
    assert (UNKNOWN.low, UNKNOWN.high, UNKNOWN.n) == (0.0, 1.0, 0)


@pytest.mark.parametrize("freedom, tabled", [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (1000, 1.962)])
def test_t_quantiles_are_the_tabled_ones(freedom, tabled):
    assert t_quantile(freedom) == pytest.approx(tabled, abs=6e-4)


def test_one_sample_each_is_wilson_over_the_questions():
    assert interval([[1.0]] * 8 + [[0.0]] * 2) == wilson(8, 10)


def test_several_samples_count_each_question_once():
    # Means 1/4, 2/4, 2/4, 3/4: spread 0.204, standard error 0.102, times t(3) = 3.182.
    found = interval([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 0]])
    assert (found.mean, found.n, found.method) == (0.5, 4, "clustered")
    assert ends(found) == (0.175, 0.825)


def test_copies_of_an_answer_teach_nothing_new():
    once, often = [[1.0], [0.0], [1.0]], [[1.0] * 100, [0.0] * 100, [1.0] * 100]
    assert interval(often).n == 3
    assert interval(often).high - interval(often).low > 0.9 * (interval(once).high - interval(once).low)


def test_questions_that_all_agree_fall_back_to_wilson():
    assert interval([[1, 1], [1, 1], [1, 1]]) == wilson(3, 3)
    assert interval([[1, 0], [0, 1]]) == wilson(1, 2)


def test_masked_samples_leave_their_question_to_the_others():
    assert interval([[1.0], [], [0.0]]) == wilson(1, 2)


def test_a_difference_is_newcombes():
    # His own example: 56 of 70 against 48 of 80.
    gain = difference(wilson(56, 70), wilson(48, 80))
    assert round(gain.mean, 3) == 0.2
    assert (round(gain.low, 4), round(gain.high, 4)) == (0.0524, 0.3339)


def test_a_difference_changes_sign_with_its_order():
    one, other = wilson(9, 10), wilson(3, 10)
    there, back = difference(one, other), difference(other, one)
    assert (there.low, there.high) == (-back.high, -back.low)


def test_intervals_that_touch_are_not_disjoint():
    few, many = wilson(1, 100), wilson(99, 100)
    assert disjoint(few, many) and disjoint(many, few)
    assert not disjoint(few, few) and not disjoint(UNKNOWN, many)

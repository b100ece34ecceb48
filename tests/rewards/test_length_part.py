import pytest
from pydantic import ValidationError

from afterbase.rewards.length import LengthConfig


def test_the_penalty_grows_from_the_soft_to_the_hard_limit(ask):
    part = LengthConfig(soft=10, hard=20).build()
    assert [ask(part, "ok", tokens=n).value for n in (5, 10, 15, 20, 99)] == [0.0, 0.0, -0.5, -1.0, -1.0]


def test_without_limits_no_length_is_too_long(ask):
    assert ask(LengthConfig().build(), "ok", tokens=10**6).value == 0.0


def test_a_little_repetition_costs_nothing_and_a_loop_nearly_everything(ask):
    part = LengthConfig(ngram=1, tolerance=0.5).build()
    assert ask(part, "a b a b").value == 0.0
    assert ask(part, "wait " * 100).value == pytest.approx(-0.98)


def test_the_worse_of_the_two_penalties_counts(ask):
    part = LengthConfig(soft=10, hard=20, ngram=1, tolerance=0.5).build()
    assert ask(part, "wait " * 100, tokens=15).value == pytest.approx(-0.98)
    assert ask(part, "a b c d", tokens=15).value == -0.5


def test_limits_come_together_and_in_order():
    for wrong in ({"soft": 10}, {"hard": 10}, {"soft": 10, "hard": 10}):
        with pytest.raises(ValidationError, match="soft and hard come together"):
            LengthConfig(**wrong)

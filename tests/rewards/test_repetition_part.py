import random

import pytest

from afterbase.rewards.length import repetition as known_by_its_old_place
from afterbase.rewards.repetition import RepetitionConfig, longest_loop, penalty, repetition

HONEST = " ".join(random.Random(0).choices([f"word{i}" for i in range(2000)], k=3000))


def test_repetition_is_the_share_of_ngrams_seen_before():
    assert repetition("a b a b", 1) == 0.5 and repetition("a b a b", 2) == pytest.approx(1 / 3)
    assert repetition("a b c d", 1) == 0.0 and repetition("a b", 8) == 0.0 and repetition("", 1) == 0.0
    assert repetition("对对对对", 1) == 0.75
    assert known_by_its_old_place is repetition


def test_one_long_word_of_one_letter_repeats_itself():
    assert repetition("x" * 3200, 8) > 0.98 and repetition("ha" * 1600, 8) > 0.98 and repetition("antidisestablishmentarianism", 1) == 0.0


def test_the_penalty_starts_at_the_tolerance_and_ends_at_one():
    assert [penalty(share, 0.2) for share in (0.0, 0.2, 0.6, 1.0)] == pytest.approx([0.0, 0.0, -0.5, -1.0])


def test_a_loop_is_the_same_words_three_times_in_a_row():
    assert longest_loop("a b c d " * 3) == 12 and longest_loop("a b c d " * 2) == 0 and longest_loop(HONEST) == 0
    assert longest_loop("a b c d e f g h i j k l m n o p") == 0 and longest_loop("") == 0


@pytest.mark.parametrize("loop", ["wait, no. ", "x = 1\ny = 2\n", "x", "ab", "对", "等等，", "-", "1 4 2 8 5 7 "])
@pytest.mark.parametrize("end", ["", "</think>The answer is 4."])
def test_a_loop_costs_everything_however_long_the_honest_text_before_it(ask, loop, end):
    text = HONEST + " " + loop * (3000 // len(loop)) + end
    assert ask(RepetitionConfig().build(), text).value == -1.0
    assert ask(RepetitionConfig(loop=None).build(), text).value > -1.0


def test_honest_text_tables_and_a_quotation_cost_nothing(ask):
    table = "\n".join(f"| {i} | {i * i} | {i**3} |" for i in range(60))
    for text in (HONEST, HONEST + " " + HONEST[:800], table, "ha ha ha", HONEST[:500] + "0 0 0 1\n0 0 1 0\n0 1 0 0\n1 0 0 0"):
        assert ask(RepetitionConfig().build(), text).value == 0.0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", ["a", " ", "a ", "\n", "对", "a b a c ", "\u0315"])
def test_no_text_makes_it_slow(ask, unit):
    assert -1.0 <= ask(RepetitionConfig().build(), unit * 300_000).value <= 0.0

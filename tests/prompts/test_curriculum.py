import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterbase.config import build
from afterbase.errors import ConfigError, DataError
from afterbase.prompts import curriculum as module
from afterbase.prompts.curriculum import Curriculum, CurriculumConfig
from afterbase.prompts.mixture import Mixture
from afterbase.prompts.rows import RowSource
from afterbase.records import Message, Prompt


def source(name, size, **extra):
    return RowSource(name, tuple(Prompt(f"{name}{i}", (Message("user", str(i)),), extra=extra) for i in range(size)))


def curriculum(sizes=(8,), weights=(1,), seed=0, **config):
    mixture = Mixture([source("abcd"[i], size) for i, size in enumerate(sizes)], weights, seed)
    return Curriculum(build(CurriculumConfig, {"kind": "filter", "floor": 0.0, **config}, "a test"), mixture, seed)


def skill(prompt_id: str) -> int:
    """How many of 8 answers to a prompt are right: the same ones always, the same ones never."""
    return (0, 3, 5, 8)[int(prompt_id[1:]) % 4]


def rounds(dealer: Curriculum, sizes: list[int]) -> list[str]:
    dealt = []
    for n in sizes:
        prompts = dealer.take(n)
        for prompt in prompts:
            dealer.observe([(prompt.id, skill(prompt.id), 8)])
        dealt += [prompt.id for prompt in prompts]
    return dealt


def test_without_a_curriculum_the_order_and_the_cursor_are_the_mixtures():
    mixture = Mixture([source("a", 5), source("b", 3)], (3, 1), 7)
    dealer = curriculum((5, 3), (3, 1), 7, kind="none")
    assert rounds(dealer, [9, 30]) == [prompt.id for prompt in mixture.take(39)]
    assert dealer.state() == mixture.state() and dealer.metrics() == {} and dealer.known == {}


def test_before_anything_is_known_the_order_is_the_mixtures():
    mixture = Mixture([source("a", 40)], (1,), 3)
    assert [p.id for p in curriculum((40,), seed=3).take(40)] == [p.id for p in mixture.take(40)]


def test_what_is_always_or_never_solved_rests_for_so_many_epochs_and_then_comes_back():
    dealer = curriculum((8,), rest=2)
    epochs = [rounds(dealer, [n]) for n in (8, 4, 4, 8)]
    worth = sorted(name for name in epochs[0] if skill(name) in (3, 5))
    assert sorted(epochs[1]) == sorted(epochs[2]) == worth
    assert sorted(epochs[3]) == sorted(epochs[0])


@pytest.mark.parametrize("kind", ["filter", "reweight"])
def test_solved_prompts_come_back_at_the_floor_rate(kind):
    dealer = curriculum((4000,), kind=kind, floor=0.1, rest=1000)
    for prompt in dealer.take(4000):
        dealer.observe([(prompt.id, 8 if int(prompt.id[1:]) % 2 else 4, 8)])
    dealt = [int(prompt.id[1:]) % 2 for prompt in dealer.take(2000)]
    assert sum(dealt) == pytest.approx(2000 * 0.1 / 1.1, rel=0.15)


def test_who_comes_back_is_drawn_anew_in_every_epoch_and_by_the_seed():
    def back(seed: int) -> list[set[str]]:
        dealer = curriculum((400,), (1,), seed, floor=0.1, rest=1000)
        dealer.observe([(prompt.id, 8, 8) for prompt in dealer.take(400)])
        epochs = [set(), set(), set()]
        while (prompt := dealer.take(1)[0]) and dealer.mixture.epoch(0) < 4:
            epochs[dealer.mixture.epoch(0) - 1].add(prompt.id)
        return epochs

    first, second, third = back(0)
    assert len({*first, *second, *third}) > 2 * len(first) * 0.9 and first != second != third and back(1)[0] != first


def test_reweighting_asks_in_proportion_to_the_distance_from_the_target():
    dealer = curriculum((6000,), kind="reweight", floor=0.0, target=0.5)
    rates = {0: 0, 1: 2, 2: 4}  # of 8: chances 0, 1/2 and 1
    for prompt in dealer.take(6000):
        dealer.observe([(prompt.id, rates[int(prompt.id[1:]) % 3], 8)])
    counts = Counter(int(prompt.id[1:]) % 3 for prompt in dealer.take(2500))
    assert counts[0] == 0 and counts[1] / counts[2] == pytest.approx(0.5, rel=0.15)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    takes=st.lists(st.integers(0, 9), max_size=6),
    kind=st.sampled_from(["none", "filter", "reweight"]),
    floor=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 9),
)
def test_interrupted_is_uninterrupted(sizes, takes, kind, floor, seed):
    def fresh():
        return curriculum(sizes, range(1, len(sizes) + 1), seed, kind=kind, floor=floor, minimum=16)

    whole, parts, cursor = fresh(), [], fresh().state()
    expected = rounds(whole, [*takes, 9])
    for n in [*takes, 9]:  # every time a new process that knows the cursor only
        dealer = fresh()
        dealer.restore(json.loads(json.dumps(cursor)))
        parts += rounds(dealer, [n])
        cursor = dealer.state()
    assert parts == expected and cursor == whole.state() and dealer.metrics() == whole.metrics()


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.tuples(st.integers(1, 9), st.floats(0.1, 10)), min_size=1, max_size=3), n=st.integers(1, 80))
def test_no_source_is_a_prompt_ahead_of_its_share_whatever_is_passed_over(parts, n):
    sizes, weights = zip(*parts, strict=True)
    dealer = curriculum(sizes, weights)
    counts = Counter(name[0] for name in rounds(dealer, [1] * n))
    for name, weight in zip("abcd", weights, strict=False):
        assert counts[name] < n * weight / sum(weights) + 1
    assert sum(counts.values()) == n


def test_when_everything_is_solved_questions_are_dealt_all_the_same_and_it_is_counted(monkeypatch):
    dealer = curriculum((8,), rest=1000)
    for _ in range(4):
        for prompt in dealer.take(8):
            dealer.observe([(prompt.id, 8, 8)])
    assert dealer.metrics()["curriculum/exhausted/count"] == 24 and dealer.metrics()["curriculum/retired/fraction"] == 1.0
    monkeypatch.setattr(module, "LOOKS", 2)
    dealer.take(1)
    assert dealer.metrics()["curriculum/passed_over/count"] == 24 * 8 + 2


def test_a_question_is_judged_by_enough_answers_and_later_ones_weigh_more():
    dealer = curriculum((1,), minimum=12, memory=0.5)
    dealer.take(1)
    dealer.observe([("a0", 8, 8)])
    assert dealer.metrics()["curriculum/always/count"] == 0
    dealer.observe([("a0", 2, 8)])
    assert dealer.known["a0"].rate == (0.5 * 8 + 2) / (0.5 * 8 + 8) and dealer.metrics()["curriculum/middle/count"] == 1
    dealer.observe([("a0", 0, 0)])
    dealer.observe([("never dealt", 8, 8)])
    assert dealer.known["a0"].seen == 16 and list(dealer.known) == ["a0"]


def test_the_numbers_of_a_curriculum_by_hand():
    dealer = curriculum((8,))
    rounds(dealer, [7])
    found = dealer.metrics()
    bands = Counter(skill(name) for name in dealer.known)
    assert [found[f"curriculum/{band}/count"] for band in ("never", "hard", "middle", "easy", "always")] == [
        bands[0], 0, bands[3] + bands[5], 0, bands[8],
    ]  # fmt: skip
    assert found["curriculum/prompts/count"] == 7 and found["curriculum/retired/fraction"] == (bands[0] + bands[8]) / 7
    assert found["curriculum/pass_rate/mean"] == pytest.approx(sum(rate * n for rate, n in bands.items()) / 56)


def test_pass_rates_of_the_file_are_known_from_the_start():
    solved, open_ = source("a", 5, pass_rate=1.0), source("b", 5, pass_rate=0.5)
    both = RowSource("both", (*solved.prompts, *open_.prompts))
    dealer = Curriculum(CurriculumConfig(kind="filter", column="pass_rate", floor=0.0), Mixture([both], [1], 0), 0)
    assert {prompt.id[0] for prompt in dealer.take(5)} == {"b"}
    wrong = Curriculum(CurriculumConfig(kind="filter", column="pass_rate"), Mixture([source("a", 1, pass_rate="often")], [1], 0), 0)
    with pytest.raises(DataError, match=r"prompt a0: column 'pass_rate' holds 'often'; give pass rates from 0 to 1"):
        wrong.take(1)


def test_two_sources_with_a_common_id_are_refused_and_thresholds_have_an_order():
    with pytest.raises(ConfigError, match="sources 'x' and 'y' both have a prompt 'a0'"):
        one, other = source("a", 1), source("a", 1)
        Curriculum(CurriculumConfig(kind="filter"), Mixture([RowSource("x", one.prompts), RowSource("y", other.prompts)], [1, 1], 0), 0)
    with pytest.raises(ConfigError, match=r"unsolved=0.5 is not below solved=0.5"):
        build(CurriculumConfig, {"kind": "filter", "solved": 0.5, "unsolved": 0.5}, "a test")


def test_a_cursor_from_before_the_curriculum_still_fits():
    mixture = Mixture([source("a", 8)], (1,), 0)
    first = [prompt.id for prompt in mixture.take(3)]
    dealer = curriculum((8,))
    dealer.restore(mixture.state())
    assert len({*first, *(prompt.id for prompt in dealer.take(5))}) == 8

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterbase.errors import ConfigError
from afterbase.prompts.mixture import Mixture
from afterbase.prompts.rows import RowSource
from afterbase.records import Message, Prompt


def source(name, size):
    return RowSource(name, tuple(Prompt(f"{name}{i}", (Message("user", str(i)),)) for i in range(size)))


def ids(prompts):
    return [prompt.id for prompt in prompts]


def mixture(sizes=(5, 3), weights=(3, 1), seed=0):
    return Mixture([source("abcdef"[i], size) for i, size in enumerate(sizes)], weights, seed)


def test_three_to_one_is_three_of_every_four():
    assert [prompt.id[0] for prompt in mixture().take(8)] == list("aabaaaba")


def test_an_epoch_deals_every_prompt_once_and_the_next_in_another_order():
    dealt = ids(mixture((20,), (1,)).take(60))
    epochs = [dealt[:20], dealt[20:40], dealt[40:]]
    assert all(sorted(epoch) == sorted(ids(source("a", 20).prompts)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_seed_decides():
    assert ids(mixture(seed=1).take(30)) == ids(mixture(seed=1).take(30)) != ids(mixture(seed=2).take(30))


def test_two_sources_of_one_size_are_not_shuffled_alike():
    dealt = ids(mixture((20, 20), (1, 1)).take(40))
    assert [i[1:] for i in dealt if i[0] == "a"] != [i[1:] for i in dealt if i[0] == "b"]


sizes_and_weights = st.lists(st.tuples(st.integers(1, 7), st.floats(0.1, 10)), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(parts=sizes_and_weights, seed=st.integers(0, 9), takes=st.lists(st.integers(0, 9), max_size=5))
def test_interrupted_is_uninterrupted(parts, seed, takes):
    sizes, weights = zip(*parts, strict=True)
    whole = ids(mixture(sizes, weights, seed).take(sum(takes) + 9))
    dealt, cursor = [], mixture(sizes, weights, seed).state()
    for n in [*takes, 9]:  # every time a new process that knows the cursor only
        fresh = mixture(sizes, weights, seed)
        fresh.restore(json.loads(json.dumps(cursor)))
        dealt += ids(fresh.take(n))
        cursor = fresh.state()
    assert dealt == whole


@settings(max_examples=100, deadline=None)
@given(parts=sizes_and_weights, n=st.integers(0, 60))
def test_no_source_is_a_prompt_ahead_of_its_share_and_none_is_redrawn(parts, n):
    sizes, weights = zip(*parts, strict=True)
    mixed = mixture(sizes, weights)
    counts = Counter(ids(mixed.take(n)))
    for row, weight in zip(mixed.describe(), weights, strict=True):
        assert row["drawn"] < n * weight / sum(weights) + 1
        seen = [counts[f"{row['name']}{i}"] for i in range(row["prompts"])]
        assert sum(seen) == row["drawn"] and max(seen) - min(seen) <= 1


def test_the_mixture_describes_itself():
    mixed = mixture()
    mixed.take(8)
    assert mixed.describe() == [
        {"name": "a", "prompts": 5, "share": 0.75, "drawn": 6, "epochs": 1.2},
        {"name": "b", "prompts": 3, "share": 0.25, "drawn": 2, "epochs": 2 / 3},
    ]


@pytest.mark.parametrize("other", [mixture((5, 4)), mixture(weights=(1, 3)), mixture(seed=1), mixture((5,), (3,))])
def test_a_cursor_of_another_mixture_is_refused(other):
    with pytest.raises(ConfigError, match="belongs to another mixture"):
        other.restore(mixture().state())


@pytest.mark.parametrize(
    ("sizes", "weights", "says"),
    [((), (), "one source or more"), ((1, 0), (1, 1), "holds no prompts"), ((1,), (0,), "positive"), ((1, 1), (1,), "a weight for each")],
)
def test_an_impossible_mixture_is_refused(sizes, weights, says):
    with pytest.raises(ConfigError, match=says):
        mixture(sizes, weights)

"""Packing: every learned token exactly once, never a sequence's first, within the budget."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afterbase.records import Sample
from afterbase.train.packing import pack, unpacked

BOOLEANS = st.lists(st.lists(st.booleans(), min_size=1, max_size=20), max_size=12)


def samples_from(masks) -> list[Sample]:
    """Sample s holds the tokens 100 s, 100 s + 1, ...; its advantage is s and its old log-probabilities are its tokens, negated."""
    made = []
    for number, learn in enumerate(masks):
        tokens = tuple(100 * number + place for place in range(len(learn)))
        old = tuple(-float(token) for token, flag in zip(tokens[1:], learn[1:], strict=True) if flag)
        made.append(Sample(tokens, tuple(learn), weight=number + 0.5, advantage=float(number), old=old))
    return made


@settings(deadline=None, max_examples=80)
@given(BOOLEANS, st.integers(1, 60))
def test_every_learned_token_is_picked_exactly_once(masks, budget):
    batches = pack(samples_from(masks), budget)
    wanted = [100 * number + place for number, learn in enumerate(masks) for place, flag in enumerate(learn) if flag and place]
    picked = torch.cat([batch.tokens[batch.picked] for batch in batches]) if batches else torch.tensor([])
    assert sorted(picked.tolist()) == wanted
    for batch in batches:
        assert not set(batch.picked.tolist()) & set(batch.segments.starts.tolist())


@settings(deadline=None, max_examples=80)
@given(BOOLEANS, st.integers(1, 60))
def test_what_belongs_to_a_token_stays_with_it(masks, budget):
    for batch in pack(samples_from(masks), budget):
        picked = batch.tokens[batch.picked]
        assert batch.old.tolist() == (-picked).tolist()
        assert batch.advantages.tolist() == (picked // 100).tolist() and batch.weights.tolist() == (picked // 100 + 0.5).tolist()
        assert torch.equal(batch.owner, batch.segments.owner[batch.picked])
        first = batch.tokens[batch.segments.starts[:-1].long()]
        assert torch.equal(batch.tokens, first[batch.segments.owner] + batch.segments.positions)


@settings(deadline=None, max_examples=80)
@given(BOOLEANS, st.integers(1, 60))
def test_the_budget_is_kept_except_by_a_sequence_that_exceeds_it_alone(masks, budget):
    for batch in pack(samples_from(masks), budget):
        assert len(batch.tokens) == batch.segments.num_tokens
        assert len(batch.tokens) <= budget or len(batch.segments.lengths) == 1


@settings(deadline=None, max_examples=80)
@given(BOOLEANS, st.integers(1, 60))
def test_every_batch_knows_the_totals_of_the_step(masks, budget):
    """Sequences that teach nothing are left out of the stream and of the count."""
    totals = (sum(sum(learn[1:]) for learn in masks), sum(any(learn[1:]) for learn in masks))
    batches = pack(samples_from(masks), budget)
    assert {(batch.total_tokens, batch.total_sequences) for batch in batches} == ({totals} if totals[0] else set())
    assert sum(len(batch.picked) for batch in batches) == totals[0]
    assert sum(len(batch.segments.lengths) for batch in batches) == totals[1]


def test_a_small_example():
    """Lengths 2 and 3 at a budget of 5 make one stream, the longer first."""
    (batch,) = pack([Sample((5, 6), (True, True)), Sample((7, 8, 9), (False, False, True))], 5)
    assert batch.tokens.tolist() == [7, 8, 9, 5, 6] and batch.segments.lengths == (3, 2)
    assert batch.picked.tolist() == [2, 4] and batch.owner.tolist() == [0, 1]
    assert (batch.total_tokens, batch.total_sequences) == (2, 2) and batch.old is None and batch.reference is None


def test_totals_of_a_step_that_is_packed_in_parts():
    (batch,) = pack([Sample((5, 6), (True, True))], 5, totals=(10, 4))
    assert (batch.total_tokens, batch.total_sequences) == (10, 4)


def test_nothing_to_learn_makes_no_batch():
    assert pack([], 10) == [] and pack([Sample((1, 2), (True, False))], 10) == []


def test_log_probabilities_that_miss_a_token_are_our_own_mistake():
    with pytest.raises(AssertionError, match="old holds 1 numbers for 2 learned tokens"):
        pack([Sample((1, 2, 3), (False, True, True), old=(-1.0,))], 10)


def test_each_stream_has_one_temperature_and_no_sample_is_lost():
    """Logits of a stream are divided by one number, so answers drawn at 0.6 and at 1 do not share one."""
    samples = [Sample((1, 2, 3), (False, True, True), temperature=(1.0, 0.6)[n % 2], old=(float(n),) * 2) for n in range(5)]
    batches = pack(samples, 100)
    assert [batch.temperature for batch in batches] == [0.6, 1.0]
    assert [batch.samples for batch in batches] == [(1, 3), (0, 2, 4)]


def test_values_of_a_batch_go_back_to_their_samples():
    samples = [Sample(tuple(range(n)), (True,) * n, old=tuple(float(n) for _ in range(n - 1))) for n in (3, 1, 5, 2)]
    found = dict(pair for batch in pack(samples, 6) for pair in unpacked(batch, batch.old))
    assert found == {0: (3.0, 3.0), 2: (5.0,) * 4, 3: (2.0,)}

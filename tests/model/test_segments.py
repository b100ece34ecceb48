"""Where each sequence of a flat stream begins and ends."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afterbase.segments import Segments

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def test_three_and_two():
    segments = Segments.of([3, 2])
    assert segments.num_tokens == 5 and segments.longest == 3
    assert segments.starts.tolist() == [0, 3, 5] and segments.starts.dtype == torch.int32
    assert segments.owner.tolist() == [0, 0, 0, 1, 1]
    assert segments.positions.tolist() == [0, 1, 2, 0, 1]


def test_a_decoding_token_stands_behind_what_its_row_remembers():
    segments = Segments.decoding(torch.tensor([7, 0, 3]))
    assert segments.lengths == (1, 1, 1) and segments.positions.tolist() == [7, 0, 3]


def test_offsets_move_whole_sequences():
    assert Segments((2, 3), torch.device("cpu"), torch.tensor([5, 0])).positions.tolist() == [5, 6, 0, 1, 2]


@pytest.mark.parametrize("lengths", [[], [0], [3, 0, 2], [-1]])
def test_empty_sequences_are_our_own_mistake(lengths):
    with pytest.raises(AssertionError, match="positive lengths"):
        Segments.of(lengths)


@settings(deadline=None, max_examples=60)
@given(LENGTHS)
def test_every_token_has_one_owner_and_one_position(lengths):
    segments = Segments.of(lengths)
    wanted = [(owner, place) for owner, length in enumerate(lengths) for place in range(length)]
    assert list(zip(segments.owner.tolist(), segments.positions.tolist(), strict=True)) == wanted
    assert [segments.starts[owner].item() + place for owner, place in wanted] == list(range(sum(lengths)))


@settings(deadline=None, max_examples=60)
@given(LENGTHS)
def test_buckets_hold_every_token_once_and_waste_at_most_half(lengths):
    segments = Segments.of(lengths)
    cells = torch.cat([bucket.index.flatten() for bucket in segments.buckets])
    real = torch.cat([bucket.real.flatten() for bucket in segments.buckets])
    assert sorted(cells[real].tolist()) == list(range(sum(lengths)))
    assert cells[segments.inverse].tolist() == list(range(sum(lengths))) and real[segments.inverse].all()
    assert len(cells) < 2 * sum(lengths)


@settings(deadline=None, max_examples=60)
@given(LENGTHS)
def test_a_bucket_row_is_one_sequence_in_order_with_its_padding_last(lengths):
    segments = Segments.of(lengths)
    for bucket in segments.buckets:
        for index, real in zip(bucket.index, bucket.real, strict=True):
            tokens = index[real]
            assert real.tolist() == [True] * len(tokens) + [False] * (len(real) - len(tokens))
            assert torch.equal(tokens, torch.arange(len(tokens)) + tokens[0]) and segments.positions[tokens[0]] == 0
            assert len(tokens) == lengths[segments.owner[tokens[0]]]

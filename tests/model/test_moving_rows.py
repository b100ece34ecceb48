"""Moving rows is indexing, forward and backward."""

import torch

from afterbase.model.rows import Dispatch, LookUp, Pad, Permute, Take
from afterbase.segments import Segments


def agree(ours, plain, shape, *, seed=0):
    """Both functions of one random input give the same values and, for a random weight, the same gradient."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(shape, generator=generator, requires_grad=True)
    found, wanted = ours(rows), plain(rows)
    assert torch.equal(found, wanted)
    weight = torch.randn(found.shape, generator=generator)
    torch.testing.assert_close(*(torch.autograd.grad((value * weight).sum(), rows)[0] for value in (found, wanted)))


def test_taking_rows():
    index = torch.tensor([4, 0, 2])
    agree(lambda rows: Take.apply(rows, index), lambda rows: rows[index], (6, 3))
    agree(lambda rows: Take.apply(rows, index), lambda rows: rows[index], (6, 3, 2))


def test_taking_no_rows():
    agree(lambda rows: Take.apply(rows, torch.zeros(0, dtype=torch.long)), lambda rows: rows[:0], (6, 3))


def test_looking_up_rows_any_number_of_times():
    tokens = torch.tensor([2, 0, 2, 2])
    agree(lambda table: LookUp.apply(table, tokens), lambda table: table[tokens], (4, 3))
    agree(lambda table: LookUp.apply(table, tokens[:0]), lambda table: table[:0], (4, 3))


def test_a_thousand_equal_gradients_of_half_a_row_are_a_thousand():
    """In bfloat16 256 + 1 is 256."""
    table = torch.zeros(3, 2, dtype=torch.bfloat16, requires_grad=True)
    LookUp.apply(table, torch.full((1024,), 1)).sum().backward()
    assert table.grad.tolist() == [[0, 0], [1024, 1024], [0, 0]]


def test_dispatching_each_token_to_two_experts():
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    agree(lambda rows: Dispatch.apply(rows, order, order.argsort(), 2), lambda rows: rows.repeat_interleave(2, 0)[order], (5, 3))


def test_permuting_rows():
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    agree(lambda rows: Permute.apply(rows, order, order.argsort()), lambda rows: rows[order], (7, 3))


def test_padding_into_rectangles():
    """The padding's gradient is dropped: what a causal mask hides has none."""
    segments = Segments.of([2, 7, 1, 5, 3])
    real = torch.cat([bucket.real.flatten() for bucket in segments.buckets])[:, None]
    assert len(real) > 18
    agree(lambda rows: Pad.apply(rows, segments.cells, segments.inverse) * real, lambda rows: rows[segments.cells] * real, (18, 3))


def test_padding_and_back():
    """There and back is where we came from, and so is the gradient."""
    segments = Segments.of([2, 7, 1, 5, 3])
    agree(lambda rows: Take.apply(Pad.apply(rows, segments.cells, segments.inverse), segments.inverse), lambda rows: rows.clone(), (18, 3))

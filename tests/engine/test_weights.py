"""What an engine samples from: the trainer's own tensors, and a number that says which they were."""

import asyncio

import pytest
import torch

from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.engine.weights import checksum
from afterbase.errors import EngineError
from afterbase.model.checkpoint import hf_weights
from afterbase.records import Sampling


@pytest.fixture(params=["qwen2", "deepseek_v3"])
def small(request, tiny):
    return tiny(request.param)


def weights() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((4, 6), (6,), (2, 3, 4))]


def changes() -> dict:
    """Ways of being other weights, however slightly."""

    def nudged(tensors):
        tensors[2][1, 2, 3] = torch.nextafter(tensors[2][1, 2, 3], torch.tensor(9.0))

    def sign_of_zero(tensors):
        tensors[1][0] = -0.0

    def rows_swapped(tensors):
        tensors[0][[0, 1]] = tensors[0][[1, 0]]

    def columns_swapped(tensors):
        tensors[0][:, [0, 1]] = tensors[0][:, [1, 0]]

    def two_swapped(tensors):
        tensors[1][[2, 3]] = tensors[1][[3, 2]]

    def tensors_swapped(tensors):
        tensors[:2] = [tensors[1], tensors[0]]

    return {change.__name__: change for change in (nudged, sign_of_zero, rows_swapped, columns_swapped, two_swapped, tensors_swapped)}


@pytest.mark.parametrize("change", changes().values(), ids=changes())
def test_the_checksum_tells_other_weights_apart(change):
    before, after = weights(), weights()
    before[1][0] = after[1][0] = 0.0
    assert checksum(before) == checksum(after) and 0 <= checksum(before) < 2**53
    change(after)
    assert checksum(after) != checksum(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
def test_the_checksum_is_a_whole_number_that_float64_keeps(dtype):
    number = checksum([weight.mul(20).to(dtype) for weight in weights()])
    assert int(float(number)) == number


def test_the_checksum_by_hand():
    """Bits of 1, 2 and 1; a matrix of one row counts its row, then its columns; each sum has an odd factor of its own.

    Three float32 are three patterns; two float32 are one of eight bytes, the second number above the first.
    """
    one, two = 0x3F800000, 0x40000000
    odd = 0x9E3779B97F4A7C15

    def factor(place):
        word = place * odd & (2**64 - 1)
        signed = word - 2**64 if word >> 63 else word
        return ((signed ^ (signed >> 29)) | 1) & (2**64 - 1)

    pair = two << 32 | one
    for numbers, sums in (([1.0, 2.0, 1.0], (one + two + one, one, two, one)), ([1.0, 2.0], (pair, pair))):
        total = sum(factor(place) * bits for place, bits in enumerate(sums, start=1)) % 2**53
        assert checksum([torch.tensor([numbers])]) == total
        assert checksum([torch.tensor([[0.0, *numbers]])[:, 1:]]) == total  # wherever they lie
    assert checksum([torch.tensor([0.0, 1.0, 2.0])[1:]]) == checksum([torch.tensor([1.0, 2.0])])


def test_the_checksum_says_which_weights_each_version_was(small):
    """Taking the same weights again gives the same number, an update another, and the old weights their old one."""
    engine = LocalEngine(small, EngineConfig())
    kept = [(name, tensor.detach().clone()) for name, tensor in hf_weights(small)]
    sums = [engine.checksum()]
    asyncio.run(engine.load(hf_weights(small), 1))
    sums.append(engine.checksum())
    with torch.no_grad():
        small.model.norm.weight[3] += 1e-6
    asyncio.run(engine.load(hf_weights(small), 2))
    sums.append(engine.checksum())
    asyncio.run(engine.load(kept, 3))
    assert sums[0] == sums[1] == engine.checksum() != sums[2]


def test_weights_that_changed_unannounced_are_neither_sampled_from_nor_vouched_for(small):
    engine = LocalEngine(small, EngineConfig())
    with torch.no_grad():
        small.model.norm.weight[0] += 1e-6
    with pytest.raises(EngineError, match="the weights changed after version 0 was loaded"):
        asyncio.run(engine.generate((1, 2), Sampling(max_tokens=2)))
    with pytest.raises(EngineError, match="the weights changed after version 0 was loaded"):
        engine.checksum()


def test_only_who_asks_which_weights_there_are_pays_for_the_answer(small, monkeypatch):
    """Making an engine, loading and drawing read no weight for the sake of its checksum."""
    asked = []
    monkeypatch.setattr("afterbase.engine.local.checksum", lambda weights: asked.append(weights) or 5)
    engine = LocalEngine(small, EngineConfig())
    asyncio.run(engine.load(hf_weights(small), 1))
    asyncio.run(engine.generate((1, 2), Sampling(max_tokens=2)))
    assert asked == [] and engine.checksum() == 5 and len(asked) == 1


def test_loading_the_trainers_own_tensors_copies_none_of_them(small):
    """The engine's model holds the very storage that the trainer writes, before and after; and nothing was written to it."""
    engine = LocalEngine(small, EngineConfig())
    theirs = {name: (tensor.untyped_storage().data_ptr(), tensor._version) for name, tensor in hf_weights(small)}
    asyncio.run(engine.load(hf_weights(small), 1))
    asyncio.run(engine.generate((1, 2), Sampling(max_tokens=2)))
    for holder in (engine.model, engine.runner.model):
        assert {name: (tensor.untyped_storage().data_ptr(), tensor._version) for name, tensor in hf_weights(holder)} == theirs


def test_weights_that_do_not_fit_leave_no_version_behind(small):
    engine = LocalEngine(small, EngineConfig())
    with pytest.raises(EngineError, match="weights 1 lack"):
        asyncio.run(engine.load([], 1))
    assert engine.version == 0

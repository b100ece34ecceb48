"""Law 2: the sequences of a stream are isolated and mutually invisible.  [V3 5.1]"""

import pytest
import torch

from afterbase.segments import Segments

UNIFORM, RAGGED = (6, 6, 6), (3, 7, 6, 2, 9)


def hidden_of(model, sequences):
    with torch.no_grad():
        stream = torch.tensor([token for sequence in sequences for token in sequence])
        return model(stream, Segments.of([len(sequence) for sequence in sequences])).split([len(sequence) for sequence in sequences])


@pytest.mark.parametrize("lengths", [UNIFORM, RAGGED], ids=["uniform", "ragged"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_changing_one_sample_leaves_the_others_bitwise_equal(tiny, random_tokens, family, lengths):
    model = tiny(family)
    sequences = [random_tokens(length, seed) for seed, length in enumerate(lengths)]
    changed = [
        random_tokens(length, 90) if place == 1 else tokens for place, (length, tokens) in enumerate(zip(lengths, sequences, strict=True))
    ]
    before, after = hidden_of(model, sequences), hidden_of(model, changed)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [place != 1 for place in range(len(lengths))]


@pytest.mark.parametrize("lengths", [UNIFORM, RAGGED], ids=["uniform", "ragged"])
def test_experts_mix_samples_in_one_product_and_still_keep_them_apart(tiny, random_tokens, lengths):
    """The size of an expert's matrix product depends on the neighbours, and with it the last bit; nothing more does."""
    model = tiny("deepseek_v3")
    sequences = [random_tokens(length, seed) for seed, length in enumerate(lengths)]
    changed = [
        random_tokens(length, 90) if place == 1 else tokens for place, (length, tokens) in enumerate(zip(lengths, sequences, strict=True))
    ]
    before, after = hidden_of(model, sequences), hidden_of(model, changed)
    for place, (a, b) in enumerate(zip(before, after, strict=True)):
        assert float((a - b).abs().max()) > 0.1 if place == 1 else torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "deepseek_v3"])
def test_a_packed_sample_is_what_it_is_alone(tiny, random_tokens, family):
    model = tiny(family)
    sequences = [random_tokens(length, seed) for seed, length in enumerate(RAGGED)]
    for packed, tokens in zip(hidden_of(model, sequences), sequences, strict=True):
        torch.testing.assert_close(packed, hidden_of(model, [tokens])[0], atol=1e-5, rtol=1e-5)

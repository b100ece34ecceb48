"""Drawing one token a row: the distributions, their log-probabilities and the random numbers behind them."""

import pytest
import torch

from afterbase.engine.draw import Knobs, inverted, knobs_of, row_key, uniforms
from afterbase.records import Sampling

LOGITS = [2.0, 1.0, 1.0, 0.5, 0.0, -1.0, -3.0]


def drawn(settings, logits, uniform):
    """One draw per (temperature, top_p, top_k)."""
    temperature, top_p, top_k = (torch.tensor(column) for column in zip(*settings, strict=True))
    truncating = bool(((top_p < 1) | (top_k > 0)).any())
    plain = bool(((temperature == 1) | (temperature == 0)).all())
    return inverted(logits, Knobs(temperature, top_p, top_k, truncating, bool((temperature == 0).any()), plain), uniform)


def probabilities(logits, temperature) -> list[float]:
    return (torch.tensor(logits, dtype=torch.float64) / temperature).softmax(0).tolist()


def truncated(logits, temperature, top_p, top_k) -> dict[int, float]:
    """The slow way: the k most probable, of those the first that together hold top_p, made to sum to 1."""
    full = probabilities(logits, temperature)
    kept = sorted(range(len(full)), key=lambda token: (-full[token], token))[: top_k or None]
    share, nucleus = sum(full[token] for token in kept), []
    for token in kept:
        nucleus.append(token)
        if top_p < 1 and sum(full[one] for one in nucleus) >= top_p * share:
            break
    total = sum(full[token] for token in nucleus)
    return {token: full[token] / total for token in nucleus}


SETTINGS = [
    (1.0, 1.0, 0),
    (0.6, 1.0, 0),
    (1.0, 1.0, 2),
    (1.0, 0.8, 0),
    (1.7, 0.5, 4),
    (0.5, 0.97, 3),
    (1.0, 0.01, 0),
    (2.0, 0.95, 100),
    (1.0, 0.7, 2),
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_both_log_probabilities_are_those_of_the_slow_way(setting):
    """A fine sweep of random numbers meets every token that may be drawn, and no other."""
    sweep = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    found = drawn([setting] * 4000, torch.tensor(LOGITS).expand(4000, -1), sweep)
    full, wanted = probabilities(LOGITS, setting[0]), truncated(LOGITS, *setting)
    assert set(found.tokens.tolist()) == set(wanted)
    exact = torch.tensor([full, [wanted.get(token, 1.0) for token in range(len(LOGITS))]], dtype=torch.float64).log()
    torch.testing.assert_close(found.logprobs.double(), exact[0][found.tokens], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.sampled_logprobs.double(), exact[1][found.tokens], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("setting", SETTINGS)
def test_tokens_come_as_often_as_they_should(setting):
    """Chi-square of 20,000 draws against the slow way; 22.5 is its 0.1% point at 6 degrees of freedom."""
    n, wanted = 20_000, truncated(LOGITS, *setting)
    uniform = uniforms(torch.full((n,), row_key(5, 0)), torch.arange(n))
    counts = drawn([setting] * n, torch.tensor(LOGITS).expand(n, -1), uniform).tokens.bincount(minlength=len(LOGITS)).tolist()
    assert sum((counts[token] - n * p) ** 2 / (n * p) for token, p in wanted.items()) < 22.5


def test_rows_with_different_settings_do_not_disturb_each_other():
    settings = [*SETTINGS, (0.0, 1.0, 0)]
    logits = torch.randn(len(settings), 50, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(len(settings), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = drawn(settings, logits, uniform)
    for row, setting in enumerate(settings):
        alone = drawn([setting], logits[row : row + 1], uniform[row : row + 1])
        assert together.tokens[row] == alone.tokens[0]
        torch.testing.assert_close(together.logprobs[row], alone.logprobs[0])
        torch.testing.assert_close(together.sampled_logprobs[row], alone.sampled_logprobs[0])


def test_greedy_takes_the_best_token_whatever_the_random_number():
    """It was sure to be drawn (0), and its full log-probability is the one at temperature 1."""
    found = drawn([(0.0, 1.0, 0)] * 2, torch.tensor([[0.0, 0.0, 1.0]] * 2), torch.tensor([0.0, 0.999999]).double())
    assert found.tokens.tolist() == [2, 2] and found.sampled_logprobs.tolist() == [0.0, 0.0]
    assert found.logprobs.tolist() == pytest.approx([torch.tensor([0.0, 0.0, 1.0]).log_softmax(0)[2].item()] * 2)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_impossible_tokens_are_never_drawn_at_the_ends(uniform):
    """Tokens of probability 0 stand first and last."""
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    assert drawn([(1.0, 1.0, 0)], logits, torch.tensor([uniform]).double()).tokens.item() == (1 if uniform == 0 else 2)


@pytest.mark.parametrize("knobs", [{}, {"top_p": 0.8}])
def test_logits_that_are_no_numbers_give_some_token_of_the_vocabulary(knobs):
    drawn = inverted(torch.full((1, 40), torch.nan), knobs_of([((1,), Sampling(**knobs))], torch.device("cpu")), torch.tensor([0.5]))
    assert 0 <= drawn.tokens.item() < 40 and drawn.logprobs.isnan().all()


def test_the_last_random_number_finds_a_token_in_a_large_vocabulary():
    """Summing 100,000 float32 probabilities misses 1 by far more than the distance of this number from 1."""
    logits = torch.randn(1, 100_000, generator=torch.Generator().manual_seed(0))
    token = drawn([(1.0, 1.0, 0)], logits, torch.tensor([1 - 2**-53]).double()).tokens.item()
    assert 99_900 < token < 100_000


@pytest.mark.parametrize("top_p", [0.0, 1e-9])
def test_the_most_probable_token_is_always_kept(top_p):
    found = drawn([(1.0, top_p, 0)], torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([0.7]).double())
    assert found.tokens.item() == 1 and found.sampled_logprobs.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 2), (0.5, 0), (0.3, 0)])
def test_equally_probable_tokens_at_the_edge_go_by_their_id(top_p, top_k):
    """Of four quarters, two make a half and no more are needed; 0.3 needs two as well."""
    sweep = (torch.arange(30, dtype=torch.float64) + 0.5) / 30
    assert set(drawn([(1.0, top_p, top_k)] * 30, torch.zeros(30, 4), sweep).tokens.tolist()) == {0, 1}


def streams(seeds, draws) -> torch.Tensor:
    """[seeds, draws] numbers, a row for each stream."""
    keys = torch.tensor([row_key(seed, sample) for seed, sample in seeds])
    return torch.stack([uniforms(keys, torch.full((len(keys),), count)) for count in range(draws)], dim=1)


def test_random_numbers_are_uniform():
    """200,000 of them: mean 1/2 and variance 1/12 within four standard errors, 100 bins of 2,000 by chi-square (0.1% point 149)."""
    numbers = streams([(seed, sample) for seed in range(25) for sample in range(8)], 1000).flatten()
    assert numbers.min() >= 0 and numbers.max() < 1 and len(numbers.unique()) == len(numbers)
    assert abs(numbers.mean() - 0.5) < 4 * (1 / 12 / 200_000) ** 0.5
    assert abs(numbers.var() - 1 / 12) < 4 * (1 / 180 / 200_000) ** 0.5
    assert ((numbers.mul(100).long().bincount(minlength=100) - 2000) ** 2 / 2000).sum() < 149


def test_streams_of_neighbouring_seeds_samples_and_places_are_independent():
    """Correlations of 4,000 numbers stay within five standard errors of 1/sqrt(4000)."""
    one, next_seed, next_sample = streams([(7, 0), (8, 0), (7, 1)], 4001)
    for first, second in ((one[1:], next_seed[1:]), (one[1:], next_sample[1:]), (next_seed[1:], next_sample[1:]), (one[1:], one[:-1])):
        assert abs(torch.corrcoef(torch.stack((first, second)))[0, 1]) < 5 / 4000**0.5


def test_no_two_streams_share_their_numbers():
    """Not even shifted: 100 streams of 200 numbers hold 20,000 different ones."""
    assert len(streams([(seed, sample) for seed in range(20) for sample in range(5)], 200).unique()) == 20_000


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, 2**64 + 5])
def test_any_integer_is_a_seed(seed):
    assert 0 <= streams([(seed, 0)], 1).item() < 1

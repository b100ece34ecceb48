"""Penalties, biases, min-p and `min_tokens`: what is drawn, both log-probabilities, and that neighbours notice nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afterbase.engine.draw import draw, knobs_of, plain_knobs, row_key
from afterbase.records import Sampling

CPU = torch.device("cpu")
V = 9


def drawn(logits, asked, said, keys=None):
    """One draw for each row of `logits`; `said` is what each has drawn so far."""
    counts = torch.tensor([len(tokens) for tokens in said])
    tokens = torch.full((len(said), max(map(len, said)) + 3), 1)  # what lies behind a row's own tokens is never read
    for row, line in enumerate(said):
        tokens[row, : len(line)] = torch.tensor(line, dtype=torch.long)
    keys = torch.tensor([row_key(sampling.seed, 0) for _, sampling in asked]) if keys is None else keys
    return draw(torch.as_tensor(logits, dtype=torch.float32), knobs_of(asked, CPU), keys, counts, tokens)


def swept(logits, prompt, sampling, said=(), n=2000):
    """Many draws of one setting, each of another stream."""
    keys = torch.tensor([row_key(seed, 0) for seed in range(n)])
    return drawn(torch.tensor([logits] * n), [(prompt, sampling)] * n, [list(said)] * n, keys)


def softmax(logits) -> list[float]:
    top = max(logits)
    mass = [math.exp(one - top) for one in logits]
    return [one / sum(mass) for one in mass]


def slow(logits, prompt, sampling, said) -> tuple[list[float], dict[int, float]]:
    """The full distribution, and the one that is drawn from, token by token in float64."""
    heat = sampling.temperature
    moved = list(logits)
    for token in range(len(moved)):
        if token in said or token in prompt:
            moved[token] *= sampling.repetition_penalty if moved[token] <= 0 else 1 / sampling.repetition_penalty
        moved[token] -= sampling.presence_penalty * (token in said) + sampling.frequency_penalty * list(said).count(token)
        moved[token] += dict(sampling.logit_bias).get(token, 0.0)
        if token in sampling.stop_ids and len(said) < sampling.min_tokens:
            moved[token] = -math.inf
    chances = softmax([one / heat for one in moved])
    kept = sorted(range(len(chances)), key=lambda token: (-chances[token], token))[: sampling.top_k or None]
    kept = [token for token in kept if chances[token] > 0 and chances[token] >= sampling.min_p * max(chances)]
    share, nucleus = sum(chances[token] for token in kept), []
    for token in kept:
        nucleus.append(token)
        if sampling.top_p < 1 and sum(chances[one] for one in nucleus) >= sampling.top_p * share:
            break
    total = sum(chances[token] for token in nucleus)
    return softmax([one / heat for one in logits]), {token: chances[token] / total for token in nucleus}


TOKENS = st.integers(0, V - 1)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([1.0, 0.5, 0.83, 2.0]),
    top_p=st.sampled_from([1.0, 1.0, 0.9, 0.41]),
    top_k=st.sampled_from([0, 0, 3, 50]),
    min_p=st.sampled_from([0.0, 0.0, 0.07, 0.6]),
    seed=st.integers(0, 10**9),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    presence_penalty=st.sampled_from([0.0, 0.9, -0.4]),
    frequency_penalty=st.sampled_from([0.0, 0.37, -0.11]),
    logit_bias=st.dictionaries(TOKENS, st.floats(-5, 5, width=16), max_size=3).map(lambda biases: tuple(biases.items())),
    min_tokens=st.sampled_from([0, 0, 2, 4]),
    stop_ids=st.lists(TOKENS, max_size=3, unique=True).map(tuple),
)
ROWS = st.lists(st.tuples(SAMPLINGS, st.lists(TOKENS, min_size=1, max_size=4), st.lists(TOKENS, max_size=5)), min_size=1, max_size=6)


def logits_of(rows, seed=0):
    """Spread well enough that no two tokens are as likely as each other, whatever the float."""
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * 2


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(0, 10**6))
def test_both_log_probabilities_are_those_of_the_slow_way_whatever_is_asked(rows, seed):
    logits = logits_of(len(rows), seed)
    found = drawn(logits, [(prompt, sampling) for sampling, prompt, _ in rows], [said for _, _, said in rows])
    for row, (sampling, prompt, said) in enumerate(rows):
        full, wanted = slow(logits[row].tolist(), prompt, sampling, said)
        token = int(found.tokens[row])
        assert token in wanted
        assert float(found.logprobs[row]) == pytest.approx(math.log(full[token]), abs=2e-5)
        assert float(found.sampled_logprobs[row]) == pytest.approx(math.log(wanted[token]), abs=2e-5)


ALL_OF_IT = Sampling(
    0.8, 0.97, 8, min_p=0.02, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.3, logit_bias=((0, 1.5), (8, -1.0)),
    min_tokens=4, stop_ids=(4, 7),
)  # fmt: skip


@pytest.mark.parametrize(
    "sampling",
    [
        ALL_OF_IT,
        Sampling(min_p=0.2),
        Sampling(1.5, repetition_penalty=1.8),
        Sampling(presence_penalty=1.0, frequency_penalty=-0.3),
        Sampling(0.7, min_tokens=9, stop_ids=(2,)),
        Sampling(1.1, logit_bias=((3, 2.0),)),
    ],
)
def test_tokens_come_as_often_as_the_slow_way_says(sampling):
    """Chi-square of 20,000 draws; 26.1 is its 0.1% point at 8 degrees of freedom."""
    logits, prompt, said, n = logits_of(1)[0].tolist(), [1, 3], [2, 2, 5], 20_000
    wanted = slow(logits, prompt, sampling, said)[1]
    counts = swept(logits, prompt, sampling, said, n).tokens.bincount(minlength=V).tolist()
    assert sum(counts[token] for token in wanted) == n
    assert sum((counts[token] - n * p) ** 2 / (n * p) for token, p in wanted.items()) < 26.1


def test_penalties_by_hand():
    """Token 0 was said twice, token 1 once, token 2 stands in the prompt alone: 4/2 - 1 - 2 x 0.5 = 0, 2/2 - 1 - 0.5, -1 x 2, and 0."""
    sampling = Sampling(repetition_penalty=2.0, presence_penalty=1.0, frequency_penalty=0.5)
    found = swept([4.0, 2.0, -1.0, 0.0], [2], sampling, [0, 1, 0])
    wanted = torch.tensor([0.0, -0.5, -2.0, 0.0]).log_softmax(0)
    torch.testing.assert_close(found.sampled_logprobs, wanted[found.tokens])
    torch.testing.assert_close(found.logprobs, torch.tensor([4.0, 2.0, -1.0, 0.0]).log_softmax(0)[found.tokens])
    assert set(found.tokens.tolist()) == {0, 1, 2, 3}


def test_a_repetition_penalty_counts_a_token_once_and_the_prompt_is_no_answer():
    """Neither three times in the prompt nor presence for what only the prompt says changes anything more."""
    found = swept([2.0, 0.0], [0, 0, 0], Sampling(repetition_penalty=2.0, presence_penalty=5.0, frequency_penalty=5.0))
    torch.testing.assert_close(found.sampled_logprobs, torch.tensor([1.0, 0.0]).log_softmax(0)[found.tokens])


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_a_bias_of_minus_100_is_never_drawn_and_one_of_100_always(temperature):
    logits = [5.0, 1.0, 0.0, -5.0]
    assert 0 not in swept(logits, [1], Sampling(temperature, logit_bias=((0, -100.0),))).tokens.tolist()
    assert set(swept(logits, [3], Sampling(temperature, repetition_penalty=2.0, logit_bias=((3, 100.0),))).tokens.tolist()) == {3}


def test_min_p_keeps_what_is_likely_enough_beside_the_best_at_the_temperature():
    """At temperature 2 the ratios to the best are 1, e^-1 = 0.37 and e^-2 = 0.14; at 1 the second is 0.14 itself."""
    logits = [4.0, 2.0, 0.0]
    assert set(swept(logits, [0], Sampling(2.0, min_p=0.3)).tokens.tolist()) == {0, 1}
    assert set(swept(logits, [0], Sampling(2.0, min_p=0.1)).tokens.tolist()) == {0, 1, 2}
    assert set(swept(logits, [0], Sampling(1.0, min_p=0.3)).tokens.tolist()) == {0}


def test_greedy_takes_the_best_of_the_steered_logits():
    """Its log-probability is still the model's own, at temperature 1."""
    found = swept([3.0, 2.0, 1.0], [0], Sampling(0.0, logit_bias=((2, 1.5),), stop_ids=(0,), min_tokens=1), n=3)
    assert found.tokens.tolist() == [2, 2, 2] and found.sampled_logprobs.tolist() == [0.0] * 3
    torch.testing.assert_close(found.logprobs, torch.tensor([3.0, 2.0, 1.0]).log_softmax(0)[2].expand(3))


def test_stop_ids_wait_for_min_tokens_and_no_longer():
    patient = Sampling(stop_ids=(0, 1), min_tokens=2)
    assert set(swept([9.0, 9.0, 0.0, 0.0], [0], patient, [2]).tokens.tolist()) == {2, 3}
    assert {0, 1} <= set(swept([9.0, 9.0, 0.0, 0.0], [0], patient, [2, 2]).tokens.tolist())


@pytest.mark.parametrize("plain", [Sampling(seed=3), Sampling(0.7, seed=4)], ids=str)
def test_a_row_that_asks_for_nothing_keeps_its_bits_whatever_its_neighbours_ask_for(plain):
    """Of 40 rows every third is steered, truncated or greedy; the others are those of 40 plain rows."""
    logits, said = torch.randn(40, 300, generator=torch.Generator().manual_seed(1)), [[1, 2, 3]] * 40
    others = ALL_OF_IT, Sampling(top_k=3), Sampling(0.0)
    asked = [((5,), others[row // 3 % 3] if row % 3 == 0 else plain) for row in range(40)]
    keys = torch.tensor([row_key(row, 0) for row in range(40)])
    mixed, quiet = drawn(logits, asked, said, keys), drawn(logits, [((5,), plain)] * 40, said, keys)
    rows = torch.tensor([row for row in range(40) if row % 3])
    for found, wanted in ((mixed.tokens, quiet.tokens), (mixed.logprobs, quiet.logprobs), (mixed.sampled_logprobs, quiet.sampled_logprobs)):
        assert torch.equal(found[rows], wanted[rows])


def test_a_steered_row_keeps_its_bits_beside_rows_that_are_steered_otherwise():
    """Penalties of 1 and 0, no bias and no patience add nothing, not even a rounding."""
    logits, said = torch.randn(6, 300, generator=torch.Generator().manual_seed(2)), [[1, 2], [3], [], [4, 4, 4], [5], [6]]
    kinds = (
        Sampling(0.9, repetition_penalty=1.3), Sampling(presence_penalty=0.5), Sampling(logit_bias=((7, 3.0),)),
        Sampling(min_tokens=5, stop_ids=(1, 2)), Sampling(frequency_penalty=0.5), Sampling(1.4, logit_bias=((1, 1.0), (2, 2.0))),
    )  # fmt: skip
    asked = [((5, 6), kind) for kind in kinds]
    together = drawn(logits, asked, said)
    for row in range(6):
        pair = drawn(logits[[row, row]], [asked[row]] * 2, [said[row]] * 2)
        assert together.tokens[row] == pair.tokens[0]
        assert together.logprobs[row] == pair.logprobs[0] and together.sampled_logprobs[row] == pair.sampled_logprobs[0]


def test_plain_rows_are_not_sorted_steered_or_parted():
    asked = [((1,), Sampling(0.7))] * 3
    for knobs in (knobs_of(asked, CPU), plain_knobs(torch.full((3,), 0.7), {0.7})):
        assert not (knobs.parts or knobs.steering or knobs.truncating or knobs.differing) and knobs.min_p is None

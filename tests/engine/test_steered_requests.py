"""Requests that steer their draws, through a whole engine: each gets its own, nobody ends early, and nonsense is refused in a sentence."""

import math
import random
from dataclasses import replace

import pytest
import torch

from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.errors import EngineError
from afterbase.records import Sampling
from afterbase.segments import Segments


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("qwen3")


KINDS = (
    Sampling(repetition_penalty=1.5),
    Sampling(0.7, presence_penalty=1.0, frequency_penalty=0.5),
    Sampling(),
    Sampling(1.2, 0.9, min_p=0.1),
    Sampling(min_tokens=6, stop_ids=tuple(range(20))),
    Sampling(0.0, repetition_penalty=1.2),
    Sampling(logit_bias=((3, 4.0), (5, -100.0)), stop_ids=(7,)),
)


def steered_requests(random_tokens):
    """Fourteen of every kind and length, some in groups."""
    samplings = [replace(KINDS[seed % 7], seed=seed, max_tokens=8 + 5 * seed % 17) for seed in range(14)]
    return [(random_tokens(1 + 5 * seed % 13, seed), sampling, 1 + seed % 2) for seed, sampling in enumerate(samplings)]


@pytest.mark.parametrize("rows", [3, 64])
def test_a_steered_request_gets_the_same_whatever_shares_its_batch(model, random_tokens, rows, outcomes):
    """Rows join, end and move; penalties, biases and patience stay with their requests."""
    requests = steered_requests(random_tokens)
    alone = [outcomes(LocalEngine(model, EngineConfig(rows=2)), request)[0] for request in requests]
    order = list(range(14))
    random.Random(rows).shuffle(order)
    crowd = outcomes(LocalEngine(model, EngineConfig(rows=rows)), *(requests[place] for place in order))
    for place, completions in zip(order, crowd, strict=True):
        for one, other in zip(completions, alone[place], strict=True):
            assert (one.tokens, one.finish) == (other.tokens, other.finish)
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
            assert one.sampled_logprobs == pytest.approx(other.sampled_logprobs, abs=1e-5)


def test_the_full_log_probabilities_are_the_models_own_however_a_request_is_steered(model, random_tokens, outcomes):
    """What the trainer recomputes from the tokens and the temperature alone; the other one is far from it."""
    requests = steered_requests(random_tokens)
    for (prompt, sampling, _), (done, *_) in zip(requests, outcomes(LocalEngine(model, EngineConfig()), *requests), strict=True):
        tokens = torch.tensor([*prompt, *done.tokens])
        with torch.no_grad():
            logits = model.logits(model(tokens, Segments.of([len(tokens)])))[len(prompt) - 1 : -1]
        full = (logits / (sampling.temperature or 1.0)).log_softmax(-1).gather(1, tokens[len(prompt) :, None]).squeeze(1)
        assert done.logprobs == pytest.approx(full.tolist(), abs=1e-5)
        assert sampling.whole == (done.sampled_logprobs == done.logprobs)


def test_a_plain_request_keeps_its_bits_beside_a_steered_one(model, random_tokens, outcomes):
    """Beside neighbours as long as before that ask for penalties, biases, top-p or the best token: the same floats."""
    plain = [(random_tokens(6, seed), Sampling(0.9, seed=seed, max_tokens=12)) for seed in range(3)]

    def beside(sampling):
        others = [(random_tokens(5, seed), replace(sampling, seed=seed, max_tokens=12)) for seed in range(3)]
        return outcomes(LocalEngine(model, EngineConfig()), *others, *plain)[3:]

    quiet = beside(Sampling())
    assert all(beside(kind) == quiet for kind in (*KINDS, Sampling(top_p=0.5), Sampling(0.0)))


def test_a_steered_request_stays_so_where_a_plain_one_ended(model, random_tokens, outcomes):
    """It takes the place of the one that ends after two tokens, and goes on to say nothing but 7."""
    short, steered = Sampling(max_tokens=2), Sampling(logit_bias=((7, 100.0),), max_tokens=10)
    _, (done,) = outcomes(LocalEngine(model, EngineConfig(rows=2)), (random_tokens(3), short), (random_tokens(3), steered))
    assert done.tokens == (7,) * 10


def test_nothing_ends_an_answer_among_its_first_min_tokens(model, random_tokens, outcomes):
    """Half the vocabulary stops, and so does every letter; without patience none of these answers has ten tokens."""
    vocabulary = model.config.vocab_size
    hasty = Sampling(stop_ids=tuple(range(0, vocabulary, 2)), max_tokens=30)
    engine = LocalEngine(model, EngineConfig(), decode=lambda tokens: "x" * len(tokens))
    assert all(len(done.tokens) < 25 for done in outcomes(engine, (random_tokens(4), hasty, 16))[0])
    for done in outcomes(engine, (random_tokens(4), replace(hasty, min_tokens=25), 16))[0]:
        assert len(done.tokens) > 25 and all(token % 2 for token in done.tokens[:25])
    (talking,) = outcomes(engine, (random_tokens(4), Sampling(stop=("x",), min_tokens=7, max_tokens=30), 4))
    assert [len(done.tokens) for done in talking] == [8] * 4
    (full,) = outcomes(engine, (random_tokens(4), replace(hasty, min_tokens=9, max_tokens=9)))
    assert len(full[0].tokens) == 9 and full[0].finish == "length"


WRONG = [
    ({"temperature": math.nan}, "temperature=nan"),
    ({"temperature": -1.0}, "temperature=-1.0"),
    ({"temperature": 1e-9}, "give 0 (greedy), or 0.0001 to 10000"),
    ({"temperature": math.inf}, "temperature=inf"),
    ({"temperature": "hot"}, "temperature='hot'"),
    ({"top_p": 0.0}, "top_p=0.0"),
    ({"top_p": 1.1}, "top_p=1.1"),
    ({"top_k": -1}, "top_k=-1"),
    ({"top_k": 2**63}, "below 2**63"),
    ({"min_p": 1.0}, "min_p=1.0"),
    ({"min_p": -0.1}, "min_p=-0.1"),
    ({"max_tokens": 0}, "max_tokens=0"),
    ({"min_tokens": 5, "max_tokens": 4}, "from 0 to max_tokens=4"),
    ({"min_tokens": -1}, "min_tokens=-1"),
    ({"seed": 1.5}, "seed=1.5"),
    ({"stop": ("",)}, "strings, none of them empty"),
    ({"stop": "END"}, "stop='END'"),
    ({"stop_ids": (10**6,)}, "stop_ids=(1000000,)"),
    ({"stop_ids": tuple(range(40)), "min_tokens": 1}, "leave a token that is no stop id"),
    ({"presence_penalty": math.inf}, "presence_penalty=inf"),
    ({"frequency_penalty": math.nan}, "frequency_penalty=nan"),
    ({"repetition_penalty": 0.0}, "1 changes nothing"),
    ({"logit_bias": ((-1, 1.0),)}, "logit_bias=((-1, 1.0),)"),
    ({"logit_bias": ((1, math.nan),)}, "each token once"),
    ({"logit_bias": ((1, 1.0), (1, 2.0))}, "each token once"),
]


@pytest.mark.parametrize(("setting", "said"), WRONG)
def test_what_cannot_be_sampled_with_is_refused_to_that_request_only(model, random_tokens, setting, said, outcomes):
    """In one sentence; the one beside it is answered."""
    refused, (done,) = outcomes(
        LocalEngine(model, EngineConfig(rows=2)), (random_tokens(3), Sampling(**setting)), (random_tokens(3), Sampling(max_tokens=3))
    )
    assert isinstance(refused, EngineError) and said in str(refused) and "\n" not in str(refused) and len(str(refused)) < 200
    assert len(done.tokens) == 3


def test_a_long_list_that_is_refused_is_not_told_in_full(model, random_tokens, outcomes):
    (refused,) = outcomes(LocalEngine(model, EngineConfig()), (random_tokens(3), Sampling(stop_ids=tuple(range(-1000, 0)))))
    assert len(str(refused)) < 200

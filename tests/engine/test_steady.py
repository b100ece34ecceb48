"""`deterministic`: a request's tokens and log-probabilities are its own, to the last bit, whatever shares its batch."""

import asyncio

import pytest
import torch

from afterbase.engine.draw import knobs_of
from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.engine.runner import FusedRunner
from afterbase.engine.speculative import NgramDrafting
from afterbase.engine.steady import ROWS, SteadyRunner
from afterbase.errors import EngineError
from afterbase.model.native import kernels
from afterbase.records import Sampling

compiled = pytest.mark.skipif(kernels() is None, reason="no C++ compiler, so the kernels that deterministic decoding needs are missing")
WAYS = {"plain": {}, "greedy": {"temperature": 0.0}, "truncated": {"top_p": 0.8}, "penalized": {"repetition_penalty": 1.3}}


def asked(model, prompts, precision, **sampling):
    """The first prompt's completion, while the others are answered too."""
    engine = LocalEngine(model, EngineConfig(rows=64, precision=precision, deterministic=True))

    async def ask():
        return await asyncio.gather(
            *(engine.generate(prompt, Sampling(max_tokens=24, seed=seed, **sampling)) for seed, prompt in enumerate(prompts))
        )

    (one,) = asyncio.run(ask())[0]
    return one.tokens, one.logprobs, one.sampled_logprobs


@compiled
@pytest.mark.parametrize("sampling", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_request_alone_among_a_few_and_among_many_is_answered_alike(tiny, random_tokens, precision, sampling):
    """Wide enough that products of one row, of a few and of many are summed in different orders; 18 rows are more than one block."""
    model = tiny("qwen2", hidden_size=96, intermediate_size=512)
    prompts = [random_tokens(3 + seed % 9, seed) for seed in range(ROWS + 2)]
    alone, few, many = (asked(model, prompts[:count], precision, **sampling) for count in (1, 7, len(prompts)))
    assert alone == few == many


@compiled
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_of_blocks_is_the_product(tiny, biased):
    model = tiny("qwen2", hidden_size=64)
    fused, steady = (kind(model, torch.float32) for kind in (FusedRunner, SteadyRunner))
    rows, weight, bias = torch.randn(ROWS + 3, 64), torch.randn(40, 64), torch.randn(40) if biased else None
    wanted = fused._product(rows, weight, bias)
    torch.testing.assert_close(steady._product(rows, weight, bias), wanted, atol=1e-5, rtol=1e-5)


def test_rows_that_ask_for_more_are_drawn_one_by_one_when_singly():
    asked = [((1, 2), Sampling(top_p=0.9)), ((1,), Sampling()), ((3,), Sampling(top_k=2)), ((4,), Sampling())]
    together, singly = (knobs_of(asked, torch.device("cpu"), one_by_one) for one_by_one in (False, True))
    assert [rows.tolist() for rows, _ in together.parts] == [[1, 3], [0, 2]]
    assert [rows.tolist() for rows, _ in singly.parts] == [[1, 3], [0], [2]]


@pytest.mark.parametrize(
    ("family", "settings", "named"),
    [
        ("qwen2", {"speculative": NgramDrafting(kind="ngram")}, "engine.speculative"),
        ("deepseek_v3", {}, "experts"),
        pytest.param("qwen2", {"memory": 0.001}, "engine.memory", marks=compiled),
    ],
)
def test_what_cannot_be_deterministic_says_so(tiny, family, settings, named):
    with pytest.raises(EngineError, match=named):
        LocalEngine(tiny(family), EngineConfig(deterministic=True, **settings))

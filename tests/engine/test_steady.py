"""`deterministic`: a request's tokens and log-probabilities are its own, to the last bit, whatever shares its batch."""

import asyncio

import pytest
import torch

from afterbase.engine.draw import knobs_of
from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.engine.runner import FusedRunner, runner_for
from afterbase.engine.speculative import MTPDrafting, NgramDrafting
from afterbase.engine.steady import ROWS, SteadyRunner, steadied
from afterbase.errors import EngineError
from afterbase.model.cache import Cache
from afterbase.model.native import kernels
from afterbase.records import Sampling
from afterbase.segments import Segments

compiled = pytest.mark.skipif(kernels() is None, reason="no C++ compiler, so the kernels that deterministic decoding needs are missing")
SHAPES = {
    "dense": ("qwen2", {"hidden_size": 96, "intermediate_size": 512}),
    "latents and experts": ("deepseek_v3", {"hidden_size": 96, "moe_intermediate_size": 48, "num_nextn_predict_layers": 1}),
}
DRAFTS = {"by modules": MTPDrafting(tokens=2, always=True), "by look-up": NgramDrafting(length=1, tokens=3, always=True)}
WAYS = {"plain": {}, "greedy": {"temperature": 0.0}, "truncated": {"top_p": 0.8}, "penalized": {"repetition_penalty": 1.3}}


def asked(model, prompts, precision, drafting=None, **sampling):
    """The first prompt's completion, while the others are answered too."""
    engine = LocalEngine(model, EngineConfig(rows=64, precision=precision, deterministic=True, speculative=drafting))

    async def ask():
        return await asyncio.gather(
            *(engine.generate(prompt, Sampling(max_tokens=24, seed=seed, **sampling)) for seed, prompt in enumerate(prompts))
        )

    (one,) = asyncio.run(ask())[0]
    assert drafting is None or engine.speculation().steps > 0
    return one.tokens, one.logprobs, one.sampled_logprobs


@compiled
@pytest.mark.parametrize("sampling", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_request_alone_among_a_few_and_among_many_is_answered_alike(tiny, random_tokens, shape, precision, sampling):
    """Wide enough that products of one row, of a few and of many are summed in different orders; 18 rows are more than one block."""
    family, changes = SHAPES[shape]
    model = tiny(family, **changes)
    prompts = [random_tokens(3 + seed % 9, seed) for seed in range(ROWS + 2)]
    alone, few, many = (asked(model, prompts[:count], precision, **sampling) for count in (1, 7, len(prompts)))
    assert alone == few == many


@compiled
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "drafts"), [("dense", "by look-up"), ("latents and experts", "by look-up"), ("latents and experts", "by modules")]
)
def test_a_request_is_answered_alike_with_drafts_and_without(tiny, random_tokens, shape, drafts, precision):
    """To the last bit, alone and among others; hot enough that some drafts are right and some are not."""
    family, changes = SHAPES[shape]
    model = tiny(family, **changes)
    prompts = [random_tokens(3 + seed % 9, seed) * 2 for seed in range(9)]
    for sampling in ({"temperature": 0.3}, {"temperature": 0.5, "top_p": 0.9, "repetition_penalty": 1.2}):
        plain = asked(model, prompts[:1], precision, **sampling)
        for count in (1, len(prompts)):
            assert asked(model, prompts[:count], precision, DRAFTS[drafts], **sampling) == plain


@compiled
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_every_number_of_rows_has_the_same_logits(tiny, random_tokens, shape):
    """1 to 40 rows of different lengths, one new token each or three."""
    family, changes = SHAPES[shape]
    model = tiny(family, **changes)
    runner = steadied(runner_for(model, torch.bfloat16), budgeted=False)
    lengths, tokens = torch.arange(40) % 7, torch.tensor(random_tokens(120, 3)).view(40, 3)
    cache = Cache(model.config, 40, 16, torch.bfloat16, torch.device("cpu"), ahead=1)
    memories = [torch.randn(block.shape, generator=torch.Generator().manual_seed(1)).to(block.dtype) for block in cache.blocks]

    def logits(rows, width):
        for block, memory in zip(cache.blocks, memories, strict=True):
            block.copy_(memory)
        segments = Segments((width,) * rows, lengths.device, lengths[:rows])
        return runner.verify(tokens[:rows, :width], segments, cache.decoding(segments, 16))[1].clone()

    wanted = logits(40, 3)
    for rows in range(1, 41):
        assert torch.equal(logits(rows, 1), wanted[:rows, :1])
        assert rows % 9 or torch.equal(logits(rows, 3), wanted[:rows])


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
        ("qwen3_moe", {}, "experts"),
        *(pytest.param(family, {"memory": 0.001}, "engine.memory", marks=compiled) for family in ("qwen2", "deepseek_v3")),
    ],
)
def test_what_cannot_be_deterministic_says_so(tiny, family, settings, named):
    with pytest.raises(EngineError, match=named):
        LocalEngine(tiny(family), EngineConfig(deterministic=True, **settings))

"""Laws 3 and 4: the engine's log-probabilities are the trainer's, and decoding (MLA absorbed) is the plain forward pass."""

import asyncio
from dataclasses import replace

import pytest
import torch

from afterbase.engine import latent as native
from afterbase.engine.cuda import latent
from afterbase.engine.cuda.runner import GraphRunner
from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.engine.runner import FusedRunner
from afterbase.model.cache import Cache
from afterbase.records import Sample, Sampling
from afterbase.segments import Segments
from afterbase.train.packing import pack
from afterbase.train.trainer import LocalTrainer, TrainerConfig


def samples_of(completions, prompts):
    """What was drawn, as something to learn from."""
    return [
        Sample((*prompt, *one.tokens), (False,) * len(prompt) + (True,) * len(one.tokens), old=one.logprobs)
        for prompt, group in zip(prompts, completions, strict=True)
        for one in group
    ]


@pytest.mark.parametrize(
    ("family", "temperature"),
    [
        *((family, temperature) for family in ("qwen2", "deepseek_v3") for temperature in (1.0, 0.7, 1.6)),
        *((family, 0.8) for family in ("llama", "qwen3", "qwen3_moe", "deepseek_v2")),
    ],
)
def test_the_engine_and_the_trainer_agree_on_every_token(tiny, random_tokens, family, temperature):
    """Eleven requests of four prompts share five rows, so they join and leave all the time."""
    model = tiny(family)
    engine = LocalEngine(model, EngineConfig(rows=5, prefill_tokens=20))
    prompts = [random_tokens(length, seed) for seed, length in enumerate((3, 17, 1, 8))]
    sizes = zip(prompts, (3, 1, 5, 2), (9, 30, 4, 16), strict=True)

    async def ask():
        return await asyncio.gather(*(engine.generate(p, Sampling(temperature, max_tokens=most, seed=most), n) for p, n, most in sizes))

    samples = samples_of(asyncio.run(ask()), prompts)
    assert [len(sample.old) for sample in samples] == [9] * 3 + [30] + [4] * 5 + [16] * 2
    samples = [replace(sample, temperature=temperature) for sample in samples]
    trainer = LocalTrainer(model, TrainerConfig(), steps=1)
    for batch in pack(samples, 64):
        torch.testing.assert_close(trainer.score(batch), batch.old, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "changes", "recorded"),
    [
        ("deepseek_v3", {}, True),
        ("deepseek_v3", {"n_shared_experts": 0}, False),
        ("deepseek_v2", {}, False),
        ("qwen3_moe", {}, False),
        ("qwen3", {"head_dim": 16}, False),
    ],
)
def test_a_recorded_step_is_for_the_routing_that_it_was_written_for(tiny, family, changes, recorded):
    """Others decode by the model's own forward pass, and not wrongly."""
    model = tiny(family, **changes)
    assert latent.LatentRunner.fits(model) == recorded and (recorded or not native.LatentCpuRunner.fits(model))
    assert GraphRunner.fits(model) == FusedRunner.fits(model) == (family == "qwen3")


def test_score_is_the_trainers_at_temperature_one(tiny, random_tokens):
    model, tokens = tiny("deepseek_v3"), random_tokens(12)
    scores = asyncio.run(LocalEngine(model, EngineConfig()).score(tokens))
    (batch,) = pack([Sample(tuple(tokens), (True,) * 12)], 64)
    torch.testing.assert_close(torch.tensor(scores), LocalTrainer(model, TrainerConfig(), steps=1).score(batch), atol=1e-6, rtol=0)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "mscale": 1.0, "mscale_all_dim": 0.7}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("qwen3_moe", {}),
        ("deepseek_v2", {}),
        ("deepseek_v3", {}),
        ("deepseek_v3", {"q_lora_rank": None, "rope_scaling": YARN}),
    ],
    ids=["llama", "qwen2", "qwen3", "qwen3 moe", "deepseek v2", "mla", "mla yarn"],
)
def test_decoding_token_by_token_is_the_plain_forward(tiny, random_tokens, family, changes):
    """Two rows of different age decode side by side; for MLA that is the absorbed form against the plain one."""
    model = tiny(family, **changes)
    first, second = random_tokens(20, 1), random_tokens(14, 2)
    with torch.inference_mode():
        plain = [model(torch.tensor(tokens), Segments.of([len(tokens)])) for tokens in (first, second)]
        cache = Cache(model.config, rows=3, room=32, dtype=torch.float32, device=torch.device("cpu"))
        segments = Segments.of([8, 2])
        model(torch.tensor(first[:8] + second[:2]), segments, cache.filling(segments, torch.tensor([0, 1])))
        for step in range(12):
            segments = Segments.decoding(torch.tensor([8 + step, 2 + step]))
            hidden = model(torch.tensor([first[8 + step], second[2 + step]]), segments, cache.decoding(segments, 9 + step))
            torch.testing.assert_close(hidden, torch.stack((plain[0][8 + step], plain[1][2 + step])), atol=1e-5, rtol=1e-5)

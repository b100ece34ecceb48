"""An engine samples from a trainer's half-precision weights as they are."""

import asyncio

import pytest
import torch

from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.engine.runner import in_training
from afterbase.errors import ConfigError
from afterbase.model.checkpoint import load_model, save_model
from afterbase.objective.likelihood import Likelihood
from afterbase.records import Sample, Sampling
from afterbase.train.masters import halve
from afterbase.train.optim import OptimConfig
from afterbase.train.packing import pack
from afterbase.train.schedule import ScheduleConfig
from afterbase.train.trainer import LocalTrainer, TrainerConfig


@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_half_weights_are_sampled_from_like_float32_ones_of_the_same_values(tiny, tmp_path, family):
    """Rounded first: the same numbers, held in half the memory, give the same tokens and log-probabilities."""
    half = tiny(family)
    halve(half)
    save_model(half, tmp_path)
    wide = load_model(tmp_path, dtype=torch.float32)
    assert in_training(half) and in_training(wide) and half.lm_head.weight.dtype == torch.bfloat16
    found = []
    for model in (half, wide):
        engine = LocalEngine(model, EngineConfig(rows=2, context=40, precision="bfloat16"))
        drawn = asyncio.run(engine.generate([3, 4, 5], Sampling(max_tokens=12, seed=1), 2))
        found.append([(each.tokens, each.logprobs) for each in drawn])
    assert [tokens for tokens, _ in found[0]] == [tokens for tokens, _ in found[1]]
    for (_, ours), (_, theirs) in zip(*found, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_half_weights_want_an_engine_that_multiplies_in_half_precision(tiny):
    half = tiny("qwen2")
    halve(half)
    with pytest.raises(ConfigError, match="set engine"):
        LocalEngine(half, EngineConfig(rows=2, context=40, precision="float32"))


@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_an_engine_follows_a_trainer_with_masters(tiny, random_tokens, family):
    """After each update the engine draws what a fresh one on the same weights draws, and the masters' rounding is all that it sees."""
    steady = OptimConfig(schedule=ScheduleConfig(kind="constant", peak=0.05))
    trainer = LocalTrainer(tiny(family), TrainerConfig(optim=steady, precision="bfloat16", weights="bfloat16"), steps=2)
    settings, sampling = EngineConfig(rows=1, context=40, precision="bfloat16"), Sampling(max_tokens=12, seed=1)
    engine, drawn = LocalEngine(trainer.model, settings), []
    for version in (1, 2):
        (batch,) = pack([Sample(tuple(random_tokens(20, version)), (True,) * 20)], 20)
        trainer.forward_backward(batch, Likelihood())
        trainer.step()
        asyncio.run(engine.load(trainer.weights(), version))
        for each in (engine, LocalEngine(trainer.model, settings)):
            (answer,) = asyncio.run(each.generate([3, 4, 5], sampling))
            drawn.append((answer.tokens, answer.logprobs))
    assert drawn[0] == drawn[1] and drawn[2] == drawn[3] and drawn[0] != drawn[2]

"""Our side: the engine alone, and a whole round of the RL stage with its logging and its record of rollouts."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from afterbase.process import prepare

prepare()  # as the command line does

import torch
from cpu import WORK, prompts, timed

from afterbase.config import build as configured
from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.records import Sampling
from afterbase.rewards.base import build
from afterbase.stages.rl import STAGE, Loop
from afterbase.stages.rl_config import RlConfig
from afterbase.stages.run import Run
from afterbase.stages.session import Session, load_pair
from afterbase.track import read_metrics

_, task, checkpoint, precision, threads = sys.argv
torch.set_num_threads(int(threads))
ANSWERS = WORK["prompts"] * WORK["group"]


def generation() -> list[float]:
    model, tokenizer = load_pair(Path(checkpoint))
    engine = LocalEngine(model, EngineConfig(rows=ANSWERS, context=128, precision=precision))
    asked = [tokenizer.encode(text) for text in prompts()]

    async def all_groups() -> None:
        sampling = [Sampling(max_tokens=WORK["new_tokens"], seed=seed) for seed in range(len(asked))]
        groups = await asyncio.gather(*[engine.generate(p, s, WORK["group"]) for p, s in zip(asked, sampling, strict=True)])
        assert sum(len(c.tokens) for group in groups for c in group) == ANSWERS * WORK["new_tokens"]

    return timed(lambda: asyncio.run(all_groups()), 2)


def grpo() -> list[float]:
    with tempfile.TemporaryDirectory() as directory:
        asked = Path(directory, "prompts.jsonl")
        asked.write_text("".join(json.dumps({"question": text}) + "\n" for text in prompts()))
        recipe = {
            "model": checkpoint, "template": "plain", "steps": 3, "prompts_per_step": WORK["prompts"], "group": WORK["group"],
            "prompts": [{"kind": "jsonl", "path": str(asked)}], "sampling": {"max_tokens": WORK["new_tokens"]},
            "rewards": {"domains": {"default": [{"kind": "function", "path": "cpu:rewards"}]}},
            "engine": {"rows": ANSWERS, "context": 128, "precision": precision},
            "trainer": {"precision": precision, "tokens_per_batch": 16384, "optim": {"schedule": {"kind": "constant", "peak": 1e-4}}},
            "saving": {"every": 1000},
        }  # fmt: skip
        config = configured(RlConfig, recipe, "benchmark")
        with Run.open(Path(directory, "run"), "rl", config, STAGE.inputs(config)) as run:
            session = Session.start(run, config.model, config.trainer, config.saving, config.steps)
            session.tokenizer.stop_ids = ()  # every answer has its full length, as on the peer's side
            loop = Loop.open(config, session, build(config.rewards))

            async def rounds() -> list[float]:
                for step in range(config.steps):
                    await loop.round(step)
                await loop.asker.close()
                rows = read_metrics(run.tracker.timings)
                return [round(row["time/step/seconds"], 4) for row in rows[1:]]

            return asyncio.run(rounds())


print(json.dumps({"generate": generation, "grpo": grpo}[task]()))

"""Our side: whole rounds of the RL stage, with its logging and its record of rollouts."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from afterbase.process import prepare

prepare()  # as the command line does

from common import Memory
from grpo import prompts

from afterbase.config import build as configured
from afterbase.rewards.base import build
from afterbase.stages.rl import STAGE, Loop
from afterbase.stages.rl_config import RlConfig
from afterbase.stages.run import Run
from afterbase.stages.session import Session
from afterbase.track import read_metrics

settings = json.loads(sys.argv[1])
work, steps = settings["work"], settings["steps"]
NAMES = {"sample": "sample", "judge": "judge", "logprob": "score", "update": "update"}
"""Our parts of the table, and what the loop calls them; everything else of a step is the rest."""


def recipe(asked: Path) -> dict:
    return {
        "model": settings["checkpoint"], "template": "plain", "steps": steps, "prompts_per_step": work["prompts"], "group": work["group"],
        "prompts": [{"kind": "jsonl", "path": str(asked)}], "sampling": {"max_tokens": work["new_tokens"]},
        "rewards": {"domains": {"default": [{"kind": "function", "path": "grpo:rewards"}]}},
        "engine": {"rows": work["prompts"] * work["group"], "context": work["prompt_tokens"] + work["new_tokens"], "precision": "bfloat16"},
        "trainer": {
            "precision": "bfloat16", "tokens_per_batch": settings["tokens_per_batch"],
            "optim": {"schedule": {"kind": "constant", "peak": 1e-6}},
        },
        "saving": {"every": 1000},
    }  # fmt: skip


def row(times: dict[str, float]) -> dict[str, float]:
    parts = {part: times.get(f"time/{name}/seconds", 0.0) for part, name in NAMES.items()}
    whole = times["time/step/seconds"]
    return {name: round(value, 4) for name, value in {**parts, "rest": whole - sum(parts.values()), "step": whole}.items()}


async def rounds(directory: Path) -> dict:
    vocabulary = json.loads(Path(settings["checkpoint"], "config.json").read_text())["vocab_size"]
    asked = directory / "prompts.jsonl"
    asked.write_text("".join(json.dumps({"question": text}) + "\n" for text in prompts(steps, work, vocabulary)))
    config = configured(RlConfig, recipe(asked), "benchmark")
    with Run.open(directory / "run", "rl", config, STAGE.inputs(config)) as run:
        session = Session.start(run, config.model, config.trainer, config.saving, config.steps)
        session.tokenizer.stop_ids = ()  # every answer has its full length, as on the peer's side
        loop, memory = Loop.open(config, session, build(config.rewards)), Memory()
        for step in range(steps):
            metrics = await loop.round(step)
        await loop.asker.close()
        times = read_metrics(run.tracker.timings)
    expected = work["prompts"] * work["group"] * work["new_tokens"]
    assert metrics["train/learned_tokens/count"] == expected, f"{metrics['train/learned_tokens/count']} tokens learned, not {expected}"
    gap = {name: metrics[f"train/logprob_gap/{name}"] for name in ("mean", "max") if f"train/logprob_gap/{name}" in metrics}
    return {"steps": [row(each) for each in times[1:]], **memory.peaks(), "logprob_gap": gap}


with tempfile.TemporaryDirectory() as place:
    print(json.dumps(asyncio.run(rounds(Path(place)))))

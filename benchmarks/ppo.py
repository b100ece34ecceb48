"""What a critic costs: GRPO beside PPO in the same loop, on the same model, prompts, rewards and seeds.  [Setup: GRPO against PPO]

    python benchmarks/ppo.py                                                                    (a few minutes on two cores)
    python benchmarks/ppo.py --shape 0.5B --precision bfloat16 --prompts 32 --tokens 512 --budget 32768         (on a GPU)

Random weights; both sides draw the same answers in the first round, keep a reference model (KL 0.001: in the loss for GRPO, in each
token's reward for PPO) and make one update a round. The reward is the share of digits, so neither side loads a reward model. Each side
runs in processes of its own, the sides taking turns; a process's first round warms up and is not counted. Peak memory is torch's count
of allocated bytes on CUDA, and on a CPU the growth of the resident set over an empty process; the copies are counted from their tensors.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import date
from itertools import chain
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

from afterbase.process import prepare

prepare()  # as the command line does

import torch
from cpu import SHAPES, hardware, make_checkpoint

from afterbase.config import build as configured
from afterbase.rewards.base import build
from afterbase.stages.rl import STAGE, Loop
from afterbase.stages.rl_config import RlConfig
from afterbase.stages.run import Run
from afterbase.stages.session import Session
from afterbase.track import read_metrics
from afterbase.train.trainer import LocalTrainer

SMALL = SHAPES["qwen2"]
LARGE = {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
MODELS = {"3M": SMALL, "0.5B": {**SMALL, **LARGE}}
STEADY = {"schedule": {"kind": "constant", "peak": 1e-5}}
PARTS = ("sample", "judge", "score", "update", "load", "step")
MIB = 1 << 20


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shape", choices=MODELS, default="3M")
    options.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options.add_argument("--prompts", type=int, default=16, help="prompts in a round")
    options.add_argument("--group", type=int, default=8, help="answers to each")
    options.add_argument("--tokens", type=int, default=64, help="tokens of every answer")
    options.add_argument("--budget", type=int, default=8192, help="tokens in one forward and backward pass")
    options.add_argument("--rounds", type=int, default=3, help="rounds that a process counts")
    options.add_argument("--turns", type=int, default=3, help="processes of each side")
    options.add_argument("--out", type=Path, help="file for the result, which is printed in any case")
    options.add_argument("--one-side", nargs=2, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one_side:
        print(json.dumps(asyncio.run(one_side(chosen, *chosen.one_side))))
        return
    found: dict[str, list[dict]] = {"grpo": [], "ppo": []}
    with tempfile.TemporaryDirectory() as directory:
        make_checkpoint(Path(directory, "start"), MODELS[chosen.shape])
        for side in ("grpo", "ppo") * chosen.turns:
            command = [sys.executable, __file__, *sys.argv[1:], "--one-side", side, f"{directory}/start"]
            found[side].append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1]))
    result = {
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else hardware(), "date": date.today().isoformat(),
        "torch": torch.__version__, "command": "python " + " ".join(sys.argv), **{side: summary(rows) for side, rows in found.items()},
        "grpo_over_ppo": ratios(found),
    }  # fmt: skip
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    if chosen.out:
        chosen.out.write_text(text, encoding="utf-8")


async def one_side(chosen: argparse.Namespace, side: str, start: str) -> dict:
    """Some rounds of one side: seconds by part, bytes by copy, and the peak."""
    empty = getrusage(RUSAGE_SELF).ru_maxrss
    recipe = {
        "model": start, "template": "plain", "steps": chosen.rounds + 1, "prompts_per_step": chosen.prompts, "group": chosen.group,
        "prompts": [{"kind": "procedural", "generator": "facts"}], "sampling": {"max_tokens": chosen.tokens},
        "rewards": {"domains": {"default": [{"kind": "function", "path": "cpu:rewards"}]}},
        "objective": {"kind": side, "kl": 1e-3}, **({"critic": {"optim": STEADY}} if side == "ppo" else {}), "saving": {"every": 1000},
        "engine": {"rows": chosen.prompts * chosen.group, "precision": chosen.precision},
        "trainer": {"precision": chosen.precision, "tokens_per_batch": chosen.budget, "optim": STEADY},
    }  # fmt: skip
    config = configured(RlConfig, recipe, "benchmark")
    with tempfile.TemporaryDirectory() as directory, Run.open(Path(directory, "run"), "rl", config, STAGE.inputs(config)) as run:
        session = Session.start(run, config.model, config.trainer, config.saving, config.steps, config.updates)
        session.tokenizer.stop_ids = ()  # every answer has its full length
        loop = Loop.open(config, session, build(config.rewards))
        for step in range(config.steps):
            await loop.round(step)
        await loop.asker.close()
        rewards = [round(row["train/reward/mean"], 4) for row in read_metrics(run.tracker.metrics)]
        seconds = [[row[f"time/{part}/seconds"] for part in PARTS] for row in read_metrics(run.tracker.timings)]
    peak = torch.cuda.max_memory_allocated() / MIB if torch.cuda.is_available() else (getrusage(RUSAGE_SELF).ru_maxrss - empty) / 1024
    copies = {"policy": session.trainer, "reference": loop.learning.reference}
    copies |= {"critic": loop.learning.critic} if side == "ppo" else {}
    return {"seconds": seconds[1:], "peak": round(peak), "copies": {name: held(one) for name, one in copies.items()}, "rewards": rewards}


def held(trainer: LocalTrainer) -> dict[str, int]:
    """MiB of one copy: weights, the gradients that an update needs, and the optimizer's moments."""
    parameters = list(trainer.model.parameters())
    moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
    tensors = {"weights": parameters, "gradients": [p for p in parameters if p.requires_grad], "optimizer": moments}
    return {name: round(sum(tensor.nbytes for tensor in found) / MIB) for name, found in tensors.items()}


def figures(values: Iterable[float]) -> dict[str, object]:
    """Median, range and n."""
    values = list(values)
    return {"median": round(statistics.median(values), 3), "range": [round(min(values), 3), round(max(values), 3)], "n": len(values)}


def summary(rows: list[dict]) -> dict[str, object]:
    """One side: each part's seconds over all counted rounds of all processes, the peaks, the copies, the rewards round by round."""
    seconds = {
        part: figures(column) for part, column in zip(PARTS, zip(*chain(*[row["seconds"] for row in rows]), strict=True), strict=True)
    }
    return {"seconds": seconds, "peak_mib": [row["peak"] for row in rows], "copies_mib": rows[0]["copies"], "rewards": rows[0]["rewards"]}


def ratios(found: dict[str, list[dict]]) -> dict[str, object]:
    """How much of PPO's step, peak and copies GRPO takes, process by process of one turn."""
    measures = {
        "step": lambda row: statistics.median(parts[-1] for parts in row["seconds"]), "peak_memory": lambda row: row["peak"],
        "copies": lambda row: sum(chain(*[copy.values() for copy in row["copies"].values()])),
    }  # fmt: skip
    pairs = list(zip(found["grpo"], found["ppo"], strict=True))
    return {name: figures(of(grpo) / of(ppo) for grpo, ppo in pairs) for name, of in measures.items()}


if __name__ == "__main__":
    main()

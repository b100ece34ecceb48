"""What a critic costs: GRPO beside PPO on the same model, prompts, rewards and seeds.  [Setup: "Group Relative Policy Optimization"]

    python benchmarks/ppo.py                                            (a few minutes on two cores)
    python benchmarks/ppo.py --shape 0.5B --device cuda --precision bfloat16 --prompts 32 --tokens 512 --budget 32768

Both sample the same answers in the first round, keep a reference model (KL 0.001: in the loss for GRPO, in each token's reward for PPO)
and make one update a round. Random weights; the reward is the share of even tokens, so no reward model is loaded on either side. Each side
runs in processes of its own, the sides taking turns; a process's first round warms up and is not counted. Peak memory is torch's count
of allocated bytes on CUDA, and on a CPU the growth of the resident set over an empty process; the copies are counted from their tensors.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from itertools import chain, pairwise
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

from afterbase.process import prepare

prepare()  # as the command line does

import torch
from cpu import SHAPES, hardware

from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.model.checkpoint import load_model, save_model
from afterbase.model.config import ModelConfig
from afterbase.model.transformer import Transformer
from afterbase.objective.advantage import advantages
from afterbase.objective.grpo import Grpo, GrpoConfig
from afterbase.objective.ppo import Ppo, PpoConfig, ValueLoss, fill
from afterbase.records import Sample, Sampling
from afterbase.stages.session import learn
from afterbase.train.critic import Critic, CriticConfig, scored
from afterbase.train.optim import OptimConfig
from afterbase.train.packing import pack
from afterbase.train.schedule import ScheduleConfig
from afterbase.train.trainer import LocalTrainer, TrainerConfig

SMALL = SHAPES["qwen2"]
LARGE = {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
MODELS = {"3M": SMALL, "0.5B": {**SMALL, **LARGE}}
STEADY = OptimConfig(schedule=ScheduleConfig(kind="constant", peak=1e-5))
GRPO, PPO = GrpoConfig(kl=1e-3), PpoConfig(kl=1e-3)
PROMPT, MIB = 128, 1 << 20
HELP = {
    "prompts": "prompts in a round, of 128 tokens each", "group": "answers to each", "tokens": "tokens of every answer",
    "budget": "tokens in one forward and backward pass", "rounds": "rounds that a process counts", "turns": "processes of each side",
}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shape", choices=MODELS, default="3M")
    options.add_argument("--device", default="cpu")
    options.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    sizes = {"prompts": 16, "group": 8, "tokens": 64, "budget": 8192, "rounds": 3, "turns": 3}
    for name, default in sizes.items():
        options.add_argument(f"--{name}", type=int, default=default, help=f"{HELP[name]} ({default})")
    options.add_argument("--out", type=Path, help="file for the result, which is printed in any case")
    options.add_argument("--one-side", nargs=2, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one_side:
        print(json.dumps(asyncio.run(one_side(chosen, chosen.one_side[0] == "ppo", Path(chosen.one_side[1])))))
        return
    found = {"grpo": [], "ppo": []}
    with tempfile.TemporaryDirectory() as directory:
        save_model(Transformer(ModelConfig.from_hf(MODELS[chosen.shape])).initialize(0), Path(directory))
        for side in ("grpo", "ppo") * chosen.turns:
            command = [sys.executable, __file__, *sys.argv[1:], "--one-side", side, directory]
            found[side].append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1]))
    result = {
        "hardware": torch.cuda.get_device_name() if chosen.device != "cpu" else hardware(), "date": date.today().isoformat(),
        "torch": torch.__version__, "command": "python " + " ".join(sys.argv), **{side: summary(rows) for side, rows in found.items()},
        "grpo_over_ppo": ratios(found),
    }  # fmt: skip
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    if chosen.out:
        chosen.out.write_text(text, encoding="utf-8")


async def one_side(chosen: argparse.Namespace, has_critic: bool, start: Path) -> dict:
    """Some rounds of one side: seconds by part, bytes by copy, and the peak."""
    empty, steps, device = getrusage(RUSAGE_SELF).ru_maxrss, chosen.rounds + 1, chosen.device
    config = TrainerConfig(optim=STEADY, tokens_per_batch=chosen.budget, precision=chosen.precision)
    trainer = LocalTrainer(load_model(start, device, torch.float32), config, steps)
    reference = LocalTrainer(load_model(start, device, torch.float32).requires_grad_(False), config, steps)
    critic = Critic.start(start, CriticConfig(optim=STEADY), config, steps, device) if has_critic else None
    engine = LocalEngine(trainer.model, EngineConfig(rows=chosen.prompts * chosen.group, precision=chosen.precision))
    seconds, rewards = [], []
    for step in range(steps):
        marks = [now(device)]
        groups = await asyncio.gather(*[group(engine, chosen, step, number) for number in range(chosen.prompts)])
        scores = torch.tensor([[1 - statistics.fmean(token % 2 for token in one.tokens[PROMPT:]) for one in each] for each in groups])
        marks.append(now(device))
        samples = ready(list(chain(*groups)), scores, reference, critic)
        marks.append(now(device))
        batches = pack(samples, chosen.budget, device)
        learn(trainer, batches, Ppo(PPO) if critic else Grpo(GRPO))
        if critic:
            learn(critic, batches, ValueLoss(PPO))
        await engine.load(trainer.weights(), trainer.done)
        marks.append(now(device))
        seconds.append([b - a for a, b in pairwise(marks)] + [marks[-1] - marks[0]])
        rewards.append(round(float(scores.mean()), 4))
    peak = torch.cuda.max_memory_allocated() / MIB if device != "cpu" else (getrusage(RUSAGE_SELF).ru_maxrss - empty) / 1024
    copies = {"policy": trainer, "reference": reference} | ({"critic": critic} if critic else {})
    return {"seconds": seconds[1:], "peak": round(peak), "copies": {name: held(one) for name, one in copies.items()}, "rewards": rewards}


async def group(engine: LocalEngine, chosen: argparse.Namespace, step: int, number: int) -> list[Sample]:
    """The answers to one prompt of random tokens; nothing ends them before their full length."""
    prompt = random.Random(number).choices(range(512), k=PROMPT)
    completions = await engine.generate(prompt, Sampling(max_tokens=chosen.tokens, seed=(step << 16) + number), chosen.group)
    learned = (False,) * PROMPT + (True,) * chosen.tokens
    return [Sample((*prompt, *one.tokens), learned, old=one.logprobs) for one in completions]


def ready(samples: list[Sample], scores: torch.Tensor, reference: LocalTrainer, critic: Critic | None) -> list[Sample]:
    """The answers with what the other models say of them, and with advantages: from the critic, or from their siblings."""
    samples = [replace(sample, reference=row) for sample, row in zip(samples, scored(reference, samples), strict=True)]
    if critic:
        return fill(samples, scores.flatten().tolist(), scored(critic, samples), PPO)[0]
    values = advantages(scores).values.flatten().tolist()
    return [replace(sample, advantage=value) for sample, value in zip(samples, values, strict=True)]


def held(trainer: LocalTrainer) -> dict[str, int]:
    """MiB of one copy: weights, the gradients that an update needs, and the optimizer's moments."""
    parameters = list(trainer.model.parameters())
    moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
    tensors = {"weights": parameters, "gradients": [p for p in parameters if p.requires_grad], "optimizer": moments}
    return {name: round(sum(tensor.nbytes for tensor in found) / MIB) for name, found in tensors.items()}


def now(device: str) -> float:
    """The clock, once the device has done what it was told."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def figures(values: Iterable[float]) -> dict[str, object]:
    """Median, range and n."""
    values = list(values)
    return {"median": round(statistics.median(values), 3), "range": [round(min(values), 3), round(max(values), 3)], "n": len(values)}


def summary(rows: list[dict]) -> dict[str, object]:
    """One side: each part's seconds over all counted rounds of all processes, the peaks, the copies, the rewards round by round."""
    columns = zip(("sample", "score", "update", "step"), zip(*chain(*[row["seconds"] for row in rows]), strict=True), strict=True)
    seconds = {name: figures(column) for name, column in columns}
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

"""Killed and resumed is never killed, bit by bit: one small RL run, killed at many random points.

    python benchmarks/kill.py --points 50 --seed 0 --out benchmarks/results/kill.json

A reference run goes through undisturbed. Then, for each point, the same recipe is started in a process of its own, which dies by SIGKILL,
and is started again, which must give the same bytes: metrics.jsonl, every rollout, every held-out answer, done.json, the final and the
best model. Points are drawn from the seed, of three kinds in turn:
- moment: killed from outside after a random time;
- place: dies by its own hand before or after a random call of a random function: a file is being synced or renamed, a checkpoint is half
  written, answers are half drawn, a verdict is out, the first of two updates is made ...;
- damage: as above, and then what a power failure or a careless hand may do to the newest checkpoint: cut off, emptied, a file lost.
Rounds take five questions of a file with seven, so that epochs end inside rounds and, once, between two; rounds are drawn one ahead, so
that judged and unjudged rollouts are in flight; the recipe has two updates in each of two epochs over a round, an evaluation, a best
checkpoint, a reward cache and a curriculum. Prints a line for each point and one JSON object. Exits with 1 when any point differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

COMMAND = """
import json, os, signal, sys, time
from importlib import import_module
import torch
from afterbase.cli import app
torch.set_num_threads(1)
sys.stdout = sys.stderr = open(log, "a", buffering=1)
counts = {}
def watch(label, owner, name):
    whole = getattr(owner, name)
    def watched(*arguments, **options):
        call = counts[label] = counts.get(label, 0) + 1
        if place == [label, call, "before"]:
            os.kill(os.getpid(), signal.SIGKILL)
        result = whole(*arguments, **options)
        if place == [label, call, "after"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, watched)
for label, (module, *path) in places.items():
    owner = import_module(module)
    for part in path[:-1]:
        owner = getattr(owner, part)
    watch(label, owner, path[-1])
began = time.perf_counter()
try:
    app(arguments)
finally:
    if told:
        with open(told, "w") as file:
            json.dump({"counts": counts, "seconds": time.perf_counter() - began}, file)
"""
PLACES: dict[str, tuple[str, ...]] = {
    "a file is synced": ("os", "fsync"),
    "a directory is renamed": ("os", "rename"),
    "a file is replaced": ("os", "replace"),
    "old checkpoints are dropped": ("shutil", "rmtree"),
    "a state is written": ("torch", "save"),
    "a model is written": ("afterbase.stages.session", "Session", "write"),
    "a step is logged": ("afterbase.track", "Tracker", "log"),
    "seconds are logged": ("afterbase.track", "Tracker", "time"),
    "a round's rollouts are written": ("afterbase.stages.rl", "write_rollouts"),
    "tokens are drawn": ("afterbase.engine.local", "LocalEngine", "_steps"),
    "weights are loaded": ("afterbase.engine.local", "LocalEngine", "load"),
    "an answer is judged": ("afterbase.rewards.base", "Judge", "__call__"),
    "a gradient is computed": ("afterbase.train.trainer", "LocalTrainer", "forward_backward"),
    "the weights are updated": ("afterbase.train.trainer", "LocalTrainer", "step"),
    "a step is ended": ("afterbase.stages.session", "Session", "save_if_due"),
    "the best is looked at": ("afterbase.stages.session", "Session", "keep_best"),
    "the last word is said": ("afterbase.stages.run", "Run", "finish"),
}
DAMAGES: dict[str, Callable[[Path], Any]] = {
    "the state cut off": lambda path: os.truncate(path / "training_state.pt", (path / "training_state.pt").stat().st_size // 2),
    "the state emptied": lambda path: os.truncate(path / "training_state.pt", 0),
    "the state lost": lambda path: (path / "training_state.pt").unlink(),
    "the weights cut off": lambda path: os.truncate(path / "model.safetensors", 1000),
    "the weights lost": lambda path: (path / "model.safetensors").unlink(),
    "the list of files lost": lambda path: (path / "contents.json").unlink(),
    "all files lost": lambda path: [file.unlink() for file in path.iterdir()],
    "a half-written neighbour": lambda path: shutil.copytree(path, path.with_name(f".{int(path.name) + 8:06d}.tmp-1")),
    "a neighbour with a part of its files": lambda path: shutil.copytree(
        path, path.with_name(f"{int(path.name) + 8:06d}"), ignore=lambda *_: ["training_state.pt", "contents.json"]
    ),
}
IGNORED = {"timings.jsonl", ".lock"}


@dataclass
class Point:
    """One kill and what came of it."""

    kind: str
    where: str
    rounds: int
    """In the log when it died."""
    checkpoints: list[str]
    """On the disk when it died."""
    differing: list[str]
    """Files that are not those of the run that was never killed."""


class Bench:
    """Starts the run's command in processes of their own."""

    def __init__(self, directory: Path, rounds: int) -> None:
        self.directory, self.rounds = directory, rounds
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["torch._dynamo", "afterbase.cli", "afterbase.stages.rl"])
        self.recipe = make_recipe(directory, rounds)

    def start(self, out: Path, place: list | None = None, told: Path | None = None) -> Any:
        names = {
            "arguments": ["rl", str(self.recipe), "--out", str(out)], "place": place, "places": PLACES, "told": told and str(told),
            "log": str(self.directory / "log"),
        }  # fmt: skip
        process = self.context.Process(target=exec, args=(COMMAND, names), daemon=True)
        process.start()
        return process

    def finish(self, out: Path, told: Path | None = None) -> None:
        process = self.start(out, told=told)
        process.join(120)
        if process.exitcode != 0:
            raise SystemExit(f"a run ended with {process.exitcode}:\n" + (self.directory / "log").read_text()[-3000:])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--points", type=int, default=50)
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, help="write the JSON here as well")
    chosen = options.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), chosen.rounds)
        points, reference = kill_all(bench, chosen.points, random.Random(chosen.seed))
    equal = sum(not point.differing for point in points)
    result = {
        "hardware": hardware(), "date": date.today().isoformat(), "python": platform.python_version(), "seed": chosen.seed,
        "rounds": chosen.rounds, "points": len(points), "equal": equal, "seconds_of_a_run": reference,
        "seconds": round(time.perf_counter() - began, 1), "table": [asdict(point) for point in points],
    }  # fmt: skip
    text = json.dumps(result, indent=1) + "\n"
    if chosen.out:
        chosen.out.write_text(text)
    print(text if not chosen.out else f"{equal} of {len(points)} points gave the bytes of the run that was never killed")
    sys.exit(equal < len(points))


def kill_all(bench: Bench, count: int, rng: random.Random) -> tuple[list[Point], float]:
    """As many points as asked for, and the seconds that an undisturbed run takes."""
    whole, told = bench.directory / "whole", bench.directory / "told.json"
    bench.finish(whole)  # the first one warms the file caches up
    shutil.rmtree(whole)
    bench.finish(whole, told)
    report = json.loads(told.read_text())
    expected, began, points = contents(whole), time.perf_counter(), []
    print(f"an undisturbed run takes {report['seconds']:.1f} s and has {len(expected)} files to compare", file=sys.stderr)
    while len(points) < count:
        kind = ("moment", "place", "damage")[len(points) % 3]
        point = kill_once(bench, kind, report, expected, rng)
        if point is None:
            continue  # it had come to its end before
        points.append(point)
        spent = time.perf_counter() - began
        left = spent / len(points) * (count - len(points))
        verdict = "equal" if not point.differing else f"DIFFERENT: {', '.join(point.differing)}"
        print(f"{len(points):3}/{count}  {left:4.0f} s left  {verdict}  {kind}: {point.where}, round {point.rounds}", file=sys.stderr)
    return points, round(report["seconds"], 2)


def kill_once(bench: Bench, kind: str, report: dict[str, Any], expected: dict[str, bytes], rng: random.Random) -> Point | None:
    out = bench.directory / "torn"
    shutil.rmtree(out, ignore_errors=True)
    where = die_at_a_moment(bench, out, report["seconds"], rng) if kind == "moment" else die_at_a_place(bench, out, report["counts"], rng)
    if where is None:
        return None
    log = out / "metrics.jsonl"
    rounds = log.read_bytes().count(b"\n") if log.exists() else 0
    checkpoints = sorted(path.name for path in (out / "checkpoints").glob("*"))
    if kind == "damage":
        numbered = [name for name in checkpoints if name.isdigit()]
        if len(numbered) < 2:
            return None  # damaging the only one is told in words, and is no resume
        damage = rng.choice(list(DAMAGES))
        DAMAGES[damage](out / "checkpoints" / numbered[-1])
        where += f"; {damage}"
    bench.finish(out)
    found = contents(out)
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return Point(kind, where, rounds, checkpoints, differing)


def die_at_a_moment(bench: Bench, out: Path, seconds: float, rng: random.Random) -> str | None:
    after = rng.uniform(0, 1.1 * seconds)
    process = bench.start(out)
    process.join(after)
    process.kill()
    process.join()
    return f"after {after:.2f} s" if process.exitcode == -signal.SIGKILL else None


def die_at_a_place(bench: Bench, out: Path, counts: dict[str, int], rng: random.Random) -> str | None:
    label = rng.choice(sorted(counts))
    call, side = rng.randint(1, counts[label]), rng.choice(["before", "after"])
    process = bench.start(out, [label, call, side])
    process.join(120)
    return f"{side} {label}, call {call} of {counts[label]}" if process.exitcode == -signal.SIGKILL else None


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run that must be the same."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in IGNORED]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def make_recipe(directory: Path, rounds: int) -> Path:
    import tomli_w

    from afterbase.model.checkpoint import save_model
    from afterbase.model.config import ModelConfig
    from afterbase.model.transformer import Transformer
    from afterbase.text.chat import HOUSE_TEMPLATE
    from afterbase.text.tokenizer import SPECIAL, train_bpe

    texts = ["What is 12 + 30? The answer is 42.", "Ann has 3 apples and buys 5 more. How many apples does she have now?"]
    tokenizer = train_bpe(iter(texts * 3), 350, list(SPECIAL), HOUSE_TEMPLATE)
    shape = {
        "model_type": "deepseek_v3", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16, "moe_intermediate_size": 16,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "num_nextn_predict_layers": 1,
        "vocab_size": tokenizer.vocab_size, "max_position_embeddings": 256,
    }  # fmt: skip
    base = directory / "base"
    base.mkdir()
    save_model(Transformer(ModelConfig.from_hf(shape)).initialize(0), base)
    tokenizer.save(base)
    for name, first, count in (("train", 0, 7), ("asked", 20, 3)):
        rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(first, first + count)]
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model": str(base), "prompts": [{"kind": "jsonl", "path": str(directory / "train.jsonl")}], "steps": rounds, "prompts_per_step": 5,
        "group": 3, "minibatches": 1, "epochs": 2, "ahead": 1, "remembered": 100, "max_refused_gold": 1.0,
        "rewards": {"domains": {"default": [{"kind": "length", "ngram": 1, "tolerance": 0.0}]}},
        "curriculum": {"kind": "reweight", "minimum": 3}, "sampling": {"max_tokens": 16}, "objective": {"kl": 0.01},
        "trainer": {"optim": {"schedule": {"peak": 0.003}}, "mtp": 0.1}, "engine": {"rows": 8}, "saving": {"every": 1, "keep": 2},
        "held_out": {"every": 2, "prompts": [{"kind": "jsonl", "path": str(directory / "asked.jsonl")}]}, "warnings": {},
    }  # fmt: skip
    page = directory / "recipe.toml"
    page.write_text(tomli_w.dumps(recipe))
    return page


def hardware() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()

"""Killed and resumed is never killed, bit by bit: one small RL run, killed at many random points.

    python benchmarks/kill.py --points 50 --seed 0 --out benchmarks/results/kill.json

A reference run goes through undisturbed. Then, for each point, the same recipe is started in a process of its own, which dies by SIGKILL,
and is started again, which must give the same bytes: metrics.jsonl, every rollout, every held-out answer, done.json, the final and the
best model. Points are drawn from the seed, of three kinds in turn:
- moment: killed from outside after a random time;
- place: dies by its own hand before or after a random call of a random function: a file is being synced or renamed, a checkpoint is half
  written, answers are half drawn, a verdict is out, the first of two updates is made ...;
- damage: as above, and then what a power failure or a careless hand may do to the newest checkpoint: cut off, emptied, a file lost.
Points go to two recipes in turn. `plain`: ten questions, five a round, so that an epoch ends with every second round. `ahead`: seven
questions, so that epochs end inside rounds, and rounds are drawn one ahead, with judged and unjudged rollouts in flight, two epochs over
each round, a reward cache and a curriculum. Both evaluate, keep the best model and save after every round. Prints a line for each point
and one JSON object. Exits with 1 when any point differs.
"""

from __future__ import annotations

import argparse
import itertools
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
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from cpu import hardware

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
    "answers are judged": ("afterbase.rewards.base", "Judge", "group"),
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

    recipe: str
    kind: str
    where: str
    rounds: int
    """In the log when it died."""
    checkpoints: list[str]
    """On the disk when it died."""
    differing: list[str]
    """Files that are not those of the run that was never killed."""

    def line(self) -> str:
        verdict = "equal" if not self.differing else f"DIFFERENT: {', '.join(self.differing)}"
        return f"{verdict}  {self.recipe}, {self.kind}, round {self.rounds}, {' '.join(self.checkpoints) or 'no'} checkpoint: {self.where}"


class Bench:
    """One recipe: starts its command in processes of their own, and knows what comes out of it."""

    def __init__(self, context: Any, name: str, directory: Path, recipe: Path) -> None:
        self.context, self.name, self.directory, self.recipe = context, name, directory, recipe
        whole, told = directory / "whole", directory / "told.json"
        self.finish(directory / "warm")  # fills the file caches
        self.finish(whole, told)
        report = json.loads(told.read_text())
        self.seconds, self.counts, self.expected = report["seconds"], report["counts"], contents(whole)

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
            raise SystemExit(f"a run of {self.name} ended with {process.exitcode}:\n" + (self.directory / "log").read_text()[-3000:])

    def kill_once(self, kind: str, rng: random.Random) -> Point | None:
        """One point of a kind; None when the run came to its end before it was reached, or had nothing to damage yet."""
        out = Path(tempfile.mkdtemp(dir=self.directory))
        try:
            where = self.die_at_a_moment(out, rng) if kind == "moment" else self.die_at_a_place(out, rng)
            if where is None:
                return None
            log, checkpoints = out / "metrics.jsonl", sorted(path.name for path in (out / "checkpoints").glob("*"))
            rounds = log.read_bytes().count(b"\n") if log.exists() else 0
            if kind == "damage":
                numbered = [name for name in checkpoints if name.isdigit()]
                if len(numbered) < 2:
                    return None  # damage to the only one is told in words: there is nothing to resume from
                damage = rng.choice(list(DAMAGES))
                DAMAGES[damage](out / "checkpoints" / numbered[-1])
                where += f"; {damage}"
            self.finish(out)
            found = contents(out)
            differing = sorted(name for name in self.expected.keys() | found.keys() if self.expected.get(name) != found.get(name))
            return Point(self.name, kind, where, rounds, checkpoints, differing)
        finally:
            shutil.rmtree(out)

    def die_at_a_moment(self, out: Path, rng: random.Random) -> str | None:
        after = rng.uniform(0, 1.1 * self.seconds)
        process = self.start(out)
        process.join(after)
        process.kill()
        process.join()
        return f"after {after:.2f} s" if process.exitcode == -signal.SIGKILL else None

    def die_at_a_place(self, out: Path, rng: random.Random) -> str | None:
        label = rng.choice(sorted(self.counts))
        call, side = rng.randint(1, self.counts[label]), rng.choice(["before", "after"])
        process = self.start(out, [label, call, side])
        process.join(120)
        return f"{side} {label}, call {call} of {self.counts[label]}" if process.exitcode == -signal.SIGKILL else None


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--points", type=int, default=50)
    options.add_argument("--rounds", type=int, default=6)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, help="write the JSON here as well")
    chosen = options.parse_args()
    began = time.perf_counter()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "afterbase.cli", "afterbase.stages.rl"])
    with tempfile.TemporaryDirectory() as directory:
        recipes = make_recipes(Path(directory), chosen.rounds)
        benches = [Bench(context, name, page.parent, page) for name, page in recipes.items()]
        for bench in benches:
            say(f"{bench.name}: an undisturbed run takes {bench.seconds:.1f} s and has {len(bench.expected)} files to compare")
        points = kill_all(benches, chosen.points, chosen.seed)
    equal = sum(not point.differing for point in points)
    result = {
        "hardware": hardware(), "date": date.today().isoformat(), "python": platform.python_version(), "seed": chosen.seed,
        "rounds": chosen.rounds, "points": len(points), "equal": equal, "seconds": round(time.perf_counter() - began, 1),
        "table": [point.line() for point in points],
    }  # fmt: skip
    text = json.dumps(result, indent=1) + "\n"
    if chosen.out:
        chosen.out.write_text(text)
    print(text if not chosen.out else f"{equal} of {len(points)} points gave the bytes of the run that was never killed")
    sys.exit(equal < len(points))


def kill_all(benches: list[Bench], count: int, seed: int) -> list[Point]:
    """As many points as asked for; recipes take turns, and so do the kinds of each."""
    points: list[Point] = []
    began = time.perf_counter()
    for number in itertools.count():
        kind = ("moment", "place", "damage")[number // len(benches) % 3]
        point = benches[number % len(benches)].kill_once(kind, random.Random(f"{seed}/{number}"))
        if point is None:
            continue
        points.append(point)
        left = (time.perf_counter() - began) / len(points) * (count - len(points))
        say(f"{len(points):3}/{count} {left:4.0f} s left  {point.line()}")
        if len(points) == count:
            return points
    raise AssertionError("unreachable")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run that must be the same."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in IGNORED]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def make_recipes(directory: Path, rounds: int) -> dict[str, Path]:
    """A tiny model with experts, its questions, and the two recipes, each in a directory of its own."""
    import tomli_w

    base = make_base(directory / "base")
    common = {
        "model": str(base), "steps": rounds, "prompts_per_step": 5, "group": 3, "max_refused_gold": 1.0,
        "rewards": {"domains": {"default": [{"kind": "length", "ngram": 1, "tolerance": 0.0}]}}, "sampling": {"max_tokens": 12},
        "trainer": {"optim": {"schedule": {"peak": 0.003}}, "mtp": 0.1}, "engine": {"rows": 15}, "saving": {"every": 1, "keep": 2},
        "held_out": {"every": 2, "prompts": [{"kind": "jsonl", "path": make_questions(directory / "asked.jsonl", 20, 3)}]},
    }  # fmt: skip
    ahead = {"epochs": 2, "ahead": 1, "remembered": 100, "curriculum": {"kind": "reweight", "minimum": 3}, "objective": {"kl": 0.01}}
    made = {}
    for name, questions, own in (("plain", 10, {}), ("ahead", 7, ahead)):
        folder = directory / name
        folder.mkdir()
        made[name] = folder / "recipe.toml"
        prompts = [{"kind": "jsonl", "path": make_questions(folder / "train.jsonl", 0, questions)}]
        made[name].write_text(tomli_w.dumps({**common, **own, "prompts": prompts}))
    return made


def make_questions(path: Path, first: int, count: int) -> str:
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(first, first + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make_base(directory: Path) -> Path:
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
    directory.mkdir()
    save_model(Transformer(ModelConfig.from_hf(shape)).initialize(0), directory)
    tokenizer.save(directory)
    return directory


if __name__ == "__main__":
    main()

"""Our side of the workloads of dense models: sampling, whether the trainer finds the same log-probabilities, and what `load` costs."""

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path

from afterbase.process import prepare

prepare()  # as the command line does

import torch
from common import Memory, figures
from engine_work import Work, work

from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.model.checkpoint import load_model
from afterbase.objective.likelihood import Likelihood
from afterbase.records import Completion, Sample, Sampling
from afterbase.train.packing import pack
from afterbase.train.trainer import LocalTrainer, TrainerConfig

settings = json.loads(sys.argv[1])
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
precision = "bfloat16" if device.type == "cuda" else "float32"
SCORED = 64
"""Sequences that the trainer scores."""
LOADS = 5
"""Optimizer steps with a `load` after them."""


def wait() -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def sampled(engine: LocalEngine, asked: Work, seed: int) -> tuple[list[Completion], float]:
    """Every request's completion, and the seconds that all took."""

    async def all_of_them() -> list[list[Completion]]:
        each = enumerate(zip(asked.prompts, asked.lengths, strict=True))
        return await asyncio.gather(*[engine.generate(prompt, Sampling(max_tokens=n, seed=seed + i)) for i, (prompt, n) in each])

    wait()
    began = time.perf_counter()
    found = [answer for answers in asyncio.run(all_of_them()) for answer in answers]
    wait()
    seconds = time.perf_counter() - began
    assert [len(answer.tokens) for answer in found] == [len(answer.logprobs) for answer in found] == asked.lengths, "an answer ended early"
    return found, seconds


def looks_counted(engine: LocalEngine) -> Counter:
    """How often the host learns what was drawn: after a burst of steps, or after a single one."""
    counts: Counter = Counter()
    for name in ("look", "advance"):
        method = getattr(engine.rows, name)

        def counted(*arguments, _name=name, _method=method):
            counts[_name] += 1
            return _method(*arguments)

        setattr(engine.rows, name, counted)
    return counts


def agreement(trainer: LocalTrainer, asked: Work, answers: list[Completion]) -> dict:
    """|log-prob of the engine - log-prob of the trainer| over the tokens of some answers, in nats."""
    samples = [
        Sample((*prompt, *answer.tokens), (False,) * len(prompt) + (True,) * len(answer.tokens), old=answer.logprobs)
        for prompt, answer in list(zip(asked.prompts, answers, strict=True))[:SCORED]
    ]
    batches = pack(samples, trainer.config.tokens_per_batch, device)
    gaps = torch.cat([(trainer.score(batch) - batch.old).abs() for batch in batches])
    return {"mean": float(gaps.mean()), "max": float(gaps.max()), "tokens": len(gaps), "sequences": len(samples)}


def loading(engine: LocalEngine, trainer: LocalTrainer, asked: Work, answers: list[Completion]) -> dict:
    """Milliseconds of `load` after optimizer steps, of its copies, and of the checksum; the trainer's weights must stay where they are."""
    learned = Sample((*asked.prompts[0], *answers[0].tokens), (True,) * (len(asked.prompts[0]) + len(answers[0].tokens)))
    batches, milliseconds = pack([learned] * 4, trainer.config.tokens_per_batch, device), {"load": [], "refresh": [], "checksum": []}
    places, sums = [tensor.data_ptr() for _, tensor in trainer.weights()], set()
    for step in range(LOADS + 1):
        for batch in batches:
            trainer.forward_backward(batch, Likelihood())
        trainer.step()
        took = {
            "load": clocked(lambda version=step + 1: asyncio.run(engine.load(trainer.weights(), version))),
            "refresh": clocked(engine.runner.refresh), "checksum": clocked(engine.checksum),
        }  # fmt: skip
        sums.add(engine.checksum())
        for name in milliseconds if step else ():  # the first warms up
            milliseconds[name].append(took[name])
    assert places == [tensor.data_ptr() for _, tensor in trainer.weights()], "the trainer's weights have moved"
    assert len(sums) == LOADS + 1, "the weights did not change, or the checksum did not see it"
    return {**{name: figures(found, 3) for name, found in milliseconds.items()}, "tensors_in_place": len(places)}


def clocked(work) -> float:
    """Milliseconds."""
    wait()
    began = time.perf_counter()
    work()
    wait()
    return 1e3 * (time.perf_counter() - began)


asked, memory = work(settings["workload"], settings["rehearse"]), Memory()
model = load_model(Path(settings["checkpoint"]), device, torch.float32)
engine = LocalEngine(model, EngineConfig(rows=asked.rows, context=asked.context, precision=precision))
began = time.perf_counter()
sampled(engine, asked, 0)  # warms up
first, seconds, looks = time.perf_counter() - began, [], looks_counted(engine)
for turn in range(settings["times"]):
    answers, took = sampled(engine, asked, 10_000 * (turn + 1))
    seconds.append(round(took, 4))
peaks = memory.peaks()
trainer = LocalTrainer(model, TrainerConfig(precision=precision, tokens_per_batch=16384), 100)
found = {
    "seconds": seconds, "first_seconds": round(first, 2), "tokens": asked.tokens, "runner": type(engine.runner).__name__, **peaks,
    "looks": {name: count / settings["times"] for name, count in looks.items()}, "logprob_gap": agreement(trainer, asked, answers),
    "load_milliseconds": loading(engine, trainer, asked, answers),
}  # fmt: skip
sampled(engine, asked, 0)  # and the engine goes on
print(json.dumps(found))

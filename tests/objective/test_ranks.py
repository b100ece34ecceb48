"""Two processes that share a step make the gradient that one makes of it, whatever the step averages over.

The file is run once more as a program for each of the two.
"""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from afterbase.dist import summed
from afterbase.objective.grpo import Grpo, GrpoConfig
from afterbase.records import Sample
from afterbase.train.packing import pack, step_totals

CONFIGS = [
    GrpoConfig(),
    GrpoConfig(average="sequence", kl=0.1),
    GrpoConfig(average="constant", constant_length=7),
    GrpoConfig(ratio="sequence"),
    GrpoConfig(ratio="gspo", average="token", entropy=0.1),
    GrpoConfig(surrogate="cispo"),
]
LENGTHS = (9, 2, 4, 1, 1)
"""Learned tokens of the answers; the first process takes two answers of 11 tokens, the second three of 6."""


def answer(place: int, length: int) -> Sample:
    tokens = (place, *((place + step) % 5 for step in range(length)))
    per_token = tuple(-1.5 - 0.1 * (step % 3) for step in range(length))
    return Sample(tokens, (False,) + (True,) * length, 1.0, (-1) ** place * 0.5, per_token, per_token[::-1])


def learned(config: GrpoConfig, samples: list[Sample]) -> tuple[torch.Tensor, dict[str, float]]:
    """The gradient of five logits in batches of at most 7 tokens, and the metrics."""
    logits, metrics = torch.linspace(-1, 1, 5).requires_grad_(), {}
    for batch in pack(samples, 7, totals=summed(step_totals(samples))):
        logprobs = logits.log_softmax(0)
        entropy = -(logprobs.exp() * logprobs).sum().expand(len(batch.picked))
        loss, found = Grpo(config)(logprobs[batch.tokens[batch.picked]], batch, entropy)
        loss.backward()
        metrics = {name: metrics.get(name, 0.0) + value for name, value in found.items()}
    return logits.grad, metrics


def everything(samples: list[Sample]) -> list[list[float]]:
    """Gradient and metrics under each config, as one row of numbers."""
    rows = [learned(config, samples) for config in CONFIGS]
    return [gradient.tolist() + [metrics[name] for name in sorted(metrics)] for gradient, metrics in rows]


def test_gradients_summed_over_two_processes_are_one_processes(tmp_path: Path):
    command = [sys.executable, __file__, str(tmp_path / "store")]
    running = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    try:
        parts = [torch.tensor(json.loads(process.communicate(timeout=120)[0])) for process in running]
    finally:
        for process in running:
            process.kill()
    samples = [answer(place, length) for place, length in enumerate(LENGTHS)]
    for together, alone in zip(sum(parts).unbind(), map(torch.tensor, everything(samples)), strict=True):
        torch.testing.assert_close(together[: len(alone)], alone, atol=1e-6, rtol=1e-5)


def test_alone_the_totals_are_ones_own():
    """Answers that learn nothing count nowhere."""
    assert step_totals([answer(0, 3), answer(1, 2), Sample((1, 2), (True, False))]) == (5, 2)


def test_the_processes_own_totals_would_not_do():
    """Else the first test would not see the helper: by their own counts both would pull equally, by the step's 11 to 6."""
    first, second = ([answer(place, LENGTHS[place]) for place in places] for places in ((0, 1), (2, 3, 4)))
    whole, _ = learned(CONFIGS[0], first + second)
    assert not torch.allclose(learned(CONFIGS[0], first)[0] + learned(CONFIGS[0], second)[0], whole, rtol=0.1)


def main(store: str, rank: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2, timeout=timedelta(seconds=100))
    rows = everything([answer(place, LENGTHS[place]) for place in ((0, 1), (2, 3, 4))[int(rank)]])
    width = max(map(len, rows))
    print(json.dumps([row + [0.0] * (width - len(row)) for row in rows]))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

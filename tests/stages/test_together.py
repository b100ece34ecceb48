"""Fine-tuning in two processes is fine-tuning in one, also when it is interrupted and goes on."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from afterbase.track import read_metrics

SUMS = [{"question": f"{n} + {n}?", "response": f"<think>Twice {n}.</think>{2 * n}"} for n in range(6)]


def test_two_processes_write_the_run_of_one(command, base, recipe, rows, tmp_path):
    """Each reads batches of its own and holds half of the experts and of every other weight."""
    optim = {"schedule": {"peak": 0.01}, "weight_decay": 0.0}
    table = {"model": base, "data": [{"path": rows(*SUMS)}], "tokens_per_step": 60, "saving": {"every": 2}}
    trainer = {"optim": optim, "mtp": 0.3}
    code, _, err = command("sft", recipe("one", **table, trainer=trainer), "--out", tmp_path / "one")
    assert code == 0, err
    page = recipe("two", **table, trainer={**trainer, "mesh": {"expert": 2}})
    together(page, tmp_path / "two")
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [line["step"] for line in two] == list(range(len(one))) and len(one) > 3
    for mine, theirs in zip(one, two, strict=True):
        assert theirs == pytest.approx(mine, rel=2e-3, abs=1e-5)
    done = json.loads((tmp_path / "two" / "done.json").read_text())
    assert done["checkpoint"] == "checkpoints/final" and done["loss"] == two[-1]["train/loss/mean"]
    final = [load_file(tmp_path / name / "checkpoints" / "final" / "model.safetensors") for name in ("one", "two")]
    assert final[0].keys() == final[1].keys()
    for name, tensor in final[0].items():
        assert float((tensor - final[1][name]).abs().max()) < 1e-3, name
    assert sorted(p.name for p in (tmp_path / "two" / "checkpoints").iterdir()) == ["final"]


def together(page: Path, out: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}
    worker = [sys.executable, str(Path(__file__).with_name("together_worker.py")), str(page), str(out)]
    ranks = [
        subprocess.Popen(worker, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=200)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)[-3000:]

"""A run in two processes is a run in one, also when it is interrupted and goes on, alike or in the other number."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from safetensors.torch import load_file
from typer.testing import CliRunner

from afterbase.cli import app
from afterbase.stages.session import Session
from afterbase.track import read_metrics

SUMS = [{"question": f"{n} + {n}?", "response": f"<think>Twice {n}.</think>{2 * n}"} for n in range(6)]


OPTIM = {"schedule": {"peak": 0.01}, "weight_decay": 0.0}
NAMES = "one", "two", "begun", "left"


@pytest.fixture(scope="module")
def room(base, dense, tmp_path_factory) -> Path:
    """Runs of one process, of two, and some that changed hands, in two pairs: one process before and after both, two processes between."""
    room = tmp_path_factory.mktemp("together")

    def write(name: str, **table: Any) -> Path:
        (room / f"{name}.toml").write_text(tomli_w.dumps(json.loads(json.dumps(table, default=str))))
        return room / f"{name}.toml"

    (room / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    (room / "asked.jsonl").write_text("".join(json.dumps({"question": f"{n} + {n}?", "answer": str(2 * n)}) + "\n" for n in range(9)))
    trainer = {"optim": OPTIM, "mtp": 0.3}
    table = {"model": base, "data": [{"path": room / "sums.jsonl"}], "tokens_per_step": 60, "saving": {"every": 2}}
    plain = write("plain", **table, trainer=trainer)
    write("two", **table, trainer={**trainer, "mesh": {"expert": 2}})
    rewards = {"domains": {"default": [{"kind": "length", "ngram": 1, "tolerance": 0.0}]}}
    asked = {"kind": "jsonl", "path": room / "asked.jsonl", "hold_out": 0.5}
    settings = {"steps": 4, "prompts_per_step": 4, "minibatches": 2, "group": 2, "sampling": {"max_tokens": 5}, "ahead": 1}
    settings |= {"groups": {"resample": 1}, "held_out": {"every": 2}, "saving": {"every": 1}, "rewards": rewards}
    settings |= {"model": dense, "prompts": [asked], "trainer": {"optim": {"schedule": {"peak": 0.003}}}, "engine": {"rows": 16}}
    deep = {**settings, "model": base, "objective": {"kl": 0.1, "correction": {}}}
    drawn = write("rl", **deep)
    write("rl-two", **{**deep, "trainer": {**settings["trainer"], "mesh": {"expert": 2}}})
    lora = write("lora-two", **{**settings, "trainer": {**settings["trainer"], "lora": {"rank": 2}}}, objective={"kl": 0.1})
    write("ppo", **settings, objective={"kind": "ppo"})
    one_process("sft", plain, room / "one")
    with pytest.MonkeyPatch.context() as patch:
        learn = Session.learn
        patch.setattr(Session, "learn", lambda self, *given: stop() if self.trainer.done == 3 else learn(self, *given))
        one_process("sft", plain, room / "begun", ends=130)
    one_process("rl", drawn, room / "rl-one")
    one_process("rl", lora, room / "lora-one")
    together(room)
    one_process("sft", plain, room / "left")
    return room


def test_two_processes_write_the_run_of_one_and_take_over_from_each_other(room: Path):
    """Each reads batches of its own and holds half of the experts and of every other weight."""
    one, *others = (read_metrics(room / name / "metrics.jsonl") for name in NAMES)
    for metrics in others:
        assert [line["step"] for line in metrics] == list(range(len(one))) and len(one) > 3
        for mine, theirs in zip(one, metrics, strict=True):
            assert theirs == pytest.approx(mine, rel=2e-3, abs=1e-5)
    done = json.loads((room / "two" / "done.json").read_text())
    assert done["checkpoint"] == "checkpoints/final" and done["loss"] == others[0][-1]["train/loss/mean"]
    for name in NAMES[1:]:
        assert sorted(p.name for p in (room / name / "checkpoints").iterdir()) == ["final"]
        same_weights(room / "one", room / name)


@pytest.mark.parametrize("kind", ["rl", "lora"])
def test_two_processes_draw_what_one_draws_and_learn_what_one_learns(room: Path, kind: str):
    """Each draws and judges half of the groups, ahead of their turn, evaluates half of the questions, and goes on where both were cut."""
    one, two = (read_metrics(room / name / "metrics.jsonl") for name in (f"{kind}-one", f"{kind}-two"))
    assert one[0]["engine/weights/checksum"] == two[0]["engine/weights/checksum"] and one[2]["eval/questions/count"] > 1
    assert (
        len(one) == 4
        and all(line["train/gradient/norm"] for line in one)
        and any(line["train/resampled_groups/count"] for line in one)
        and one[1]["train/staleness/mean"] > 0
    )
    for mine, theirs in zip(one, two, strict=True):
        del mine["engine/weights/checksum"], theirs["engine/weights/checksum"]
        assert theirs == pytest.approx(mine, rel=2e-3, abs=2e-5)
    for name in ("rollouts", "held_out"):
        files = [sorted((room / run / name).iterdir()) for run in (f"{kind}-one", f"{kind}-two")]
        assert [file.name for file in files[0]] == [file.name for file in files[1]]
        assert [file.read_text() for file in files[0]] == [file.read_text() for file in files[1]]
    same_weights(room / f"{kind}-one", room / f"{kind}-two")


def same_weights(one: Path, other: Path) -> None:
    mine, theirs = (load_file(run / "checkpoints" / "final" / "model.safetensors") for run in (one, other))
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert float((tensor - theirs[name]).abs().max()) < 1e-3, name


def one_process(*given: Any, ends: int = 0) -> None:
    stage, page, out = map(str, given)
    result = CliRunner().invoke(app, [stage, page, "--out", out], prog_name="afterbase")
    assert result.exit_code == ends, (result.stderr, result.exception)


def stop() -> None:
    raise KeyboardInterrupt


def together(room: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}
    worker = [sys.executable, str(Path(__file__).with_name("together_worker.py")), str(room)]
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

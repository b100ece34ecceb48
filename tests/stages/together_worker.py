"""One of two processes that train together, are interrupted, and go on; started by test_together.py."""

import sys
from pathlib import Path

import torch

from afterbase.config import load
from afterbase.errors import ConfigError
from afterbase.stages.registry import STAGES
from afterbase.stages.run import run_stage
from afterbase.stages.together import Joint


class Cut(Exception):
    """What ends a run from outside."""


def run(stage: str, recipe: Path, out: Path, cut: int | None = None) -> None:
    """Run a stage to its end, or cut it off on every rank, in the midst of update number `cut`."""
    whole = Joint.learn

    def learn(self, *given):
        if self.trainer.done == cut:
            raise Cut
        return whole(self, *given)

    Joint.learn = learn
    try:
        run_stage(stage, STAGES[stage], load(STAGES[stage].config, recipe, []), out)
    except Cut:
        assert (out / "checkpoints" / "000002").exists()
    else:
        assert cut is None
    finally:
        Joint.learn = whole


def refused(stage: str, config, out: Path, said: str) -> None:
    try:
        run_stage(stage, STAGES[stage], config, out)
    except ConfigError as error:
        assert said in str(error), error
    else:
        raise AssertionError(f"{stage} in two processes was not refused")


if __name__ == "__main__":
    torch.set_num_threads(1)
    room = Path(sys.argv[1])
    run("sft", room / "two.toml", room / "two", cut=3)
    assert sorted(path.name for path in (room / "two" / "checkpoints").glob("[0-9]*")) == ["000002"]
    for _ in range(2):  # the second time nothing is left to do
        run("sft", room / "two.toml", room / "two")
    assert not (room / "begun" / "checkpoints" / "000002" / "shards").exists()
    run("sft", room / "plain.toml", room / "begun")  # what one process began, two end
    run("sft", room / "plain.toml", room / "left", cut=3)  # what two begin, one ends
    assert (room / "left" / "checkpoints" / "000002" / "shards").exists()
    for name in ("rl-two", "lora-two"):
        run("rl", room / f"{name}.toml", room / name, cut=5)
        run("rl", room / f"{name}.toml", room / name)
    refused("rl", load(STAGES["rl"].config, room / "ppo.toml", []), room / "ppo", "objective.kind = 'ppo' works in one process")
    refused("report", None, room / "report", "works in one process")
    torch.distributed.destroy_process_group()

"""One of two processes that fine-tune together, are interrupted, and go on; started by test_together.py."""

import sys
from pathlib import Path

import torch

from afterbase.config import load
from afterbase.errors import ConfigError
from afterbase.stages.registry import STAGES
from afterbase.stages.run import run_stage
from afterbase.stages.together import Shared


def interrupted(at: int):
    """A session that is stopped from outside, on every rank, in the midst of an update."""
    learn = Shared.learn

    def stopping(self, *given):
        if self.trainer.done == at:
            raise KeyboardInterrupt
        return learn(self, *given)

    return learn, stopping


if __name__ == "__main__":
    torch.set_num_threads(1)
    recipe, out = map(Path, sys.argv[1:])
    kind = STAGES["sft"]
    config = load(kind.config, recipe, [])
    learn, Shared.learn = interrupted(3)
    try:
        run_stage("sft", kind, config, out)
    except KeyboardInterrupt:
        assert sorted(path.name for path in (out / "checkpoints").glob("[0-9]*")) == ["000002"]
    Shared.learn = learn
    run_stage("sft", kind, config, out)
    run_stage("sft", kind, config, out)  # done: nothing is left to do
    try:
        run_stage("report", STAGES["report"], None, out)
    except ConfigError as error:
        assert "works in one process" in str(error)
    else:
        raise AssertionError("a report in two processes was not refused")
    torch.distributed.destroy_process_group()

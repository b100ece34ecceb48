"""PPO in the loop of RL: a run that died goes on with its critic as if it had not."""

import pytest

from afterbase.track import Tracker, read_metrics

VARIED = {"domains": {"default": [{"kind": "length", "ngram": 1, "tolerance": 0.0}]}}


class Died(Exception):
    """A process that is gone, in a test that cannot do without it."""


def test_a_ppo_run_that_died_goes_on_bitwise(dense, recipe, rows, command, tmp_path, monkeypatch):
    """It dies in its third round of four, after the second was saved: weights and numbers of policy and critic are as if it had not."""
    data = rows(*[{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(5)])
    fast = {"optim": {"schedule": {"peak": 0.003}}}
    page = recipe(
        model=dense, prompts=[{"kind": "jsonl", "path": data}], steps=4, prompts_per_step=4, group=2, minibatches=2, rewards=VARIED,
        sampling={"max_tokens": 12}, engine={"rows": 8}, objective={"kind": "ppo", "kl": 0.01}, trainer=fast, critic=fast,
        saving={"every": 2},
    )  # fmt: skip
    assert command("rl", page, "--out", tmp_path / "straight")[0] == 0
    whole = Tracker.log

    def dying(tracker, step, metrics):
        if step == 2:
            raise Died
        whole(tracker, step, metrics)

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(Tracker, "log", dying)
        command("rl", page, "--out", tmp_path / "resumed")
    assert (tmp_path / "resumed" / "checkpoints" / "000004" / "critic").is_dir()  # named by updates, of which a round has two
    assert command("rl", page, "--out", tmp_path / "resumed")[0] == 0
    straight, resumed = (tmp_path / name for name in ("straight", "resumed"))
    assert read_metrics(resumed / "metrics.jsonl") == read_metrics(straight / "metrics.jsonl")
    final = "checkpoints/final/model.safetensors"
    assert (resumed / final).read_bytes() == (straight / final).read_bytes()
    assert all({"train/value_loss/mean", "train/reference_kl/mean"} <= row.keys() for row in read_metrics(straight / "metrics.jsonl"))

"""Curriculum, remembered scores and a function of one's own in one run: stopped and resumed, it is the run that was never stopped."""

import json
import sys
from pathlib import Path

import pytest

from afterbase.track import read_metrics

FUNCTION = """
from pathlib import Path

def even(completions, trainer_state, **columns):
    if Path("broken").exists() and trainer_state.global_step >= 3:
        raise OSError("the judge has left")
    return [float(len(each) % 2 == 0 and len(each) % 5 > 0) for each in completions]
"""


@pytest.fixture
def page(dense, recipe, rows, tmp_path, monkeypatch):
    """A recipe with all three; its function fails from the third round on while a file called `broken` exists."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_even", raising=False)
    Path("my_even.py").write_text(FUNCTION)
    data = rows(*[{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(5)])
    reward = {"kind": "function", "path": "my_even:even", "verdict": True, "pure": True}
    return recipe(
        model=dense,
        prompts=[{"kind": "jsonl", "path": data}],
        rewards={"domains": {"default": [reward]}},
        curriculum={"kind": "filter", "minimum": 2, "solved": 0.6, "unsolved": 0.4, "floor": 0.2},
        remembered=50,
        steps=5,
        prompts_per_step=3,
        group=2,
        sampling={"max_tokens": 2},
        engine={"rows": 6},
        saving={"every": 2},
        trainer={"optim": {"schedule": {"peak": 0.003}}},
    )


def test_a_run_that_stops_and_resumes_is_the_run_that_did_not(page, command, tmp_path, documented):
    code, _, err = command("rl", page, "--out", "whole")
    assert code == 0, err
    whole = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert whole[-1]["curriculum/passed_over/count"] > 0 and sum(line["reward/cache_hits/count"] for line in whole) > 0
    Path("broken").touch()
    code, _, err = command("rl", page, "--out", "torn")
    assert code == 2 and "even: my_even:even failed with OSError: the judge has left" in err
    Path("broken").unlink()
    assert command("rl", page, "--out", "torn")[0] == 0
    assert read_metrics(tmp_path / "torn" / "metrics.jsonl") == whole
    assert documented(whole[-1])


def test_a_function_that_changed_after_the_run_was_done_makes_another_run(page, command):
    assert command("rl", page, "--out", "run")[0] == 0
    Path("my_even.py").write_text(FUNCTION + "# changed\n")
    code, _, err = command("rl", page, "--out", "run")
    assert code == 2 and "the content of input rewards.my_even:even" in err


def test_a_wrong_path_is_told_before_the_model_is_loaded(page, command, monkeypatch):
    monkeypatch.setattr("afterbase.stages.rl.begin", None)
    code, _, err = command("rl", page, "rewards.domains.default=[{kind='function', path='my_even:odd'}]")
    assert code == 2 and "the reward 'my_even:odd' names no function of" in err and "its functions are: even" in err


def test_a_function_that_is_mended_in_the_midst_of_a_run_goes_on_judging_it(page, command):
    Path("broken").touch()
    code, _, err = command("rl", page, "--out", "run")
    assert code == 2 and "mend the verifier and run the same command to go on" in err
    Path("my_even.py").write_text(FUNCTION.replace("broken", "never there"))
    del sys.modules["my_even"]  # a new process would not have it either
    code, _, err = command("rl", page, "--out", "run")
    assert code == 0 and "rewards.my_even:even changed since this run began, and judges the rest of it as it is now" in err
    (before,) = json.loads(Path("run/inputs.json").read_text())["mended"]
    assert before.keys() == {"rewards.my_even:even"}

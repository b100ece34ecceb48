import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from afterbase import __version__, cli
from afterbase.cli import _calm
from afterbase.config import Config
from afterbase.errors import Notice
from afterbase.stages import registry
from afterbase.stages.run import Run, StageKind


class ToyConfig(Config):
    """A toy."""

    steps: int = 3
    """Steps."""
    fail: str = ""
    """How it fails."""


FAILURES = {
    "full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x"),
    "forbidden": PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs/x"),
    "interrupt": KeyboardInterrupt,
    "bug": ValueError("a bug"),
}


def work(config: ToyConfig, run: Run) -> None:
    if config.fail:
        raise FAILURES[config.fail]
    (run.directory / "final").mkdir()
    run.finish({"steps": config.steps})


@pytest.fixture
def command(tmp_path: Path, monkeypatch):
    """Runs a command line in an empty directory where `rl` is a toy stage; gives (exit code, stdout, stderr)."""
    kind = StageKind(ToyConfig, work, lambda config: {}, lambda config, directory: directory / "final")
    monkeypatch.setattr(registry.Registry, "__getitem__", lambda self, name: kind)
    monkeypatch.chdir(tmp_path)
    Path("toy.toml").write_text("steps = 4\n")
    Path("line.toml").write_text('name = "line"\ndirectory = "runs/line"\n[[stages]]\nname = "zero"\nstage = "rl"\n')

    def run(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli.app, list(arguments), prog_name="afterbase")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def test_a_stage_runs_its_recipe_into_runs_under_the_recipes_name(command):
    assert command("rl", "toy.toml", "steps=5") == (0, "rl is done: runs/toy/final\n", "")
    assert command("rl", "toy.toml", "--out", "there")[1] == "rl is done: there/final\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rl", "absent.toml"], "no recipe at absent.toml"),
        (["rl", "toy.toml", "stesp=5"], "unknown key 'stesp'; did you mean 'steps'?"),
        (["rl", "toy.toml", "steps"], "'steps' is not an override; write key=value"),
        (["rl", "toy.toml", "steps=many"], "'steps': input should be a valid integer"),
        (["rl", "toy.toml", "--out", "toy.toml/run"], "cannot be written (Not a directory"),
        (["rl", "toy.toml", "--out", "/proc/run"], "cannot be written"),
        (["rl", "toy.toml", "--out", "."], "is not empty and not a run"),
        (["rl", "toy.toml", "fail=full"], "the disk is full: runs/x was not written"),
        (["rl", "toy.toml", "fail=forbidden"], "runs/x cannot be read or written (Permission denied)"),
        (["pipeline", "absent.toml"], "no recipe at absent.toml"),
        (["pipeline", "line.toml", "zro.steps=1"], "did you mean 'zero'?"),
        (["pipeline", "line.toml", "--only", "zer"], "did you mean 'zero'?"),
        (["pipeline", "line.toml", "--resume"], "holds no run of line.toml yet"),
        (["pipeline", "toy.toml"], "toy.toml is no pipeline, it has no [[stages]]; a stage's own recipe runs with"),
        (["explain", "rll"], "did you mean 'rl'?"),
        (["check-rewards", "absent.jsonl"], "no data file at absent.jsonl"),
        (["check-rewards", "toy.toml"], "toy.toml has no list of prompts"),
    ],
)
def test_what_a_person_can_correct_is_one_line_on_stderr_and_exit_code_2(command, arguments: list[str], said: str):
    code, out, err = command(*arguments)
    assert code == 2 and out in ("", "[1/1] zero (rl): runs in runs/line/zero\n")
    assert said in err and err.startswith("afterbase: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["rl"], ["nonsense"], ["rl", "toy.toml", "--nonsense"], ["generate", "m", "p", "--temperature", "-1"]]
)
def test_wrong_usage_is_exit_code_2(command, arguments: list[str]):
    code, out, err = command(*arguments)
    assert code == 2 and out == "" and "Traceback" not in err


def test_a_notice_is_one_line_and_other_warnings_say_where_they_come_from():
    assert _calm(Notice("drafting\nis off"), Notice, "a.py", 3) == "afterbase: drafting is off\n"
    assert _calm("old", DeprecationWarning, "a.py", 3) == "afterbase: old (DeprecationWarning at a.py:3)\n"


def test_an_interrupt_is_exit_code_130_and_says_where_it_resumes(command):
    assert command("rl", "toy.toml", "fail=interrupt") == (130, "", "interrupted; the same command resumes at rl in runs/toy\n")
    code, _, err = command("pipeline", "line.toml", "zero.fail=interrupt")
    assert code == 130 and err == "interrupted; the same command resumes at rl in runs/line/zero\n"


def test_check_rewards_says_by_its_exit_code_whether_every_reference_is_accepted(command):
    Path("good.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    Path("bad.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n{"question": "1 + 2?"}\n')
    assert command("check-rewards", "good.jsonl")[:2] == (0, "1 rows: 1 of 1 checked references accepted (100.00%), 0 refused\n")
    code, out, _ = command("check-rewards", "bad.jsonl", "--report", "found.json")
    assert code == 1 and "bad-1 (bad.jsonl, line 2)" in out and json.loads(Path("found.json").read_text())["refused"] == 1
    assert command("check-rewards", "bad.jsonl", "prompts.0.limit=1")[0] == 0
    assert command("check-rewards", "bad.jsonl", "--report", "good.jsonl/found.json")[0] == 2


def test_our_own_mistakes_keep_their_traceback(command):
    with pytest.raises(ValueError, match="a bug"):
        command("rl", "toy.toml", "fail=bug")


def test_a_pipeline_takes_its_options(command):
    assert command("pipeline", "line.toml", "--dry-run", "--out", "o ut")[0] == 0 and not Path("o ut").exists()
    assert command("pipeline", "line.toml", "--out", "o ut")[0] == 0 and Path("o ut/zero/done.json").exists()
    assert "done already, kept" in command("pipeline", "line.toml", "--out", "o ut", "--resume", "--only", "zero")[1]
    assert command("pipeline", "line.toml", "--out", "o ut", "--fresh")[0] == 0 and Path("o ut/zero.old-1/done.json").exists()


def test_explain_prints_a_recipe(command):
    code, out, _ = command("explain", "rl")
    assert code == 0 and "# Steps. [whole number]\n#steps = 3\n" in out
    assert "##directory = ..." in command("explain", "pipeline")[1]


def test_python_m_afterbase_is_the_same_command(tmp_path: Path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "afterbase", *arguments], capture_output=True, text=True, cwd=tmp_path)

    assert run("--version").stdout == f"afterbase {__version__}\n"
    wrong = run("pipeline", "absent.toml")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "afterbase: no recipe at absent.toml; give the path of a TOML file, such as one of recipes/\n"


def test_the_front_door_opens_without_torch():
    code = "import sys, afterbase.cli, afterbase.stages.pipeline; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

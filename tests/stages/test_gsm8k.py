"""The recipes for GSM8K, on its published files where they are at hand and on a few plain rows of the same form."""

import json
import math
from pathlib import Path

import pytest

from afterbase.prompts.source import JsonlSource
from afterbase.stages.session import load_pair
from afterbase.track import read_metrics

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
PUBLISHED = ROOT.parent / "shared" / "data" / "math"
ROWS = [
    {"question": f"Ann has {n} apples and buys 4 more. How many has she?", "answer": f"{n} + 4 = <<{n}+4={n + 4}>>{n + 4}\n#### {n + 4}"}
    for n in range(6)
]


@pytest.fixture(params=["plain", "published"])
def questions(request, rows):
    """train or test -> the file."""
    if request.param == "plain":
        return lambda part: rows(*ROWS, name=f"{part}.jsonl")
    if not PUBLISHED.exists():
        pytest.skip(f"GSM8K's published files are not at {PUBLISHED}")
    return lambda part: PUBLISHED / f"gsm8k_{part}.jsonl.xz"


@pytest.fixture(scope="module")
def model(make_checkpoint):
    return make_checkpoint(max_position_embeddings=1024)


def finite(run: Path, steps: int) -> bool:
    lines = read_metrics(run / "metrics.jsonl")
    return len(lines) == steps and all(isinstance(value, int | float) and math.isfinite(value) for row in lines for value in row.values())


def test_sft(command, model, questions, tmp_path):
    limits = ("data.0.limit=6", "tokens_per_step=700", "saving.every=1")
    code, out, _ = command(
        "sft", RECIPES / "sft_gsm8k.toml", f"model={model}", f"data.0.path={questions('train')}", *limits, "--out", tmp_path / "run"
    )
    done = json.loads((tmp_path / "run" / "done.json").read_text())
    assert code == 0 and "sft is done" in out and done["samples"] == 6 and done["steps"] >= 2
    assert finite(tmp_path / "run", done["steps"])
    load_pair(tmp_path / "run" / "checkpoints" / "final")


@pytest.mark.parametrize("recipe", ["r1_zero_gsm8k", "rl_gsm8k"])
def test_rl(command, model, questions, tmp_path, recipe):
    small = ("prompts.0.limit=6", "steps=2", "prompts_per_step=2", "group=2", "sampling.max_tokens=6", "engine.rows=4")
    code, out, _ = command(
        "rl", RECIPES / f"{recipe}.toml", f"model={model}", f"prompts.0.path={questions('train')}", *small, "--out", tmp_path / "run"
    )
    assert code == 0 and "rl is done" in out and finite(tmp_path / "run", 2)
    assert "train/reference_kl/mean" in read_metrics(tmp_path / "run" / "metrics.jsonl")[0]
    drawn = [json.loads(line) for line in (tmp_path / "run" / "rollouts" / "000001.jsonl").read_text().splitlines()]
    assert len(drawn) == 4 and all(row["answer"].isdigit() and row["outcome"] != "error" for row in drawn)
    load_pair(tmp_path / "run" / "checkpoints" / "final")


def test_evaluate_reports_the_accuracy_as_it_is(command, model, questions, tmp_path):
    small = ("benchmarks.0.limit=5", "benchmarks.0.sampling.max_tokens=6", "engine.rows=5")
    page, out = RECIPES / "evaluate_gsm8k.toml", tmp_path / "run"
    code, _, _ = command("evaluate", page, f"model={model}", f"benchmarks.0.path={questions('test')}", *small, "--out", out)
    (result,) = json.loads((out / "results.json").read_text())["results"]
    accuracy = result["accuracy"]
    assert code == 0 and (accuracy["n"], accuracy["mean"]) == (5, 0.0) and accuracy["low"] == 0.0 < accuracy["high"] < 0.5
    assert result["protocol"]["max_tokens"] == 6 and "accuracy (95% interval)" in (out / "report.md").read_text()


def test_curate_keeps_what_a_taught_model_solves(command, model, recipe, rows, questions, tmp_path):
    problems = JsonlSource(path=questions("train"), answer_pattern="#### (.+)$", limit=2).open(0).prompts
    lessons = [{"question": each.question, "response": f"<think>So.</think> It is \\boxed{{{each.answer}}}"} for each in problems]
    schedule = {"kind": "constant", "peak": 0.01}
    taught = recipe(
        "taught",
        model=model,
        data=[{"path": rows(*lessons, name="lessons.jsonl")}],
        epochs=60,
        trainer={"optim": {"schedule": schedule, "weight_decay": 0}},
    )
    assert command("sft", taught, "--out", tmp_path / "taught")[0] == 0

    small = ("prompts.0.limit=2", "problems=2", "candidates=4", "sampling.max_tokens=40", "sampling.temperature=0.3", "engine.rows=8")
    page, out, model = RECIPES / "curate_gsm8k.toml", tmp_path / "run", tmp_path / "taught" / "checkpoints" / "final"
    code, _, _ = command("curate", page, f"model={model}", f"prompts.0.path={questions('train')}", *small, "--out", out)
    kept = [json.loads(line)["messages"] for line in (out / "data.jsonl").read_text().splitlines()]
    assert code == 0 and [[message["content"] for message in row] for row in kept] == [
        [each.question, f"<think> So. </think>\nThe answer is \\boxed{{{each.answer}}}."] for each in problems
    ]
    assert json.loads((out / "done.json").read_text())["pass_rate"] > 0.5

    learned = ("data.0.columns={}", f"data.0.path={out / 'data.jsonl'}", "data.0.limit=2")
    assert command("sft", RECIPES / "sft_gsm8k.toml", f"model={model}", *learned, "--out", tmp_path / "again")[0] == 0


def test_curate_says_when_nothing_is_fit(command, model, questions, tmp_path):
    small = ("problems=2", "candidates=2", "sampling.max_tokens=6", "engine.rows=4")
    page, out = RECIPES / "curate_gsm8k.toml", tmp_path / "run"
    code, _, err = command("curate", page, f"model={model}", f"prompts.0.path={questions('train')}", *small, "--out", out)
    assert (
        code == 2 and len((out / "candidates.jsonl").read_text().splitlines()) == 4 and "none of the candidates is fit to learn from" in err
    )

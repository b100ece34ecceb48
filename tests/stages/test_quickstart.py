"""The quickstart recipe itself, at a size that fits into the test suite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from afterbase.stages.pipeline import run_pipeline

RECIPE = Path(__file__).parents[2] / "recipes" / "pipelines" / "quickstart.toml"
STAGES = ["base", "zero", "cold-data", "cold", "reasoning", "data", "sft", "final", "evaluation", "report"]
SMALL = [
    "base.steps=70", "base.tokens_per_step=1536", "base.tokenizer_documents=300", "base.crawl.transcripts=0.8",
    "base.architecture.hidden_size=64", "base.architecture.num_hidden_layers=2", "base.architecture.intermediate_size=128",
    "base.architecture.moe_intermediate_size=32",
    "shared.rl.prompts_per_step=4", "shared.rl.sampling.max_tokens=40", "zero.steps=2", "reasoning.steps=2", "final.steps=2",
    "cold-data.problems=64", "cold-data.fit.well_formed=false", "cold-data.limit=16", "cold.epochs=1",
    # So small a model seldom writes a box: the rejection sampling takes the last number that it names.
    'data.rewards.domains.math=[{kind = "math", fallback = "last_number"}]', "data.fit.max_repetition=1.0", "data.fit.max_mixing=1.0",
    "data.problems=128", "data.others_count=8", "data.fit.well_formed=false",
    "evaluation.benchmarks.0.limit=12", "evaluation.benchmarks.1.limit=6",
]  # fmt: skip


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    directory = tmp_path_factory.mktemp("quickstart") / "run"
    run_pipeline(RECIPE, [f'directory="{directory}"', *SMALL])
    return directory


def test_the_river_runs_from_nothing_to_a_report(quickstart):
    assert [name for name in STAGES if (quickstart / name / "done.json").exists()] == STAGES
    report = (quickstart / "report" / "report.md").read_text(encoding="utf-8")
    for label in ("base", "R1-Zero", "cold start", "reasoning RL", "SFT", "final"):
        assert f"| {label} |" in report
    for plot in ("accuracy", "reward", "response_length"):
        assert (quickstart / "report" / f"{plot}.png").stat().st_size > 1000
        assert "<svg" in (quickstart / "report" / f"{plot}.svg").read_text(encoding="utf-8")


def test_the_large_sft_starts_again_from_the_base(quickstart):
    def model_of(stage: str) -> str:
        return json.loads((quickstart / stage / "config.json").read_text(encoding="utf-8"))["model"]

    base = str(quickstart / "base" / "checkpoints" / "final")
    assert model_of("cold") == model_of("sft") == model_of("zero") == base
    assert model_of("final") == str(quickstart / "sft" / "checkpoints" / "final")


def test_no_held_out_problem_was_ever_seen_in_training(quickstart):
    asked = {json.loads(line)["question"] for line in (quickstart / "evaluation" / "transcripts.jsonl").read_text().splitlines()}
    drawn = {json.loads(line)["question"] for file in quickstart.rglob("rollouts/*.jsonl") for line in file.read_text().splitlines()}
    drawn |= {json.loads(line)["question"] for file in quickstart.rglob("candidates.jsonl") for line in file.read_text().splitlines()}
    assert asked and drawn and not asked & drawn


def test_the_same_command_finds_everything_done(quickstart):
    before = {path: path.stat().st_mtime_ns for path in quickstart.rglob("done.json")}
    run_pipeline(RECIPE, [f'directory="{quickstart}"', *SMALL])
    assert {path: path.stat().st_mtime_ns for path in quickstart.rglob("done.json")} == before

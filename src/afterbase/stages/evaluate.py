"""Ask one checkpoint or several the same questions: transcripts.jsonl, results.json and a table."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from pydantic import Field, model_validator

from afterbase.config import Config
from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.evals import tables
from afterbase.evals.benchmark import Benchmark, Template
from afterbase.evals.result import Result, Row
from afterbase.evals.run import evaluate
from afterbase.evals.suite import AnyBenchmark
from afterbase.evals.transcripts import Transcripts
from afterbase.lineage import write_atomic
from afterbase.model.checkpoint import load_config, load_model
from afterbase.prompts.rows import FileSettings
from afterbase.records import Prompt
from afterbase.rewards.base import build
from afterbase.rollouts.sample import check_fit
from afterbase.stages.run import Run, StageKind
from afterbase.stages.session import check_pair, device_of
from afterbase.text.tokenizer import Tokenizer

Done = Mapping[tuple[str, str], Sequence[Row]]  # (checkpoint, benchmark): the questions answered before


class EvaluateConfig(Config):
    """Which checkpoints are asked which benchmarks."""

    model: Path | None = None
    """A single checkpoint directory; in the table under its own name."""
    models: dict[str, Path] = Field(default_factory=dict)
    """Several checkpoints, name in the table = directory, in the order of the table."""
    templates: dict[str, Template] = Field(default_factory=dict)
    """Checkpoints that are asked through another template than the benchmark's, e.g. base = "r1-zero"; their format is judged by it."""
    benchmarks: list[AnyBenchmark] = Field(min_length=1)
    """What they are asked."""
    engine: EngineConfig = EngineConfig()
    """How the engine batches."""
    device: str | None = None
    """Where the models run, "cpu" or "cuda:1"; the GPU where there is one when absent."""
    max_errors: float = Field(0.2, ge=0, le=1)
    """Share of a checkpoint's verdicts on one benchmark that may fail (the verifier's fault, masked) before the run stops in words."""
    seed: int = 0
    """Fixes sampled answers; which questions are asked is the benchmarks' own seed."""

    @model_validator(mode="after")
    def _fits_together(self) -> EvaluateConfig:
        if (self.model is None) == (not self.models):
            raise ValueError("give either model (one checkpoint directory) or models (name = directory), not both and not neither")
        if strange := sorted(self.templates.keys() - self.checkpoints.keys()):
            raise ValueError(f"templates names {', '.join(strange)}, which are not evaluated; the models are {', '.join(self.checkpoints)}")
        names = [benchmark.name for benchmark in self.benchmarks]
        if len(set(names)) < len(names):
            raise ValueError(f"the benchmarks are named {', '.join(names)}; give each a name of its own")
        return self

    @property
    def checkpoints(self) -> dict[str, Path]:
        """Every checkpoint by its name in the table."""
        return self.models or ({self.model.name: self.model} if self.model else {})

    def asked(self, name: str) -> list[Benchmark]:
        """The benchmarks as this checkpoint is asked them."""
        template = self.templates.get(name)
        return [benchmark.through(template) if template else benchmark for benchmark in self.benchmarks]


def run_evaluate(config: EvaluateConfig, run: Run) -> None:
    """Ask everything that transcripts.jsonl does not answer yet, then write results.json and report.md."""
    transcripts = Transcripts(run.directory / "transcripts.jsonl")
    questions = {benchmark.name: benchmark.questions() for benchmark in config.benchmarks}
    _check_fit(config, questions)
    sizes = {name: len(asked) for name, asked in questions.items()}
    done = {
        (name, benchmark.name): transcripts.done(name, benchmark.name, sizes[benchmark.name], benchmark.together)
        for name in config.checkpoints
        for benchmark in config.benchmarks
    }
    results: list[Result] = []
    with run.progress(sum(sizes.values()) * len(config.checkpoints), "questions", sum(map(len, done.values()))) as progress:
        for number, name in enumerate(config.checkpoints):
            began = perf_counter()
            results += asyncio.run(_evaluate_model(config, name, transcripts, done, lambda row: progress.advance(1)))
            run.tracker.time(number, {"time/evaluate/seconds": perf_counter() - began})
    write_results(run.directory, config, results)
    run.finish({f"{result.model}/{result.benchmark}": result.accuracy.record() for result in results})


def write_results(directory: Path, config: EvaluateConfig, results: list[Result]) -> None:
    """Write results.json and its tables as report.md, each in one piece."""
    table = {
        "checkpoints": {name: str(path) for name, path in config.checkpoints.items()},
        "sources": {benchmark.name: benchmark.describe() for benchmark in config.benchmarks},
        "results": [result.record() for result in results],
    }
    write_atomic(directory / "results.json", json.dumps(table, indent=1) + "\n")
    sections = []
    for benchmark in config.benchmarks:
        sections += [f"# {tables.escape(benchmark.name)}", tables.markdown([each for each in results if each.benchmark == benchmark.name])]
        sections.append("\n".join(f"- {tables.escape(line)}" for line in benchmark.describe()))
    write_atomic(directory / "report.md", "\n\n".join(sections) + "\n")


async def _evaluate_model(
    config: EvaluateConfig, name: str, transcripts: Transcripts, done: Done, on_progress: Callable[[Row], None]
) -> list[Result]:
    """One checkpoint on every benchmark, from where the transcripts end; its weights are freed before the next one's are read."""
    tokenizer, engine = _opened(config.checkpoints[name], config)
    results = []
    try:
        for benchmark in config.asked(name):
            judge = build(benchmark.rewards)
            keep = partial(transcripts.keep, name, benchmark.name)
            options = {"model": name, "seed": config.seed, "on_progress": on_progress, "keep": keep, "done": done[name, benchmark.name]}
            options |= {"room": engine.room, "max_errors": config.max_errors}
            try:
                results.append(await evaluate(engine, tokenizer, benchmark, judge, **options))
            finally:
                await judge.close()
    finally:
        await engine.close()
    return results


def _check_fit(config: EvaluateConfig, questions: Mapping[str, Sequence[Prompt]]) -> None:
    """DataError when a question leaves some checkpoint no room for an answer: told before the first checkpoint is asked anything."""
    for name, directory in config.checkpoints.items():
        tokenizer, context = Tokenizer.load(directory), load_config(directory).max_position_embeddings
        for benchmark in config.asked(name):
            check_fit(questions[benchmark.name], tokenizer, benchmark.template, min(config.engine.context or context, context))


def _opened(directory: Path, config: EvaluateConfig) -> tuple[Tokenizer, LocalEngine]:
    """A checkpoint ready to be asked; CheckpointError when its tokenizer belongs to another model."""
    tokenizer = Tokenizer.load(directory)
    model = load_model(directory, device_of(config.device), torch.float32)  # routers are float32 where they were trained
    check_pair(model, tokenizer, directory)
    return tokenizer, LocalEngine(model, config.engine, tokenizer.decode)


def _inputs(config: EvaluateConfig) -> dict[str, Path]:
    """The checkpoints, and the files that the questions come from."""
    sources = [source for benchmark in config.benchmarks for source in benchmark.sources() if isinstance(source, FileSettings)]
    files = {f"questions {number}": source.path for number, source in enumerate(sources)}
    return {**{f"checkpoint {name}": path for name, path in config.checkpoints.items()}, **files}


STAGE = StageKind(
    config=EvaluateConfig,
    run=run_evaluate,
    inputs=_inputs,
    artefact=lambda config, directory: directory / "results.json",
    size=lambda config: {"checkpoints": len(config.checkpoints), "benchmarks": len(config.benchmarks)},
)

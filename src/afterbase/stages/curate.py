"""Training data from a checkpoint's own answers: several candidates a problem, the accurate and concise ones kept, others mixed in.

Cold-start data and rejection sampling are the same work with other settings [V3 5.1; Series].
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from afterbase.config import Config
from afterbase.curate.filter import Candidate, FilterConfig
from afterbase.curate.reject import KeepConfig, Kept, keep_best
from afterbase.curate.rewrite import Style, rewritten
from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.errors import ConfigError, DataError
from afterbase.lineage import append, digest, sync, write_atomic
from afterbase.prompts.rows import json_rows
from afterbase.prompts.source import SourceConfig, open_mixture
from afterbase.records import Prompt, Score
from afterbase.rewards.base import Judge, RewardsConfig, build, check_errors
from afterbase.rollouts.sample import check_fit, sample_group
from afterbase.rollouts.store import record
from afterbase.stages.rl_config import DrawConfig
from afterbase.stages.run import Run, StageKind
from afterbase.stages.session import load_pair
from afterbase.text.tokenizer import Tokenizer


class CurateConfig(Config):
    """Rejection sampling and mixing."""

    model: Path
    """The checkpoint directory that answers."""
    prompts: list[SourceConfig] = Field(min_length=1)
    """The problems."""
    problems: int = Field(1000, gt=0)
    """How many problems are taken from them."""
    candidates: int = Field(8, gt=0)
    """Answers drawn to each problem."""
    template: Literal["chat", "r1-zero", "plain"] = "chat"
    """How a problem is put to the model."""
    system: str = ""
    """A system prompt that the kept rows carry: the second kind of sample, <system prompt, problem, R1 response> [V3 5.1]."""
    rewards: RewardsConfig = RewardsConfig()
    """What judges the answers, by domain."""
    sampling: DrawConfig = DrawConfig()
    """How answers are drawn."""
    fit: FilterConfig = FilterConfig()
    """What a kept response must be."""
    keep: KeepConfig = KeepConfig()
    """How many and which fit responses are kept."""
    rewrite: Style = "keep"
    """Whether kept responses are learned as they are or rewritten to the house format."""
    limit: int | None = Field(None, gt=0)
    """At most this many kept responses."""
    others: list[SourceConfig] = Field(default_factory=list)
    """Non-reasoning prompts whose reference answer is the response: the first kind of sample, <problem, original response>."""
    others_count: int = Field(0, ge=0)
    """How many of them are mixed in."""
    at_once: int = Field(64, gt=0)
    """Problems answered together; a killed run repeats at most these."""
    engine: EngineConfig = EngineConfig()
    """How the engine batches."""
    max_errors: float = Field(0.2, ge=0, le=1)
    """Share of the verdicts so far that may fail (the verifier's fault, masked) before the run stops in words."""
    seed: int = 0
    """Fixes problems and draws."""

    @model_validator(mode="after")
    def _others_come_from_somewhere(self) -> CurateConfig:
        if self.others_count and not self.others:
            raise ValueError(f"others_count={self.others_count} needs `others`, the sources that they come from")
        return self


def run_curate(config: CurateConfig, run: Run) -> None:
    """Draw what is missing in candidates.jsonl, then select, rewrite, mix and write data.jsonl."""
    mixture = open_mixture(config.prompts, config.seed)
    held = sum(len(source) for source in mixture.sources)
    if config.problems > held:
        raise ConfigError(f"problems={config.problems}, but the sources hold only {held}; lower it, for each is answered once")
    prompts = mixture.take(config.problems)
    by_id = _by_id(prompts)
    path = run.directory / "candidates.jsonl"
    done = _whole_chunks(path, config)
    if done < len(prompts):
        asyncio.run(_draw(config, run, prompts, done, path))
    groups: dict[str, list[Candidate]] = {}
    for _, _, row in json_rows(path):
        candidate = Candidate(**{name: row[name] for name in Candidate.__dataclass_fields__})
        groups.setdefault(candidate.prompt, []).append(candidate)
    kept = keep_best(groups.values(), config.fit, config.keep)
    kept = replace(kept, candidates=kept.candidates[: config.limit])
    rows = _rows(config, kept, by_id)
    write_atomic(run.directory / "data.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    run.finish(_summary(groups, kept, rows))


def _by_id(prompts: list[Prompt]) -> dict[str, Prompt]:
    """The problems by the id under which their candidates are filed; DataError when one id stands for two problems."""
    by_id = {prompt.id: prompt for prompt in prompts}
    for prompt in prompts:
        if prompt.messages != by_id[prompt.id].messages:
            raise DataError(
                f"two problems have the id {prompt.id!r}; make ids unique over all sources, or set columns.id to '' to number them"
            )
    return by_id


async def _draw(config: CurateConfig, run: Run, prompts: list[Prompt], done: int, path: Path) -> None:
    """Answer and judge the problems from number `done` on, some at once; each lot is on disk before the next begins."""
    model, tokenizer = load_pair(config.model)
    engine = LocalEngine(model, config.engine, tokenizer.decode)
    check_fit(prompts, tokenizer, config.template, engine.room)
    judge = build(config.rewards)
    verdicts = [_verdict(row) for _, _, row in json_rows(path)] if done else []
    try:
        with run.progress(len(prompts), "candidates", done) as progress:
            for first in range(done, len(prompts), config.at_once):
                lot = list(enumerate(prompts))[first : first + config.at_once]
                groups = await asyncio.gather(*[_group(config, engine, tokenizer, judge, number, prompt) for number, prompt in lot])
                rows = [row for group in groups for row in group]
                verdicts += map(_verdict, rows)
                check_errors(verdicts, config.max_errors, "the candidates so far")  # a lot that is refused is drawn again
                append(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
                sync(path)
                progress.advance(len(lot))
    finally:
        await judge.close()
        await engine.close()


async def _group(
    config: CurateConfig, engine: LocalEngine, tokenizer: Tokenizer, judge: Judge, number: int, prompt: Prompt
) -> list[dict[str, Any]]:
    """One problem's candidates, judged."""
    seed = (config.seed << 40) + number
    rollouts = await sample_group(engine, tokenizer, prompt, config.template, config.sampling.sampling(seed), config.candidates)
    scores = await asyncio.gather(*[judge(rollout) for rollout in rollouts])
    return [record(rollout.judged(score)) for rollout, score in zip(rollouts, scores, strict=True)]


def _verdict(row: dict[str, Any]) -> Score:
    """What was thought of a recorded candidate."""
    return Score(row["value"], row["parts"], row["outcome"], row["note"])


def _whole_chunks(path: Path, config: CurateConfig) -> int:
    """How many problems are answered in whole lots; what a kill left of a further lot is cut off, to be drawn in one piece again.

    Whole lots only: which answers are drawn together must not depend on where a run was interrupted.
    """
    if not path.exists():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    per_lot = config.at_once * config.candidates
    keep = len(whole) if len(whole) == config.problems * config.candidates else len(whole) // per_lot * per_lot
    if keep < len(lines):
        write_atomic(path, b"".join(whole[:keep]))
    return keep // config.candidates


def _rows(config: CurateConfig, kept: Kept, prompts: dict[str, Prompt]) -> list[dict[str, Any]]:
    """The training rows: kept responses with their pedigree, then the non-reasoning ones."""
    if not kept.candidates:
        why = ", ".join(f"{reason}: {count}" for reason, count in sorted(kept.dropped.items()))
        raise DataError(
            f"none of the candidates is fit to learn from ({why}); train {config.model} further, draw more candidates or loosen `fit`"
        )
    model = digest(config.model)
    rows = [
        _row(config.system, prompts[each.prompt], rewritten(each.response, config.rewrite), {"model": model, "tokens": each.tokens})
        for each in kept.candidates
    ]
    if config.others_count:
        others = open_mixture(config.others, config.seed).take(config.others_count)
        if missing := [prompt.id for prompt in others if not prompt.answer]:
            raise DataError(
                f"{missing[0]} of `others` has no reference answer, which is what would be learned; name its column or leave it out"
            )
        rows += [_row("", prompt, prompt.answer, {"model": None}) for prompt in others]
    return rows


def _row(system: str, prompt: Prompt, response: str, pedigree: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    messages = [{"role": "system", "content": system}] * bool(system) + messages + [{"role": "assistant", "content": response}]
    return {"messages": messages, "domain": prompt.domain, "prompt": prompt.id, "pedigree": pedigree}


def _summary(groups: dict[str, list[Candidate]], kept: Kept, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What was drawn, kept and dropped: the accuracy and length trade-off of [V3 Table 9]. Failed verdicts count as errors only."""
    candidates = [candidate for group in groups.values() for candidate in group]
    judged = [candidate for candidate in candidates if candidate.outcome != "error"]
    lengths = [candidate.tokens for candidate in kept.candidates]
    return {
        "problems": len(groups),
        "candidates": len(candidates),
        "errors": len(candidates) - len(judged),
        "pass_rate": sum(candidate.outcome == "correct" for candidate in judged) / len(judged),
        "mean_length_of_correct": kept.mean_length_correct,
        "mean_length_of_kept": sum(lengths) / len(lengths),
        "kept": len(kept.candidates),
        "rows": len(rows),
        "dropped": dict(sorted(kept.dropped.items())),
    }


def _inputs(config: CurateConfig) -> dict[str, Path]:
    sources = {f"prompts.{number}": source for number, source in enumerate(config.prompts)}
    sources |= {f"others.{number}": source for number, source in enumerate(config.others)}
    return {"model": config.model, **{name: source.path for name, source in sources.items() if hasattr(source, "path")}}


STAGE = StageKind(
    config=CurateConfig,
    run=run_curate,
    inputs=_inputs,
    artefact=lambda config, directory: directory / "data.jsonl",
    size=lambda config: {"problems": config.problems, "candidates": config.candidates},
)

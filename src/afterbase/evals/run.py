"""Ask a model a benchmark's questions, judge the answers, count."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from afterbase.engine.base import Engine
from afterbase.evals.benchmark import Benchmark
from afterbase.evals.result import Answer, Protocol, Result, Row, count
from afterbase.lineage import fingerprint
from afterbase.records import Message, Prompt, Rollout, Score
from afterbase.rewards.base import Reward, check_errors
from afterbase.rewards.language import mixing
from afterbase.rollouts.sample import check_fit, sample_group
from afterbase.text.chat import prompt_tokens
from afterbase.text.think import split
from afterbase.text.tokenizer import Tokenizer

PROBE = Prompt("probe", (Message("user", "What is 2 + 2?"),))
SEED_STRIDE = 1_000_003  # a prime: keeps the questions of neighbouring seeds on different random streams


async def evaluate(
    engine: Engine,
    tokenizer: Tokenizer,
    benchmark: Benchmark,
    judge: Reward,
    *,
    model: str = "",
    seed: int = 0,
    on_progress: Callable[[Row], None] = lambda row: None,
    keep: Callable[[list[Row]], None] = lambda rows: None,
    done: Sequence[Row] = (),
    room: int | None = None,
    max_errors: float = 1.0,
) -> Result:
    """Ask every question that `done` does not answer yet, judge each answer as it arrives, and count them all.

    Questions go to the engine `benchmark.together` at a time, and `keep` gets such a wave, in order, when it is complete. A resumed
    evaluation starts with a whole wave, so the engine batches, and thereby rounds, exactly as in a run that was never stopped.
    `on_progress` gets each row as soon as it is judged. `room` is the engine's context in tokens: where it leaves less than the length
    cap behind the longest question, what it leaves is recorded as the cap. A wave with which more than the share `max_errors` of all
    verdicts so far have failed is not kept, it raises AfterbaseError.
    """
    questions = benchmark.questions()
    cap = _cap(benchmark, tokenizer, questions, room)
    rows = list(done)

    async def answered(at: int) -> Row:
        row = await _ask(engine, tokenizer, benchmark, judge, questions[at], seed * SEED_STRIDE + at)
        on_progress(row)
        return row

    while len(rows) < len(questions):
        wave = range(len(rows), min(len(rows) + benchmark.together, len(questions)))
        finished = await asyncio.gather(*(answered(at) for at in wave))
        _check_verdicts([*rows, *finished], max_errors, f"{benchmark.name!r} so far")
        keep(finished)
        rows += finished
    return count(model, benchmark.name, protocol_of(benchmark, tokenizer, seed, cap), rows)


def _cap(benchmark: Benchmark, tokenizer: Tokenizer, questions: Sequence[Prompt], room: int | None) -> int:
    """The length that every answer could have: `max_tokens`, or what the model's context leaves behind the longest question."""
    if room is None:
        return benchmark.sampling.max_tokens
    return min(benchmark.sampling.max_tokens, room - check_fit(questions, tokenizer, benchmark.template, room))


def _check_verdicts(rows: Sequence[Row], max_errors: float, where: str) -> None:
    answers = [answer for row in rows for answer in row.answers]
    check_errors([Score(answer.value, answer.parts, answer.outcome, answer.note) for answer in answers], max_errors, where)


def protocol_of(benchmark: Benchmark, tokenizer: Tokenizer, seed: int, cap: int) -> Protocol:
    """How the benchmark is asked, for the record; `cap` is the length in tokens that every answer could have."""
    draw = benchmark.sampling
    asked = fingerprint(template_text(tokenizer, benchmark.template))
    return Protocol(benchmark.template, asked[:12], benchmark.samples, seed, draw.temperature, draw.top_p, cap)


def template_text(tokenizer: Tokenizer, template: str) -> str:
    """What the template makes of a fixed question: the text that its hash is taken from."""
    return tokenizer.decode(prompt_tokens(tokenizer, PROBE, template), skip_special=False)


async def _ask(engine: Engine, tokenizer: Tokenizer, benchmark: Benchmark, judge: Reward, prompt: Prompt, seed: int) -> Row:
    """One question with all its answers, judged."""
    rollouts = await sample_group(engine, tokenizer, prompt, benchmark.template, benchmark.sampling.sampling(seed), benchmark.samples)
    answers = await asyncio.gather(*(_judged(judge, tokenizer, rollout) for rollout in rollouts))
    return Row(prompt.id, prompt.domain, prompt.question, prompt.answer, tuple(answers))


async def _judged(judge: Reward, tokenizer: Tokenizer, rollout: Rollout) -> Answer:
    """A rollout's verdict; one that the engine lost is an error of ours, never a wrong answer of the model's."""
    failed = rollout.completion.finish == "failed"
    score = Score(0.0, {}, "error", "the engine failed") if failed else await judge(rollout)
    form = score.parts.get("format")
    return Answer(
        text=rollout.text,
        tokens=len(rollout.completion.tokens),
        finish=rollout.completion.finish,
        outcome=score.outcome,
        value=score.value,
        parts=dict(score.parts),
        mixing=mixing(rollout.text),
        well_formed=split(rollout.text).well_formed if form is None else form >= 1.0,
        note=score.note,
    )

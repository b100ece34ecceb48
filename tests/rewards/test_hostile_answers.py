import asyncio
import contextlib
import os
import random
import signal
from pathlib import Path

import pytest

from afterbase.rewards import pool as pool_module
from afterbase.rewards.base import Judge, Weighted
from afterbase.rewards.extract import tidy
from afterbase.rewards.format import FormatConfig
from afterbase.rewards.language import LanguageConfig
from afterbase.rewards.length import LengthConfig
from afterbase.rewards.match import MatchConfig
from afterbase.rewards.math import MathConfig, MathPart
from afterbase.rewards.math_compare import NeedsAlgebra
from afterbase.rewards.math_judge import decide
from afterbase.rewards.pool import Pool

HOSTILE = {
    "a tower of powers": "9^{9^{9^9}}",
    "a huge factorial": "99999999!",
    "a huge binomial": r"\binom{10^9}{5\cdot 10^8}",
    "deep nesting": "(" * 450 + "5" + ")" * 450,
    "a huge polynomial": "((x+1)^{1000}-(x+2)^{1000})^{50}",
    "a sum without end": r"\sum_{i=1}^{10^{10}} i^{i}",
}


@pytest.fixture(scope="module")
def hasty():
    part = MathPart(Pool(workers=1, seconds=0.4, memory_mb=1024))
    yield part
    asyncio.run(part.close())


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_answer_ends_as_timeout_and_the_next_one_is_judged(hasty, ask, answer):
    score = ask(hasty, f"\\boxed{{{answer}}}", answer="x+1")
    assert score.outcome == "timeout" and score.value == 0.0, score.note


def test_good_answers_are_judged_between_hostile_ones(ask):
    part = MathPart(Pool(workers=1, seconds=1, memory_mb=1024))
    outcomes = [ask(part, f"\\boxed{{{answer}}}", answer="x+1").outcome for answer in ("1+x", "9^{9^{9^9}}", "1+x", "x-1")]
    asyncio.run(part.close())
    assert outcomes == ["correct", "timeout", "correct", "wrong"]


GREEDY = """
class LatexExtractionConfig:
    def __init__(self, **settings): pass

def parse(*text, **settings):
    return [len(bytearray(2 * 2**30))]
"""


def test_memory_is_limited(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text(GREEDY)
    monkeypatch.syspath_prepend(tmp_path)
    worker = pool_module.Worker(memory_mb=1024)
    verdict = worker.check({"gold": "x", "answer": "y", "algebra_only": True}, seconds=30)
    assert verdict.outcome == "timeout" and "MemoryError" in verdict.note and not worker.alive


def test_closing_leaves_no_process_behind():
    async def scenario() -> list[int]:
        pool = Pool(workers=2, seconds=5, memory_mb=1024)
        await asyncio.gather(pool.check("x+1", "1+x"), pool.check("y+1", "1+y"))
        pids = [worker.process.pid for worker in pool._idle.queue]
        await pool.close()
        return pids

    pids = asyncio.run(scenario())
    assert pids and not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_killed_worker_is_replaced_and_the_answer_still_judged():
    async def scenario() -> list[str]:
        pool = Pool(workers=1, seconds=5, memory_mb=1024)
        outcomes = [(await pool.check("x+1", "1+x")).outcome]
        os.kill(pool._idle.queue[0].process.pid, signal.SIGKILL)
        await asyncio.sleep(0.1)
        outcomes.append((await pool.check("x+1", "x+2")).outcome)
        await pool.close()
        return outcomes

    assert asyncio.run(scenario()) == ["correct", "wrong"]


def test_a_worker_killed_in_the_middle_of_a_check_is_an_error_and_the_next_answer_is_judged(monkeypatch):
    started: list[pool_module.Worker] = []
    start = pool_module.Worker.__init__
    monkeypatch.setattr(pool_module.Worker, "__init__", lambda self, memory: (started.append(self), start(self, memory))[1])

    async def scenario() -> list[str]:
        pool = Pool(workers=1, seconds=30, memory_mb=1024)
        check = asyncio.create_task(pool.check("x+1", "9^{9^{9^9}}"))
        while not (started and started[0]._ready):
            await asyncio.sleep(0.05)
        started[0].process.kill()
        outcomes = [(await check).outcome, (await pool.check("x+1", "1+x")).outcome]
        await pool.close()
        return outcomes

    assert asyncio.run(scenario()) == ["error", "correct"]


def test_importing_computer_algebra_is_not_on_the_clock_of_the_answer():
    async def scenario() -> str:
        pool = Pool(workers=1, seconds=0.15, memory_mb=1024)  # sympy alone takes longer
        verdict = await pool.check("x+1", "1+x", algebra_only=True)
        await pool.close()
        return verdict.outcome

    assert asyncio.run(scenario()) == "correct"


BROKEN = {
    "dies at each question": "import sys; print('{\"ready\": true}', flush=True); sys.stdin.readline(); sys.stdin.readline(); sys.exit(3)",
    "cannot import": 'print(\'{"failed": "math_verify does not import"}\', flush=True)',
    "never answers": "import time; print('{\"ready\": true}', flush=True); time.sleep(60)",
}


@pytest.mark.parametrize("program", BROKEN.values(), ids=BROKEN)
def test_a_broken_verifier_is_an_error_retried_once_and_never_a_wrong_answer(monkeypatch, tmp_path, ask, program):
    script = tmp_path / "broken.py"
    script.write_text(program)
    monkeypatch.setattr(pool_module, "SCRIPT", script)
    started: list[str] = []
    start = pool_module.Worker.__init__
    monkeypatch.setattr(pool_module.Worker, "__init__", lambda self, memory: (started.append("one"), start(self, memory))[1])
    judge = Judge({"math": [Weighted(1.0, MathPart(Pool(workers=1, seconds=0.02, memory_mb=1024)))]})
    score = ask(judge, r"\boxed{\sum_{i=1}^{2} i}", answer="3")
    asyncio.run(judge.close())
    assert score.outcome == "error" and "accuracy" not in score.parts
    assert len(started) == 2


def test_a_worker_is_replaced_before_its_tables_fill_its_memory(monkeypatch):
    monkeypatch.setattr(pool_module, "RECYCLE_AFTER", 1)

    async def scenario() -> int:
        pool = Pool(workers=1, seconds=5, memory_mb=1024)
        await pool.check("x+1", "1+x")
        assert pool.started == 1  # nothing was asked of computer algebra
        await pool.check("x+1", "1+x", algebra_only=True)
        idle = pool.started
        await pool.close()
        return idle

    assert asyncio.run(scenario()) == 0


LONG = 20_000
JUNK = ["\\[" * LONG, "$" * (LONG + 1), "`" * (LONG + 1), "\\begin{a}" * LONG, "\\boxed{" * LONG, "\\text{" * LONG]
JUNK += ["<think>" * LONG, "</think>" + "<answer>" * LONG, "A" + " " * LONG + "!", "answer" + " " * LONG]
JUNK += [
    "<answer>" + "." * LONG + "a</answer>",
    "\\boxed{1}" * LONG,
    "\\boxed{1}" + "\\ " * 28 + "x\\boxed{2}",
    "\\boxed{" + "." * 70 + "a}",
]
JUNK += ["1," * LONG, "9" * LONG, "\u0000\ud800" * LONG]


@pytest.mark.parametrize("junk", JUNK, ids=[repr(junk[:8]) for junk in JUNK])
def test_no_part_hangs_or_raises_on_junk(ask, junk):
    kinds = [
        MathConfig(fallback="last_number"),
        MatchConfig(mode="choice"),
        MatchConfig(),
        FormatConfig(),
        LanguageConfig(),
        LengthConfig(),
    ]
    scores = [ask(kind.build(), f"<think>{junk}</think>{junk}", answer="B") for kind in kinds]
    assert "error" not in {score.outcome for score in scores}


SOUP = [
    r"\frac{",
    "}",
    "{",
    "(",
    ")",
    "[",
    r"\{",
    "^",
    "_",
    ",",
    " ",
    "9",
    "0",
    "1.5",
    r"\sqrt",
    r"\pm",
    r"\text{",
    "x",
    "or",
    "!",
    "%",
    "=",
    "<",
]
SOUP += [
    "|",
    ":",
    "\\\\",
    "&",
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    r"\cup",
    "万",
    "分之",
    "$",
    r"^\circ",
    "e",
    r"\infty",
    "log",
    "cm",
    "...",
    "(B)",
]


@pytest.mark.parametrize(
    "gold", ["5", "1, 2", "(1,2)", "[1,2)", r"x^2+C", "B", r"\text{even}", "3:30 PM", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"]
)
def test_no_soup_of_signs_breaks_a_comparison(gold):
    rng = random.Random(gold)
    for _ in range(150):
        answer = "".join(rng.choice(SOUP) for _ in range(rng.randrange(1, 30)))
        with contextlib.suppress(NeedsAlgebra):
            assert decide(tidy(gold), tidy(answer), "Which is it? (A) 1 (B) 2").outcome in ("correct", "wrong")

"""Law 9: a judge accepts the gold answer of every prompt that it will grade."""

import asyncio
import json
import lzma
from pathlib import Path

import pytest

from afterbase.records import Message, Prompt
from afterbase.rewards.base import Judge, RewardsConfig, build
from afterbase.rewards.extract import tidy
from afterbase.rewards.gold import check_golds
from afterbase.rewards.math import MathConfig
from afterbase.text.think import boxed

DATA = Path(__file__).parents[3] / "shared" / "data" / "math"


def rows(name: str) -> list[dict]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here: law 9 on real data needs the shared data next to the repository")
    return [json.loads(line) for line in lzma.open(path, "rt", encoding="utf-8")]


def prompts(pairs: list[tuple[str, str]]) -> list[Prompt]:
    return [Prompt(str(i), (Message("user", question),), "math", answer) for i, (question, answer) in enumerate(pairs)]


def refusals(judge: Judge, pairs: list[tuple[str, str]]) -> list[tuple[str | None, str]]:
    checks = asyncio.run(check_golds(judge, prompts(pairs)))
    return [(check.prompt.answer, check.note) for check in checks if check.outcome != "correct"]


def test_every_gold_answer_of_gsm8k_is_accepted_without_a_verifier():
    judge = build(RewardsConfig())
    golds = [(row["question"], row["answer"].split("####")[1].strip()) for row in rows("gsm8k_test.jsonl.xz")]
    assert len(golds) == 1319 and refusals(judge, golds) == []
    assert judge.verdict("math").part.pool._threads is None


def test_every_gold_answer_of_math500_is_accepted():
    judge = build(RewardsConfig())
    golds = [(row["problem"], row["answer"]) for row in rows("math500.jsonl.xz")]
    refused = refusals(judge, golds)
    asyncio.run(judge.close())
    assert refused == []


def test_the_solutions_of_math500_are_judged_like_their_gold_answers():
    part = MathConfig(workers=1).build()

    async def scenario() -> list[tuple[str, str]]:
        pairs = [(row["answer"], boxed(row["solution"]) or "", row["problem"]) for row in rows("math500.jsonl.xz")]
        wrong = [(gold, box) for gold, box, question in pairs if (await part.compare(gold, box, question)).outcome != "correct"]
        await part.close()
        return wrong

    wrong = asyncio.run(scenario())
    assert len(wrong) <= 0.02 * 500, wrong


def test_math_verify_itself_accepts_the_gold_answers_of_math500():
    """Without the short cut for equal text, which would hide a verifier that reads nothing."""
    part = MathConfig(workers=1).build()

    async def scenario() -> tuple[int, list[str]]:
        golds = [tidy(row["answer"]) for row in rows("math500.jsonl.xz")][::5]
        refused = [gold for gold in golds if (await part.pool.check(gold, gold, algebra_only=True)).outcome != "correct"]
        await part.close()
        return len(golds), refused

    number, refused = asyncio.run(scenario())
    assert len(refused) <= 0.02 * number, refused

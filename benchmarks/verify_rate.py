"""Verifications per second of one core: afterbase's mathematics reward beside plain Math-Verify, in the same run.

    python benchmarks/verify_rate.py --data ../shared/data/math --pairs 2000

The work: reference answers of MATH's and GSM8K's training sets, each with a right answer (the reference), the same written differently,
and a wrong one (the reference of another row), boxed in a response as a model writes it. afterbase judges whole rollouts with a pool of
one worker; Math-Verify parses response and reference and compares them, as its documentation shows, in this process. An untimed round
over other rows warms both up. Rates are per core: verifications by processor seconds, those of the worker included.
Answers that need computer algebra (sums, integrals, limits) are counted apart. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import lzma
import os
import platform
import random
import time
from collections import Counter
from datetime import date
from pathlib import Path

from cpu import hardware

from afterbase.records import Completion, Message, Prompt, Rollout
from afterbase.rewards.math import MathConfig, MathPart
from afterbase.text.think import boxed

Pair = tuple[str, str, str, str]  # question, reference, answer, what the answer is


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, help="directory with math_train.jsonl.xz and gsm8k_train.jsonl.xz")
    options.add_argument("--pairs", type=int, default=2000, help="verifications of each data set")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    result: dict = {"hardware": hardware(), "date": date.today().isoformat(), "python": platform.python_version(), "per_core": {}}
    for name, golds in {"math_train": math_golds(chosen.data), "gsm8k_train": gsm8k_golds(chosen.data)}.items():
        other, work = (triples(golds, chosen.pairs, random.Random(seed)) for seed in (chosen.seed + 1, chosen.seed))
        result["per_core"][name] = {"n": len(work), "afterbase": afterbase_rate(other, work), "math_verify": math_verify_rate(other, work)}
    other, work = (algebra(chosen.pairs // 4, random.Random(seed)) for seed in (chosen.seed + 1, chosen.seed))
    result["per_core"]["computer_algebra"] = {"n": len(work), "afterbase": afterbase_rate(other, work)}
    print(json.dumps(result, indent=2, ensure_ascii=False))


def rows_of(path: Path) -> list[dict]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def math_golds(data: Path) -> list[tuple[str, str]]:
    rows = rows_of(data / "math_train.jsonl.xz")
    return [(row["problem"], gold) for row in rows if (gold := boxed(row["solution"]))]


def gsm8k_golds(data: Path) -> list[tuple[str, str]]:
    rows = rows_of(data / "gsm8k_train.jsonl.xz")
    return [(row["question"], row["answer"].split("####")[1].strip()) for row in rows]


def triples(golds: list[tuple[str, str]], number: int, rng: random.Random) -> list[Pair]:
    """A third of each sort."""
    work = []
    for i, (question, gold) in enumerate(rng.sample(golds, number // 3)):
        other = golds[rng.randrange(len(golds))][1]
        work += [
            (question, gold, gold, "right"),
            (question, gold, rewritten(gold, i), "differently written"),
            (question, gold, other, "wrong"),
        ]
    rng.shuffle(work)
    return work


def algebra(number: int, rng: random.Random) -> list[Pair]:
    """Sums, integrals and limits, which only Math-Verify reads, half of them beside a wrong reference."""
    work = []
    for turn in range(number):
        n, wrong = rng.randrange(3, 60), turn % 2
        forms = (
            (rf"\sum_{{i=1}}^{{{n}}} i", n * (n + 1) // 2),
            (rf"\int_0^1 {2 * n}x\,dx", n),
            (rf"\lim_{{x \to {n}}} (x+1)", n + 1),
        )
        answer, gold = forms[turn % 3]
        work.append(("", str(gold + wrong), answer, "wrong" if wrong else "right"))
    return work


def rewritten(gold: str, turn: int) -> str:
    """The same answer as another model would write it."""
    plain = gold.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\left", "").replace("\\right", "")
    number = all(sign not in plain for sign in ",=_(&") and "\\text" not in plain and "mbox" not in plain
    forms = (
        f"${plain}$",
        plain.replace("\\frac", "\\dfrac"),
        f"\\displaystyle {plain}.",
        f"x = {plain}" if number else plain,
        f"0 + {plain}" if number else f"{plain} ",
    )
    return forms[turn % len(forms)]


def afterbase_rate(other: list[Pair], work: list[Pair]) -> dict:
    part = MathConfig(workers=1).build()
    outcomes: Counter[str] = Counter()

    async def judge_all(pairs: list[Pair]) -> None:
        for question, gold, answer, kind in pairs:
            outcomes[f"{kind}: {(await part(rollout(question, gold, answer))).outcome}"] += 1

    asyncio.run(judge_all(other))
    asyncio.run(part.pool.check("x+1", "1+x"))  # the worker is there and warm, even if no answer has needed it
    outcomes.clear()
    before, wall = time.process_time() + worker_seconds(part), time.perf_counter()
    asyncio.run(judge_all(work))
    seconds, wall = time.process_time() + worker_seconds(part) - before, time.perf_counter() - wall
    asyncio.run(part.close())
    return {"rate": round(len(work) / seconds), "wall_rate": round(len(work) / wall), "outcomes": dict(sorted(outcomes.items()))}


def worker_seconds(part: MathPart) -> float:
    """Processor time of the pool's processes so far."""
    total = 0.0
    for worker in list(part.pool._idle.queue):
        fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def math_verify_rate(other: list[Pair], work: list[Pair]) -> dict:
    from math_verify import parse, verify

    outcomes: Counter[str] = Counter()

    def judge_all(pairs: list[Pair]) -> None:
        for _, gold, answer, kind in pairs:
            found = verify(parse(f"${gold}$"), parse(response(answer)))
            outcomes[f"{kind}: {'correct' if found else 'wrong'}"] += 1

    judge_all(other)
    outcomes.clear()
    seconds = -time.process_time()
    judge_all(work)
    seconds += time.process_time()
    return {"rate": round(len(work) / seconds), "outcomes": dict(sorted(outcomes.items()))}


def response(answer: str) -> str:
    return f"<think>Let me see. First I try 12, then 7, which does not fit.</think>\nSo the answer is $\\boxed{{{answer}}}$."


def rollout(question: str, gold: str, answer: str) -> Rollout:
    return Rollout(Prompt("p", (Message("user", question),), "math", gold), (), Completion((), (), (), 0, "stop"), response(answer))


if __name__ == "__main__":
    main()

r"""How often the verifiers are wrong on the labelled corpus, afterbase beside plain Math-Verify.

    python benchmarks/verifiers.py [--mistakes] [--kinds math code] [--corpus tests/rewards/corpus/second --out ...]

Every row of tests/rewards/corpus is a full response with a label that was set by hand. afterbase judges it with the part of the row's
kind; the mathematics also goes to Math-Verify as its README shows, `verify(parse(gold), parse(response))`, with the reference in dollar
signs as there, in a process that is killed after --seconds. A false positive accepts what is not correct, a false negative refuses what
is; rows with a graded score (language, F1) carry bounds instead, and a score above or below them is the mistake. Rates have 95% Wilson
intervals. Writes benchmarks/results/verifiers.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from math import sqrt
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from afterbase.errors import ConfigError
from afterbase.records import Completion, Message, Prompt, Rollout, Score
from afterbase.rewards.base import Judge, RewardsConfig, build

HERE = Path(__file__).parent
CORPUS = HERE.parent / "tests" / "rewards" / "corpus"
SIDES = ("afterbase", "math-verify")
BY_VALUE = ("format", "language")  # parts that are no verdict: their value says what they found
Z = 1.959964  # two-sided 95%
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one verifier said of one row, e.g. Verdict("math-lists-06", "false positive", "accepted a subset")."""

    id: str
    """The row."""
    mistake: str
    """Which of "false positive", "false negative", "error" for a row that was rightly not accepted but for a broken verifier, or ""."""
    note: str
    """What the verifier said, for the list of mistakes."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mistakes", action="store_true", help="list every wrongly judged row")
    options.add_argument("--kinds", nargs="+", help="only these kinds of rows")
    options.add_argument(
        "--seconds", type=float, default=10.0, help="after which one Math-Verify comparison is killed and counts as refused"
    )
    options.add_argument("--corpus", type=Path, default=CORPUS, help="a directory of labelled rows")
    options.add_argument("--out", type=Path, default=HERE / "results" / "verifiers.json")
    chosen = options.parse_args()
    rows = [row for row in load_rows(chosen.corpus) if not chosen.kinds or row["kind"] in chosen.kinds]
    verdicts = {"afterbase": judge_rows(rows), "math-verify": plain_math_verify([r for r in rows if r["kind"] == "math"], chosen.seconds)}
    print_table(rows, verdicts)
    if chosen.mistakes:
        print_mistakes(rows, verdicts)
    write(chosen.out, rows, verdicts)


def load_rows(corpus: Path = CORPUS) -> list[Row]:
    """All rows of a corpus, file by file."""
    return [json.loads(line) for file in sorted(corpus.glob("*.jsonl")) for line in file.read_text(encoding="utf-8").splitlines()]


def judge_rows(rows: Iterable[Row], **settings: dict[str, Any]) -> dict[str, Verdict]:
    """afterbase's verdict on each row by id; rows that cannot be judged here are named and left out.

    `settings` changes the part of a kind, e.g. math={"seconds": 1.0}.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        part = {"weight": 1.0} | part_settings(row) | settings.get(row["kind"], {})
        config = {"domains": {"default": [part]}}
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(row)
    return asyncio.run(_judge_groups(groups))


def part_settings(row: Row) -> dict[str, Any]:
    """The table of a recipe that judges a row, e.g. {"kind": "match", "mode": "choice"}."""
    kind = {"kind": "match", "mode": "choice"} if row["kind"] == "choice" else {"kind": row["kind"]}
    return kind | row.get("settings", {})


async def _judge_groups(groups: dict[str, list[Row]]) -> dict[str, Verdict]:
    found: dict[str, Verdict] = {}
    for text, rows in groups.items():
        try:
            judge = build(RewardsConfig.model_validate_json(text))
        except (ValidationError, ConfigError) as error:
            print(f"not judged: {len(rows)} rows of {text}: {error}", file=sys.stderr)
            continue
        try:
            found |= {verdict.id: verdict for verdict in await _judge_all(judge, rows)}
        finally:
            await judge.close()
    return found


async def _judge_all(judge: Judge, rows: list[Row]) -> list[Verdict]:
    # A few at a time: what waits for a free worker must not grow old, and both cores are to be busy.
    gate = asyncio.Semaphore(4)

    async def one(row: Row) -> Verdict:
        async with gate:
            return verdict_of(row, await judge(rollout_of(row)))

    return await asyncio.gather(*(one(row) for row in rows))


def rollout_of(row: Row) -> Rollout:
    """The row as if an engine had just drawn its response."""
    prompt = Prompt(row["id"], (Message("user", row["question"]),), row["kind"], row["gold"] or None, row.get("extra", {}))
    return Rollout(prompt, (), Completion((), (), (), 0, "stop"), row["response"])


def verdict_of(row: Row, score: Score) -> Verdict:
    """The score held against the row's label, or against its bounds where the score is graded."""
    if "expected" in row:
        low, high = row["expected"]
        mistake = "false positive" if score.value > high + 1e-9 else "false negative" if score.value < low - 1e-9 else ""
    else:
        accepted = score.value >= 1 if row["kind"] in BY_VALUE else score.outcome == "correct"
        mistake = held_against(row, accepted)
    if not mistake and score.outcome == "error":
        mistake = "error"
    return Verdict(row["id"], mistake, f"{score.outcome} {score.value:g} {score.note}")


def held_against(row: Row, accepted: bool) -> str:
    """The name of the mistake in accepting or refusing a row; "" when there is none."""
    if accepted == (row["label"] == "correct"):
        return ""
    return "false positive" if accepted else "false negative"


WORKER = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from math_verify import parse, verify
for line in sys.stdin:
    gold, response = json.loads(line)
    try:
        said = bool(verify(parse(gold), parse(response)))
    except Exception:
        said = False
    print(json.dumps(said), flush=True)
"""


class MathVerify:
    """Math-Verify in a process of its own, started again when it hangs or dies."""

    def __init__(self, seconds: float):
        self.seconds, self.process = seconds, None

    def __call__(self, gold: str, response: str) -> bool | None:
        """Whether it accepts; None when it had to be killed or died."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._ask("1", "1", 60)  # importing takes longer than any comparison
        answer = self._ask(gold, response, self.seconds)
        if answer is None:
            self.close()
        return answer

    def _ask(self, gold: str, response: str, seconds: float) -> bool | None:
        try:
            self.process.stdin.write(json.dumps([gold, response]) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else ""
        return json.loads(line) if line else None

    def close(self) -> None:
        """Kill the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def plain_math_verify(rows: list[Row], seconds: float) -> dict[str, Verdict]:
    """What Math-Verify says of each row, by id, on the whole response and with nothing around it."""
    asked, found = MathVerify(seconds), {}
    try:
        for row in rows:
            gold = row["gold"] if "$" in row["gold"] else f"${row['gold']}$"
            accepted = asked(gold, row["response"])
            note = {True: "accepted", False: "refused", None: "killed"}[accepted]
            found[row["id"]] = Verdict(row["id"], held_against(row, bool(accepted)), note)
    finally:
        asked.close()
    return found


@dataclass(frozen=True, slots=True)
class Rate:
    """How many of how many, e.g. Rate(3, 60) prints as "5.0% (1.7-13.7)"."""

    wrong: int
    """Mistakes."""
    of: int
    """Rows on which this mistake was possible."""

    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval; (0, 1) without rows."""
        if not self.of:
            return 0.0, 1.0
        share, n = self.wrong / self.of, self.of
        middle, spread = share + Z * Z / (2 * n), Z * sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
        return max(0.0, (middle - spread) / (1 + Z * Z / n)), min(1.0, (middle + spread) / (1 + Z * Z / n))

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.wrong / self.of:.1%} ({100 * low:.1f}-{100 * high:.1f})" if self.of else "-"

    def record(self) -> dict[str, Any]:
        """The same as JSON."""
        low, high = self.interval()
        return {"wrong": self.wrong, "of": self.of, "rate": self.wrong / self.of if self.of else None, "interval": [low, high]}


def rates(rows: Iterable[Row], verdicts: dict[str, Verdict]) -> dict[str, Rate]:
    """Both rates over the rows that were judged: {"false positive": Rate, "false negative": Rate}."""
    judged = [row for row in rows if row["id"] in verdicts]
    possible = {"false positive": [row for row in judged if can_be(row, "false positive")]}
    possible["false negative"] = [row for row in judged if can_be(row, "false negative")]
    return {name: Rate(sum(verdicts[row["id"]].mistake == name for row in some), len(some)) for name, some in possible.items()}


def can_be(row: Row, mistake: str) -> bool:
    """Whether a verifier could make this mistake on a row: none is too high for a full score, none too low for 0."""
    if "expected" in row:
        low, high = row["expected"]
        return high < 1 if mistake == "false positive" else low > 0
    return (row["label"] == "correct") == (mistake == "false negative")


def sections(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The lines of the table: each kind, then its topics, and last its adversarial rows."""
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = [row for row in rows if row["kind"] == kind]
        yield f"**{kind}**", of_kind
        for topic in dict.fromkeys(row["topic"] for row in of_kind):
            yield f"{kind} / {topic}", [row for row in of_kind if row["topic"] == topic]
        yield f"{kind} / *adversarial*", [row for row in of_kind if row.get("adversarial")]


def print_table(rows: list[Row], verdicts: dict[str, dict[str, Verdict]]) -> None:
    """One Markdown table."""
    print("| rows | n | afterbase false positive | false negative | Math-Verify false positive | false negative |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, some in sections(rows):
        cells = [str(rate) for side in SIDES for rate in rates(some, verdicts[side]).values()]
        print(f"| {name} | {len(some)} | " + " | ".join(cells) + " |")


def print_mistakes(rows: list[Row], verdicts: dict[str, dict[str, Verdict]]) -> None:
    """Every mistake of each side on one line."""
    for side in SIDES:
        print(f"\n{side}:")
        for row in rows:
            said = verdicts[side].get(row["id"])
            if said and said.mistake:
                shown = f"gold {row['gold']!r}, response ..{row['response'][-80:]!r}"
                print(f"  {said.mistake:<14} {row['id']}: {shown} ({row['why']}); said {said.note[:120]!r}")


def write(path: Path, rows: list[Row], verdicts: dict[str, dict[str, Verdict]]) -> None:
    """The rates of the table and the ids of all mistakes as JSON."""
    table = {
        name.replace("*", ""): {"rows": len(some)}
        | {side: {mistake: rate.record() for mistake, rate in rates(some, verdicts[side]).items()} for side in SIDES}
        for name, some in sections(rows)
    }
    result = {
        "date": date.today().isoformat(), "python": platform.python_version(),
        "versions": {package: version(package) for package in ("afterbase", "math-verify", "sympy")},
        "rows": len(rows), "table": table,
        "not_judged": sorted({row["kind"] for row in rows if row["id"] not in verdicts["afterbase"]}),
        "mistakes": {side: {v.id: v.mistake for v in verdicts[side].values() if v.mistake} for side in SIDES},
    }  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

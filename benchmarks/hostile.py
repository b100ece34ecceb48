"""Ten thousand hostile and random completions through every verifier: none may hang, crash the run, leak memory, or reach the machine.

    python benchmarks/hostile.py                (--n 10000 --seed 0; --only 123 judges one of them with its traceback)

Each verdict has a limit of its own: processor seconds for what is judged in this process, wall time for what has workers. Programs run
under isolation with small limits, or not at all where the kernel has none. A verdict `error` counts as a violation too, since no completion
may be the cause of one, and so does `correct` for anything but a near miss. At the end no file may lie where the texts wanted to put one,
no process may be left, and this process's memory may not have grown. Prints a table; exit code 1 on any violation.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import faulthandler
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hostile_inputs import HEAVY, Case, make

from afterbase.errors import ConfigError
from afterbase.records import Completion, Message, Prompt, Rollout
from afterbase.rewards.base import Part
from afterbase.rewards.code import CodeConfig
from afterbase.rewards.format import FormatConfig
from afterbase.rewards.instructions import InstructionsConfig
from afterbase.rewards.language import LanguageConfig
from afterbase.rewards.length import LengthConfig
from afterbase.rewards.match import MatchConfig
from afterbase.rewards.math import MathPart
from afterbase.rewards.pool import Pool
from afterbase.rewards.repetition import RepetitionConfig
from afterbase.sandbox.open import SandboxConfig

GOLDS = ["7919", r"\frac{355}{113}", "(2, 7)", r"\{11, 13, 17\}", "x^2+7x", "[1, 2)", "3:30 PM", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
         "y = 3x - 19", r"\text{even and prime}", "12.5 cm", "苏格拉底", "1234567", r"2\sqrt{3}\pi", "Barack Obama"]  # fmt: skip
QUESTION = "Which one is it? (A) red (B) blue (C) green (D) none. Answer in English."
TASKS = [{"tests": [{"input": "3\n", "output": "9"}, {"input": "12\n", "output": "144"}]},
         {"tests": {"fn_name": "square", "inputs": [[3], [12]], "outputs": [9, 144]}},
         {"test_list": ["assert square(3) == 9", "assert square(12) == 144"]}]  # fmt: skip
ASKED = {
    "keywords:existence": {"keywords": ["zeugma"]},
    "keywords:frequency": {"keyword": "a", "frequency": 3, "relation": "at least"},
    "keywords:letter_frequency": {"letter": "q", "let_frequency": 3, "let_relation": "less than"},
    "language:response_language": {"language": "en"},
    "length_constraints:number_sentences": {"num_sentences": 3, "relation": "at least"},
    "length_constraints:number_paragraphs": {"num_paragraphs": 2},
    "length_constraints:number_words": {"num_words": 9, "relation": "less than"},
    "detectable_content:number_placeholders": {"num_placeholders": 2},
    "length_constraints:nth_paragraph_first_word": {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "x"},
    "detectable_format:title": {},
    "detectable_content:postscript": {"postscript_marker": "P.S."},
    "detectable_format:number_bullet_lists": {"num_bullets": 2},
    "detectable_format:number_highlighted_sections": {"num_highlights": 2},
    "detectable_format:json_format": {},
    "combination:two_responses": {},
    "detectable_format:multiple_sections": {"section_spliter": "Section", "num_sections": 2},
    "startend:quotation": {},
    "punctuation:no_comma": {},
    "combination:repeat_prompt": {"prompt_to_repeat": "say it"},
    "startend:end_checker": {"end_phrase": "the end"},
    "change_case:english_capital": {},
    "change_case:capital_word_frequency": {"capital_frequency": 3, "capital_relation": "at least"},
    "change_case:english_lowercase": {},
}
INSTRUCTIONS = {"instruction_id_list": list(ASKED), "kwargs": list(ASKED.values())}
CPU_LIMIT = 2.0  # processor seconds of a verdict in this process
CODE_EVERY = 25  # completions for one program that is run
GROWTH = 32.0  # MiB that this process may grow after its first fifth


@dataclass
class Verifier:
    """A part with its limit and what it has done."""

    part: Part
    limit: float
    """Seconds of one verdict."""
    clock: str = "processor"
    """Whether they are of the processor or of the wall."""
    every: int = 1
    """Judges one completion of so many,"""
    at: int = 0
    """beginning with this one."""
    outcomes: Counter[str] = field(default_factory=Counter)
    worst: tuple[float, int] = (0.0, -1)
    """Seconds and index of the slowest."""
    seconds: float = 0.0

    def now(self) -> float:
        return time.thread_time() if self.clock == "processor" else time.monotonic()


class Hang(BaseException):
    """A verdict that does not come; no `except Exception` stops it."""


def verifiers(seconds: float) -> dict[str, Verifier]:
    """All of them; without code where this kernel cannot isolate."""
    pool = Pool(workers=1, seconds=seconds, memory_mb=1024)
    patience = 10 * seconds + 15  # a worker that was killed is started again, on a machine that may be busy
    found = {
        "math": Verifier(MathPart(pool), patience, "wall", every=2),
        "math, last line": Verifier(MathPart(pool, "last_line"), patience, "wall", every=2, at=1),
        **{
            f"match, {mode}": Verifier(MatchConfig(mode=mode).build(), CPU_LIMIT)
            for mode in ("exact", "normalized", "choice", "f1", "list")
        },
        **{f"format, {mode}": Verifier(FormatConfig(mode=mode).build(), CPU_LIMIT) for mode in ("house", "r1-zero")},
        **{f"language, {target}": Verifier(LanguageConfig(target=target).build(), CPU_LIMIT) for target in ("auto", "zh")},
        "length": Verifier(LengthConfig(soft=10, hard=20).build(), CPU_LIMIT),
        "repetition": Verifier(RepetitionConfig().build(), CPU_LIMIT),
        **{f"instructions, {how}": Verifier(InstructionsConfig(reading=how).build(), 2 * CPU_LIMIT) for how in ("strict", "loose")},
    }
    limits = {"wall_seconds": 0.5, "cpu_seconds": 0.5, "memory_mb": 128, "processes": 16, "output_bytes": 65536, "disk_mb": 4}
    try:
        code = CodeConfig(sandbox=SandboxConfig(workers=1, **limits), total_seconds=2.0).build()
        found["code"] = Verifier(code, 15.0, "wall", CODE_EVERY)
    except ConfigError as error:
        print(f"no programs are run: {error}", file=sys.stderr)
    return found


def rollout(case: Case, name: str, gold: str) -> Rollout:
    """The completion as an answer to a prompt of this verifier's."""
    if name == "code":
        extra, text = TASKS[case.index // CODE_EVERY % len(TASKS)], f"```python\n{case.program}\n```"
        return answered(Prompt("p", (Message("user", "Square it."),), "code", None, extra), text)
    answer = {"match, choice": "B", "match, list": '["alpha", "beta"]'}.get(name, gold)
    return answered(Prompt("p", (Message("user", QUESTION),), "math", answer, INSTRUCTIONS), case.text)


def answered(prompt: Prompt, text: str) -> Rollout:
    return Rollout(prompt, (), Completion((7,) * 15, (), (), 0, "stop"), text)


@dataclass
class Report:
    """What was found."""

    verifiers: dict[str, Verifier]
    violations: list[str] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)
    """Completions judged and MiB of this process."""

    def blame(self, name: str, case: Case, what: str) -> None:
        self.violations.append(f"{name}, completion {case.index} ({case.kind}, {len(case.text)} characters, {case.text[:60]!r}...): {what}")


async def judge(name: str, verifier: Verifier, case: Case, gold: str, report: Report) -> None:
    """One verdict, timed and held to what every verdict must be."""
    wanted = rollout(case, name, gold)
    signal.setitimer(signal.ITIMER_REAL, 3 * verifier.limit + 20)
    signal.setitimer(signal.ITIMER_PROF, 3 * CPU_LIMIT)  # of this process; workers have clocks of their own
    began = verifier.now()
    try:
        score = await verifier.part(wanted)
        outcome = score.outcome
        if outcome == "error":
            report.blame(name, case, f"error: {score.note[:200]}")
        if outcome == "correct" and verifier.part.verdict and not may_be_right(name, case):
            report.blame(name, case, f"correct: {score.note[:200]}")
        if not -1.0 <= score.value <= 1.0:
            report.blame(name, case, f"the value {score.value}")
    except Hang as hang:
        outcome = "hang"
        places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(hang.__traceback__)]
        report.blame(name, case, f"no verdict; it was at {' > '.join(places[-8:-1])}")
    except Exception as error:
        outcome = "raised"
        report.blame(name, case, f"raised {type(error).__name__}: {str(error)[:200]}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    taken = verifier.now() - began
    verifier.outcomes[outcome] += 1
    verifier.seconds += taken
    verifier.worst = max(verifier.worst, (taken, case.index))
    if taken > verifier.limit and outcome != "hang":
        report.blame(name, case, f"{taken:.2f} s ({verifier.clock}), more than {verifier.limit:g}")


def may_be_right(name: str, case: Case) -> bool:
    """Whether `correct` is no scandal: a random text may name an option or follow an instruction, and one program is right."""
    return case.near or name == "match, choice" or name.startswith("instructions") or (name == "code" and "n * n" in case.program)


async def run(report: Report, chosen: argparse.Namespace, marker: str) -> None:
    """All completions through all verifiers."""
    began = told = time.monotonic()
    indices = [chosen.only] if chosen.only is not None else range(chosen.n)
    for done, index in enumerate(indices):
        gold = GOLDS[index % len(GOLDS)]
        case = make(chosen.seed, index, marker, gold, chosen.heavy)
        for name, verifier in report.verifiers.items():
            if index % verifier.every == verifier.at:
                await judge(name, verifier, case, gold, report)
        if done % max(1, len(indices) // 50) == 0:
            report.memory.append((done, resident()))
        if time.monotonic() - told > 5:
            told = time.monotonic()
            rate = (done + 1) / (told - began)
            left = (len(indices) - done - 1) / rate
            print(f"{done + 1} of {len(indices)}, {rate:.0f}/s, {left:.0f} s left, {resident():.0f} MiB", file=sys.stderr, flush=True)
    report.memory.append((len(indices), resident()))
    for verifier in report.verifiers.values():
        await verifier.part.close()


def resident() -> float:
    """MiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def slope(points: list[tuple[int, float]]) -> float:
    """MiB for each thousand completions, after the first fifth."""
    late = points[len(points) // 5 :]
    if len(late) < 3:
        return 0.0
    return 1000 * statistics.linear_regression(*zip(*late, strict=True)).slope


@contextmanager
def watched(report: Report) -> Iterator[str]:
    """A private place for temporary files and markers; afterwards nothing may lie in it, and no process may be left."""
    adopt = ctypes.CDLL(None).prctl
    adopt(36, 1)  # PR_SET_CHILD_SUBREAPER: whatever loses its parent becomes our child, and is seen
    before, home = children(), os.getcwd()
    with tempfile.TemporaryDirectory(prefix="hostile-") as place:
        for name in ("marker", "here", "tmp"):
            Path(place, name).mkdir()
        temporary, tempfile.tempdir = tempfile.tempdir, str(Path(place, "tmp"))
        os.chdir(Path(place, "here"))
        try:
            yield str(Path(place, "marker"))
        finally:
            os.chdir(home)
            tempfile.tempdir = temporary
        time.sleep(0.3)
        left = [str(path) for path in Path(place).rglob("*") if path.parent != Path(place)]
        report.violations += [f"left a file: {path}" for path in left[:20]]
        report.violations += [f"left a process: {command}" for command in (children() - before)]
    adopt(36, 0)


def children() -> set[str]:
    """Processes whose parent we are, by number and command; those that only wait to be reaped do not run any more."""
    found = set()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (directory / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if parent == str(os.getpid()) and state != "Z":
            found.add(f"{directory.name} {command[:100]}")
    return found


def table(report: Report) -> str:
    """Outcomes, times and memory."""
    outcomes = ("correct", "wrong", "no_answer", "timeout", "error", "raised", "hang")
    lines = [f"{'verifier':22}" + "".join(f"{outcome:>10}" for outcome in outcomes) + f"{'mean ms':>10}{'worst s':>10}{'(which)':>9}"]
    for name, verifier in report.verifiers.items():
        counts = "".join(f"{verifier.outcomes[outcome]:>10}" for outcome in outcomes)
        mean = 1000 * verifier.seconds / max(1, verifier.outcomes.total())
        lines.append(f"{name:22}{counts}{mean:>10.2f}{verifier.worst[0]:>10.2f}{verifier.worst[1]:>9}")
    used = ", ".join(f"{used:.0f}" for _, used in report.memory[:: max(1, len(report.memory) // 10)])
    lines.append(f"memory of this process in MiB: {used}; {slope(report.memory):+.2f} for each 1000 after the first fifth")
    return "\n".join(lines)


def settle(report: Report) -> None:
    """What can only be said at the end."""
    late = report.memory[len(report.memory) // 5 :]
    grown = late[-1][1] - late[0][1]
    if grown > GROWTH and slope(report.memory) > 0:
        report.violations.append(f"memory grew by {grown:.0f} MiB after the first fifth")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--n", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--seconds", type=float, default=0.3, help="processor time of one comparison by computer algebra")
    options.add_argument("--heavy", type=float, default=HEAVY, help="share of answers that cost a whole limit")
    options.add_argument("--only", type=int, help="judge this one only")
    options.add_argument("--out", type=Path, help="a file for the figures as JSON")
    return options.parse_args(given)


def measure(chosen: argparse.Namespace) -> Report:
    """Run it all and say what was found."""

    def hang(number: int, frame: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, hang)
    signal.signal(signal.SIGPROF, hang)
    report = Report({})
    with watched(report) as marker:
        report.verifiers = verifiers(chosen.seconds)
        asyncio.run(run(report, chosen, marker))
    settle(report)
    return report


def main() -> None:
    chosen = arguments()
    faulthandler.enable()
    report = measure(chosen)
    print(table(report))
    by_verifier = defaultdict(list)
    for violation in report.violations:
        by_verifier[violation.partition(",")[0]].append(violation)
    for found in by_verifier.values():
        print("\n".join(found[:15]) + (f"\n... and {len(found) - 15} more like these" if len(found) > 15 else ""))
    if chosen.out:
        figures = {name: dict(one.outcomes) | {"worst_seconds": round(one.worst[0], 3)} for name, one in report.verifiers.items()}
        result = {"n": chosen.n, "seed": chosen.seed, "verifiers": figures, "memory": report.memory, "violations": report.violations}
        chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    print("no violation" if not report.violations else f"{len(report.violations)} violations")
    sys.exit(bool(report.violations))


if __name__ == "__main__":
    main()

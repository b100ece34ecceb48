"""Five hundred of the benchmark's hostile completions through every verifier; see benchmarks/hostile.py for the ten thousand."""

import argparse
import importlib.util
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from afterbase.records import Score

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = ("math", "match", "format", "language", "length", "repetition", "instructions")


@pytest.fixture(scope="module")
def hostile() -> Iterator[object]:
    """The benchmark as a module; its alarms are put back, since they belong to the process."""
    sys.path.insert(0, str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("hostile", BENCHMARKS / "hostile.py")
    module = sys.modules["hostile"] = importlib.util.module_from_spec(spec)
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGPROF)}
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(BENCHMARKS))
    for number, handler in before.items():
        signal.signal(number, handler)


def chosen(hostile, *given: str) -> argparse.Namespace:
    return hostile.arguments(list(given))


def test_five_hundred_hostile_completions_harm_nobody(hostile, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hostile, "CODE_EVERY", 50)
    report = hostile.measure(chosen(hostile, "--n", "500", "--seed", "1000", "--heavy", "0.004"))
    assert not report.violations, "\n".join(report.violations)
    judged = {name: verifier.outcomes.total() for name, verifier in report.verifiers.items()}
    assert {name.partition(",")[0] for name in judged} >= set(PARTS) and judged["math"] == judged["math, last line"] == 250
    assert all(count == 500 for name, count in judged.items() if not name.startswith(("math", "code")))
    assert judged.get("code", 10) == 10


# ---- the run sees what it is there to see


class Bad:
    """A verifier with one fault."""

    name, verdict = "accuracy", True

    def __init__(self, fault):
        self.fault = fault

    async def __call__(self, rollout) -> Score:
        return self.fault() or Score(0.0, {}, "wrong")

    async def close(self) -> None: ...


def spin(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


kept: list[mmap.mmap] = []


def keep_memory() -> None:
    """Pages of its own: a bytearray may lie where something else was freed, and then nothing grows."""
    kept.append(mmap.mmap(-1, 8 << 20))
    kept[-1].write(bytes(8 << 20))


FAULTS = {
    "raised ValueError": lambda: int("no number"),
    "error: broken": lambda: Score(0.0, {}, "error", "broken"),
    "correct: it is": lambda: Score(1.0, {}, "correct", "it is"),
    "no verdict; it was at": lambda: spin(60),
    "more than 0.2": lambda: spin(0.25),
    "the value 7": lambda: Score(7.0, {}, "wrong"),
    "left a file": lambda: Path("a").touch(),
    "left a process": lambda: subprocess.Popen(["sleep", "30"], start_new_session=True) and None,
    "memory grew by": keep_memory,
}


@pytest.mark.parametrize("words", FAULTS)
def test_a_verifier_with_this_fault_is_found_out(hostile, monkeypatch: pytest.MonkeyPatch, words: str):
    before = hostile.children()
    monkeypatch.setattr(hostile, "CPU_LIMIT", 0.2)
    monkeypatch.setattr(hostile, "verifiers", lambda seconds: {"bad": hostile.Verifier(Bad(FAULTS[words]), 0.2)})
    monkeypatch.setattr(hostile, "make", lambda seed, index, *rest: hostile.Case(index, "plain", "text", "", False))
    report = hostile.measure(chosen(hostile, "--n", "20" if "memory" in words else "1"))
    kept.clear()
    for left in hostile.children() - before:
        os.kill(int(left.split()[0]), signal.SIGKILL)
    assert any(words in violation for violation in report.violations), report.violations


def test_a_completion_is_the_same_each_time_and_its_number_is_enough(hostile):
    first, again, other = (hostile.make(seed, 7, "/m", "4") for seed in (1, 1, 2))
    assert first == again != other


def test_nothing_is_found_in_a_verifier_without_fault(hostile, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hostile, "verifiers", lambda seconds: {"good": hostile.Verifier(Bad(lambda: None), 2.0)})
    report = hostile.measure(chosen(hostile, "--n", "20"))
    assert report.violations == [] and report.verifiers["good"].outcomes == {"wrong": 20}

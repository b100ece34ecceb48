"""The labelled corpus is well-formed, and the verifiers are right on it; every message names the rows on which they are not."""

import importlib.util
import json
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "benchmarks" / "results" / "verifiers.json"
LABELS = {"correct", "wrong", "no_answer"}
FIELDS = {"id", "kind", "topic", "question", "gold", "response", "label", "why"}
OPTIONAL = {"adversarial", "settings", "expected", "extra"}
KINDS = ["math", "choice", "match", "format", "language", "code"]
MOST = dict.fromkeys(KINDS, (0.0, 0.0)) | {"math": (0.0, 0.01)}
"""For each kind the largest shares of false positives and of false negatives that we let pass; a busy machine may leave an integral."""
QUICK = {  # shorter limits than a run has, so that endless programs and giant numbers do not hold up the tests
    "math": {"seconds": 1.0},
    "code": {"sandbox": {"wall_seconds": 2.0, "cpu_seconds": 2.0, "memory_mb": 256}, "total_seconds": 5.0},
}


def load():
    spec = importlib.util.spec_from_file_location("benchmark_verifiers", ROOT / "benchmarks" / "verifiers.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


bench = load()
ROWS = bench.load_rows()


@cache
def judged(kind):
    return bench.judge_rows([row for row in ROWS if row["kind"] == kind], **QUICK)


def verdicts(kind):
    if kind == "code" and not judged(kind):
        pytest.skip("no sandbox works on this machine, so no program of the corpus is judged; the message above says why")
    return judged(kind)


def mistakes(kind, *names):
    return sorted(verdict.id for verdict in verdicts(kind).values() if verdict.mistake in names)


def test_every_row_is_complete_and_has_an_id_of_its_own():
    twice = [name for name, count in Counter(row["id"] for row in ROWS).items() if count > 1]
    broken = [row["id"] for row in ROWS if not FIELDS <= set(row) <= FIELDS | OPTIONAL or row["label"] not in LABELS or not row["why"]]
    assert not twice and not broken, (twice, broken)
    assert {row["kind"] for row in ROWS} == set(KINDS)


def test_no_question_holds_the_same_response_twice():
    asked = ("kind", "question", "gold", "response", "settings")
    seen = Counter(json.dumps([row.get(name) for name in asked]) for row in ROWS)
    assert not [row for row, count in seen.items() if count > 1]


def test_a_row_meant_to_cheat_is_never_labelled_correct():
    assert not [row["id"] for row in ROWS if row.get("adversarial") and row["label"] == "correct"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_right_wrong_and_adversarial_rows(kind):
    rows = [row for row in ROWS if row["kind"] == kind]
    right = sum(row["label"] == "correct" for row in rows)
    assert 0.2 < right / len(rows) < 0.6 and sum("adversarial" in row for row in rows) >= 10


def test_the_corpus_is_large_and_above_all_mathematics():
    assert len(ROWS) >= 600 and sum(row["kind"] == "math" for row in ROWS) >= 420


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_is_meant_to_cheat_is_accepted(kind):
    cheats = {row["id"] for row in ROWS if row.get("adversarial")}
    accepted = [name for name in mistakes(kind, "false positive") if name in cheats]
    assert len(verdicts(kind)) == sum(row["kind"] == kind for row in ROWS)
    assert not accepted, f"accepted: {accepted}"


@pytest.mark.parametrize("kind", KINDS)
def test_no_verifier_fails_on_a_row(kind):
    assert not mistakes(kind, "error")


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_verdicts_stay_rare(kind):
    rates = bench.rates([row for row in ROWS if row["kind"] == kind], verdicts(kind))
    for (name, rate), most in zip(rates.items(), MOST[kind], strict=True):
        assert rate.wrong <= most * rate.of, f"{name} {rate}, at most {most:.1%} allowed: {mistakes(kind, name)}"


def test_mathematics_is_judged_better_than_by_plain_math_verify():
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["table"]["math"]["math-verify"]
    rates = bench.rates([row for row in ROWS if row["kind"] == "math"], verdicts("math"))
    for name, rate in rates.items():
        assert rate.wrong / rate.of < recorded[name]["rate"], f"{name} {rate}, Math-Verify {recorded[name]}: {mistakes('math', name)}"


def test_a_graded_row_is_wrong_on_either_side_of_its_bounds():
    row = {"id": "x", "kind": "language", "label": "wrong", "expected": [0.25, 0.75]}
    found = [bench.verdict_of(row, bench.Score(value, {}, "correct")).mistake for value in (0.2, 0.25, 0.75, 0.8)]
    assert found == ["false negative", "", "", "false positive"]
    assert bench.can_be(row, "false positive") and bench.can_be(row, "false negative")


def test_an_interval_never_claims_certainty_from_few_rows():
    low, high = bench.Rate(0, 10).interval()  # Wilson: z^2 / (n + z^2)
    assert low == 0.0 and high == pytest.approx(0.2775, abs=1e-4)
    assert bench.Rate(5, 10).interval() == pytest.approx((0.2366, 0.7634), abs=1e-4)

"""Tests that follow the program in its own file, in the seven languages of HumanEval-Mul besides Python."""

import asyncio
import json
import lzma
from pathlib import Path

import pytest

from afterbase.errors import ConfigError, DataError
from afterbase.records import Completion, Message, Prompt, Rollout, Score
from afterbase.rewards.code import CodeConfig
from afterbase.rewards.code_follow import join, passed
from afterbase.rewards.code_tests import Following
from afterbase.sandbox.languages import LANGUAGES, Tools
from afterbase.sandbox.open import SandboxConfig

DATA = Path(__file__).parents[3] / "shared/data/code"
OTHERS = [name for name in LANGUAGES if name != "python"]

# The head that the model completes, and the tests that follow what it wrote.
TASKS = {
    "cpp": ("#include <vector>\nlong total(std::vector<long> items) {\n",
            "}\nint main() {\n    assert(total({1, 2, 3}) == 6);\n    assert(total({}) == 0);\n}\n"),
    "java": ("import java.util.*;\nimport org.javatuples.*;\nclass Problem {\n"
             "    public static Pair<Long, Long> total(List<Long> items) {\n",
             "    }\n    public static void main(String[] args) {\n    assert(total(List.of(1L, 2L, 3L)).equals(Pair.with(6L, 3L)));\n"
             "    }\n\n}\n"),
    "csharp": ("using System;\nusing System.Linq;\nusing System.Diagnostics;\nusing System.Collections.Generic;\n"
               "class Problem {\n    public static long Total(List<long> items) {\n",
               "    }\n    public static void Main(string[] args) {\n    Debug.Assert(Total(new List<long>{1, 2, 3}) == 6);\n    }\n\n}\n"),
    "javascript": ("function total(items){\n", "const assert = require('node:assert');\nassert.deepEqual(total([1, 2, 3]), 6);\n"),
    "typescript": ("function total(items: number[]): number {\n",
                   "declare var require: any;\nconst assert = require('node:assert');\nassert.deepEqual(total([1, 2, 3]), 6);\n"),
    "php": ("<?php\nfunction total($items) {\n", 'if (total(array(1, 2, 3)) !== 6) { throw new Exception("Test failed!"); }\n'),
    "bash": ("#!/bin/bash\ntotal() {\n", '}\nset -e\nrun_test() {\n    [[ $(total "1 2 3") = "6" ]]\n    [[ $(total "") = "0" ]]\n}\n'
                                         'run_test\n'),
}  # fmt: skip
RIGHT = {
    "cpp": "#include <iostream>\nlong total(std::vector<long> items) { long s = 0; for (long x : items) s += x; return s; }\n"
           "int main() { std::cout << total({1}); return 0; }",
    "java": "public class Solution {\n  static Pair<Long, Long> total(List<Long> items) {\n    long s = 0;\n"
            "    for (long x : items) s += x;\n"
            "    return Pair.with(s, (long) items.size());\n  }\n"
            "  public static void main(String[] args) { System.out.println(total(List.of())); }\n}",
    "csharp": "using System.Linq;\n\nclass Problem {\n    public static long Total(List<long> items) {\n        return items.Sum();\n"
              "    }\n}",
    "javascript": "const total = (items) => items.reduce((a, b) => a + b, 0);\nconsole.log(total([1]));",
    "typescript": "function total(items: number[]): number { return items.reduce((a, b) => a + b, 0); }",
    "php": "<?php\nfunction total($items) { return array_sum($items); }\n?>",
    "bash": "total() {\n  local s=0\n  for x in $1; do s=$((s + x)); done\n  echo $s\n}",
}  # fmt: skip
# What to write for a sum to be wrong, and how to end the process as if all were well.
SLIP = {"cpp": ("s += x", "s -= x"), "java": ("s += x", "s -= x"), "csharp": ("items.Sum()", "-items.Sum()"),
        "php": ("array_sum($items)", "7"),
        "javascript": ("a + b", "a - b"), "typescript": ("a + b", "a - b"), "bash": ("s + x", "s - x")}  # fmt: skip
QUIT = {"cpp": ("s += x", "_Exit(0)"), "java": ("s += x", "Runtime.getRuntime().halt(0)"),
        "csharp": ("return", "System.Environment.Exit(0); return"),
        "javascript": ("a + b", "process.exit(0)"), "typescript": ("a + b", "process.exit(0)"), "php": ("return", "exit(0); return"),
        "bash": ("total() {", "trap 'exit 0' EXIT\ntotal() {\necho 7\nreturn\n")}  # fmt: skip
BODY = {"cpp": "    long s = 0;\n    for (long x : items) s += x;\n    return s;\n",
        "bash": "  s=0\n  for x in $1; do s=$((s + x)); done\n  echo $s\n",
        "javascript": "    return items.reduce((a, b) => a + b, 0);\n}\n"}  # fmt: skip


@pytest.fixture(scope="module")
def part():
    tools = Tools()
    here = tuple(name for name in LANGUAGES if not tools.missing(LANGUAGES[name]))
    limits = {"workers": 1, "wall_seconds": 20.0, "cpu_seconds": 20.0, "memory_mb": 512}
    try:
        made = CodeConfig(languages=here, sandbox=SandboxConfig(**limits)).build()
    except ConfigError:
        made = CodeConfig(languages=here, sandbox=SandboxConfig(isolation="none", **limits)).build()
    yield made
    asyncio.run(made.close())


def judge(part, name: str, program: str, extra: dict | None = None) -> Score:
    if complaint := Tools().missing(LANGUAGES[name]):
        pytest.skip(complaint)
    head, tests = TASKS[name]
    prompt = Prompt("p-1", (Message("user", "Add them."),), "code", None, extra or {"language": name, "prompt": head, "tests": tests})
    return asyncio.run(part(Rollout(prompt, (), Completion((), (), (), 0, "stop"), f"```{name}\n{program}\n```")))


@pytest.mark.parametrize("name", OTHERS)
def test_a_right_program_passes(name: str, part):
    score = judge(part, name, RIGHT[name])
    assert (score.value, score.outcome) == (1.0, "correct"), score


@pytest.mark.parametrize("name", OTHERS)
def test_a_wrong_program_does_not(name: str, part):
    right, wrong = SLIP[name]
    score = judge(part, name, RIGHT[name].replace(right, wrong))
    assert (score.value, score.outcome) == (0.0, "wrong") and "failed" in score.note, score


@pytest.mark.parametrize("name", OTHERS)
def test_exit_code_zero_earns_nothing(name: str, part):
    right, quitting = QUIT[name]
    score = judge(part, name, RIGHT[name].replace(right, quitting))
    assert (score.value, score.outcome) == (0.0, "wrong"), score


@pytest.mark.parametrize("name", BODY)
def test_a_body_that_completes_the_head_passes_too(name: str, part):
    assert judge(part, name, BODY[name]).outcome == "correct"


def test_own_definitions_of_assert_do_not_reach_the_tests(part):
    wrong = RIGHT["cpp"].replace("s += x", "s -= x")
    assert judge(part, "cpp", "#define NDEBUG\n#include <cassert>\n#undef assert\n#define assert(x)\n" + wrong).outcome == "wrong"
    wrong = RIGHT["javascript"].replace("a + b", "a - b")
    assert judge(part, "javascript", "require('node:assert').deepEqual = () => {};\n" + wrong).outcome == "wrong"
    assert (
        judge(part, "csharp", "class Debug { public static void Assert(bool x) {} }\n" + RIGHT["csharp"].replace(*SLIP["csharp"])).value
        == 0.0
    )


def test_the_compiler_is_quoted_and_its_words_are_kept(part):
    score = judge(part, "cpp", "long total(std::vector<long> items) { return undefined_name; }")
    assert score.outcome == "wrong" and "does not compile" in score.note and "undefined_name" in score.note


def test_compiled_programs_are_tested_on_input_and_output(part):
    program = "#include <iostream>\nint main() { int n; std::cin >> n; std::cout << n * n << '\\n'; }"
    tests = {"language": "c++", "tests": [{"input": "3", "output": "9"}, {"input": "12", "output": "144"}]}
    assert judge(part, "cpp", program, tests).outcome == "correct"
    assert judge(part, "cpp", program.replace("n * n", "9"), tests).note == "test 2 of 2 wrong: input '12': line 1: expected '144', got '9'"


@pytest.mark.parametrize("name", OTHERS)
def test_the_secret_word_comes_last_and_counts_only_on_a_line_of_its_own(name: str):
    head, tests = TASKS[name]
    joined = join(name, RIGHT[name], Following(tests, head), "secret-word")
    assert joined.count("secret-word") == 1 and joined.index("secret-word") > joined.index("total" if name != "csharp" else "Total")
    assert passed("secret-word", "1\n\nsecret-word\n") and not passed("secret-word", "not secret-word") and not passed("secret-word", "")


def test_tests_without_an_end_to_put_the_word_at_are_refused():
    with pytest.raises(DataError, match="must end with the braces"):
        join("java", "class A {}", Following("assert(true);"), "word")
    with pytest.raises(DataError, match="not known for python"):
        join("python", "", Following("assert True"), "word")


# MultiPL-E's own tasks: evaluation only.
BELOW = {
    "cpp": "bool below_threshold(std::vector<long> l, long t) {\n    for (auto x : l) if (x >= t) return false;\n    return true;\n}",
    "java": "class Problem {\n    public static boolean belowThreshold(ArrayList<Long> l, long t) {\n"
            "        return l.stream().allMatch(x -> x < t);\n    }\n}",
    "cs": "public static bool BelowThreshold(List<long> l, long t) { return l.All(x => x < t); }",
    "js": "function below_threshold(l, t) { return l.every(x => x < t); }",
    "ts": "function below_threshold(l: number[], t: number): boolean { return l.every((x: number) => x < t); }",
    "php": "function below_threshold($l, $t) { foreach ($l as $x) if ($x >= $t) return false; return true; }",
    "sh": "below_threshold() {\n  for x in $1; do [ $x -ge $2 ] && { echo false; return; }\n  done\n  echo true\n}",
}  # fmt: skip


@pytest.mark.parametrize("short", BELOW)
def test_a_task_of_multipl_e_accepts_what_solves_it(short: str, part):
    file = DATA / f"humaneval-{short}.jsonl.xz"
    if not file.exists():
        pytest.skip(f"no {file.name} in ../shared/data/code")
    with lzma.open(file, "rt") as lines:
        row = next(row for row in map(json.loads, lines) if row["name"].startswith("HumanEval_52_"))
    name = next(name for name, language in LANGUAGES.items() if short in (name, *language.tags))
    assert judge(part, name, BELOW[short], row).outcome == "correct"

import asyncio
import json

import pytest

from afterbase.config import build as build_config
from afterbase.errors import ConfigError, DataError, StorageError
from afterbase.records import Completion, Message, Prompt, Rollout, Score
from afterbase.rewards.code import CodeConfig, CodePart
from afterbase.rewards.code_compare import output_fault, same_value
from afterbase.rewards.code_extract import find_program
from afterbase.rewards.code_plain import decode, encode
from afterbase.rewards.code_tests import Asserting, Call, Calling, Case, Following, Printing, chosen, read_tests
from afterbase.rewards.code_trial import Feedback, FeedbackLog
from afterbase.sandbox.base import Execution
from afterbase.sandbox.languages import LANGUAGES
from afterbase.sandbox.open import SandboxConfig

PYTHON = LANGUAGES["python"]
DOUBLE = "n = int(input())\nprint(2 * n)"
PAIRS = [{"input": "1", "output": "2"}, {"input": "4", "output": "8"}, {"input": "5", "output": "9"}]  # the last one is wrong
PLAIN = SandboxConfig(isolation="none", workers=1, wall_seconds=5, cpu_seconds=5, memory_mb=512)


@pytest.fixture(scope="module")
def part():
    made = CodeConfig(sandbox=PLAIN).build()
    yield made
    asyncio.run(made.close())


def rollout(program: str, answer: str | None = None, **extra) -> Rollout:
    return Rollout(Prompt("p-1", (Message("user", "Do it."),), "code", answer, extra), (), Completion((), (), (), 0, "stop"), program)


def fenced(program: str, tag: str = "python") -> str:
    return f"<think>hm</think>Here:\n```{tag}\n{program}\n```\nDone."


def judge(part, program: str, **extra) -> Score:
    return asyncio.run(part(rollout(fenced(program), **extra)))


# ---- the reward


def test_all_or_nothing_and_the_fraction(part):
    assert judge(part, DOUBLE, tests=PAIRS[:2]).value == 1.0
    score = judge(part, DOUBLE, tests=PAIRS)
    assert (score.value, score.outcome) == (0.0, "wrong")
    assert score.note == "test 3 of 3 wrong: input '5': line 1: expected '9', got '10'"
    share = CodePart(CodeConfig(reward="fraction", sandbox=PLAIN), part.bench.__class__(*fields(part, stop_early=False)))
    score = judge(share, DOUBLE, tests=[PAIRS[2], *PAIRS[:2]])
    assert (score.value, score.outcome) == (pytest.approx(2 / 3), "wrong")


def fields(part, **changes) -> list:
    from dataclasses import fields as names

    return [changes.get(name.name, getattr(part.bench, name.name)) for name in names(part.bench)]


def test_all_or_nothing_stops_at_the_first_failure_and_never_runs_more_than_asked(part):
    class Counting:
        runs = 0

        async def run(self, job, limits):
            self.runs += 1
            return Execution("ok", 0, b"2")

    def runs(most: int | None, outputs: str) -> int:
        counting = Counting()
        one = CodePart(CodeConfig(max_tests=most), part.bench.__class__(*fields(part, sandbox=counting)))
        judge(one, DOUBLE, tests=[{"input": "", "output": output} for output in outputs])
        return counting.runs

    assert runs(None, "2222") == 4 and runs(None, "2922") == 2 and runs(3, "2222") == 3


def test_a_limit_on_tests_takes_them_evenly():
    cases = tuple(Case(str(n), "") for n in range(10))
    assert [case.stdin for case in chosen(Printing(cases), 3).cases] == ["0", "3", "6"]
    assert chosen(Printing(cases), None).cases == chosen(Printing(cases), 10).cases == cases


@pytest.mark.parametrize(("status", "outcome"), [("error", "error"), ("timeout", "timeout"), ("memory", "wrong"), ("output", "wrong")])
def test_what_the_sandbox_says_becomes_the_outcome(status: str, outcome: str, part):
    class Saying:
        async def run(self, job, limits):
            return Execution(status, None, note="because")

    score = judge(CodePart(CodeConfig(), part.bench.__class__(*fields(part, sandbox=Saying()))), DOUBLE, tests=PAIRS)
    assert score.outcome == outcome and "because" in score.note and score.value == 0.0


def test_a_program_that_crashes_says_with_what(part):
    assert judge(part, "print(1 // 0)", tests=PAIRS).note.endswith("ZeroDivisionError: integer division or modulo by zero")
    assert "SyntaxError" in judge(part, "def f(:", test_list=["assert f(1)"]).note
    assert judge(part, "def f(x): return x", test_list=["assert f(1) == 1", "assert g(1) == 1"]).note == (
        "test 2 of 2 wrong: NameError: name 'g' is not defined"
    )
    note = judge(part, "def f(x): return [x]", test_list=["assert f(1) == [2]"]).note
    assert note == "test 1 of 1 wrong: assert f(1) == [2] does not hold, the last answer was [1]"
    note = judge(part, "def f(x): return [x]", tests={"fn_name": "f", "inputs": [[1]], "outputs": [[2]]}).note
    assert note == "test 1 of 1 wrong: called with 1: expected [2], got [1]"


def test_a_row_whose_tests_cannot_run_is_an_error_and_no_wrong_answer(part):
    for extra in ({}, {"tests": []}, {"tests": [{"input": "1"}]}, {"test_list": ["assert f(1) =="]}, {"tests": PAIRS, "language": "cpp"}):
        assert judge(part, "def f(x): return x", **extra).outcome == "error", extra
    assert "hand the program a function" in judge(part, "def f(g): return g(1)", test_list=["assert f(lambda x: x) == 1"]).note


def test_a_program_that_dies_in_one_test_may_pass_the_others(part):
    share = CodePart(CodeConfig(reward="fraction"), part.bench.__class__(*fields(part, stop_early=False)))
    program = "import os\ndef f(x):\n    if x == 1: os._exit(0)\n    return x"
    tests = [f"assert f({n}) == {n}" for n in range(4)]
    assert judge(share, program, test_list=tests).value == 0.75
    assert judge(share, program, tests={"fn_name": "f", "inputs": [[0], [1], [2], [3]], "outputs": [0, 1, 2, 3]}).value == 0.75


# ---- tests on stand-ins


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("class Node:\n    def __init__(self, v): self.v, self.next = v, None\ndef last(n):\n    while n.next: n = n.next\n    return n.v",
         "a, b = Node(1), Node(2)\na.next = b\nassert last(a) == 2 and a.next.v == 2 and a.next == b and a != b"),
        ("def twice(x):\n    x.extend(x)", "x = [1]\ntwice(x)\nassert x == [1, 1]"),
        ("def pair(): return (1, [2.5, None], {'a': {1, 2}})",
         "assert pair() == (1, [2.5, None], {'a': {2, 1}}) and isinstance(pair(), tuple)"),
        ("def gen(n): yield from range(n)", "assert list(gen(3)) == [0, 1, 2] and sum(gen(4)) == 6"),
        ("def add(n): return lambda x: x + n", "assert add(3)(4) == 7"),
        ("def f(x):\n    if x < 0: raise ValueError('negative')\n    return x",
         "try:\n    f(-1)\nexcept ValueError as error:\n    assert str(error) == 'negative'\nelse:\n    assert False"),
        ("def only(items, kind): return [x for x in items if type(x) is kind], kind", "assert only([1, 'a'], str) == (['a'], str)"),
        ("def big(n): return 7 ** n", "assert big(9000) == 7 ** 9000"),
        ("import collections\ndef count(t): return collections.Counter(t)", "assert count('aab') == {'a': 2, 'b': 1}"),
        ("def sum(a, b): return a * b", "assert sum(3, 4) == 12"),
        ("def f(x): return float('nan'), -0.0, 1j, b'a', 1e308 * 10",
         "n, z, j, b, i = f(0)\nassert n != n and str(z) == '-0.0' and j == 1j and b == b'a' and i > 1e308"),
        ("LIMIT = 7\nclass Stack(list):\n    def top(self): return self[-1]", "assert LIMIT == 7 and math.gcd(4, 6) == 2"),
    ],
)  # fmt: skip
def test_assert_tests_work_on_stand_ins_as_on_the_program_itself(program: str, test: str, part):
    score = judge(part, program, test_list=[test])
    assert score.outcome == "correct", score


def test_plain_data_comes_back_as_it_was():
    values = [
        None, True, 7, -(1 << 80), 2.5, float("inf"), "text\n\ud800", b"\0", (1, (2,)), {1, "a"}, frozenset({2}), {(1, 2): [3]},
        range(3), 1j,
    ]  # fmt: skip
    for value in values:
        again = decode(json.loads(json.dumps(encode(value, id))), print)
        assert again == value and type(again) is type(value)
    assert encode(object(), lambda value: 5) == {"handle": 5, "type": "object"}


def test_leetcode_programs_have_what_leetcode_imports(part):
    program = """class Solution:
    def twoSum(self, nums: List[int], target: int) -> List[int]:
        seen = defaultdict(int)
        for i, n in enumerate(nums):
            if target - n in seen: return [seen[target - n], i]
            seen[n] = i
        return sorted(heapq.nlargest(2, nums)) or math.inf"""
    tests = {"fn_name": "twoSum", "inputs": [[[2, 7, 11], 9], [[3, 3], 6]], "outputs": [[0, 1], [0, 1]]}
    assert judge(part, program, tests=json.dumps(tests)).outcome == "correct"
    assert (
        judge(part, program, tests=[{"input": {"nums": [3, 2, 4], "target": 6}, "output": [1, 2]}], fn_name="Solution.twoSum").value == 1.0
    )


def test_humaneval_accepts_the_function_and_the_body_alone(part):
    head = 'from typing import List\n\ndef helper(x): return x + 1\n\ndef f(x: List[int]) -> int:\n    """Add them."""\n'
    extra = {"prompt": head, "entry_point": "f", "test": "def check(candidate):\n    assert candidate([1, helper(1)]) == 3\n"}
    assert judge(part, "    return sum(x)\n", **extra).outcome == "correct"
    assert judge(part, "def f(x: List[int]): return helper(sum(x)) - 1", **extra).outcome == "correct"
    assert judge(part, "    return len(x)\n", **extra).outcome == "wrong"
    del extra["entry_point"]
    assert judge(part, "    return sum(x)\n", **extra | {"test": extra["test"] + "check(f)"}).outcome == "correct"


# ---- the columns


@pytest.mark.parametrize(
    ("extra", "tests"),
    [
        ({"tests": [{"input": "1\n", "output": "2\n"}]}, Printing((Case("1\n", "2\n"),))),
        ({"test_cases": '[{"input": "1", "output": "2"}]'}, Printing((Case("1", "2"),))),
        ({"input_output": '{"inputs": ["1", ["2", "3"]], "outputs": ["4", 5]}'}, Printing((Case("1", "4"), Case("2\n3", "5")))),
        ({"input_output": {"fn_name": "f", "inputs": [[1, 2]], "outputs": [[3]]}}, Calling("f", (Call([1, 2], {}, ([3], 3)),))),
        ({"tests": {"inputs": [[1], [2]], "outputs": [[3], [4, 5]]}, "fn_name": "f"},
         Calling("f", (Call([1], {}, ([3],)), Call([2], {}, ([4, 5],))))),
        ({"tests": [{"input": '[1, 2]\n"a"', "output": "[3]"}], "metadata": '{"func_name": "f"}'},
         Calling("f", (Call([[1, 2], "a"], {}, ([3],)),))),
        ({"test_list": ["assert f(1)"], "test_setup_code": "x = 1"}, Asserting("x = 1", ("assert f(1)",))),
        ({"tests": ["assert f(1)", "assert f(2)"]}, Asserting("", ("assert f(1)", "assert f(2)"))),
        ({"tests": "assert f(1)"}, Asserting("", ("assert f(1)",))),
    ],
)  # fmt: skip
def test_the_shapes_that_tests_come_in(extra: dict, tests):
    assert read_tests(rollout("", **extra).prompt) == tests


def test_a_question_in_words_is_no_part_of_the_program(part):
    extra = {"prompt": "Write f. For example: def f(x).", "tests": "assert f(1) == 1"}
    assert judge(part, "def f(x): return x", **extra).outcome == "correct"


def test_tests_of_other_languages_follow_the_program():
    extra = {"tests": "int main() {}", "prompt": "int f() {"}
    assert read_tests(rollout("", **extra).prompt, "cpp") == Following("int main() {}", "int f() {")
    with pytest.raises(DataError, match="call Python functions, but its language is cpp"):
        read_tests(rollout("", test_list=["assert f()"]).prompt, "cpp")
    with pytest.raises(DataError, match="p-1 has no tests; a row needs one of the columns tests, test_cases"):
        read_tests(rollout("").prompt)
    with pytest.raises(DataError, match="a form that is not known"):
        read_tests(rollout("", tests={"inputs": ["1"], "outputs": []}).prompt)


# ---- the program in the answer


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\na = 1\n```\nBetter:\n```py\na = 2\n```", "a = 2\n"),
        ("```python\na = 1\n```\nIt prints\n```\n1\n```", "a = 1\n"),
        ("```python\na = 1\n```\n```cpp\nint a;\n```\n```text\n1\n```", "a = 1\n"),
        ("```\na = 1\n```\n```\na = 2\n```", "a = 2\n"),
        ("<think>```python\na = 1\n```</think>```python\na = 2\n```", "a = 2\n"),
        ("~~~~ python\na = '''\n~~~\n```\n'''\n~~~~", "a = '''\n~~~\n```\n'''\n"),
        ("1. So:\n   ```python\n   if a:\n       b\n   ```", "if a:\n    b\n"),
        ("```python\na = 1", "a = 1\n"),
        ("```{.python}\na = 1\n```", "a = 1\n"),
        ("import sys\nprint(1)", "import sys\nprint(1)\n"),
        ("x, y = 1, 2", "x, y = 1, 2\n"),
    ],
)  # fmt: skip
def test_the_last_block_in_the_language_is_the_program(text: str, program: str):
    assert find_program(text, PYTHON) == (program, "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("The answer is 42.", "no code block"),
        ("<think>```python\na = 1\n```", "no code block"),
        ("```cpp\nint a;\n```", "no python: the code is marked as cpp"),
        ("```python\n\n```", "the code block is empty"),
        ("", "no code block"),
    ],
)
def test_no_program_is_no_answer(text: str, why: str, part):
    assert find_program(text, PYTHON) == (None, why)
    score = asyncio.run(part(rollout(text, tests=PAIRS)))
    assert (score.outcome, score.value, score.note) == ("no_answer", 0.0, why)


# ---- comparing


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        ("1 2\n3\n", "1 2 \r\n3", True),
        ("1\n2\n\n", "1\n2", True),
        ("1\n2", "1\n2\n3", False),
        ("1\n2\n3", "1\n2", False),
        ("1 2", "1  2", False),
        ("1\n2", "1 2", False),
        ("\n1", "1", False),
        ("", "", True),
        ("", "1", False),
        ("0.333333", "0.3333333333", True),
        ("0.333333", "0.34", False),
        ("x 2.0 y", "x 2 y", True),
        ("x 2.0 y", "x 2", False),
        ("2", "2.0", False),
        ("1000000", "1000001", False),
        ("1000000.0", "1000000.5", True),
        ("0.5", "nan", False),
        ("Yes", "yes", False),
    ],
)
def test_white_space_at_line_ends_and_rounding_are_forgiven_and_nothing_else(expected: str, got: str, same: bool):
    assert (output_fault(expected, got, 1e-6) == "") == same
    assert (output_fault(expected, got, 0) == "") == (same and "." not in expected)


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        ([1, 2], [1, 2], True), ([1, 2], (1, 2), True), ([1, 2], [2, 1], False), ([1], [1, 1], False), ([1], {1}, False),
        (1, 1.0, True), (0.1, 0.1 + 1e-9, True), (0.1, 0.2, False), (10**30, 10**30, True), (10**30, 10**30 + 1, False),
        (1, "1", False), ("1", 1, False), (None, None, True), (None, 0, False), (None, [], False), (False, False, True),
        ({"1": [2]}, {1: [2]}, True), ({"a": 1}, {"a": 1, "b": 2}, False), ({"a": 1}, {"b": 1}, False), ({}, [], False),
        (10**400, 1.5, False), (1.5, 10**400, False), ("a", b"a", False), ([[]], [()], True), (0.5, float("nan"), False),
        (2, 2 - 1e-9, True), (735345, 735345.5, False), (999999999, 1e9, False), (735345.0, 735345.5, True),
        (float("inf"), 5, False), (float("inf"), float("-inf"), False), (float("inf"), float("inf"), True),
        ({"true": 1, "null": 2}, {True: 1, None: 2}, True), ({"[1]": 1}, {(1,): 1}, False),
    ],
)  # fmt: skip
def test_values_are_compared_as_plain_data(expected, got, same: bool):
    assert same_value(expected, encode(got, id), 1e-6) == same


DEEP: list = []
for _ in range(10_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "data",
    [
        {"dict": [[DEEP, 1]]},
        {"tuple": 1},
        {"dict": 1},
        {"dict": [1]},
        {"int": "0x" + "g"},
        {"float": 3},
        {},
        {"a": 1, "b": 2},
        {"handle": 1},
    ],
)
def test_malformed_data_equals_nothing(data):
    for expected in ([1], {"a": 1}, 1, 1.5, "a", None):
        assert not same_value(expected, data, 1e-6)


# ---- settings, references and feedback


def test_wrong_settings_are_refused_in_words(tmp_path):
    with pytest.raises(ConfigError, match=r"languages.*no language is called 'pyton'; did you mean 'python'"):
        build_config(CodeConfig, {"languages": ["pyton"]}, "a test")
    with pytest.raises(ConfigError, match="csharp needs mcs and mono, which this machine lacks; apt-get install"):
        CodeConfig(languages=("python", "csharp"), tool_path=str(tmp_path), sandbox=PLAIN).build()
    with pytest.raises(StorageError, match="cannot be written"):
        FeedbackLog(tmp_path)


def test_a_language_that_was_not_provided_for_is_an_error(part):
    score = judge(part, "int main() {}", tests=PAIRS, language="C++")
    assert score.outcome == "error" and "asks for cpp, the reward's languages are python" in score.note


def test_the_reference_program_is_a_response_that_is_accepted(part):
    for extra in ({"code": DOUBLE}, {"canonical_solution": DOUBLE}, {"answer": DOUBLE}):
        given = rollout("", tests=PAIRS[:2], **extra)
        (response,) = part.gold(given.prompt)
        assert asyncio.run(part(Rollout(given.prompt, (), given.completion, response))).outcome == "correct"
    assert part.gold(rollout("", tests=PAIRS).prompt) is None


def test_feedback_is_kept_line_by_line(part, tmp_path):
    path = tmp_path / "deep" / "feedback.jsonl"
    keeping = CodePart(CodeConfig(feedback=path), part.bench)
    judge(keeping, DOUBLE, tests=PAIRS)
    judge(keeping, "print('\ud800')", tests=PAIRS)
    asyncio.run(keeping(rollout("no code", tests=PAIRS)))
    first, second = map(json.loads, path.read_text().splitlines())
    note = "input '5': line 1: expected '9', got '10'"
    assert Feedback(**{**first, "statuses": tuple(first["statuses"]), "notes": tuple(first["notes"])}) == Feedback(
        "p-1", "python", DOUBLE + "\n", "", ("passed", "passed", "wrong"), ("", "", note), 2 / 3, "wrong"
    )
    assert second["statuses"] == ["wrong"] and second["fraction"] == 0.0

"""`afterbase check-rewards`: law 9 for anybody's rows, before anything is learned from them."""

import json
import lzma
from pathlib import Path

import pytest

from afterbase.prompts.source import JsonlSource, ProceduralSource
from afterbase.stages.check_rewards import SAMPLE, spread
from afterbase.stages.held_out import HeldOutConfig, _side

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "math" / "gsm8k_train.jsonl.xz"
SUMS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(4)]
MATCH = 'rewards.domains.default=[{kind="match"}]'
CHOICE = 'rewards.domains.default=[{kind="match", mode="choice"}]'


@pytest.fixture
def check(command, tmp_path):
    """Runs the command; gives exit code, standard output and the JSON report."""

    def run(*arguments) -> tuple[int, str, dict]:
        report = tmp_path / "report.json"
        code, out, err = command("check-rewards", *arguments, "--report", report)
        assert code in (0, 1), err
        return code, out, json.loads(report.read_text(encoding="utf-8"))

    return run


def test_rows_whose_references_are_all_accepted_are_exit_code_0(check, rows):
    code, out, report = check(rows(*SUMS))
    assert (code, out) == (0, "4 rows: 4 of 4 checked references accepted (100.00%), 0 refused\n")
    assert (report["accepted"], report["refused_rate"], report["refused_rows"], report["not_checkable"]) == (4, 0.0, [], 0)


def test_a_refused_row_is_listed_with_its_line_its_gold_and_why(check, rows):
    code, out, report = check(rows(SUMS[0], {"question": "Which?", "answer": "ships"}, {"question": "Which?", "answer": "B"}), CHOICE)
    assert code == 1 and out.startswith("3 rows: 1 of 3 checked references accepted (33.33%), 2 refused\n\nrefused as error (2, 66.67%):\n")
    assert f"data-1 ({report['data']}, line 2): ships: accuracy: prompt data-1 has no reference answer that can be matched" in out
    assert report["outcomes"] == {"error": 2} and [row["gold"] for row in report["refused_rows"]] == ["0", "ships"]
    assert report["refused_rows"][1]["place"].endswith("data.jsonl, line 2")


def test_rows_with_ids_of_their_own_are_found_again_and_outcomes_grouped(check, rows):
    odd = {"id": "q7", "question": "What?", "answer": "{4"}
    code, out, report = check(rows({"id": "q1", **SUMS[1]}, odd, {"id": "q9", "question": "What?", "answer": ""}))
    assert code == 1 and "refused as error (1, 33.33%)" in out and "refused as no_answer (1, 33.33%)" in out
    assert {row["id"]: row["place"].rpartition(", ")[2] for row in report["refused_rows"]} == {"q7": "line 2", "q9": "line 3"}


def test_rows_that_bring_nothing_to_check_are_never_counted_as_accepted(check, rows):
    style = 'rewards.domains.style=[{kind="format"}]'
    code, out, report = check(rows(*SUMS, {"question": "Hi.", "domain": "style"}), style, 'rewards.domains.default=[{kind="math"}]')
    assert code == 0 and "4 of 4 checked references accepted" in out and "not checkable (1)" in out and "data-4" in out
    assert (report["checked"], report["not_checkable"], report["not_checkable_rows"][0]["id"]) == (4, 1, "data-4")
    assert check(rows({"question": "Hi.", "domain": "style"}), style)[0] == 1


def test_the_gold_of_a_programming_task_is_its_solution_and_a_task_without_one_is_not_checkable(check, rows):
    task = {"question": "Double a number.", "domain": "code", "test_list": ["assert double(2) == 4"]}
    solutions = [{"code": "def double(n): return 2 * n"}, {"solution": "def double(n): return n"}, {}]
    code = 'rewards.domains.code=[{kind="code", sandbox={isolation="none", workers=1}}]'
    exit_code, out, report = check(rows(*[{**task, **each} for each in solutions]), code)
    assert exit_code == 1 and (report["accepted"], report["refused"], report["not_checkable"]) == (1, 1, 1)
    assert "return n" in report["refused_rows"][0]["response"] and "accuracy: test 1 of 1" in out and "not checkable (1)" in out


def test_long_lists_are_cut_and_the_report_is_not(check, rows):
    code, out, report = check(rows(*[{"question": f"{n}?", "answer": "\x1b[2Jno\nletter"} for n in range(30)]), CHOICE)
    assert code == 1 and ".. and 10 more; --report FILE lists all of them" in out and len(report["refused_rows"]) == 30
    assert "\x1b" not in out and out.count("letter") == 20


def test_a_recipes_own_prompts_rewards_and_held_out_questions_are_checked(check, recipe, rows):
    sources = [{"kind": "jsonl", "path": rows(*SUMS)}, {"kind": "procedural", "generator": "facts", "domain": "facts"}]
    held = {"prompts": [{"kind": "jsonl", "path": rows({"question": "?", "answer": ""}, name="held.jsonl")}]}
    domains = {"default": [{"kind": "math"}], "facts": [{"kind": "match"}]}
    page = recipe(model="nowhere", steps=3, prompts=sources, held_out=held, rewards={"domains": domains})
    code, out, report = check(page, "prompts.1.size=7")
    assert code == 1 and (report["rows"], report["accepted"]) == (4 + 7 + 1, 11) and "held-0" in out
    assert check(rows(*SUMS), "--rewards", page)[2]["config"]["rewards"]["domains"].keys() == {"default", "facts"}


def test_parquet_is_read_as_well(check, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([*SUMS, {"question": "?", "answer": ""}]), tmp_path / "rows.parquet")
    code, out, _ = check(tmp_path / "rows.parquet")
    assert code == 1 and f"rows-4 ({tmp_path / 'rows.parquet'}, row 5)" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.jsonl"], "no data file at absent.jsonl"),
        (["absent.toml"], "no recipe at absent.toml"),
        (["absent.json"], "no recipe at absent.json"),
        (["{list}"], "holds list; a file of prompts ends in .jsonl"),
        (["{empty}"], "has no list of prompts; give an rl or curate recipe"),
        (["{data}", "steps=3"], "'steps=3' begins with 'steps', which check-rewards does not read"),
        (["{data}", "rewards.domain.math=[]"], "unknown key 'rewards.domain'; did you mean 'domains'?"),
        (["{data}", 'rewards.domains={poetry=[{kind="match"}]}'], "no reward judges the domain 'math'"),
        (["{data}", "--rewards", "{empty}"], "has no [rewards]"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(command, rows, recipe, tmp_path, arguments, said):
    (tmp_path / "list.json").write_text("[1]")
    places = {"data": rows(*SUMS), "empty": recipe("empty", steps=3), "list": tmp_path / "list.json"}
    code, out, err = command("check-rewards", *[each if "=" in each else each.format(**places) for each in arguments])
    last = err.splitlines()[-1]
    assert (code, out) == (2, "") and last.startswith("afterbase: ") and said in last


def test_progress_shows_rate_and_time_left(command, rows):
    assert "check-rewards 4/4" in (err := command("check-rewards", rows(*SUMS))[2]) and "/s" in err and "left" in err


def test_the_look_before_training_takes_the_same_evenly_spread_rows_each_time(rows):
    source = JsonlSource(path=rows(*[{"question": f"{n}?", "answer": "1"} for n in range(1000)])).open(0)
    asked = [int(prompt.question[:-1]) for prompt in spread(source, SAMPLE)]
    assert asked == list(range(0, 1000, 5)) and spread(source, 2000) == list(source.prompts)
    assert len(spread(ProceduralSource(generator="facts").open(0), 7)) == 7


def test_gsm8k_as_its_recipe_reads_it(check):
    if not GSM8K.exists():
        pytest.skip(f"{GSM8K} is not here: this asks every row of the published file")
    recipe = Path(__file__).parents[2] / "recipes" / "r1_zero_gsm8k.toml"
    code, _, report = check(recipe, f"prompts.0.path={GSM8K}")
    with lzma.open(GSM8K, "rt", encoding="utf-8") as file:
        total = sum(1 for _ in file)
    held = _side(JsonlSource(path=GSM8K, answer_pattern="#### (.+)$", hold_out=0.02), HeldOutConfig())
    assert code == 0 and report["accepted"] == report["rows"] == total - len(held)

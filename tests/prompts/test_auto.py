import gzip
import json
import lzma
import re

import pyarrow
import pytest
from pyarrow import parquet

from afterbase.config import build
from afterbase.errors import ConfigError, DataError
from afterbase.prompts.auto import ANSWER_FORMS, AutoSource
from afterbase.prompts.source import JsonlSource

ROWS = [{"problem": f"What is {n} + 1?", "answer": str(n + 1), "level": n} for n in range(3)]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def source(tmp_path, rows, name="data.jsonl", **settings) -> AutoSource:
    (tmp_path / name).write_text(lines(rows) if not isinstance(rows, str) else rows)
    return build(AutoSource, {"kind": "auto", "path": tmp_path / name, **settings}, "a test")


def test_the_ending_says_the_form(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(ROWS))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines(ROWS).encode()))
    (tmp_path / "c.jsonl.xz").write_bytes(lzma.compress(lines(ROWS).encode()))
    (tmp_path / "d.json").write_text(json.dumps(ROWS))
    (tmp_path / "e.json").write_text(json.dumps({"version": 1, "examples": ROWS}))
    (tmp_path / "f.json").write_text(lines(ROWS))
    (tmp_path / "g.csv").write_text("problem,answer,level\n" + "".join(f'"{r["problem"]}",{r["answer"]},{r["level"]}\n' for r in ROWS))
    (tmp_path / "h.tsv").write_text("problem\tanswer\n" + "".join(f"{r['problem']}\t{r['answer']}\n" for r in ROWS))
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "i.parquet")
    for file in sorted(tmp_path.iterdir()):
        opened = AutoSource(path=file).open(0)
        assert [(prompt.question, prompt.answer) for prompt in opened.prompts] == [(row["problem"], row["answer"]) for row in ROWS], file


@pytest.mark.parametrize("question", ["question", "prompt", "problem", "instruction", "query", "text", "input"])
@pytest.mark.parametrize("answer", ["answer", "solution", "ground_truth", "target", "label", "final_answer", "golden"])
def test_usual_names_are_found_and_all_columns_go_along(tmp_path, question, answer):
    (prompt,) = source(tmp_path, [{"note": "x", question: "2 + 2?", answer: 4}]).open(0).prompts
    assert (prompt.question, prompt.answer) == ("2 + 2?", "4")
    assert prompt.extra == {"note": "x", question: "2 + 2?", answer: 4}


def test_trls_conversational_prompts_are_conversations(tmp_path):
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    (prompt,) = source(tmp_path, [{"prompt": asked, "solution": "4"}]).open(0).prompts
    assert [(message.role, message.content) for message in prompt.messages] == [("system", "Be brief."), ("user", "2 + 2?")]
    assert prompt.answer == "4"


def test_an_empty_column_is_no_answer_and_the_fuller_one_is_taken(tmp_path):
    assert source(tmp_path, [{"question": "?", "answer": None, "label": "A"}]).open(0).prompts[0].answer == "A"


@pytest.mark.parametrize(
    ("column", "answer"),
    [
        ("He has 2 + 3 = 5.\n#### 1,234", "1,234"),
        (r"So \boxed{2}, no: \boxed{\frac{1}{\sqrt{2}}}.", r"\frac{1}{\sqrt{2}}"),
        (r"It is $\boxed 9$.", "9"),
        (r"We get \fbox{7}", "7"),
        ("42", "42"),
    ],
)
def test_the_answer_is_taken_out_of_a_worked_solution(tmp_path, column, answer):
    assert source(tmp_path, [{"question": "?", "solution": column}]).open(0).prompts[0].answer == answer


def test_a_form_that_some_rows_lack_is_not_assumed(tmp_path):
    prompts = source(tmp_path, [{"question": "a", "answer": "#### 4"}, {"question": "b", "answer": "5"}]).open(0).prompts
    assert [prompt.answer for prompt in prompts] == ["#### 4", "5"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("form", ANSWER_FORMS)
def test_no_text_makes_looking_for_an_answer_endless(form):
    for text in (r"\boxed{" * 2000, r"\boxed{{{{" * 1000, "#### " * 2000, r"\boxed{" + "{}" * 5000, r"\boxed{" + "a" * 20000):
        re.search(form, text)


@pytest.mark.parametrize(
    ("row", "judged_by"),
    [
        ({"question": "?", "answer": "42"}, "math"),
        ({"question": "?", "answer": r"\frac{x}{y}"}, "math"),
        ({"question": "?", "answer": "Jane Ballou"}, "text"),
        ({"question": "?", "answer": "(C)"}, "choice"),
        ({"prompt": "?", "test_list": ["assert f(1) == 2"]}, "code"),
        ({"prompt": "?", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}, "instructions"),
        ({"prompt": "Write a poem."}, "nothing"),
    ],
)
def test_the_look_of_a_row_says_what_can_judge_it(tmp_path, row, judged_by):
    assert source(tmp_path, [row]).look().judged_by == judged_by


def test_options_in_a_column_of_their_own_are_put_under_the_question_once(tmp_path):
    rows = [
        {"question": "Which?", "choices": ["red", "blue"], "answer": "B"},
        {"question": "Which?", "options": ["(A)red", "(B)blue"], "label": "B"},
        {"question": "Which: (A) red (B) blue?", "choices": ["red", "blue"], "answer": "B"},
    ]
    asked = [source(tmp_path, [row]).open(0).prompts[0].question for row in rows]
    assert asked == ["Which?\nA. red\nB. blue", "Which?\n(A)red\n(B)blue", "Which: (A) red (B) blue?"]


def test_what_a_recipe_names_is_not_looked_for(tmp_path):
    rows = [{"question": "no", "q": "yes", "answer": "no", "a": "<5>", "id": "x", "domain": "sums"}]
    settings = {"columns": {"question": "q", "answer": "a", "id": "id"}, "answer_pattern": "<(.)>"}
    (prompt,) = source(tmp_path, rows, **settings).open(0).prompts
    assert (prompt.id, prompt.question, prompt.answer, prompt.domain) == ("x", "yes", "5", "sums")


def test_a_file_without_questions_says_what_it_has(tmp_path):
    with pytest.raises(
        DataError, match=r"has no column of questions under a usual name \(there are turns, id\); name it in columns.question"
    ):
        source(tmp_path, [{"turns": ["?"], "id": 1}]).open(0)
    with pytest.raises(DataError, match="no data file at"):
        AutoSource(path=tmp_path / "absent.csv").open(0)
    with pytest.raises(DataError, match="gives no prompts"):
        source(tmp_path, []).open(0)
    with pytest.raises(DataError, match="cannot be read as a table"):
        source(tmp_path, 'question,answer\n"unclosed,4\n', "bad.csv").open(0)


def test_it_is_one_more_kind_and_the_others_look_for_nothing(tmp_path):
    with pytest.raises(DataError, match=r"there is no column 'question' \(there are 'problem', 'answer', 'level'\)"):
        source(tmp_path, ROWS)
        JsonlSource(path=tmp_path / "data.jsonl").open(0)
    with pytest.raises(ConfigError, match="unknown key 'colums'"):
        source(tmp_path, ROWS, colums={})


def test_both_sides_of_a_hold_out_are_found_the_same_way(tmp_path):
    rows = [{"problem": f"What is {n}?", "answer": f"#### {n}"} for n in range(40)]
    sides = [source(tmp_path, rows, hold_out=0.3, part=part).open(0).prompts for part in ("train", "held_out")]
    assert sorted(prompt.answer for side in sides for prompt in side) == sorted(str(n) for n in range(40)) and all(sides)

"""A file of questions answered: every row once, in order, whatever kills the work in between."""

import asyncio
import gc
import json

import pytest

from afterbase.engine.draw import row_key
from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.errors import Stopped
from afterbase.records import Message, Sampling
from afterbase.stages.session import load_pair
from afterbase.text.chat import render

ROWS = [
    {"id": "a", "prompt": "What is 12 + 30?"},
    {"question": "How many apples?", "answer": "8"},
    {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}], "level": 3},
    {"prompt_token_ids": [3, 4, 5]},
]


@pytest.fixture
def asked(rows, tmp_path, dense, command):
    """Answers a file; gives (exit code, standard error, the lines of the file of answers)."""
    out = tmp_path / "answers.jsonl"

    def ask(*lines, options=("--max-tokens", "9", "--n", "2", "--rows", "4")):
        result = command("generate", dense, "--in", rows(*(lines or ROWS), name="in.jsonl"), "--out", out, *options)
        written = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        return result[0], result[2], written

    ask.out = out
    return ask


def test_every_row_comes_back_with_its_answers_in_order(asked, dense):
    code, err, lines = asked(options=("--max-tokens", "9", "--n", "2", "--tokens", "--temperature", "1", "--seed", "4"))
    assert code == 0 and "answered 4/4" in err and "tokens/s" in err
    assert [{key: line[key] for key in row} for line, row in zip(lines, ROWS, strict=True)] == ROWS
    model, tokenizer = load_pair(dense)
    engine = LocalEngine(model, EngineConfig(), tokenizer.decode)
    prompt = render(tokenizer, [Message("user", "How many apples?")], answering=True)
    sampling = Sampling(1.0, max_tokens=9, seed=row_key(4, 1), stop_ids=tokenizer.stop_ids)
    drawn = asyncio.run(engine.generate(prompt, sampling, 2))
    assert lines[1]["prompt_token_ids"] == prompt
    assert [tuple(answer["token_ids"]) for answer in lines[1]["answers"]] == [one.tokens for one in drawn]
    assert [answer["text"] for answer in lines[1]["answers"]] == [tokenizer.decode(one.tokens) for one in drawn]
    assert lines[3]["prompt_token_ids"] == [3, 4, 5]


@pytest.mark.parametrize(("kept", "cut"), [(0, 1), (1, 30), (3, -30), (1, -2), (2, "}"), (2, None)])
def test_killed_and_resumed_is_never_killed(asked, monkeypatch, kept, cut):
    assert asked()[0] == 0
    whole = asked.out.read_text()
    lines = whole.splitlines(keepends=True)
    cut = lines[kept].index("}") + 1 if cut == "}" else 0 if cut is None else cut
    asked.out.write_text("".join(reversed(lines[:kept])) + lines[kept][:cut])
    seen, generate = [], LocalEngine.generate
    monkeypatch.setattr(LocalEngine, "generate", lambda self, *given: seen.append(given) or generate(self, *given))
    assert asked()[0] == 0 and asked.out.read_text() == whole and len(seen) == 4 - kept
    assert asked()[0] == 0 and len(seen) == 4 - kept


def test_rows_that_are_added_are_answered_and_the_others_kept(asked):
    first = asked(*ROWS[:2])[2]
    assert asked(*ROWS)[2][:2] == first


def test_a_failing_row_is_told_in_its_line_and_the_others_go_on(asked):
    bad = [
        {"prompt": "How many apples? " * 200},
        {"prompt_token_ids": [10**6]},
        {"prompt_token_ids": [1, True]},
        {"prompt_token_ids": []},
        {"prompt": 5},
        {"messages": [{"role": "wizard"}]},
        {"prompt": "\ud800"},
    ]
    code, err, lines = asked(*bad, ROWS[0])
    assert code == 1 and "7 questions could not be answered" in err
    said = [
        "leaves no room in the context of 256", "a prompt holds token 1000000", "give a list of token ids", "an empty prompt",
        "give a text", "a message is", "half a character",
    ]  # fmt: skip
    assert all(word in line["error"] for word, line in zip(said, lines, strict=False)) and len(lines[7]["answers"]) == 2


@pytest.mark.parametrize(
    ("lines", "said"),
    [(["{"], "line 1: not valid JSON"), ([[1]], "a row is an object with one of"), ([{"text": "x"}], "a row is an object with one of")],
)
def test_a_file_without_questions_is_refused_whole(asked, lines, said):
    code, err, written = asked(*lines)
    assert code == 2 and said in err and written == []


def test_answers_by_other_settings_are_never_mixed_in(asked):
    asked()
    code, err, _ = asked(options=("--max-tokens", "8"))
    assert code == 2 and "by other settings" in err and "give another --out" in err


@pytest.mark.filterwarnings("ignore::afterbase.errors.Notice")
@pytest.mark.parametrize("draft", [("mtp",), ("ngram", "--draft-tokens", "3")])
def test_drafting_changes_no_answer_and_no_mark_and_is_told_at_the_end(base, command, rows, tmp_path, draft):
    """Eight rows draft; a file that was begun without drafts goes on with them."""
    page, plain, drafted = rows(*ROWS, name="in.jsonl"), tmp_path / "plain", tmp_path / "drafted"
    asked = "generate", base, "--in", page, "--max-tokens", "40", "--temperature", "0", "--rows", "4"
    assert command(*asked, "--out", plain)[0] == 0
    drafted.write_text(plain.read_text().splitlines(keepends=True)[2])
    code, _, err = command(*asked, "--out", drafted, "--draft", *draft)
    assert code == 0 and "drafts kept, by place: " in err and " steps drafted)" in err
    assert drafted.read_text() == plain.read_text()


def test_a_stop_in_the_midst_of_a_step_is_told_once(asked, monkeypatch, caplog):
    """By the command alone: asyncio has nothing to add about the engine's own task."""

    def stop(engine):
        raise Stopped("all that was finished is on the disk")

    monkeypatch.setattr(LocalEngine, "_go_on", stop)
    code, err, lines = asked()
    gc.collect()
    assert code == 0 and lines == [] and "stopped as asked" in err and "Traceback" not in err and caplog.records == []


@pytest.mark.parametrize("text", ["my diary\n", "my diary", "{}", '{"a": 1}\n', "{\n}\n"])
def test_a_file_that_is_no_file_of_answers_is_left_alone(dense, command, rows, tmp_path, text):
    diary = tmp_path / "diary"
    diary.write_text(text)
    code, _, err = command("generate", dense, "--in", rows(*ROWS), "--out", diary)
    assert code == 2 and "holds answers to other questions" in err and diary.read_text() == text


def test_what_does_not_go_together_is_told(dense, command, rows, tmp_path):
    page = rows(*ROWS)
    for options in ([], ["Hi", "--in", page, "--out", tmp_path / "o"], ["--in", page], ["Hi", "--out", tmp_path / "o"]):
        assert "give either a question, or --in FILE and --out FILE" in command("generate", dense, *options)[2]
    assert "--n and --tokens are for a file" in command("generate", dense, "Hi", "--n", "2")[2]
    assert "is the file of questions itself" in command("generate", dense, "--in", page, "--out", page)[2]

import builtins
import gzip
import json
import lzma
import sys
from pathlib import Path

import pytest

from afterbase.config import Config, build
from afterbase.errors import AfterbaseError, ConfigError, DataError
from afterbase.prompts.rows import Columns, JsonlSource, ParquetSource, held_out
from afterbase.prompts.source import SourceConfig, open_mixture
from afterbase.records import Message, Prompt

GSM8K = Path(__file__).parents[2] / "../shared/data/math/gsm8k_test.jsonl.xz"
ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": 4, "level": "easy"}, {"question": "Hi", "domain": "chat"}]


class Recipe(Config):
    sources: list[SourceConfig]


def jsonl(path: Path, rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path, **settings):
    return JsonlSource(path=path, **settings).open(seed=0)


def test_a_row_is_a_prompt(tmp_path):
    source = read(jsonl(tmp_path / "sums.jsonl", ROWS))
    assert (source.name, len(source)) == ("sums", 3)
    assert source[0] == Prompt("sums-0", (Message("user", "1 + 1?"),), "math", "2")
    assert source[1] == Prompt("sums-1", (Message("user", "2 + 2?"),), "math", "4", {"level": "easy"})
    assert source[2] == Prompt("sums-2", (Message("user", "Hi"),), "chat", None)


def test_compressed_and_blank_lined_files_and_a_byte_order_mark_read_alike(tmp_path):
    plain = jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(plain.read_bytes()))
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + plain.read_bytes() + b"\n\n")
    names = ("a.jsonl", "a.jsonl.gz", "a.jsonl.xz", "b.jsonl")
    assert len({tuple(p.question for p in read(tmp_path / name).prompts) for name in names}) == 1


def test_columns_may_have_other_names(tmp_path):
    path = jsonl(tmp_path / "m.jsonl", [{"problem": "1 + 1?", "gold": "2", "type": "algebra", "key": 7}])
    columns = Columns(question="problem", answer="gold", domain="type", id="key")
    assert read(path, columns=columns).prompts == (Prompt("7", (Message("user", "1 + 1?"),), "algebra", "2"),)


def test_a_conversation_ends_with_the_user(tmp_path):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "2 + 2?"}]
    columns = Columns(messages="messages")
    (prompt,) = read(jsonl(tmp_path / "t.jsonl", [{"messages": talk}]), columns=columns).prompts
    assert [m.role for m in prompt.messages] == ["user", "assistant", "user"] and prompt.question == "2 + 2?"
    with pytest.raises(DataError, match=r"line 1: column 'messages' ends with .*that ends with the user"):
        read(jsonl(tmp_path / "t.jsonl", [{"messages": talk[:2]}]), columns=columns)


def test_the_pattern_takes_the_answer_out_and_leaves_it_as_it_is(tmp_path):
    worked = "2 * 600 = 1,200\n#### 1,200"
    (prompt,) = read(jsonl(tmp_path / "g.jsonl", [{"question": "?", "answer": worked}]), answer_pattern="#### (.+)$").prompts
    assert prompt.answer == "1,200" and prompt.extra == {"answer": worked}


def test_gsm8k_reads_whole():
    if not GSM8K.exists():
        pytest.skip(f"no GSM8K test rows at {GSM8K}: put gsm8k_test.jsonl.xz there to run this test")
    source = read(GSM8K, answer_pattern="#### (.+)$", name="gsm8k")
    assert len(source) == 1319 and source[0].answer == "18" and source[0].id == "gsm8k-0" and "ducks" in source[0].question
    train, held = (read(GSM8K, hold_out=0.1, part=part) for part in ("train", "held_out"))
    assert len(train) + len(held) == 1319 and 100 < len(held) < 165
    assert not {p.question for p in train.prompts} & {p.question for p in held.prompts}


def test_parquet_rows_read_as_json_lines_do(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"id": "a", "messages": [{"role": "user", "content": "1 + 1?"}], "answer": 2}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    settings = {"columns": Columns(messages="messages"), "name": "p"}
    parquet = ParquetSource(path=tmp_path / "p.parquet", **settings).open(seed=0)
    assert parquet == read(jsonl(tmp_path / "p.jsonl", rows), **settings)


def test_without_pyarrow_the_remedy_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'afterbase\[parquet\]'"):
        ParquetSource(path=tmp_path / "p.parquet").open(seed=0)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: not valid JSON"),
        ("[" * 100_000, "line 2: not valid JSON"),
        ("[1]", "line 2: a row is list"),
        ('{"problem": "1"}', "line 2: there is no column 'question' .there are 'problem'"),
        ('{"question": ""}', "line 2: column 'question' holds '' where a question belongs"),
        ('{"question": 3}', "line 2: column 'question' holds '3'"),
        ('{"question": "a", "answer": []}', "line 2: column 'answer' holds '.*', which is neither a text nor a number"),
        ('{"question": "a", "id": "0"}', "line 2: id '0' has come before"),
        (r'{"question": "a\ud83d"}', "line 2: the text holds half a character"),
    ],
)
def test_a_broken_line_is_named_with_what_was_expected(tmp_path, line, says):
    path = jsonl(tmp_path / "x.jsonl", [{"question": "1", "id": "0"}, line])
    with pytest.raises(DataError, match=says) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_pattern_that_finds_nothing_names_the_line(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [{"question": "1", "answer": "#### 1"}, {"question": "2", "answer": "2"}])
    with pytest.raises(DataError, match="line 2: column 'answer' holds '2', in which answer_pattern"):
        read(path, answer_pattern="#### (.+)$")


def test_broken_bytes_are_named_by_line(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"question": "1"}\n{"question": "\xff"}\n')
    with pytest.raises(DataError, match="line 2: not valid JSON"):
        read(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    "name", ["missing.jsonl", "empty.jsonl", "broken.xz", "broken.gz", "cut.xz", "folder.jsonl", "missing.parquet", "x.parquet"]
)
def test_a_file_that_cannot_be_read_or_is_empty_is_one_sentence(tmp_path, name):
    (tmp_path / "empty.jsonl").write_text("\n")
    for broken in ("broken.xz", "broken.gz", "x.parquet"):
        (tmp_path / broken).write_text("not that format")
    (tmp_path / "cut.xz").write_bytes(lzma.compress(b'{"question": "1"}\n' * 99)[:40])
    (tmp_path / "folder.jsonl").mkdir()
    kind = ParquetSource if name.endswith("parquet") else JsonlSource
    with pytest.raises(DataError, match=name):
        kind(path=tmp_path / name).open(seed=0)


def test_a_question_is_held_out_or_not_whatever_file_it_stands_in(tmp_path):
    rows = [{"question": f"{i} + {i}?"} for i in range(200)]
    one = jsonl(tmp_path / "one.jsonl", rows)
    two = jsonl(tmp_path / "two.jsonl", [{"question": f"  {row['question'].replace(' ', '  ')}\n"} for row in reversed(rows)])
    train = {p.question for p in read(one, hold_out=0.25).prompts}
    held = {" ".join(p.question.split()) for p in read(two, hold_out=0.25, part="held_out").prompts}
    assert train | held == {row["question"] for row in rows} and not train & held
    assert 30 < len(held) < 70
    assert all(held_out(question, 0.5) for question in held)  # a larger fraction keeps what a smaller one held out


def test_limit_counts_prompts_of_the_part_and_reads_no_further(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [{"question": str(i)} for i in range(50)] + ["broken"])
    kept = read(path, hold_out=0.5, limit=5)
    assert kept.prompts == tuple(p for p in read(path, limit=50).prompts if not held_out(p.question, 0.5))[:5]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"kind": "jsonl", "path": "x", "wieght": 2}, "did you mean 'weight'"),
        ({"kind": "jsonl", "path": "x", "columns": {"anwser": "gold"}}, "did you mean 'answer'"),
        ({"kind": "csv", "path": "x"}, "jsonl.*parquet"),
        ({"kind": "jsonl", "path": "x", "part": "held_out"}, "set hold_out"),
        ({"kind": "jsonl", "path": "x", "answer_pattern": "####"}, "has no group"),
        ({"kind": "jsonl", "path": "x", "answer_pattern": "("}, "is not a regular expression"),
        ({"kind": "jsonl", "path": "x", "weight": 0}, "greater than 0"),
    ],
)
def test_a_wrong_recipe_is_corrected(table, says):
    with pytest.raises(ConfigError, match=says):
        build(Recipe, {"sources": [table]}, "recipe")


def test_a_recipe_opens_as_a_mixture(tmp_path):
    one, two = jsonl(tmp_path / "one.jsonl", ROWS), jsonl(tmp_path / "two.jsonl", ROWS)
    recipe = build(Recipe, {"sources": [{"kind": "jsonl", "path": str(one), "weight": 3.0}, {"kind": "jsonl", "path": str(two)}]}, "recipe")
    mixture = open_mixture(recipe.sources, seed=0)
    assert sorted(prompt.id.split("-")[0] for prompt in mixture.take(4)) == ["one", "one", "one", "two"]
    with pytest.raises(AfterbaseError, match="a name of its own"):
        open_mixture([recipe.sources[0], recipe.sources[0]], seed=0)

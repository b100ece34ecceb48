import json

import pytest

from afterbase.config import build
from afterbase.errors import DataError
from afterbase.records import Completion, Rollout
from afterbase.stages import curate
from afterbase.stages.curate import CurateConfig, run_curate
from afterbase.stages.run import Run
from afterbase.text.think import split

SAID = {  # what the model answers to "n + n?" on its four attempts; the first right one is the longer one
    0: [
        "<think>Zero and zero, nothing at all.</think>\\boxed{0}",
        "<think>No thing.</think>\\boxed{0}",
        "<think>One.</think>\\boxed{1}",
        "\\boxed{0}",
    ],
    1: ["<think>One 加 one.</think>\\boxed{2}", "<think>One more.</think>\\boxed{2}", "<think>One  more.</think>\\boxed{2}", "<think>Cut"],
    2: ["<think>Five?</think>\\boxed{5}"] * 4,
}


@pytest.fixture
def curated(base, rows, tmp_path, monkeypatch):
    """Runs the stage on scripted answers; gives the run's directory."""

    async def scripted(engine, tokenizer, prompt, template, sampling, n):
        texts = SAID[int(prompt.question[0])][:n]
        sizes = [len(text.split()) for text in texts]
        done = [Completion((1,) * size, (), (), 0, "length" if "Cut" in text else "stop") for size, text in zip(sizes, texts, strict=True)]
        return [Rollout(prompt, (), completion, text) for completion, text in zip(done, texts, strict=True)]

    monkeypatch.setattr(curate, "sample_group", scripted)
    problems = rows(*[{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(3)])

    def run(**changes):
        table = {"model": base, "prompts": [{"kind": "jsonl", "path": problems}], "problems": 3, "candidates": 4, **changes}
        config = build(CurateConfig, json.loads(json.dumps(table, default=str)), "recipe")
        with Run.open(tmp_path / "run", "curate", config, curate.STAGE.inputs(config)) as opened:
            run_curate(config, opened)
        return tmp_path / "run"

    return run


def kept(run):
    return [json.loads(line) for line in (run / "data.jsonl").read_text().splitlines()]


def test_the_accurate_and_concise_are_kept_and_the_others_counted(curated):
    run = curated()
    rows = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in kept(run)}
    assert rows == {"0 + 0?": "<think>No thing.</think>\\boxed{0}", "1 + 1?": "<think>One more.</think>\\boxed{2}"}
    done = json.loads((run / "done.json").read_text())
    assert done["dropped"] == {
        "wrong": 1 + 4, "no_answer": 1, "badly formed": 1, "language mixing": 1, "duplicate": 1, "longer than a kept one": 1,
    }  # fmt: skip
    assert (done["problems"], done["candidates"], done["kept"], done["rows"]) == (3, 12, 2, 2)
    assert done["pass_rate"] == 6 / 12 and done["mean_length_of_kept"] < done["mean_length_of_correct"]


def test_kept_rows_carry_their_pedigree_and_the_system_prompt(curated):
    (row, _) = kept(curated(system="Reflect."))
    assert row["messages"][0] == {"role": "system", "content": "Reflect."} and len(row["pedigree"]["model"]) == 32


def test_the_house_format_is_read_back_as_what_was_said(curated):
    for row in kept(curated(rewrite="house")):
        response = split(row["messages"][-1]["content"])
        assert (
            response.well_formed and response.thought in ("No thing.", "One more.") and response.answer.startswith("The answer is \\boxed{")
        )


def test_other_answers_are_mixed_in_without_a_thought(curated):
    rows = kept(curated(others=[{"kind": "procedural", "generator": "facts"}], others_count=5, limit=1))
    assert len(rows) == 6 and all("<think>" not in row["messages"][-1]["content"] for row in rows[1:])
    assert {row["pedigree"]["model"] for row in rows[1:]} == {None}


def test_others_without_an_answer_cannot_be_learned(curated, rows):
    silent = rows({"question": "Hi"}, name="silent.jsonl")
    with pytest.raises(DataError, match="silent-0 of `others` has no reference answer"):
        curated(others=[{"kind": "jsonl", "path": silent}], others_count=1)


def test_two_problems_under_one_id_are_refused(curated, rows):
    files = [rows({"id": "a", "question": f"{n} + {n}?", "answer": "0"}, name=f"{n}.jsonl") for n in range(2)]
    with pytest.raises(DataError, match="two problems have the id 'a'"):
        curated(prompts=[{"kind": "jsonl", "path": file} for file in files], problems=2)


def test_nothing_fit_is_an_error_that_says_why(curated):
    with pytest.raises(DataError, match=r"none of the candidates is fit to learn from \(\{.*'too long': .*\}\); train"):
        curated(fit={"max_tokens": 1})

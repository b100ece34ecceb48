import json
import sys
from pathlib import Path

import pytest

from afterbase.config import build
from afterbase.errors import ConfigError
from afterbase.prompts.source import open_mixture
from afterbase.rewards.base import build as build_judge
from afterbase.stages.rl import RlConfig
from afterbase.stages.rl_defaults import choose
from afterbase.track import read_metrics

SUMS = [{"question": f"What is {n} + {n}?", "answer": f"Twice {n} is {2 * n}.\n#### {2 * n}"} for n in range(40)]
QUICK = ["steps=2", "prompts_per_step=4", "sampling.max_tokens=8", "held_out.every=1", "engine.rows=8"]


def test_a_model_and_a_data_file_train_evaluate_and_save(dense, rows, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows(*SUMS, name="sums.jsonl")
    code, out, err = command("rl", "--model", dense, "--data", "sums.jsonl", *QUICK)
    assert code == 0, err
    assert "rl: reading 40 prompts from sums.jsonl (question, answer); 4 held out; rewards: math + format" in err
    assert "rl is done: runs/rl-sums/checkpoints/final" in out and Path("runs/rl-sums/checkpoints/final/config.json").exists()
    lines = read_metrics(Path("runs/rl-sums/metrics.jsonl"))
    assert [line["eval/questions/count"] for line in lines] == [4.0, 4.0] and "train/reward/mean" in lines[0]
    made = json.loads(Path("runs/rl-sums/config.json").read_text())
    assert made["group"] >= 8 and made["template"] == "chat" and made["saving"]["every"] > 0
    assert command("rl", "--model", dense, "--data", "sums.jsonl", *QUICK)[0] == 0  # done already: the same choices were made again


def chosen(model, data, *overrides, recipe=None):
    choice = choose(recipe, list(overrides), model, data)
    return build(RlConfig, choice.table, "command line"), choice


def parts(config: RlConfig) -> list[tuple]:
    return [(part.kind, getattr(part, "mode", None)) for part in config.rewards.domains["default"]]


@pytest.mark.parametrize(
    ("row", "judges"),
    [
        ({"question": "?", "answer": "4"}, [("math", None), ("format", "house")]),
        ({"question": "?", "answer": "Paris"}, [("match", "normalized"), ("format", "house")]),
        ({"question": "?", "choices": ["x", "y"], "answer": "B"}, [("match", "choice"), ("format", "house")]),
        ({"text": "Write f.", "test_list": ["assert f(1) == 2"]}, [("code", None)]),
        ({"prompt": "Write.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}, [("instructions", None)]),
    ],
)
def test_what_judges_is_seen_from_the_columns(dense, rows, row, judges):
    config, choice = chosen(dense, rows({**row, "id": 1}, {**row, "id": 2}))
    assert parts(config) == judges
    assert choice.said.split("rewards: ")[1].split(" + ")[0] in ("math", "match", "choice", "code", "instructions")


def test_a_base_model_is_put_r1_zeros_template_and_form(make_checkpoint, rows):
    base = make_checkpoint()
    (base / "chat_template.jinja").unlink()
    config, _ = chosen(base, rows(*SUMS))
    assert config.template == "r1-zero" and parts(config) == [("math", None), ("format", "r1-zero")]


def test_a_tenth_is_held_out_200_at_most_and_one_at_least(dense, rows):
    def held(count: int) -> tuple[int, int]:
        config, _ = chosen(dense, rows(*[{"question": f"What is {n}?", "answer": n} for n in range(count)]))
        (source,) = config.prompts
        sides = [source.model_copy(update={"part": part}).open(0) for part in ("train", "held_out")]
        return len(sides[0]), len(sides[1])

    assert [held(count) for count in (2, 9, 40, 2500)] == [(1, 1), (8, 1), (36, 4), (2300, 200)]
    config, _ = chosen(dense, rows({"question": "?", "answer": 4}))
    assert config.prompts[0].hold_out == 0.0


def test_everything_chosen_can_be_overridden(dense, rows):
    data = rows(*[{"q": f"What is {n}?", "question": "no", "a": n} for n in range(20)])
    settings = ["prompts.0.columns.question=q", "prompts.0.columns.answer=a", "prompts.0.hold_out=0.5", "template=plain", "group=4"]
    config, choice = chosen(dense, data, *settings, "rewards.domains.default=[{kind='match'}]", "trainer.optim.schedule.peak=0.5")
    assert (config.template, config.group, config.prompts[0].hold_out, config.trainer.optim.schedule.peak) == ("plain", 4, 0.5, 0.5)
    assert parts(config) == [("match", "normalized")] and "(q, a)" in choice.said and choice.said.endswith("rewards: as given")
    assert open_mixture(config.prompts, 0).take(1)[0].question.startswith("What is")


def test_model_and_data_take_the_place_of_a_recipes_own_and_the_rest_of_it_stands(dense, rows, recipe):
    data = rows(*SUMS)
    page = recipe(
        "mine",
        model="elsewhere",
        prompts=[{"kind": "jsonl", "path": "gone"}],
        group=16,
        rewards={"domains": {"default": [{"kind": "match"}]}},
    )
    config, choice = chosen(dense, data, recipe=page)
    assert (config.model, config.prompts[0].path, config.group, choice.name) == (dense, data, 16, "mine")
    assert (
        parts(config) == [("match", "normalized")]
        and config.trainer.optim.weight_decay == RlConfig.model_fields["trainer"].default.optim.weight_decay
    )
    config, choice = chosen(dense, None, recipe=page)
    assert (config.model, config.prompts[0].kind, choice.said) == (dense, "jsonl", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "afterbase rl needs a recipe, or --model DIR and --data FILE; --model DIR and --data FILE is missing"),
        (["--model", "m"], "; --data FILE is missing"),
        (["--data", "d.jsonl"], "; --model DIR is missing"),
        (["steps=3"], "; --model DIR and --data FILE is missing"),
        (["--model", "m", "--data", "absent.jsonl"], "no data file at absent.jsonl"),
        (["--model", "m", "--data", "poems.jsonl"], "no column of poems.jsonl says what a right answer is (there are prompt); name it by"),
        (["--model", "absent", "--data", "sums.jsonl"], "absent"),
        (["--model", "m", "--data", "sums.jsonl", "stesp=3"], "unknown key 'stesp'; did you mean 'steps'?"),
    ],
)
def test_what_is_lacking_is_told_in_one_sentence(command, rows, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    rows(*SUMS, name="sums.jsonl")
    rows({"prompt": "Write a poem."}, name="poems.jsonl")
    code, _, err = command("rl", *arguments)
    assert code == 2 and said in err and err.splitlines()[-1].startswith("afterbase: ")


def test_questions_without_answers_are_fine_where_a_reward_is_given(dense, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("my_taste.py").write_text("def brevity(completions, **columns):\n    return [-len(each) / 100 for each in completions]\n")
    data = rows(*[{"prompt": f"Write poem {n}."} for n in range(12)])
    reward = "rewards.domains.default=[{kind='function', path='my_taste:brevity'}]"
    config, choice = chosen(dense, data, reward)
    assert (
        choice.said.endswith("(prompt); 1 held out; rewards: as given")
        and build_judge(config.rewards).routes["default"][0].part.name == "brevity"
    )
    with pytest.raises(ConfigError, match=r"no column of .* says what a right answer is"):
        chosen(dense, data)


def test_a_function_of_ones_own_trains(dense, rows, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("my_length.py").write_text(
        "def brevity(completions, prompt_kind, **columns):\n    return [-len(each) / 100 for each in completions]\n"
    )
    data = rows(*[{"prompt": f"Write poem {n}.", "prompt_kind": "poem"} for n in range(12)])
    code, _, err = command(
        "rl", "--model", dense, "--data", data, *QUICK, "rewards.domains.default=[{kind='function', path='my_length:brevity'}]"
    )
    assert code == 0, err
    lines = read_metrics(Path("runs/rl-data/metrics.jsonl"))
    assert all(line["train/part_brevity/mean"] < 0 and line["outcome/error/count"] == 0 for line in lines)

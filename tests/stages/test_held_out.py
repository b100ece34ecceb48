"""Evaluation between the rounds of RL: it tells, and it touches nothing."""

import asyncio
import json
from pathlib import Path

import pytest

from afterbase.config import build
from afterbase.errors import AfterbaseError, ConfigError
from afterbase.prompts.source import held_out, open_mixture
from afterbase.records import Completion, Message, Prompt, Rollout, Score
from afterbase.stages.asking import Asker
from afterbase.stages.held_out import HeldOut, HeldOutConfig, open_questions
from afterbase.stages.rl import seed
from afterbase.stages.rl_config import RlConfig
from afterbase.stages.rl_metrics import held_out_metrics
from afterbase.stages.run import Lock, Run
from afterbase.track import read_metrics

FACTS = {"kind": "procedural", "generator": "facts", "domain": "facts", "hold_out": 0.3}
VARIED = {"domains": {"default": [{"kind": "length", "ngram": 1, "tolerance": 0.0}]}}


def rl_config(**changes) -> RlConfig:
    return build(RlConfig, {"model": "m", "prompts": [FACTS], **changes}, "recipe")


def questions(config: RlConfig) -> list[str]:
    asked = open_questions(config.held_out, config.prompts, open_mixture(config.prompts, config.seed))
    return [prompt.question for prompt in asked]


def test_the_questions_are_the_other_side_of_what_is_trained_on_and_the_same_for_every_seed():
    asked = questions(rl_config(held_out={"questions": 20}))
    assert len(asked) == len(set(asked)) > 10 and all(held_out(question, 0.3) for question in asked)
    assert asked == questions(rl_config(held_out={"questions": 20}, seed=7)) != questions(rl_config(held_out={"questions": 20, "seed": 1}))


def test_rows_are_asked_from_the_side_that_training_leaves_out(rows):
    data = rows(*[{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(60)])
    source = {"kind": "jsonl", "path": str(data), "hold_out": 0.25}
    config = rl_config(prompts=[source], held_out={"questions": 5})
    learned = {prompt.question for prompt in open_mixture(config.prompts, 0).sources[0].prompts}
    assert len(questions(config)) == 5 and not learned & set(questions(config))
    few = rl_config(prompts=[{**source, "limit": 1, "hold_out": 0.01}])
    assert questions(few) == questions(rl_config(prompts=[{**source, "hold_out": 0.0}])) == []


def test_listed_questions_that_training_rows_hold_too_are_not_asked(rows):
    row = {"question": "What is 1 + 1?", "answer": "2"}
    other = {"question": "What is 2 + 2?", "answer": "4"}
    lists = [{"kind": "jsonl", "path": str(rows(*lines, name=name))} for name, lines in [("a.jsonl", [row]), ("b.jsonl", [row, other])]]
    assert questions(rl_config(prompts=lists[:1], held_out={"prompts": lists[1:]})) == ["What is 2 + 2?"]


def test_a_listed_source_that_is_trained_on_is_refused_in_words():
    with pytest.raises(ConfigError, match=r"held_out.prompts would ask what is trained on: rl reads the train side of facts"):
        rl_config(held_out={"prompts": [{**FACTS, "hold_out": 0.0}]})
    rl_config(held_out={"prompts": [{**FACTS, "part": "held_out"}]})


def rollout(outcome: str, domain: str = "math", value: float = 0.0) -> Rollout:
    completion = Completion((7,) * 4, (), (), 0, "stop")
    return Rollout(Prompt("p", (Message("user", "?"),), domain), (5,), completion, "", Score(value, {}, outcome, "lost"))


def test_the_numbers_of_an_evaluation_by_hand(documented):
    metrics = held_out_metrics([rollout("correct", value=1.0), rollout("wrong"), rollout("wrong", "facts"), rollout("error")], 0.25)
    assert (metrics["eval/questions/count"], metrics["eval/errors/count"]) == (3, 1)
    assert metrics["eval/accuracy/mean"] == metrics["eval/reward/mean"] == pytest.approx(1 / 3)
    assert [metrics[f"eval/accuracy/{end}"] for end in ("low", "high")] == pytest.approx([0.0615, 0.7923], abs=1e-3)
    assert (metrics["eval_math/accuracy/mean"], metrics["eval_facts/accuracy/mean"]) == (0.5, 0.0) and documented(metrics)
    assert held_out_metrics([rollout("error")], 1.0) == {"eval/questions/count": 0, "eval/errors/count": 1}
    with pytest.raises(AfterbaseError, match=r"1 of 2 verdicts failed in one evaluation \(the first: lost\)"):
        held_out_metrics([rollout("correct"), rollout("error")], 0.49)


def test_evaluation_comes_with_the_first_round_every_few_and_the_last():
    asked = HeldOut(HeldOutConfig(every=3), (Prompt("p", (Message("user", "?"),)),), 8, None, 0, 0.2)
    assert [step for step in range(8) if asked.due(step)] == [0, 3, 6, 7]
    assert not HeldOut(HeldOutConfig(every=3), (), 8, None, 0, 0.2).due(0)


@pytest.mark.parametrize(("temperature", "drawn"), [(None, 0.7), (0.0, 0.0)])
def test_answers_are_drawn_as_in_training_but_from_seeds_of_their_own(tmp_path, temperature, drawn):
    async def judged(prompt, sampling, n):
        asked.append((sampling, n))
        return [rollout("correct")]

    prompts = tuple(Prompt(str(n), (Message("user", "?"),)) for n in range(3))
    training, asked = rl_config(seed=5, sampling={"temperature": 0.7, "max_tokens": 9, "stop": ["."]}), []
    room = HeldOut(HeldOutConfig(temperature=temperature), prompts, 5, Asker(training, None, None, None).sampling, 5 << 40, 0.2)
    with Run(tmp_path, Lock(tmp_path)) as run:
        for step in (0, 0, 1):
            asyncio.run(room.evaluate(step, judged, run))
    assert {(draw.temperature, draw.max_tokens, draw.stop, n) for draw, n in asked} == {(drawn, 9, (".",), 1)}
    seeds = [draw.seed for draw, _ in asked]
    assert seeds[:3] == seeds[3:] and len(set(seeds)) == 3
    assert not set(seeds) & {seed(training, step, number) for step in (0, 1, 4, 5, 100_000) for number in range(3)}


@pytest.fixture
def page(base, recipe):
    def write(**changes) -> Path:
        small = {"steps": 5, "prompts_per_step": 2, "group": 2, "sampling": {"max_tokens": 12}, "engine": {"rows": 8}}
        schedule = {"trainer": {"optim": {"schedule": {"peak": 0.003}}}, "saving": {"every": 2}}
        asked = {"held_out": {"every": 2, "questions": 6}}
        return recipe(**{"model": base, "prompts": [FACTS], "rewards": VARIED, **asked, **small, **schedule, **changes})

    return write


def lines(run: Path) -> list[dict]:
    return read_metrics(run / "metrics.jsonl")


def test_evaluation_changes_no_number_and_no_weight_of_training(page, command, tmp_path):
    assert command("rl", page(), "--out", tmp_path / "with")[0] == 0
    code, _, err = command("rl", page(held_out={"every": 0}), "--out", tmp_path / "without")
    assert code == 0 and "no held-out questions" not in err
    told, silent = lines(tmp_path / "with"), lines(tmp_path / "without")
    assert [row["step"] for row in told if "eval/accuracy/mean" in row] == [0, 2, 4] and all(row["train/gradient/norm"] > 0 for row in told)
    assert [{name: value for name, value in row.items() if not name.startswith("eval/")} for row in told] == silent
    weights = "checkpoints/final/model.safetensors"
    assert (tmp_path / "with" / weights).read_bytes() == (tmp_path / "without" / weights).read_bytes()
    done = json.loads((tmp_path / "with" / "done.json").read_text())
    assert (done["eval/accuracy/mean"], done["eval/questions/count"]) == (told[-1]["eval/accuracy/mean"], 6)
    asked = [json.loads(line) for line in (tmp_path / "with" / "held_out" / "000002.jsonl").read_text().splitlines()]
    assert len(asked) == 6 and all(held_out(row["question"], 0.3) for row in asked)


def test_a_run_stopped_anywhere_evaluates_as_if_it_had_not_been(page, command, tmp_path, monkeypatch):
    recipe = page()
    assert command("rl", recipe, "--out", tmp_path / "whole")[0] == 0
    for name, call in [("write_rollouts", 2), ("held_out_metrics", 1), ("write_rollouts", 1)]:
        with monkeypatch.context() as torn:
            stop_at(torn, name, call)
            assert command("rl", recipe, "--out", tmp_path / "torn")[0] == 130
    assert command("rl", recipe, "--out", tmp_path / "torn")[0] == 0
    for name in ("metrics.jsonl", "done.json", *(f"held_out/{step:06d}.jsonl" for step in (0, 2, 4))):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "torn" / name).read_bytes()


def stop_at(patch, name: str, call: int) -> None:
    """An interrupt at one of the calls of a function that evaluation uses."""
    from afterbase.stages import held_out as room

    inner, calls = getattr(room, name), []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return inner(*arguments)

    patch.setattr(room, name, stopping)


def test_a_recipe_with_nothing_held_out_says_so_once_and_trains(page, command, tmp_path):
    code, _, err = command("rl", page(prompts=[{**FACTS, "hold_out": 0.0}], steps=2), "--out", tmp_path / "run")
    assert code == 0 and err.count("no held-out questions: no source of prompts sets hold_out") == 1
    assert not any(name.startswith("eval/") for row in lines(tmp_path / "run") for name in row)

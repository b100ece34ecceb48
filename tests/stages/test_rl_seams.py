"""Where the parts of the RL loop meet: nothing depends on a verifier's speed, nothing is set in vain, nothing is left running."""

import asyncio
import gc
import json
import math
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import torch

from afterbase.config import build
from afterbase.errors import ConfigError
from afterbase.model.config import ModelConfig
from afterbase.model.transformer import Transformer
from afterbase.records import Completion, Message, Prompt, Rollout, Score
from afterbase.rollouts.store import frozen
from afterbase.rollouts.stream import Stream
from afterbase.segments import Segments
from afterbase.stages.asking import Asker
from afterbase.stages.learning import GrpoLearning, _over_updates
from afterbase.stages.rl_config import RlConfig
from afterbase.stages.rl_metrics import loop_metrics
from afterbase.track import read_metrics
from afterbase.train.packing import pack
from afterbase.train.trainer import LocalTrainer, TrainerConfig

LUCK = """
import asyncio, itertools
calls = itertools.count()
async def luck(completions, **columns):
    await asyncio.sleep({seconds} * (next(calls) >= 4))
    return [float(sum(map(ord, text)) % 4 == 0) for text in completions]
"""
TINY = {
    "model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": 40, "max_position_embeddings": 64,
}  # fmt: skip


def rl_config(**changes) -> RlConfig:
    return build(RlConfig, {"model": "m", "prompts": [{"kind": "jsonl", "path": "p"}], "prompts_per_step": 2, **changes}, "recipe")


def rollout(value: float, outcome="correct", tokens=4, domain="math", **extra) -> Rollout:
    completion = Completion((7,) * tokens, (-1.0,) * tokens, (-2.0,) * tokens, 0, "stop")
    return Rollout(Prompt("p", (Message("user", "?"),), domain, None, extra), (5, 6), completion, "", Score(value, {}, outcome))


@pytest.fixture
def table(dense, rows):
    data = rows(*[{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(5)])
    return {
        "model": dense, "prompts": [{"kind": "jsonl", "path": data}], "steps": 4, "prompts_per_step": 4, "group": 4,
        "rewards": {"domains": {"default": [{"kind": "length", "ngram": 1, "tolerance": 0.0}]}}, "sampling": {"max_tokens": 8},
        "engine": {"rows": 16}, "trainer": {"optim": {"schedule": {"peak": 0.003}}}, "warnings": {"quiet": []},
    }  # fmt: skip


@pytest.fixture
def trained(command, recipe, tmp_path, table):
    def run(name: str = "run", **changes) -> list[dict]:
        code, _, err = command("rl", recipe(**{**table, **changes}), "--out", tmp_path / name)
        assert code == 0, err
        return read_metrics(tmp_path / name / "metrics.jsonl")

    return run


@pytest.fixture
def refused(command, recipe, tmp_path, table):
    """What a command says that does not even begin."""

    def run(**changes) -> str:
        code, _, err = command("rl", recipe(**{**table, **changes}), "--out", tmp_path / "refused")
        assert code == 2 and not (tmp_path / "refused" / "metrics.jsonl").exists()
        return " ".join(err.split())

    return run


def test_what_is_remembered_does_not_depend_on_a_verifiers_speed(trained, tmp_path, monkeypatch):
    """Two rounds are in flight, and one-token answers come again and again; the first round's verdicts come at once, later ones late."""
    monkeypatch.chdir(tmp_path)
    found = []
    for name, seconds in [("swift", "0"), ("slow", "0.2")]:
        (tmp_path / f"{name}_luck.py").write_text(LUCK.format(seconds=seconds))
        part = {"kind": "function", "path": f"{name}_luck:luck", "pure": True}
        found.append(
            trained(name, ahead=2, remembered=50, rewards={"domains": {"default": [part]}}, sampling={"max_tokens": 1, "top_k": 2})
        )
    assert found[0] == found[1] and sum(line["reward/cache_hits/count"] for line in found[0]) > 0


def test_an_evaluation_is_judged_as_of_its_own_round(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clock.py").write_text(
        "def now(completions, trainer_state, **columns):\n    return [float(trainer_state.global_step)] * len(completions)\n"
    )
    rewards = {"domains": {"default": [{"kind": "function", "path": "clock:now"}]}}
    more = {"kind": "procedural", "generator": "facts", "part": "held_out", "hold_out": 0.5}
    lines = trained(rewards=rewards, held_out={"every": 1, "questions": 2, "prompts": [more]})
    assert [line["eval/reward/mean"] for line in lines] == [line["train/reward/mean"] for line in lines] == [0, 1, 2, 3]


def test_the_mismatch_of_sampler_and_trainer_is_not_the_truncation_of_the_sampling(trained):
    line = trained(steps=1, sampling={"max_tokens": 8, "top_k": 3}, objective={"correction": {"high": 10.0}})[0]
    assert line["train/logprob_gap/max"] < 1e-4 and line["train/correction/mean"] < 0.5


def test_ppo_corrects_for_stale_answers_too(trained):
    lines = trained(objective={"kind": "ppo", "correction": {}}, ahead=1)
    assert all(line["train/ratio/mean"] == pytest.approx(1.0, abs=1e-5) for line in lines)
    assert abs(lines[0]["train/correction/mean"] - 1) < 1e-6 < 1e-5 < abs(lines[2]["train/correction/mean"] - 1)


def test_skipped_updates_of_a_round_add_up_for_policy_and_critic():
    names = ["train/skipped_updates/count", "train/value_skipped_updates/count"]
    assert [_over_updates(name, [1.0, 1.0]) for name in names] == [2.0, 2.0]


def test_a_group_that_nobody_could_judge_is_not_called_unsolved():
    groups = [[rollout(0.0, "error")] * 2, [rollout(0.0, "wrong"), rollout(0.0, "error")], [rollout(1.0), rollout(1.0)]]
    metrics = loop_metrics(groups, [], 0)
    assert metrics["train/unsolved_groups/fraction"] == metrics["train/solved_groups/fraction"] == pytest.approx(1 / 3)


def test_groups_are_replaced_by_what_they_would_be_learned_from():
    def part(**changes):
        return GrpoLearning(rl_config(sampling={"max_tokens": 8}, **changes), None, None, lambda part: nullcontext())

    short, long, failed = rollout(1.0, tokens=2), rollout(1.0, tokens=8), rollout(0.0, "error")
    assert part().empty([short, long]) and not part(overlong={"buffer": 4}).empty([short, long])
    assert part().empty([short, failed]) and part().empty([failed, failed]) and not part().empty([short, rollout(0.0, "wrong")])
    assert not part(domains={"math": {"weight": 0.0}}).empty([short, short])


@pytest.mark.parametrize("average", ["token", "sequence"])
def test_domains_of_different_temperature_and_weight_in_one_round_have_the_gradient_of_each_computed_apart(average):
    """float64, token by token: sum over answers of w A grad log softmax(logits / T), over the whole round's tokens or answers."""
    config = rl_config(
        objective={"average": average}, domains={"code": {"weight": 0.5, "sampling": {"temperature": 0.6}}}, sampling={"temperature": 1.0}
    )
    torch.manual_seed(0)
    model = Transformer(ModelConfig.from_hf(TINY)).initialize(0).double()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # far from uniform, so that the temperature matters
    trainer = LocalTrainer(model, TrainerConfig(tokens_per_batch=16), 1)
    answers = {"math": [(7, 9, 3), (8, 4)], "code": [(5, 6), (11, 12, 13, 14)]}
    prompt = (1, 2)

    def logprobs(answer, temperature):
        tokens = torch.tensor([*prompt, *answer])
        logits = model.lm_head(model(tokens, Segments.of([len(tokens)], "cpu")))[len(prompt) - 1 : -1]
        return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).squeeze(1)

    groups, wanted, count = [], 0.0, sum(len(answer) for pair in answers.values() for answer in pair)
    for domain, pair in answers.items():
        temperature, weight = (0.6, 0.5) if domain == "code" else (1.0, 1.0)
        group = []
        for answer, value, advantage in zip(pair, (1.0, 0.0), (1.0, -1.0), strict=True):
            found = logprobs(answer, temperature)
            old = tuple(found.tolist())
            completion = Completion(answer, old, old, 0, "stop")
            group.append(Rollout(Prompt("p", (Message("user", "?"),), domain), prompt, completion, "", Score(value, {}, "correct")))
            share = count if average == "token" else 4 * len(answer)
            wanted = wanted - weight * advantage * found.sum() / share
        groups.append(group)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(wanted, parameters, allow_unused=True)

    class OneUpdate:
        """A session that keeps the gradient."""

        def __init__(self):
            self.trainer, self.model = trainer, model

        def batches(self, samples, totals):
            return pack(samples, 16, "cpu", totals)

        def learn(self, batches, objective):
            assert {batch.temperature for batch in batches} == {1.0, 0.6}
            for batch in batches:
                trainer.forward_backward(batch, objective)
            return {}

    learning = GrpoLearning(config, OneUpdate(), None, lambda part: nullcontext())
    learning.round(0, groups)
    for parameter, gradient in zip(parameters, expected, strict=True):
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)  # float32 in between


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"critic": {"optim": {"schedule": {"peak": 0.1}}}}, "critic is used by PPO only"),
        ({"overlong": {"buffer": 9}}, "overlong.buffer=9 is more than the least max_tokens, which is 8"),
        ({"overlong": {"penalty": 2.0}}, "set buffer"),
        ({"curriculum": {"minimum": 3}}, "uses no other setting of the curriculum"),
        ({"curriculum": {"kind": "filter", "column": "pass"}}, "no prompt has a column 'pass'"),
        ({"domains": {"maths": {"weight": 0.5}}}, "domains.maths: no prompt is of that domain (there are: math)"),
        ({"template": "plain", "environment": {"kind": "python", "form": "tool"}}, "template='plain' does not have"),
        (
            {"environment": {"kind": "python", "instruction": "Take care. " * 200, "sandbox": {"isolation": "none"}}},
            "tokens leaves no room in the context of 256, and so do 4 more",
        ),
    ],
)
def test_settings_that_would_do_nothing_or_fail_later_are_refused_in_words(refused, changes, words):
    assert words in refused(**changes)


def test_a_domains_shorter_cap_counts_for_the_overlong_buffer():
    with pytest.raises(ConfigError, match="least max_tokens, which is 8"):
        rl_config(overlong={"buffer": 16}, domains={"chat": {"sampling": {"max_tokens": 8}}})
    rl_config(overlong={"buffer": 8}, domains={"chat": {"sampling": {"max_tokens": 8}}})


def test_columns_that_no_checkpoint_can_hold_are_told_before_rounds_are_drawn_ahead(refused, trained, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "dated.parquet"
    parquet.write_table(pyarrow.table({"question": ["1 + 1?"], "answer": ["2"], "day": [date(2020, 1, 1)]}), path)
    prompts = [{"kind": "parquet", "path": path}]
    assert "column 'day' holds date, which a checkpoint cannot hold" in refused(prompts=prompts, ahead=1)
    trained(prompts=prompts, steps=1)


def test_rewards_of_a_domain_that_no_prompt_has_are_told(command, recipe, table, tmp_path):
    rewards = {"domains": {"default": [{"kind": "length"}], "maths": [{"kind": "length"}]}}
    code, _, err = command("rl", recipe(**{**table, "steps": 1, "rewards": rewards}), "--out", tmp_path / "run")
    assert code == 0 and "rl: rewards.domains.maths judges nothing: no prompt is of that domain (there are: math)" in " ".join(err.split())


def test_a_cap_beyond_the_context_is_told(command, recipe, table, tmp_path):
    long = {**table, "steps": 1, "group": 2, "prompts_per_step": 1, "sampling": {"max_tokens": 300}}
    code, _, err = command("rl", recipe(**long), "--out", tmp_path / "run")
    assert code == 0 and "rl: max_tokens=300 does not fit into the context of 256 tokens" in " ".join(err.split())


def test_a_snapshot_does_not_follow_what_a_reward_does_to_a_prompts_columns():
    before = rollout(1.0, tests=[1, 2])
    saved = frozen(before)
    kept = json.dumps(saved)
    before.prompt.extra["tests"].append(3)
    before.score.parts["later"] = 1.0
    assert json.dumps(saved) == kept


def story(ahead, draw, judge):
    """One round of a stream that is closed whatever happens; what was raised, and what asyncio had to say."""
    noise, raised = [], []

    async def go():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context["message"]))
        stream = Stream(9, ahead, lambda: [Prompt(f"q{n}", (Message("user", "?"),)) for n in range(3)], draw, judge)
        try:
            await stream.fill(0)
            await stream.take()
        except ValueError as error:
            raised.append(str(error))
        finally:
            await stream.close()
        return len(asyncio.all_tasks())

    assert asyncio.run(go()) == 1, "something was left running"
    gc.collect()  # now asyncio tells of exceptions that nobody has looked at
    return raised, noise


def test_a_judge_that_raises_ends_the_others_and_is_told_once():
    async def draw(step, number, prompt):
        return [replace(rollout(0.0), prompt=prompt, score=None)]

    async def judge(group):
        if group[0].prompt.id == "q2":
            await asyncio.sleep(math.inf)
        raise ValueError(group[0].prompt.id)

    assert story(2, draw, judge) == (["q0"], [])


def test_a_draw_that_raises_ends_the_others_and_the_judges():
    async def draw(step, number, prompt):
        if number == 1:
            await asyncio.sleep(0.01)
            raise ValueError("no words")
        return [replace(rollout(0.0), prompt=prompt, score=None)] if number else await asyncio.sleep(math.inf)

    async def judge(group):
        await asyncio.sleep(math.inf)

    assert story(0, draw, judge) == (["no words"], [])


def test_everything_is_closed_although_one_cannot_be():
    closed = []

    class Door:
        def __init__(self, name):
            self.name = name

        async def close(self):
            closed.append(self.name)
            if self.name != "engine":
                raise OSError(self.name)

    asker = Asker(rl_config(), Door("engine"), None, Door("judge"))
    asker.environments = {"one": Door("one"), "two": Door("two")}
    with pytest.raises(OSError):
        asyncio.run(asker.close())
    assert sorted(closed) == ["engine", "judge", "one", "two"]


def test_each_rounds_time_is_told_once(trained, tmp_path):
    trained(steps=2)
    rows = [json.loads(line) for line in Path(tmp_path / "run" / "timings.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1] and all("time/evaluate/seconds" in row for row in rows)

import asyncio
import json
import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from afterbase.config import build
from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.errors import AfterbaseError
from afterbase.objective.grpo import Grpo, GrpoConfig
from afterbase.records import Completion, Message, Prompt, Rollout, Sample, Sampling, Score
from afterbase.rewards.length import LengthPart
from afterbase.stages import rl
from afterbase.stages.learning import GrpoLearning
from afterbase.stages.rl_config import RlConfig
from afterbase.stages.rl_metrics import rollout_metrics
from afterbase.stages.session import Session, load_pair
from afterbase.text.chat import prompt_tokens
from afterbase.track import read_metrics
from afterbase.train.packing import pack
from afterbase.train.trainer import LocalTrainer, TrainerConfig

VARIED = {
    "domains": {"default": [{"kind": "length", "ngram": 1, "tolerance": 0.0}]}
}  # what a random model earns differs from answer to answer


def rollout(value: float, outcome: str = "correct", tokens: int = 4, finish: str = "stop", domain: str = "math", **parts: float) -> Rollout:
    prompt = Prompt("p", (Message("user", "?"),), domain)
    completion = Completion((7,) * tokens, (-1.0,) * tokens, (-1.0,) * tokens, 0, finish)
    return Rollout(prompt, (5, 6), completion, "", Score(value, parts, outcome, "the verifier was lost" if outcome == "error" else ""))


GROUPS = [
    [rollout(1.1, accuracy=1.0, format=1.0), rollout(0.1, "wrong", 8, "length", accuracy=0.0, format=1.0)],
    [rollout(0.0, "no_answer", 6, domain="facts", accuracy=0.0), rollout(0.0, "error", domain="facts")],
]


def test_the_numbers_of_a_round_by_hand():
    metrics = rollout_metrics(GROUPS, max_errors=0.25)
    assert metrics["train/rollouts/count"] == 4
    assert metrics["train/reward/mean"] == pytest.approx(1.2 / 3) and metrics["train/accuracy/mean"] == pytest.approx(1 / 3)
    assert metrics["train/response_length/mean"] == 6 and metrics["train/truncated/fraction"] == pytest.approx(1 / 3)
    assert {name: metrics[f"outcome/{name}/count"] for name in ("correct", "wrong", "no_answer", "timeout", "error")} == {
        "correct": 1, "wrong": 1, "no_answer": 1, "timeout": 0, "error": 1,
    }  # fmt: skip


def test_each_domain_has_its_own_numbers():
    metrics = rollout_metrics(GROUPS, max_errors=0.25)
    assert metrics["domain_math/accuracy/mean"] == 0.5 and metrics["domain_math/part_format/mean"] == 1.0
    assert metrics["domain_facts/accuracy/mean"] == 0.0 and "domain_facts/part_format/mean" not in metrics


def test_all_failed_verdicts_stop_the_run_whatever_the_share_below_one():
    with pytest.raises(AfterbaseError, match=r"2 of 2 verdicts failed in one round"):
        rollout_metrics([[rollout(0.0, "error"), rollout(0.0, "error")]], max_errors=0.99)


def test_too_many_failed_verdicts_stop_the_run_in_words():
    with pytest.raises(AfterbaseError, match=r"1 of 4 verdicts failed in one round \(the first: the verifier was lost\).*max_errors=0.2"):
        rollout_metrics(GROUPS, max_errors=0.2)


def learning(**changes) -> GrpoLearning:
    config = build(RlConfig, {"model": "m", "prompts": [{"kind": "jsonl", "path": "p"}], "prompts_per_step": 2, **changes}, "recipe")
    return GrpoLearning(config, None, None, lambda part: nullcontext())


def test_a_failed_verdict_is_masked_and_moves_nobody_elses_advantage():
    failed = [rollout(1.0), rollout(0.0, "wrong"), rollout(0.0, "error")]
    (samples,), metrics = learning().samples([failed])
    assert [sample.advantage for sample in samples] == [1.0, -1.0]
    assert metrics == {"train/equal_groups/fraction": 0.0, "train/group_spread/mean": 0.5}


def test_a_sample_learns_the_answer_and_not_the_prompt():
    ((sample, _),), _ = learning().samples([[rollout(1.0, tokens=2), rollout(0.0, "wrong")]])
    assert sample.tokens == (5, 6, 7, 7) and sample.learn == (False, False, True, True) and sample.old == (-1.0, -1.0)


def samples_of(advantages: list[float]) -> list[Sample]:
    """Answers of 3, 4, .. tokens behind prompts of two."""
    rows = []
    for number, advantage in enumerate(advantages):
        size = 3 + number
        rows.append(Sample(tuple(range(9, 11 + size)), (False, False) + (True,) * size, advantage=advantage, old=(-6.0,) * size))
    return rows


@pytest.fixture
def exact(monkeypatch):
    """A model computed in float64 from end to end: what says "in float32" for stability's sake says float64 here."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    return lambda directory: load_pair(directory)[0].double()


def updated(model, samples: list[Sample], **changes) -> tuple[LocalTrainer, dict[str, float]]:
    """A trainer with the gradient and the routers' loads of one round of two minibatches, not yet stepped."""
    part = learning(minibatches=2, **changes)
    trainer = LocalTrainer(model, part.config.trainer, 1)
    trainer.step = dict  # leaves the gradient where it can be seen
    part.session = Session(None, None, trainer, None, None)
    return trainer, part.update(0, [samples[:2], samples[2:]])


def whole(model, samples: list[Sample], config: TrainerConfig, objective: GrpoConfig) -> LocalTrainer:
    """The same with every answer computed."""
    trainer = LocalTrainer(model, config, 1)
    for half in (samples[:2], samples[2:]):
        (batch,) = pack(half, 4096)
        trainer.forward_backward(batch, Grpo(objective))
    return trainer


def gradients_agree(one: LocalTrainer, other: LocalTrainer) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all((a.grad is None and b.grad is None) or torch.allclose(a.grad, b.grad, rtol=1e-9, atol=1e-12) for a, b in pairs)


@pytest.mark.parametrize("objective", [{}, {"average": "sequence"}, {"ratio": "sequence"}], ids=["token", "mean", "sequence"])
def test_answers_without_advantage_are_skipped_and_the_gradient_is_the_same(dense, exact, objective):
    samples = samples_of([1.0, 0.0, -1.0, 0.0])
    skipping, metrics = updated(exact(dense), samples, objective=objective)
    assert metrics["train/learned_tokens/count"] == (3 + 4 + 5 + 6) / 2
    assert gradients_agree(skipping, whole(exact(dense), samples, TrainerConfig(), GrpoConfig(**objective)))


def loads(trainer: LocalTrainer) -> list[list[int]]:
    return [load.tolist() for load in trainer.trace.loads.values()]


def test_answers_without_advantage_count_where_experts_are_balanced(make_checkpoint, exact):
    base = make_checkpoint(moe_intermediate_size=15)  # an odd width: torch's grouped product knows no float64
    samples = samples_of([1.0, 0.0, -1.0, 0.0])
    balanced = TrainerConfig(balance_loss=0.1)
    (one, _), other = updated(exact(base), samples, trainer=balanced), whole(exact(base), samples, balanced, GrpoConfig())
    assert loads(one) == loads(other) and gradients_agree(one, other)
    free = TrainerConfig(balance_loss=0.0, balance_speed=0.0)
    (one, _), other = updated(exact(base), samples, trainer=free), whole(exact(base), samples, free, GrpoConfig())
    assert sum(loads(one)[0]) < sum(loads(other)[0]) and gradients_agree(one, other)


def test_a_minibatch_without_gradient_pulls_no_mean_down(dense):
    _, metrics = updated(load_pair(dense)[0], samples_of([0.0, 0.0, 1.0, -1.0]))
    _, both = updated(load_pair(dense)[0], samples_of([1.0, -1.0, 1.0, -1.0])[2:] * 2)
    assert metrics["train/ratio/mean"] == pytest.approx(both["train/ratio/mean"])


def test_a_round_whose_verdicts_all_failed_teaches_nothing_where_that_is_allowed(dense):
    groups = [[rollout(0.0, "error"), rollout(0.0, "error")] for _ in range(2)]
    assert "train/reward/mean" not in rollout_metrics(groups, max_errors=1.0)
    samples, metrics = learning().samples(groups)
    assert samples == [[], []] and metrics == {"train/equal_groups/fraction": 1.0, "train/group_spread/mean": 0.0}
    trainer, metrics = updated(load_pair(dense)[0], [])
    assert metrics == {"train/learned_tokens/count": 0.0} and all(each.grad is None for each in trainer.model.parameters())


@pytest.fixture
def page(dense, recipe, rows):
    """A recipe for the command line, and the questions it asks."""
    data = rows(*[{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(5)])

    def write(**changes) -> Path:
        small = {"steps": 3, "prompts_per_step": 4, "group": 4, "rewards": VARIED, "sampling": {"max_tokens": 16}, "engine": {"rows": 8}}
        schedule = {"trainer": {"optim": {"schedule": {"peak": 0.003}}}}
        return recipe(**{"model": dense, "prompts": [{"kind": "jsonl", "path": data}], **small, **schedule, **changes})

    return write


@pytest.fixture
def trained(command, tmp_path):
    """Runs a recipe to its end; gives the lines of its metrics, all of them finite."""

    def run(recipe: Path) -> list[dict]:
        code, _, err = command("rl", recipe, "--out", tmp_path / "run")
        assert code == 0, err
        lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
        assert all(value is not None and math.isfinite(value) for line in lines for value in line.values())
        return lines

    return run


def test_the_reference_holds_the_model_back_from_the_second_step_on(page, trained):
    pull = [line["train/reference_kl/mean"] for line in trained(page(objective={"kl": 0.1}))]
    assert pull[0] == 0.0 < pull[1] < pull[2]


def test_without_a_pull_no_reference_is_loaded(page, trained, monkeypatch):
    monkeypatch.setattr(rl, "load_model", None)
    assert "train/reference_kl/mean" not in trained(page())[-1]


def test_a_round_of_two_minibatches_is_two_updates_the_first_of_them_on_policy(page, trained, tmp_path):
    first, *_, last = trained(page(minibatches=2))
    assert first["train/ratio/mean"] != 1.0 and first["train/ratio/mean"] == pytest.approx(1.0, abs=0.1)
    assert last["train/learning_rate/value"] == pytest.approx((0.003 / 5 + 0.003 * (0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 4 / 5)))) / 2)
    assert json.loads((tmp_path / "run" / "done.json").read_text())["steps"] == 6


def test_truncated_sampling_keeps_the_full_distribution_as_the_old_one(page, trained):
    lines = trained(page(sampling={"max_tokens": 16, "top_p": 0.5, "top_k": 20}))
    assert all(line["train/ratio/mean"] == pytest.approx(1.0, abs=1e-5) for line in lines) and lines[0]["train/gradient/norm"] > 0


def test_a_rollout_on_disk_can_be_drawn_again(page, trained, dense, tmp_path):
    trained(page(group=3))
    drawn = [json.loads(line) for line in (tmp_path / "run" / "rollouts" / "000000.jsonl").read_text().splitlines()]
    assert len(drawn) == 12 and all(row["version"] == 0 for row in drawn)
    model, tokenizer = load_pair(dense)
    engine = LocalEngine(model, EngineConfig(rows=3))
    for row, place in ((drawn[0], 0), (drawn[7], 1), (drawn[11], 2)):
        tokens = prompt_tokens(tokenizer, Prompt("again", (Message("user", row["question"]),)), "chat")
        sampling = Sampling(max_tokens=16, stop_ids=tokenizer.stop_ids, seed=row["seed"])
        completions = asyncio.run(engine.generate(tokens, sampling, 3))
        assert tokenizer.decode(completions[place].tokens) == row["response"] and len(completions[place].tokens) == row["tokens"]


def test_two_domains_are_judged_and_counted_apart_and_every_number_is_documented(page, trained, documented):
    sources = [{"kind": "procedural", "generator": name, "domain": name} for name in ("facts", "manners")]
    domains = {"facts": [{"kind": "match"}], "manners": [{"kind": "format"}, {"kind": "length", "ngram": 1, "tolerance": 0.0}]}
    line = trained(page(prompts=sources, rewards={"domains": domains}, steps=1))[0]
    assert "domain_facts/part_accuracy/mean" in line and "domain_manners/part_length/mean" in line
    assert "domain_facts/part_length/mean" not in line and "domain_manners/part_accuracy/mean" not in line
    assert documented(line)


def test_a_round_of_equal_rewards_changes_nothing(page, trained, dense, tmp_path):
    line = trained(page(rewards={"domains": {"default": [{"kind": "match"}]}}, steps=1))[0]
    assert (line["train/equal_groups/fraction"], line["train/gradient/norm"], line["train/group_spread/mean"]) == (1.0, 0.0, 0.0)
    before, after = load_pair(dense)[0], load_pair(tmp_path / "run" / "checkpoints" / "final")[0]
    assert all(torch.equal(one, other) for one, other in zip(before.parameters(), after.parameters(), strict=True))


def test_a_verifier_that_dies_stops_the_run_in_words_and_once_mended_it_goes_on(page, trained, command, tmp_path, monkeypatch):
    recipe, asked = page(saving={"every": 1}), 0
    whole = trained(recipe)

    async def dying(self, rollout):
        nonlocal asked
        asked += 1
        if asked > 32:  # two rounds of 4 prompts x 4 answers
            raise OSError("no processes left")
        return await alive(self, rollout)

    alive = LengthPart.__call__
    with monkeypatch.context() as broken:
        broken.setattr(LengthPart, "__call__", dying)
        code, _, err = command("rl", recipe, "--out", tmp_path / "torn")
    assert code == 2 and asked == 32 + 2 * 16
    assert "16 of 16 verdicts failed in one round (the first: length: failed with OSError: no processes left)" in err
    assert "mend the verifier and run the same command to go on" in err
    assert command("rl", recipe, "--out", tmp_path / "torn")[0] == 0
    assert read_metrics(tmp_path / "torn" / "metrics.jsonl") == whole


@pytest.mark.parametrize("answers", [["It is 4", ""], ["4", " "]])
def test_rl_does_not_start_where_verifiers_refuse_the_references(page, rows, command, trained, tmp_path, answers):
    data = rows(*[{"question": "What is 2 + 2?", "answer": answer, "id": f"row {n}"} for n, answer in enumerate(answers)], name="bad.jsonl")
    recipe = page(prompts=[{"kind": "jsonl", "path": data}], rewards={"domains": {"default": [{"kind": "match"}]}}, steps=1)
    code, _, err = command("rl", recipe, "--out", tmp_path / "refused")
    assert code == 2 and not (tmp_path / "refused" / "metrics.jsonl").exists()
    assert "the verifiers refuse the reference answers of 1 of 2 prompts, the first: row 1: accuracy: prompt row 1 has no reference" in err
    assert "at most max_refused_gold=0.02 of them may" in err
    assert f"`afterbase check-rewards {tmp_path / 'refused' / 'config.json'}`" in err
    assert command("check-rewards", tmp_path / "refused" / "config.json")[0] == 1


def test_a_share_of_refused_references_is_allowed_by_the_recipe(page, rows, trained):
    data = rows(*[{"question": "?", "answer": answer} for answer in ("4", "5", "6", "")])
    match = {"prompts": [{"kind": "jsonl", "path": data}], "rewards": {"domains": {"default": [{"kind": "match"}]}}, "steps": 1}
    assert trained(page(**match, max_refused_gold=0.25, max_errors=1.0))[0]["outcome/error/count"] == 4

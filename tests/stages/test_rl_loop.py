"""The loop of reinforcement learning: several updates a round, rounds ahead, domains, resampling, environments, PPO."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from afterbase.config import build
from afterbase.records import Completion, Message, Prompt, Rollout, Sample, Score
from afterbase.stages.learning import GrpoLearning
from afterbase.stages.rl_config import RlConfig
from afterbase.stages.session import load_pair
from afterbase.track import read_metrics

VARIED = {"domains": {"default": [{"kind": "length", "ngram": 1, "tolerance": 0.0}]}}
NEVER = {"domains": {"default": [{"kind": "match"}]}}
FINAL = "checkpoints/final/model.safetensors"


@pytest.fixture
def page(dense, recipe, rows):
    data = rows(*[{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(5)])

    def write(**changes) -> Path:
        small = {"steps": 4, "prompts_per_step": 4, "group": 4, "rewards": VARIED, "sampling": {"max_tokens": 16}, "engine": {"rows": 16}}
        schedule = {"trainer": {"optim": {"schedule": {"peak": 0.003}}}, "warnings": {"quiet": []}}
        return recipe(**{"model": dense, "prompts": [{"kind": "jsonl", "path": data}], **small, **schedule, **changes})

    return write


@pytest.fixture
def trained(command, tmp_path):
    def run(recipe: Path, name: str = "run") -> list[dict]:
        code, _, err = command("rl", recipe, "--out", tmp_path / name)
        assert code == 0, err
        return read_metrics(tmp_path / name / "metrics.jsonl")

    return run


def answers(run: Path, step: int) -> list[dict]:
    return [json.loads(line) for line in (run / "rollouts" / f"{step:06d}.jsonl").read_text().splitlines()]


def rollout(value: float, outcome="correct", tokens=4, finish="stop", domain="math", own=(), prompt="p") -> Rollout:
    completion = Completion((7,) * tokens, (-1.0,) * tokens, (-2.0,) * tokens, 0, finish, own)
    return Rollout(Prompt(prompt, (Message("user", "?"),), domain), (5, 6), completion, "", Score(value, {}, outcome))


def learning(**changes) -> GrpoLearning:
    config = build(RlConfig, {"model": "m", "prompts": [{"kind": "jsonl", "path": "p"}], "prompts_per_step": 2, **changes}, "recipe")
    return GrpoLearning(config, None, None, lambda part: nullcontext())


def test_only_the_models_own_tokens_are_learned():
    group = [rollout(1.0, own=(True, False, False, True)), rollout(0.0, "wrong")]
    ((sample, _),), _ = learning().samples([group])
    assert sample.learn == (False, False, True, False, False, True) and sample.old == (-1.0, -1.0)


def test_a_domain_has_its_own_sampling_and_weight_and_the_rest_is_the_recipes():
    page = {"sampling": {"max_tokens": 64, "temperature": 0.9}, "domains": {"code": {"weight": 0.5, "sampling": {"temperature": 0.6}}}}
    part = learning(**page)
    assert part.config.drawing("code").sampling(3) == part.config.sampling.model_copy(update={"temperature": 0.6}).sampling(3)
    assert part.config.drawing("math") == part.config.sampling
    groups = [[rollout(1.0, domain=domain), rollout(0.0, "wrong", domain=domain)] for domain in ("code", "math")]
    ((code, _), (maths, _)), _ = part.samples(groups)
    assert (code.weight, code.temperature, maths.weight, maths.temperature) == (0.5, 0.6, 1.0, 0.9)


def test_a_domain_of_weight_zero_is_judged_and_teaches_nothing():
    samples, metrics = learning(domains={"talk": {"weight": 0.0}}).samples([[rollout(1.0, domain="talk"), rollout(0.0, domain="talk")]])
    assert samples == [[]] and metrics["train/equal_groups/fraction"] == 0.0


def test_a_cut_off_answer_is_left_out_of_the_loss_by_choice_and_still_compared_with():
    group = [rollout(1.0), rollout(0.0, "no_answer", finish="length"), rollout(0.5)]
    (kept,), _ = learning(overlong={"mask": True}).samples([group])
    (every,), _ = learning().samples([group])
    assert [each.advantage for each in kept] == [every[0].advantage, every[2].advantage]


def test_long_answers_cost_reward_before_they_are_compared():
    """Cap 16, buffer 8: 12 tokens are half way in, 16 all the way."""
    group = [rollout(1.0, tokens=8), rollout(1.0, tokens=12), rollout(1.0, tokens=16)]
    (found,), _ = learning(
        sampling={"max_tokens": 16}, overlong={"buffer": 8, "penalty": 2.0}, objective={"advantage": {"scale": "none"}}
    ).samples([group])
    assert [each.advantage for each in found] == [1.0, 0.0, -1.0]


def test_epochs_are_further_updates_on_the_same_answers(page, trained, tmp_path):
    once, twice = trained(page(steps=1), "once"), trained(page(steps=1, epochs=2), "twice")
    assert answers(tmp_path / "once", 0) == answers(tmp_path / "twice", 0)
    assert json.loads((tmp_path / "twice" / "done.json").read_text())["steps"] == 2
    assert once[0]["train/ratio/mean"] == pytest.approx(1.0, abs=1e-6) and abs(twice[0]["train/ratio/mean"] - 1) > 1e-6
    assert once[0]["train/logprob_gap/mean"] == twice[0]["train/logprob_gap/mean"] < 1e-5


def test_answers_drawn_ahead_are_as_stale_as_was_allowed_and_the_first_ones_fresh(page, trained, tmp_path):
    fresh, ahead = trained(page(), "fresh"), trained(page(ahead=1, epochs=2), "ahead")
    assert [line["train/staleness/mean"] for line in fresh] == [0, 0, 0, 0]
    assert [line["train/staleness/mean"] for line in ahead] == [0, 2, 2, 2]
    assert [answers(tmp_path / "ahead", step)[0]["version"] for step in range(4)] == [0, 0, 2, 4]
    assert answers(tmp_path / "fresh", 0) == answers(tmp_path / "ahead", 0)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_stale_answers_are_corrected_for(page, trained, level):
    correction = {"level": level, "mode": "clip", "low": 0.5, "high": 2.0}
    lines = trained(page(ahead=1, objective={"correction": correction}))
    fresh, stale = (abs(lines[step]["train/correction/mean"] - 1.0) for step in (0, 2))
    assert fresh < 1e-6 and stale > 1e-5 and lines[2]["train/logprob_gap/mean"] > 1e-4
    assert all(line["train/ratio/mean"] == pytest.approx(1.0, abs=1e-5) for line in lines)


@pytest.mark.parametrize("truncated", [{"top_k": 3}, {"min_p": 0.9}])
def test_truncated_sampling_is_corrected_for(page, trained, truncated):
    """Few of a vocabulary: each token was drawn with more probability than the policy gives it, so all weights are below 1."""
    correction = {"level": "token", "mode": "clip", "low": 0.0, "high": 10.0}
    line = trained(page(steps=1, sampling={"max_tokens": 16, **truncated}, objective={"correction": correction}))[0]
    assert 0 < line["train/correction/mean"] < 0.5


def test_groups_without_variance_give_way_to_fresh_prompts_and_never_endlessly(page, trained, tmp_path):
    line = trained(page(steps=1, rewards=NEVER, groups={"resample": 2}))[0]
    assert line["train/resampled_groups/count"] == 2 * 4 and line["train/rollouts/count"] == 3 * 4 * 4
    assert line["train/equal_groups/fraction"] == 1.0 and line["train/unsolved_groups/fraction"] == 1.0
    seeds = [row["seed"] for row in answers(tmp_path / "run", 0)]
    assert len(set(seeds)) == 12


def test_groups_with_variance_stay(page, trained):
    line = trained(page(steps=1, groups={"resample": 2}))[0]
    assert line["train/resampled_groups/count"] == 0 and line["train/rollouts/count"] == 16


def test_a_penalty_in_the_reward_holds_the_model_back_too(page, trained):
    pulled = trained(page(objective={"kl": 0.1, "kl_in": "reward"}), "pulled")
    assert "train/reference_kl/mean" in pulled[-1] and pulled[0] != trained(page(), "free")[0]


def test_a_penalty_in_the_reward_does_not_tell_equal_answers_apart():
    """Two groups; the penalty moves the advantages of the one whose answers the judge told apart, and leaves the other at zero."""
    groups = [[rollout(1.0), rollout(1.0)], [rollout(1.0), rollout(0.0, "wrong")]]
    part = learning(objective={"kl": 0.5, "kl_in": "reward", "kl_estimator": "k1", "advantage": {"scale": "none"}})
    samples = [Sample((5, 6, 7), (False, False, True), old=(-1.0,), reference=(-1.0 - far,)) for far in (0.0, 1.0, 0.0, 1.0)]
    found, _ = part.valued(groups, samples)
    assert [each.advantage for each in found] == [0.0, 0.0, 0.75, -0.75]


def test_ppo_learns_from_a_critic_that_learns(page, trained, tmp_path, documented, monkeypatch):
    (tmp_path / "always.py").write_text("def one(completions, **columns):\n    return [1.0] * len(completions)\n")
    monkeypatch.chdir(tmp_path)
    rewards = {"domains": {"default": [{"kind": "function", "path": "always:one"}]}}
    critic = {"optim": {"schedule": {"peak": 0.003, "kind": "constant"}}}
    lines = trained(page(objective={"kind": "ppo"}, rewards=rewards, critic=critic, steps=6))
    assert all(line["train/value_gradient/norm"] > 0 and line["train/gradient/norm"] > 0 for line in lines)
    assert lines[-1]["train/value_loss/mean"] < lines[0]["train/value_loss/mean"] and documented(lines[0])


def test_a_conversation_with_an_environment_is_learned_from(page, trained, tmp_path, monkeypatch):
    (tmp_path / "games.py").write_text(
        "from afterbase.rollouts.turns import Env, Reply\n"
        "class Echo(Env):\n"
        "    stop = ('e', '1')\n"
        "    async def reply(self, turn):\n"
        "        return None if turn.ended or turn.number > 1 else Reply('again', role='inline')\n"
    )
    monkeypatch.chdir(tmp_path)
    environment = {"kind": "custom", "path": "games:Echo", "max_turns": 2}
    line = trained(page(steps=1, sampling={"max_tokens": 24}, environment=environment))[0]
    assert line["train/turns/mean"] > 1 and line["train/gradient/norm"] > 0
    assert line["train/logprob_gap/max"] < 1e-4 and line["train/ratio/mean"] == pytest.approx(1.0, abs=1e-5)


def test_a_curriculum_rests_what_is_never_solved(page, trained):
    lines = trained(page(rewards=NEVER, curriculum={"kind": "filter", "minimum": 4, "rest": 3}, steps=3))
    assert any(line[name] > 0 for line in lines for name in line if name.startswith("curriculum/"))


def test_what_learns_nothing_leaves_the_weights_alone_whatever_the_objective(page, trained, dense, tmp_path):
    trained(page(rewards=NEVER, steps=2, epochs=2, ahead=1, groups={"resample": 1}))
    before, after = load_pair(dense)[0], load_pair(tmp_path / "run" / "checkpoints" / "final")[0]
    assert all(torch.equal(one, other) for one, other in zip(before.parameters(), after.parameters(), strict=True))

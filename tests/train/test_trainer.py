"""One trainer: its optimizer, its clipping, its routing biases, and going on as if never stopped."""

import copy
from dataclasses import replace

import pytest
import torch

from afterbase.model.checkpoint import load_model, save_model
from afterbase.model.moe import Router
from afterbase.objective.likelihood import Likelihood
from afterbase.records import Sample
from afterbase.train.bad_batches import KEPT, keep_bad_batches
from afterbase.train.optim import OptimConfig, adamw
from afterbase.train.packing import pack
from afterbase.train.schedule import ScheduleConfig
from afterbase.train.trainer import LocalTrainer, TrainerConfig

STEADY = ScheduleConfig(kind="constant", peak=0.01)


def samples_of(random_tokens, seed=0):
    return [Sample(tuple(random_tokens(length, 10 * seed + length)), (True,) * length) for length in (9, 5, 7)]


def train(trainer, random_tokens, steps):
    """The losses of some steps, each on its own samples."""
    losses = []
    for _ in range(steps):
        batches = pack(samples_of(random_tokens, trainer.done), 12)
        losses.append(sum(trainer.forward_backward(batch, Likelihood())["train/loss/mean"] for batch in batches))
        trainer.step()
    return losses


def test_matrices_decay_and_vectors_do_not(tiny):
    model = tiny("qwen2")
    decayed, free = adamw(model, OptimConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(names[id(p)].endswith(("norm.weight", "bias")) for p in free["params"])
    assert not any(names[id(p)].endswith(("norm.weight", "bias")) for p in decayed["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_stacked_experts_and_routers_decay_too(tiny):
    model = tiny("deepseek_v3")
    decayed, _ = adamw(model, OptimConfig()).param_groups
    mlp = model.model.layers[1].mlp
    assert {id(mlp.experts.up_proj), id(mlp.gate.weight)} <= {id(p) for p in decayed["params"]}


def test_decay_is_a_pull_to_zero_per_unit_of_learning_rate(tiny):
    """Without a gradient's direction: rate 0.01 times decay 0.1 takes a thousandth off each matrix, and nothing off a norm."""
    model = tiny("qwen2")
    before = copy.deepcopy(model)
    trainer = LocalTrainer(model, TrainerConfig(optim=OptimConfig(schedule=STEADY)), steps=3)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.step()
    torch.testing.assert_close(model.model.embed_tokens.weight, before.model.embed_tokens.weight * 0.999)
    assert torch.equal(model.model.norm.weight, before.model.norm.weight)


def test_the_first_step_of_adamw_is_the_learning_rate_in_the_gradients_direction(tiny):
    """The first of two steps of warm-up to 0.02."""
    model = tiny("qwen2")
    before = model.model.norm.weight.detach().clone()
    schedule = ScheduleConfig(kind="constant", peak=0.02, warmup=2)
    trainer = LocalTrainer(model, TrainerConfig(optim=OptimConfig(schedule=schedule)), steps=3)
    model.model.norm.weight.grad = torch.tensor([1.0, -2.0] * 8)
    metrics = trainer.step()
    torch.testing.assert_close(model.model.norm.weight - before, torch.tensor([-0.01, 0.01] * 8), atol=1e-6, rtol=1e-4)
    assert metrics["train/learning_rate/value"] == 0.01


def test_the_whole_gradients_norm_is_told_and_clipped(tiny, monkeypatch):
    """Gradients of norm 3 and 4 in two tensors have norm 5; clipped to 1 they arrive as 0.6 and 0.8."""
    model, arrived = tiny("qwen2"), {}
    trainer = LocalTrainer(model, TrainerConfig(optim=OptimConfig(clip_norm=1.0)), steps=1)
    for parameter, value in ((model.model.norm.weight, 3.0), (model.model.embed_tokens.weight, 4.0)):
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad.view(-1)[0] = value
    monkeypatch.setattr(
        trainer.optimizer, "step", lambda: arrived.update({id(p): p.grad.norm().item() for p in model.parameters() if p.grad is not None})
    )
    assert trainer.step()["train/gradient/norm"] == pytest.approx(5.0)
    assert arrived == {id(model.model.norm.weight): pytest.approx(0.6), id(model.model.embed_tokens.weight): pytest.approx(0.8)}


def test_gradients_are_forgotten_after_a_step(tiny, random_tokens):
    trainer = LocalTrainer(tiny("qwen2"), TrainerConfig(), steps=2)
    train(trainer, random_tokens, 1)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_learning_learns(tiny, random_tokens):
    """Ten steps on the same three sequences more than halve their loss."""
    trainer = LocalTrainer(tiny("deepseek_v3"), TrainerConfig(optim=OptimConfig(schedule=STEADY)), steps=10)
    losses = []
    for _ in range(10):
        (batch,) = pack(samples_of(random_tokens), 100)
        losses.append(trainer.forward_backward(batch, Likelihood())["train/loss/mean"])
        trainer.step()
    assert losses[-1] < losses[0] / 2


def test_the_schedule_moves_with_the_steps(tiny):
    schedule = ScheduleConfig(peak=1.0, floor=0.0, warmup=1)
    trainer = LocalTrainer(tiny("qwen2"), TrainerConfig(optim=OptimConfig(schedule=schedule)), steps=4)
    assert [trainer.step()["train/learning_rate/value"] for _ in range(4)] == pytest.approx([1.0, 1.0, 0.5, 0.0])


@pytest.mark.parametrize(("speed", "moves"), [(0.25, {-0.25, 0.0, 0.25}), (0.0, {0.0})])
def test_routing_biases_move_once_a_step_however_many_batches(tiny, random_tokens, speed, moves):
    model = tiny("deepseek_v3")
    gate = model.model.layers[1].mlp.gate
    gate.e_score_correction_bias.zero_()
    metrics = {}
    trainer = LocalTrainer(model, TrainerConfig(balance_speed=speed), steps=1)
    for batch in pack(samples_of(random_tokens), 1):
        trainer.forward_backward(batch, Likelihood())
    metrics = trainer.step()
    assert set(gate.e_score_correction_bias.tolist()) <= moves and bool(gate.e_score_correction_bias.any()) == (speed > 0)
    assert metrics["train/expert_load/max_over_mean"] > 1 and trainer.trace.loads == {}


def test_scoring_neither_learns_nor_counts(tiny, random_tokens):
    model = tiny("deepseek_v3")
    trainer = LocalTrainer(model, TrainerConfig(), steps=1)
    (batch,) = pack(samples_of(random_tokens), 100)
    scores = trainer.score(batch)
    assert not scores.requires_grad and scores.shape == (18,) and trainer.trace.loads == {}
    assert torch.equal(trainer.score(batch), scores)


def test_mtp_modules_rest_when_their_weight_is_zero(tiny, random_tokens):
    model = tiny("deepseek_v3", num_nextn_predict_layers=1)
    before = copy.deepcopy(model.mtp.state_dict())
    train(LocalTrainer(model, TrainerConfig(mtp=0.0), steps=1), random_tokens, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.mtp.state_dict().items())
    assert isinstance(model.mtp[0].block.mlp.gate, Router)


@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_a_restored_trainer_goes_on_bitwise(tiny, random_tokens, tmp_path, family):
    """Three steps, a checkpoint through the disk, three more: the same losses and weights as six in a row."""
    config = TrainerConfig(optim=OptimConfig(schedule=ScheduleConfig(peak=0.01, warmup=2)), mtp=0.3 if family == "deepseek_v3" else 0.0)
    straight = LocalTrainer(tiny(family, num_nextn_predict_layers=1 if config.mtp else 0), config, steps=6)
    losses = train(straight, random_tokens, 3)
    save_model(straight.model, tmp_path)
    torch.save(straight.state(), tmp_path / "state.pt")
    losses += train(straight, random_tokens, 3)

    resumed = LocalTrainer(load_model(tmp_path), config, steps=6)
    resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.done == 3
    assert train(resumed, random_tokens, 3) == losses[3:] and losses[3] < losses[0]
    theirs = resumed.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in straight.model.state_dict().items())


def test_a_trainers_weights_are_the_models_own_tensors(tiny):
    model = tiny("qwen2")
    weights = dict(LocalTrainer(model, TrainerConfig(), steps=1).weights())
    assert weights["model.norm.weight"].data_ptr() == model.model.norm.weight.data_ptr()


def test_bfloat16_arithmetic_keeps_float32_weights_and_gradients(tiny, random_tokens):
    model = tiny("deepseek_v3")
    (batch,) = pack(samples_of(random_tokens), 100)
    exact = LocalTrainer(model, TrainerConfig(), steps=1).score(batch)
    trainer = LocalTrainer(model, TrainerConfig(precision="bfloat16"), steps=1)
    metrics = trainer.forward_backward(batch, Likelihood())
    assert metrics["train/loss/mean"] == pytest.approx(-exact.mean().item(), rel=0.05)
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def everything(trainer):
    """All that a step may change: weights, routing biases and the optimizer's moments."""
    moments = [tensor for state in trainer.optimizer.state.values() for tensor in state.values()]
    return [tensor.clone() for tensor in (*trainer.model.state_dict().values(), *moments)]


class Spoiled:
    """The likelihood with something added to its loss; its gradient stays finite where the addition has none."""

    entropy = "unused"

    def __init__(self, addition):
        self.addition = addition

    def __call__(self, logprobs, batch, entropy=None):
        loss, metrics = Likelihood()(logprobs, batch)
        return loss + self.addition(logprobs), metrics


SPOILED = {
    "loss nan, gradient finite": lambda logprobs: torch.tensor(torch.nan),
    "loss infinite, gradient finite": lambda logprobs: torch.tensor(torch.inf),
    "loss finite, gradient nan": lambda logprobs: (logprobs * 0).abs().sqrt().sum(),
    "both": lambda logprobs: logprobs.sum() * torch.inf,
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_is_not_finite_changes_nothing_at_all_and_is_counted(tiny, random_tokens, how):
    """One spoiled batch of two: weights, routing biases and moments are those of before, and the next step learns again."""
    trainer = LocalTrainer(tiny("deepseek_v3"), TrainerConfig(balance_speed=0.25, optim=OptimConfig(schedule=STEADY)), steps=4)
    train(trainer, random_tokens, 1)
    before, batches = everything(trainer), pack(samples_of(random_tokens), 12)
    for batch, objective in zip(batches, (Likelihood(), Spoiled(SPOILED[how])), strict=True):
        trainer.forward_backward(batch, objective)
    assert trainer.step()["train/skipped_updates/count"] == 1 and (trainer.skipped, trainer.done) == (1, 2)
    assert all(torch.equal(one, other) for one, other in zip(before, everything(trainer), strict=True))
    assert len(trainer.judged) == 2 and bool(trainer.judged[0].isfinite())
    trainer.forward_backward(batches[0], Likelihood())
    assert "train/skipped_updates/count" not in trainer.step() and trainer.skipped == 0
    assert not torch.equal(before[0], everything(trainer)[0])


def test_skipped_updates_in_a_row_are_counted_over_a_resume(tiny, random_tokens):
    trainer = LocalTrainer(tiny("qwen2"), TrainerConfig(), steps=9)
    (batch,) = pack(samples_of(random_tokens), 100)
    for _ in range(2):
        trainer.forward_backward(batch, Spoiled(SPOILED["both"]))
        trainer.step()
    again = LocalTrainer(tiny("qwen2"), TrainerConfig(), steps=9)
    again.restore(trainer.state())
    assert (again.skipped, again.done) == (2, 2)


def test_a_bad_batch_is_kept_to_be_looked_at(random_tokens, tmp_path):
    (batch,) = pack(samples_of(random_tokens), 100)
    batch = replace(batch, advantages=torch.full_like(batch.weights, 3.0), old=torch.full_like(batch.weights, -torch.inf))
    path = keep_bad_batches(tmp_path, 7, [batch], [torch.tensor(torch.nan)], 2.5)
    kept = torch.load(path, weights_only=True)
    assert path.name == "000007.pt" and (kept["update"], kept["gradient_norm"]) == (7, 2.5)
    (row,) = kept["batches"]
    assert row["loss"] != row["loss"] and sorted(row["lengths"]) == [5, 7, 9] and torch.equal(row["tokens"], batch.tokens)
    assert row["advantages"].unique().tolist() == [3.0] and bool(row["old"].isinf().all())


def test_only_the_latest_bad_batches_stay(random_tokens, tmp_path):
    (batch,) = pack(samples_of(random_tokens), 100)
    for update in range(KEPT + 2):
        keep_bad_batches(tmp_path, update, [batch], [torch.tensor(1.0)], 1.0)
    assert sorted(path.stem for path in tmp_path.iterdir()) == [f"{update:06d}" for update in range(2, KEPT + 2)]

"""A model that learns in FP8 learns as one in bfloat16 does, resumes bitwise, and skips what is not finite.  [Slides, Mixed Precision]"""

import copy
from random import Random

import pytest
import torch

from afterbase.config import build
from afterbase.errors import ConfigError
from afterbase.model.checkpoint import load_model, save_model
from afterbase.model.fp8 import Eighths
from afterbase.model.fp8_experts import ScaledExperts
from afterbase.model.parallel.mesh import MeshConfig
from afterbase.objective.likelihood import Likelihood
from afterbase.records import Sample
from afterbase.train.alike import wants_whole
from afterbase.train.optim import OptimConfig
from afterbase.train.packing import pack
from afterbase.train.schedule import ScheduleConfig
from afterbase.train.trainer import LocalTrainer, TrainerConfig

CONFIG = TrainerConfig(optim=OptimConfig(schedule=ScheduleConfig(kind="constant", peak=3e-3)), precision="fp8")
WIDER = {"hidden_size": 64, "intermediate_size": 160, "initializer_range": 0.05}


def walks(seed, count=8, length=32):
    """Each counts on by a number of its own, and one time in four jumps anywhere: nobody can predict all of it."""
    random, rows = Random(seed), []
    for _ in range(count):
        row, step = [random.randrange(40)], random.randint(1, 5)
        while len(row) < length:
            row.append(random.randrange(40) if random.random() < 0.25 else (row[-1] + step) % 40)
        rows.append(Sample(tuple(row), (True,) * length))
    return rows


def train(trainer, steps, seed=0, tokens=256):
    losses = []
    for _ in range(steps):
        batches = pack(walks(f"{seed}/{trainer.done}"), tokens)
        losses.append(sum(trainer.forward_backward(batch, Likelihood())["train/loss/mean"] for batch in batches))
        trainer.step()
    return losses


def test_the_loss_stays_within_a_quarter_of_a_percent_of_bfloat16s(tiny):
    """Sixty steps from two starts: the mean of the last ten, and of all."""
    losses = {}
    for precision in ("bfloat16", "fp8"):
        runs = [LocalTrainer(tiny("qwen2", seed, **WIDER), CONFIG.model_copy(update={"precision": precision}), 60) for seed in range(2)]
        losses[precision] = torch.tensor([train(trainer, 60, seed) for seed, trainer in enumerate(runs)])
    eighth, half = losses["fp8"], losses["bfloat16"]
    assert not torch.equal(eighth, half) and half[:, -10:].mean() < 0.75 * half[:, 0].mean(), "FP8 was used, and something learned"
    assert float(eighth[:, -10:].mean()) == pytest.approx(float(half[:, -10:].mean()), rel=0.0025)
    assert float(eighth.mean()) == pytest.approx(float(half.mean()), rel=0.0025)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_a_run_in_fp8_resumes_bitwise(tiny, tmp_path, family, weights):
    config = CONFIG.model_copy(update={"weights": weights})
    straight = LocalTrainer(tiny(family), config, steps=4)
    train(straight, 2)
    save_model(straight.model, tmp_path)
    torch.save(straight.state(), tmp_path / "state.pt")
    losses = train(straight, 2)
    resumed = LocalTrainer(load_model(tmp_path, dtype=torch.float32), config, steps=4)
    resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert train(resumed, 2) == losses
    assert all(torch.equal(one, other) for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True))


def gradients(model, batches, **settings):
    trainer = LocalTrainer(copy.deepcopy(model), CONFIG.model_copy(update=settings), steps=1)
    for batch in batches:
        trainer.forward_backward(batch, Likelihood())
    return {name: parameter.grad for name, parameter in trainer.model.named_parameters()}


@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_blocks_that_are_computed_again_give_the_same_gradients(tiny, family):
    model, batches = tiny(family), pack(walks(0), 256)
    kept, again = (gradients(model, batches, recompute=blocks) for blocks in (0, 99))
    assert all(torch.equal(gradient, again[name]) for name, gradient in kept.items())


def test_routed_experts_of_whole_tiles_learn_in_fp8_too(tiny):
    """And near to bfloat16, and the same when computed again."""
    model = tiny("deepseek_v3", hidden_size=128, moe_intermediate_size=128, initializer_range=0.05)
    eighth, half = (LocalTrainer(copy.deepcopy(model), CONFIG.model_copy(update={"precision": each}), 4) for each in ("fp8", "bfloat16"))
    assert isinstance(eighth.model.model.layers[1].mlp.experts, ScaledExperts)
    losses = train(eighth, 4)
    assert losses == pytest.approx(train(half, 4), rel=0.01)
    stack = eighth.model.model.layers[1].mlp.experts.down_proj
    assert not torch.equal(stack, model.model.layers[1].mlp.experts.down_proj) and stack.isfinite().all()
    batches = pack(walks(0), 256)
    kept, again = (gradients(model, batches, recompute=blocks) for blocks in (0, 99))
    assert all(torch.equal(gradient, again[name]) for name, gradient in kept.items())


def test_packing_changes_gradients_by_no_more_than_rounding_does(tiny):
    """The input's gradients are a token's own; a weight's tiles run along whatever 128 tokens lie beside each other."""
    model, samples = tiny("qwen2", **WIDER), walks(0)
    together, apart = (gradients(model, pack(samples, tokens)) for tokens in (256, 64))
    exact = gradients(model, pack(samples, 256), precision="float32")
    for name, gradient in together.items():
        size = exact[name].norm()
        assert (gradient - apart[name]).norm() < 0.05 * size and (gradient - exact[name]).norm() < 0.2 * size, name


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_skips_the_step(tiny, bad):
    trainer = LocalTrainer(tiny("qwen2"), CONFIG, steps=2)
    with torch.no_grad():
        trainer.model.model.layers[0].mlp.up_proj.weight[3, 5] = bad
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.forward_backward(pack(walks(0), 256)[0], Likelihood())
    assert trainer.step()["train/skipped_updates/count"] == 1
    for now, then in zip(trainer.model.parameters(), before, strict=True):
        assert torch.equal(now.nan_to_num(), then.nan_to_num())


def test_adapters_learn_beside_weights_in_fp8(tiny):
    """The frozen matrices are rounded once and for all; A and B take the gradients, and lower the loss."""
    trainer = LocalTrainer(tiny("qwen2", **WIDER), build(TrainerConfig, {"precision": "fp8", "lora": {"rank": 4}}, "recipe"), steps=8)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 1e-2
    batches = pack(walks(0), 256)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    (batch,) = batches
    trainer.forward_backward(batch, Likelihood())
    found = {name.rpartition(".")[2] for name, parameter in trainer.model.named_parameters() if parameter.grad is not None}
    assert found == {"lora_A", "lora_B"}
    trainer.step()
    changed = {name.rpartition(".")[2] for name, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed and changed <= {"lora_A", "lora_B"}


def test_scores_are_bfloat16s(tiny):
    """Whoever only reads (a score, an engine) reads the weights themselves."""
    model, (batch,) = tiny("qwen2"), pack(walks(0), 256)
    scores = [
        LocalTrainer(copy.deepcopy(model), CONFIG.model_copy(update={"precision": precision}), 1).score(batch)
        for precision in ("fp8", "bfloat16")
    ]
    assert torch.equal(*scores)


def test_nothing_else_learns_in_fp8(tiny):
    trainer = LocalTrainer(tiny("qwen2"), CONFIG.model_copy(update={"precision": "bfloat16"}), 1)
    assert not any(isinstance(value, Eighths) for module in trainer.model.modules() for value in vars(module).values())


def test_fp8_is_refused_where_the_model_would_be_cut():
    with pytest.raises(
        ConfigError, match=r'trainer\.precision = "fp8" wants the whole model in every process, and trainer\.mesh\.tensor=2 cuts it'
    ):
        wants_whole(CONFIG.model_copy(update={"mesh": MeshConfig(tensor=2)}))

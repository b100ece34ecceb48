"""What may be told to use less memory changes no number, or only as far as it says."""

import copy

import pytest
import torch

from afterbase.config import build
from afterbase.errors import ConfigError
from afterbase.model.checkpoint import load_model, save_model
from afterbase.objective.likelihood import Likelihood
from afterbase.records import Sample
from afterbase.train.masters import Masters
from afterbase.train.optim import OptimConfig
from afterbase.train.packing import pack
from afterbase.train.schedule import ScheduleConfig
from afterbase.train.trainer import LocalTrainer, TrainerConfig

STEADY = OptimConfig(schedule=ScheduleConfig(kind="constant", peak=0.01))
HALF = TrainerConfig(optim=STEADY, precision="bfloat16", weights="bfloat16")


def train(trainer, random_tokens, steps):
    losses = []
    for _ in range(steps):
        samples = [Sample(tuple(random_tokens(length, 10 * trainer.done + length)), (True,) * length) for length in (9, 5, 7)]
        losses.append(sum(trainer.forward_backward(batch, Likelihood())["train/loss/mean"] for batch in pack(samples, 12)))
        trainer.step()
    return losses


def gradients(model, random_tokens, **settings):
    """Of two batches, after which the routers' loads are those of two."""
    trainer = LocalTrainer(copy.deepcopy(model), TrainerConfig(mtp=0.3, balance_loss=0.1, **settings), steps=1)
    samples = [Sample(tuple(random_tokens(length, length)), (True,) * length) for length in (9, 5, 7)]
    for batch in pack(samples, 12):
        trainer.forward_backward(batch, Likelihood())
    loads = [load.tolist() for load in trainer.trace.loads.values()]
    return {name: parameter.grad for name, parameter in trainer.model.named_parameters()}, loads


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
@pytest.mark.parametrize("blocks", [1, 99])
def test_what_is_computed_again_gives_the_same_gradients_and_is_counted_once(tiny, random_tokens, family, blocks, precision):
    model = tiny(family, num_nextn_predict_layers=1 if family == "deepseek_v3" else 0)
    kept, again = (gradients(model, random_tokens, precision=precision, recompute=number) for number in (0, blocks))
    assert kept[1] == again[1]
    for name, gradient in kept[0].items():
        assert torch.equal(gradient, again[0][name]), name


def test_recomputed_blocks_keep_only_what_they_read(tiny, random_tokens):
    """Bytes that autograd holds on to after the forward pass of 64 tokens: with every block recomputed, a fraction."""
    model, held = tiny("qwen2", num_hidden_layers=4), {}
    (batch,) = pack([Sample(tuple(random_tokens(64)), (True,) * 64)], 64)
    for blocks in (0, 4):
        found = {}

        def keep(tensor, found=found):
            found[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(batch.tokens, batch.segments, recompute=blocks)
        held[blocks] = sum(found.values())
    assert held[4] < held[0] / 4


def test_half_weights_are_their_masters_rounded_and_routers_and_vectors_are_not_halved(tiny, random_tokens):
    trainer = LocalTrainer(tiny("deepseek_v3"), HALF, steps=4)
    train(trainer, random_tokens, 3)
    routers = [name for name, _ in trainer.model.named_parameters() if name.endswith("mlp.gate.weight")]
    assert routers
    for name, parameter in trainer.model.named_parameters():
        master = trainer.masters.updated[parameter]
        halved = parameter.dim() > 1 and name not in routers
        assert parameter.dtype == (torch.bfloat16 if halved else torch.float32) and master.dtype == torch.float32
        assert torch.equal(parameter, master.to(parameter.dtype)) and (master is not parameter) == halved


def test_gradients_of_half_weights_add_up_in_float32(tiny, random_tokens):
    """Both batches' gradients together have digits that bfloat16 cannot hold."""
    trainer = LocalTrainer(tiny("qwen2"), HALF, steps=1)
    samples = [Sample(tuple(random_tokens(length, length)), (True,) * length) for length in (9, 5, 7)]
    for batch in pack(samples, 12):
        trainer.forward_backward(batch, Likelihood())
    gradient = trainer.model.lm_head.weight.grad
    assert gradient.dtype == torch.float32 and not torch.equal(gradient, gradient.bfloat16().float())


def test_masters_learn_from_steps_too_small_for_half_precision(tiny, random_tokens):
    """A rate of 1e-5 moves a weight of 1 by less than half a place of bfloat16; after enough steps it moves all the same."""
    config = HALF.model_copy(update={"optim": OptimConfig(schedule=ScheduleConfig(kind="constant", peak=1e-5), weight_decay=0.0)})
    model = tiny("qwen2")
    trainer = LocalTrainer(model, config, steps=3)
    weight = model.model.layers[0].mlp.up_proj.weight
    before, master = weight.clone(), trainer.masters.updated[weight]
    start = master.clone()
    train(trainer, random_tokens, 2)
    assert (weight == before).float().mean() > 0.9 and (master != start).float().mean() > 0.9


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_half_weights_resume_bitwise(tiny, random_tokens, tmp_path, family, kind):
    config = HALF.model_copy(update={"optim": STEADY.model_copy(update={"kind": kind})})
    straight = LocalTrainer(tiny(family), config, steps=4)
    train(straight, random_tokens, 2)
    save_model(straight.model, tmp_path)
    torch.save(straight.state(), tmp_path / "state.pt")
    losses = train(straight, random_tokens, 2)
    resumed = LocalTrainer(load_model(tmp_path, dtype=torch.float32), config, steps=4)
    resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert train(resumed, random_tokens, 2) == losses
    for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other) and torch.equal(straight.masters.updated[one], resumed.masters.updated[other])


def test_half_weights_learn_as_float32_ones_do(tiny, random_tokens):
    wide = LocalTrainer(tiny("deepseek_v3"), HALF.model_copy(update={"weights": "float32"}), steps=10)
    half = LocalTrainer(tiny("deepseek_v3"), HALF, steps=10)
    assert train(half, random_tokens, 10) == pytest.approx(train(wide, random_tokens, 10), rel=0.02)


def test_half_weights_want_half_products():
    with pytest.raises(ConfigError, match='weights = "bfloat16" would be multiplied in float32; set precision = "bfloat16" too'):
        build(TrainerConfig, {"weights": "bfloat16"}, "recipe")


def test_a_model_that_only_scores_has_no_masters(tiny, random_tokens):
    trainer = LocalTrainer(tiny("qwen2"), HALF, steps=1)
    (batch,) = pack([Sample(tuple(random_tokens(8)), (True,) * 8)], 8)
    trainer.score(batch)
    assert "masters" not in trainer.__dict__ and "optimizer" not in trainer.__dict__


@pytest.mark.skipif(not torch.cuda.is_available(), reason="elsewhere the optimizer is on the host already")
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_an_optimizer_on_the_host_makes_the_same_updates(tiny, random_tokens, weights):
    """But for the last digits, in which a GPU and a CPU may differ."""
    found = {}
    for offload in (False, True):
        config = TrainerConfig(optim=STEADY, precision="bfloat16", weights=weights, offload=offload)
        trainer = LocalTrainer(copy.deepcopy(tiny("qwen2")).cuda(), config, steps=3)
        for _ in range(3):
            (batch,) = pack([Sample(tuple(random_tokens(32, trainer.done)), (True,) * 32)], 32, "cuda")
            trainer.forward_backward(batch, Likelihood())
            trainer.step()
        found[offload] = [trainer.masters.updated[p] for p in trainer.model.parameters()]
        assert {each.device.type for each in found[offload]} == {"cpu" if offload else "cuda"}
        assert {p.device.type for p in trainer.model.parameters()} == {"cuda"}
    for here, there in zip(found[False], found[True], strict=True):
        torch.testing.assert_close(here.cpu(), there, atol=2e-3, rtol=1e-3)


def test_on_a_cpu_offloading_is_what_is_done_anyway(tiny):
    assert Masters(list(tiny("qwen2").parameters()), on_host=True).pairs == []


def test_a_word_that_comes_often_has_its_whole_gradient_in_half_weights_too(tiny):
    """Of 800 equal tokens; in bfloat16 throughout the sum would stand still before their third."""
    found = []
    for settings in ({}, {"weights": "bfloat16"}):
        model = tiny("qwen2", tie_word_embeddings=False, max_position_embeddings=800).to(torch.bfloat16).float()
        trainer = LocalTrainer(model, TrainerConfig(precision="bfloat16", **settings), steps=1)
        (batch,) = pack([Sample((5,) * 800, (True,) * 800)], 800)
        trainer.forward_backward(batch, Likelihood())
        found.append(trainer.model.model.embed_tokens.weight.grad)
    assert (found[1] - found[0]).norm() < 0.01 * found[0].norm()

"""What learns through adapters: they alone, with the optimizer's state for them alone; engines and references see what they should."""

import asyncio
import copy

import pytest
import torch

from afterbase.config import build
from afterbase.engine.cuda import latent
from afterbase.engine.cuda.runner import GraphRunner
from afterbase.engine.latent import LatentCpuRunner
from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.engine.runner import FusedRunner, PlainRunner
from afterbase.errors import ConfigError
from afterbase.model.adapter_files import read_adapter, save_adapter
from afterbase.model.lora import ENDS, LoraConfig, adapters
from afterbase.objective.likelihood import Likelihood
from afterbase.records import Sample, Sampling
from afterbase.train.alike import wants_whole
from afterbase.train.critic import Critic, CriticConfig, scored, value_model
from afterbase.train.optim import OptimConfig
from afterbase.train.packing import pack
from afterbase.train.reference import Underneath
from afterbase.train.schedule import ScheduleConfig
from afterbase.train.trainer import LocalTrainer, TrainerConfig

STEADY = OptimConfig(schedule=ScheduleConfig(kind="constant", peak=0.02))
LORA = LoraConfig(rank=3, alpha=6)


def trainer_of(model, **settings):
    return LocalTrainer(model, TrainerConfig(**{"optim": STEADY, "lora": LORA, **settings}), steps=9)


def samples_of(random_tokens, seed=0):
    return [Sample(tuple(random_tokens(length, seed + length)), (True,) * length) for length in (9, 5, 7)]


def train(trainer, random_tokens, steps):
    losses = []
    for _ in range(steps):
        batches = pack(samples_of(random_tokens, 10 * trainer.done), 12)
        losses.append(sum(trainer.forward_backward(batch, Likelihood())["train/loss/mean"] for batch in batches))
        trainer.step()
    return losses


def is_adapter(name):
    return name.endswith(ENDS)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("settings", [{}, {"precision": "bfloat16", "weights": "bfloat16"}, {"precision": "fp8"}, {"recompute": 9}])
def test_adapters_learn_and_nothing_else_moves_routing_biases_included(tiny, random_tokens, kind, settings):
    model = tiny("deepseek_v3", num_nextn_predict_layers=1)
    trainer = trainer_of(model, optim=STEADY.model_copy(update={"kind": kind}), **settings)
    before = copy.deepcopy(model.state_dict())
    train(trainer, random_tokens, 3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) != is_adapter(name), name
        assert not is_adapter(name) or tensor.dtype == torch.float32
    learned = sum(layer.lora_A.numel() + layer.lora_B.numel() for layer in adapters(model).values())
    parts = trainer.optimizer.param_groups
    assert sum(p.numel() for group in parts for p in group["params"]) == learned and trainer.masters.pairs == []


def test_the_loss_on_what_is_seen_again_goes_down(tiny, random_tokens):
    trainer = trainer_of(tiny("qwen2"))
    losses = []
    for _ in range(9):
        batches = pack(samples_of(random_tokens), 30)
        losses.append(sum(trainer.forward_backward(batch, Likelihood())["train/loss/mean"] for batch in batches))
        trainer.step()
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_resuming_from_adapters_and_state_is_never_having_stopped(tiny, random_tokens, tmp_path, dropout):
    lora = LORA.model_copy(update={"dropout": dropout})
    torch.manual_seed(0)
    trainer = trainer_of(tiny("deepseek_v3"), lora=lora)
    train(trainer, random_tokens, 2)
    save_adapter(trainer.model, lora, tmp_path, tmp_path)
    state, generator = copy.deepcopy(trainer.state()), torch.get_rng_state()
    wanted = train(trainer, random_tokens, 2)
    other = trainer_of(tiny("deepseek_v3"), lora=lora)
    read_adapter(other.model, lora, tmp_path)
    other.restore(state)
    torch.set_rng_state(generator)
    assert train(other, random_tokens, 2) == wanted
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name


def drawn(engine, prompts):
    async def ask():
        return await asyncio.gather(*(engine.generate(prompt, Sampling(max_tokens=8, seed=7), 3) for prompt in prompts))

    return asyncio.run(ask())


def answers(engine, prompts):
    """What the engine drew, as something to score."""
    return [
        Sample((*prompt, *one.tokens), (False,) * len(prompt) + (True,) * len(one.tokens), old=one.logprobs)
        for prompt, group in zip(prompts, drawn(engine, prompts), strict=True)
        for one in group
    ]


def gap(trainer, samples):
    pairs = zip(scored(trainer, samples), samples, strict=True)
    return max(abs(ours - theirs) for found, sample in pairs for ours, theirs in zip(found, sample.old, strict=True))


RUNNERS = {
    "llama": FusedRunner, "qwen2": FusedRunner, "qwen3": FusedRunner, "qwen3_moe": PlainRunner, "deepseek_v2": PlainRunner,
    "deepseek_v3": LatentCpuRunner,
}  # fmt: skip


@pytest.mark.parametrize("family", RUNNERS)
def test_the_engine_draws_from_the_adapted_model_after_every_load(tiny, random_tokens, family):
    """Its log-probabilities are the trainer's, though it multiplies by W + s B A and the trainer by W and by B A."""
    trainer, prompts = trainer_of(tiny(family)), [random_tokens(6, 1), random_tokens(4, 2)]
    engine = LocalEngine(trainer.model, EngineConfig(rows=4))
    assert type(engine.runner) in (RUNNERS[family], PlainRunner)
    for version in (1, 2):
        before = scored(trainer, samples_of(random_tokens))
        train(trainer, random_tokens, 2)
        assert scored(trainer, samples_of(random_tokens)) != before
        asyncio.run(engine.load(trainer.weights(), version))
        samples = answers(engine, prompts)
        assert gap(trainer, samples) < 2e-5 < gap(Underneath(trainer), samples)


@pytest.mark.parametrize(("family", "runner"), [("qwen2", GraphRunner), ("deepseek_v3", latent.LatentRunner)])
def test_recorded_graphs_read_copies_of_the_merged_weights(tiny, random_tokens, family, runner):
    """Made when the engine begins, and filled anew, in place, on every load."""
    trainer = trainer_of(tiny(family))
    train(trainer, random_tokens, 1)
    copies = runner(trainer.model, torch.float32)
    for _ in range(2):
        for block, layer in zip(trainer.model.model.layers, copies.layers, strict=True):
            out = adapters(block)["self_attn.o_proj"]
            assert torch.equal(layer.out, out.base + out.scale * out.lora_B.detach() @ out.lora_A.detach())
        train(trainer, random_tokens, 1)
        places = [layer.out.data_ptr() for layer in copies.layers]
        copies.refresh()
        assert places == [layer.out.data_ptr() for layer in copies.layers]


def test_an_update_that_the_engine_was_not_told_of_is_noticed(tiny, random_tokens):
    trainer = trainer_of(tiny("qwen2"))
    engine = LocalEngine(trainer.model, EngineConfig(rows=4))
    train(trainer, random_tokens, 1)
    with pytest.raises(Exception, match="the weights changed after version 0 was loaded"):
        drawn(engine, [random_tokens(4)])


def test_the_reference_underneath_is_the_base_model_and_stays_it(tiny, random_tokens):
    samples = samples_of(random_tokens)
    wanted = scored(LocalTrainer(tiny("deepseek_v3"), TrainerConfig(), 1), samples)
    trainer = trainer_of(tiny("deepseek_v3"))
    assert scored(Underneath(trainer), samples) == wanted == scored(trainer, samples)
    train(trainer, random_tokens, 2)
    moved = scored(trainer, samples)
    assert scored(Underneath(trainer), samples) == wanted != moved and scored(trainer, samples) == moved


def test_a_critic_learns_as_a_whole_where_the_policy_has_adapters(tiny):
    critic = Critic(value_model(tiny("qwen2")), CriticConfig(), TrainerConfig(lora=LORA), 1)
    assert not adapters(critic.model) and all(parameter.requires_grad for parameter in critic.model.parameters())


def test_several_processes_refuse_dropout_in_adapters():
    """Each would draw from the same generator as often as it has batches, and a resumed run could not know."""
    with pytest.raises(ConfigError, match=r"trainer\.lora\.dropout works in one process only"):
        wants_whole(TrainerConfig(lora=LORA.model_copy(update={"dropout": 0.1})))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"lora": {"dropout": 0.1}, "recompute": 2}, "recompute would draw another lora.dropout the second time"),
        ({"lora": {}, "mtp": 0.3, "mtp_reaches_trunk": False}, "an MTP loss that does not reach it moves nothing; set mtp = 0"),
        ({"lora": {"rank": 0}}, "lora.rank"),
        ({"lora": {"targets": "some"}}, "lora.targets"),
    ],
)
def test_settings_that_cannot_stand_together_are_refused(table, words):
    with pytest.raises(ConfigError, match=words):
        build(TrainerConfig, table, "recipe")

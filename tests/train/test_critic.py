"""The critic: what it reads, that it learns, that packing does not matter, and that it goes on bitwise from its files."""

import pytest
import torch

from afterbase.errors import CheckpointError
from afterbase.model.checkpoint import save_model
from afterbase.objective.ppo import PpoConfig, ValueLoss, fill
from afterbase.records import Sample
from afterbase.train.critic import STATE, WEIGHTS, Critic, CriticConfig, scored, value_model
from afterbase.train.optim import OptimConfig
from afterbase.train.packing import pack
from afterbase.train.schedule import ScheduleConfig
from afterbase.train.trainer import LocalTrainer, TrainerConfig

LOSS = ValueLoss(PpoConfig())
FAST = CriticConfig(optim=OptimConfig(schedule=ScheduleConfig(kind="constant", peak=0.01)))


def critic_of(model, steps=10, known=True, **settings) -> Critic:
    """A critic of a tiny model; one that is known has a random head, so that its trunk learns from the first step."""
    critic = Critic(value_model(model), FAST, TrainerConfig(**settings), steps)
    if known:
        torch.nn.init.normal_(critic.model.lm_head.weight, generator=torch.Generator().manual_seed(0))
    return critic


def round_of(random_tokens, seed=0) -> list[Sample]:
    """Answers of several lengths, with a tool's tokens in the middle of the longest."""
    samples = []
    for place, length in enumerate((12, 3, 9, 5)):
        learn = tuple(n > 1 and not (length == 12 and 4 <= n < 8) for n in range(length))
        samples.append(Sample(tuple(random_tokens(length, 10 * seed + place)), learn, 0.5 + place, old=(-1.0,) * sum(learn)))
    return samples


def rewarded(critic, samples) -> list[Sample]:
    """The reward is whether the answer begins with a small token, which the first hidden states cannot know."""
    return fill(samples, [float(sample.tokens[2] < 20) for sample in samples], scored(critic, samples), PpoConfig())[0]


def train(critic, random_tokens, steps) -> list[float]:
    losses = []
    for _ in range(steps):
        batches = pack(rewarded(critic, round_of(random_tokens, critic.done)), 12)
        losses.append(sum(critic.forward_backward(batch, LOSS)["train/value_loss/mean"] for batch in batches))
        critic.step()
    return losses


def gradient(critic) -> torch.Tensor:
    vector = torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in critic.model.parameters()])
    critic.model.zero_grad()
    return vector


@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_a_fresh_critic_expects_nothing_and_holds_no_vocabulary_head(tiny, random_tokens, family):
    model = tiny(family, num_nextn_predict_layers=1 if family == "deepseek_v3" else 0)
    trunk = sum(parameter.numel() for parameter in model.model.parameters())
    critic = critic_of(model, known=False)
    assert sum(parameter.numel() for parameter in critic.model.parameters()) == trunk + 16 + 1
    found = scored(critic, round_of(random_tokens))
    assert [len(row) for row in found] == [6, 1, 7, 3] and not any(value for row in found for value in row)


def test_a_value_is_read_before_its_token_is_drawn(tiny, random_tokens):
    """Another last token changes no value; another one before it changes the last value only."""
    critic, (sample,) = critic_of(tiny("qwen3")), round_of(random_tokens)[2:3]
    (values,) = scored(critic, [sample])

    def with_token(place):
        tokens = list(sample.tokens)
        tokens[place] = (tokens[place] + 1) % 40
        return scored(critic, [Sample(tuple(tokens), sample.learn)])[0]

    assert with_token(-1) == pytest.approx(values, abs=1e-6)
    assert with_token(-2)[:-1] == pytest.approx(values[:-1], abs=1e-6) and with_token(-2)[-1] != pytest.approx(values[-1], abs=1e-3)


@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_packing_changes_no_gradient_of_the_critic(tiny, random_tokens, family):
    critic = critic_of(tiny(family), balance_loss=0.1)
    samples = rewarded(critic, round_of(random_tokens))
    found = []
    for budget in (1000, 1, 14):
        metrics: dict[str, float] = {}
        for batch in pack(samples, budget):
            for name, value in critic.forward_backward(batch, LOSS).items():
                metrics[name] = metrics.get(name, 0.0) + value
        found.append((gradient(critic), metrics))
    whole, expected = found[0]
    assert float(whole.norm()) > 0.01
    for apart, metrics in found[1:]:
        torch.testing.assert_close(apart, whole, atol=1e-5 * float(whole.norm()), rtol=1e-4)
        assert metrics == pytest.approx(expected, abs=1e-5)


def test_the_gradient_is_that_of_float64(tiny, random_tokens):
    """The same model in float64, one answer at a time, the loss written out."""
    critic = critic_of(tiny("llama"))
    samples = rewarded(critic, round_of(random_tokens))
    for batch in pack(samples, 1000):
        critic.forward_backward(batch, LOSS)
    ours, double = gradient(critic), critic_of(tiny("llama"))
    double.model.double()
    total, loss = sum(len(sample.old) for sample in samples), 0.0
    for sample in samples:
        (batch,) = pack([sample], 1000)
        hidden = double.model(batch.tokens, batch.segments)
        values = double.model.lm_head(hidden[[place - 1 for place, flag in enumerate(sample.learn) if flag]]).squeeze(1)
        loss = loss + sample.weight * 0.5 * (values - torch.tensor(sample.returns, dtype=torch.float64)).square().sum() / total
    loss.backward()
    theirs = gradient(double)
    torch.testing.assert_close(ours.double(), theirs.double(), atol=1e-5 * float(theirs.norm()), rtol=1e-3)


def test_a_critic_learns_what_to_expect(tiny, random_tokens):
    """Forty steps on one round bring its loss under a tenth: the reward is in the answer's first token."""
    critic = critic_of(tiny("deepseek_v3"), steps=40, known=False)
    losses = []
    for _ in range(40):
        (batch,) = pack(rewarded(critic, round_of(random_tokens)), 1000)
        losses.append(critic.forward_backward(batch, LOSS)["train/value_loss/mean"])
        metrics = critic.step()
    assert losses[-1] < losses[0] / 10
    assert {"train/value_gradient/norm", "train/value_learning_rate/value"} <= metrics.keys()
    assert not any(name.startswith(("train/gradient", "train/learning_rate")) for name in metrics)


def test_a_gradient_that_is_not_finite_moves_no_critic(tiny):
    critic = critic_of(tiny("qwen2"))
    before = {name: tensor.clone() for name, tensor in critic.model.state_dict().items()}
    critic.model.lm_head.weight.grad = torch.full((1, 16), float("nan"))
    assert critic.step()["train/value_skipped_updates/count"] == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in critic.model.state_dict().items())


@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_a_critic_goes_on_bitwise_from_its_files(tiny, random_tokens, tmp_path, family):
    save_model(tiny(family), tmp_path)
    straight = Critic.start(tmp_path, FAST, TrainerConfig(), 6)
    losses = train(straight, random_tokens, 3)
    straight.write(tmp_path / "critic")
    losses += train(straight, random_tokens, 3)

    resumed = Critic.load(tmp_path / "critic", FAST, TrainerConfig(), 6)
    assert resumed.done == 3
    assert train(resumed, random_tokens, 3) == losses[3:] and len(set(losses)) == 6
    theirs = resumed.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in straight.model.state_dict().items())


@pytest.mark.parametrize("damage", [WEIGHTS, STATE])
@pytest.mark.parametrize("how", ["gone", "cut short", "empty", "noise"])
def test_a_damaged_critic_is_told_in_words(tiny, tmp_path, damage, how):
    critic_of(tiny("qwen2")).write(tmp_path / "critic")
    file = tmp_path / "critic" / damage
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut short": file.read_bytes()[:100], "empty": b"", "noise": b"\x80\x02" + b"noise" * 99}[how])
    with pytest.raises(CheckpointError, match=r"critic in .* cannot be read .* delete its checkpoint"):
        Critic.load(tmp_path / "critic", FAST, TrainerConfig(), 6)


def test_a_policys_trunk_is_left_alone(tiny, random_tokens, tmp_path):
    """A critic made from the policy's own start shares no memory with it."""
    policy = tiny("qwen2")
    save_model(policy, tmp_path)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    train(Critic.start(tmp_path, FAST, TrainerConfig(), 2), random_tokens, 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())


def test_a_trunk_may_come_from_another_checkpoint(tiny, tmp_path):
    for seed, place in enumerate(("policy", "reward")):
        (tmp_path / place).mkdir()
        save_model(tiny("qwen2", seed=seed), tmp_path / place)
    for seed, model in enumerate((None, tmp_path / "reward")):
        critic = Critic.start(tmp_path / "policy", FAST.model_copy(update={"model": model}), TrainerConfig(), 1)
        assert torch.equal(critic.model.model.embed_tokens.weight, tiny("qwen2", seed=seed).model.embed_tokens.weight)


def test_bfloat16_arithmetic_keeps_values_in_float32(tiny, random_tokens):
    critic = critic_of(tiny("qwen2"), precision="bfloat16")
    (batch,) = pack(rewarded(critic, round_of(random_tokens)), 1000)
    assert critic.score(batch).dtype == torch.float32 and not critic.score(batch).requires_grad
    critic.forward_backward(batch, LOSS)
    assert {p.grad.dtype for p in critic.model.parameters()} == {torch.float32}


def test_scores_come_back_in_the_order_of_the_samples(tiny, random_tokens):
    trainer = LocalTrainer(tiny("qwen2"), TrainerConfig(tokens_per_batch=10), steps=1)
    samples = round_of(random_tokens)
    alone = [tuple(trainer.score(pack([sample], 100)[0]).tolist()) for sample in samples]
    for found, expected in zip(scored(trainer, samples), alone, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)

"""GAE against its sum written out in float64, the two losses against loops over tokens, and what `fill` makes of a round."""

import math
from itertools import pairwise

import pytest
import torch

from afterbase.objective.correction import CorrectionConfig
from afterbase.objective.ppo import Ppo, PpoConfig, ValueLoss, fill, gae, token_rewards
from afterbase.records import Sample
from afterbase.train.packing import pack

LENGTHS, WEIGHTS, SCORES = (5, 1, 3, 4), (1.0, 0.5, 2.0, 1.0), (1.0, -0.5, 0.0, 2.0)


def double_loop(rewards, values, gamma, lam) -> list[float]:
    """A_t = sum over l of (gamma lam)^l delta_{t+l}, each delta written out; after the last token comes nothing."""
    after = [*values, 0.0]
    deltas = [rewards[t] + gamma * after[t + 1] - values[t] for t in range(len(values))]
    return [sum((gamma * lam) ** (later - t) * deltas[later] for later in range(t, len(values))) for t in range(len(values))]


def answers(seed: int = 0) -> tuple[list[Sample], list[list[float]]]:
    """Four answers without advantages yet, and a critic's values for their tokens."""
    random, samples, values = torch.Generator().manual_seed(seed), [], []
    for length, weight in zip(LENGTHS, WEIGHTS, strict=True):
        old, value = (torch.randn(length, generator=random, dtype=torch.float64) for _ in range(2))
        old = old.abs().neg() - 0.5
        reference = tuple((old + 0.1).tolist())
        samples.append(Sample((7,) * (length + 1), (False,) + (True,) * length, weight, old=tuple(old.tolist()), reference=reference))
        values.append(value.tolist())
    return samples, values


def filled(seed: int = 0, **knobs) -> tuple[list[Sample], PpoConfig]:
    samples, values = answers(seed)
    config = PpoConfig(**knobs)
    return fill(samples, SCORES, values, config)[0], config


def moved(start: tuple[float, ...], seed: int, far: float) -> torch.Tensor:
    """Numbers near `start`, some of them far enough to be clipped."""
    noise = torch.randn(len(start), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (torch.tensor(start, dtype=torch.float64) + far * noise).float().requires_grad_()


def joined(samples, name) -> tuple[float, ...]:
    return tuple(value for sample in sorted(samples, key=lambda each: -len(each.tokens)) for value in getattr(sample, name))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)])
def test_gae_is_the_sum_of_discounted_surprises(gamma, lam):
    rewards, values = torch.randn(2, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    advantages, returns = gae(rewards, values, gamma, lam)
    torch.testing.assert_close(advantages, torch.tensor(double_loop(rewards.tolist(), values.tolist(), gamma, lam), dtype=torch.float64))
    torch.testing.assert_close(returns, advantages + values)


def test_without_discount_and_with_lambda_one_it_is_what_came_later_minus_the_value():
    """Rewards 1, 0, 2 leave 3, 2, 2 to come; the critic expected 5, 1, 4."""
    advantages, returns = gae(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([5.0, 1.0, 4.0]), 1.0, 1.0)
    assert advantages.tolist() == [-2.0, 1.0, -2.0] and returns.tolist() == [3.0, 2.0, 2.0]


def test_with_lambda_zero_it_is_the_surprise_of_one_step():
    """1 + 1/2 - 5, 0 + 4/2 - 1 and 2 - 4, with gamma a half."""
    advantages, _ = gae(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([5.0, 1.0, 4.0]), 0.5, 0.0)
    assert advantages.tolist() == [-3.5, 1.0, -2.0]


def test_a_critic_that_knows_the_return_leaves_no_advantage():
    advantages, _ = gae(torch.tensor([0.0, 0.0, 2.0]), torch.tensor([2.0, 2.0, 2.0]), 1.0, 0.7)
    assert advantages.tolist() == [0.0, 0.0, 0.0]


def test_the_score_is_earned_by_the_last_token():
    assert token_rewards(Sample((1, 2, 3), (False, True, True), old=(-1.0, -2.0)), 3.0, PpoConfig()).tolist() == [0.0, 3.0]
    assert token_rewards(Sample((1,), (False,)), 3.0, PpoConfig()).tolist() == []


@pytest.mark.parametrize(
    ("estimator", "penalties"), [("k1", (-1.0, 0.5)), ("k2", (0.5, 0.125)), ("k3", (math.e - 2, math.exp(-0.5) - 0.5))]
)
def test_each_token_pays_for_leaving_the_reference(estimator, penalties):
    """log pi - log pi_ref is -1 and 1/2; a beta of 2 doubles it."""
    sample = Sample((1, 2, 3), (False, True, True), old=(-2.0, -1.0), reference=(-1.0, -1.5))
    rewards = token_rewards(sample, 3.0, PpoConfig(kl=2.0, kl_estimator=estimator))
    assert rewards.tolist() == pytest.approx([-2 * penalties[0], 3.0 - 2 * penalties[1]])


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_answers_of_every_length_are_filled_as_if_alone(kl):
    samples, values = answers()
    config = PpoConfig(gamma=0.9, lam=0.8, kl=kl, whiten=False)
    together, _ = fill(samples, SCORES, values, config)
    for sample, score, value, found in zip(samples, SCORES, values, together, strict=True):
        rewards = [0.1 * kl] * len(value)  # the reference is likelier by 0.1: leaving it that way is rewarded
        rewards[-1] += score
        expected = double_loop(rewards, value, 0.9, 0.8)
        assert found.advantages == pytest.approx(expected) and found.values == pytest.approx(value)
        assert found.returns == pytest.approx([a + v for a, v in zip(expected, value, strict=True)])
        assert (found.tokens, found.learn, found.old, found.weight) == (sample.tokens, sample.learn, sample.old, sample.weight)


def test_what_a_tool_said_is_no_step():
    """Two own tokens, three of a tool, one own: discounted by two steps, not by five, and read by the batch at the own ones."""
    learn = (False, True, True, False, False, False, True)
    with_tool = Sample((1, 2, 3, 4, 5, 6, 7), learn, old=(-1.0, -1.0, -1.0))
    plain = Sample((1, 2, 3, 7), (False, True, True, True), old=(-1.0, -1.0, -1.0))
    config = PpoConfig(gamma=0.5, lam=1.0, whiten=False)
    found, expected = fill([with_tool, plain], [4.0, 4.0], [(0.0, 0.0, 0.0)] * 2, config)[0]
    assert found.returns == expected.returns == (1.0, 2.0, 4.0)
    (batch,) = pack([found], 10)
    assert batch.picked.tolist() == [1, 2, 6] and batch.advantages.tolist() == [1.0, 2.0, 4.0]


def test_whitened_advantages_have_mean_zero_and_spread_one_over_the_round():
    found = joined(filled()[0], "advantages")
    plain = joined(filled(whiten=False)[0], "advantages")
    white = torch.tensor(found, dtype=torch.float64)
    assert white.mean().item() == pytest.approx(0, abs=1e-12) and white.std(correction=0).item() == pytest.approx(1)
    assert all((a < b) == (c < d) for (a, b), (c, d) in zip(pairwise(found), pairwise(plain), strict=True))
    assert joined(filled()[0], "returns") == joined(filled(whiten=False)[0], "returns")


def test_equal_advantages_are_whitened_to_nothing():
    samples = [Sample((1, 2), (False, True), old=(-1.0,)) for _ in range(3)]
    assert [one.advantages for one in fill(samples, [0.1] * 3, [(0.3,)] * 3, PpoConfig())[0]] == [(0.0,)] * 3


def test_what_the_critic_knew_is_told():
    """Values 1 and 2 of returns 1 and 3 leave residuals 0 and 1: a variance of 1/4 out of 1."""
    samples = [Sample((1, 2), (False, True), old=(-1.0,)) for _ in range(2)]
    _, metrics = fill(samples, [1.0, 3.0], [(1.0,), (2.0,)], PpoConfig(lam=1.0))
    assert metrics == {"train/value/mean": 1.5, "train/value_explained/fraction": pytest.approx(0.75)}
    assert fill(samples, [1.0, 1.0], [(1.0,), (2.0,)], PpoConfig(lam=1.0))[1] == {"train/value/mean": 1.5}


def test_a_round_without_own_tokens_is_left_as_it_is():
    sample = Sample((1, 2), (False, False))
    assert fill([sample], [1.0], [()], PpoConfig()) == ([sample], {})
    found, _ = fill([sample, Sample((1, 2), (False, True), old=(-1.0,))], [9.0, 1.0], [(), (0.0,)], PpoConfig(whiten=False))
    assert [one.advantages for one in found] == [(), (1.0,)]


def weights_of(samples) -> list[float]:
    ordered = sorted(samples, key=lambda each: -len(each.tokens))
    return [sample.weight / sum(LENGTHS) for sample in ordered for _ in sample.old]


@pytest.mark.parametrize("bonus", [0.0, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_policys_loss_and_gradient_are_the_closed_form(seed, bonus):
    samples, config = filled(seed, clip=0.1, entropy=bonus)
    (batch,) = pack(samples, 100)
    old, gains = joined(samples, "old"), joined(samples, "advantages")
    logprobs, entropy = moved(old, seed + 10, 0.3), torch.rand(len(old), requires_grad=True)
    loss, metrics = Ppo(config)(logprobs, batch, entropy)
    loss.backward()
    expected, slopes, held = 0.0, [], 0.0
    for new, before, gain, weight, spread in zip(logprobs.tolist(), old, gains, weights_of(samples), entropy.tolist(), strict=True):
        ratio = math.exp(new - before)
        free, bounded = ratio * gain, min(max(ratio, 0.9), 1.1) * gain
        expected -= weight * (min(free, bounded) + bonus * spread)
        slopes.append(0.0 if bounded < free else -weight * free)
        held += (bounded < free) / sum(LENGTHS)
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(logprobs.grad, torch.tensor(slopes), atol=1e-6, rtol=1e-4)
    assert metrics["train/clip_fraction/mean"] == pytest.approx(held) and held > 0
    if bonus:
        torch.testing.assert_close(entropy.grad, torch.tensor([-bonus * weight for weight in weights_of(samples)]))
    assert Ppo(config).entropy == ("learned" if bonus else "measured")


@pytest.mark.parametrize("reach", [0.2, None])
def test_the_critics_loss_and_gradient_are_the_closed_form(reach):
    samples, config = filled(value_clip=reach)
    (batch,) = pack(samples, 100)
    before, due = joined(samples, "values"), joined(samples, "returns")
    values = moved(before, 5, 0.4)
    loss, metrics = ValueLoss(config)(values, batch)
    loss.backward()
    expected, slopes, held = 0.0, [], 0.0
    for new, start, goal, weight in zip(values.tolist(), before, due, weights_of(samples), strict=True):
        bounded = new if reach is None else min(max(new, start - reach), start + reach)
        free_loss, held_loss = (new - goal) ** 2, (bounded - goal) ** 2
        expected += 0.5 * weight * max(free_loss, held_loss)
        slopes.append(0.0 if held_loss > free_loss else weight * (new - goal))
        held += (held_loss > free_loss) / sum(LENGTHS)
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(values.grad, torch.tensor(slopes), atol=1e-6, rtol=1e-4)
    assert metrics["train/value_clip_fraction/mean"] == pytest.approx(held) and (held > 0) == (reach is not None)


@pytest.mark.parametrize("kind", [Ppo, ValueLoss])
def test_batches_of_one_step_add_up(kind):
    samples, config = filled(entropy=0.1, kl=0.2)
    start = {Ppo: "old", ValueLoss: "values"}[kind]
    now = [moved(getattr(sample, start), place, 0.3) for place, sample in enumerate(samples)]

    def share(batch):
        rows = torch.cat([now[place] for place in batch.samples])
        return kind(config)(rows, batch, rows.detach().abs())

    (whole,) = pack(samples, 100)
    loss, metrics = share(whole)
    parts = [share(batch) for batch in pack(samples, 1)]
    assert len(parts) == 4 and sum(part.item() for part, _ in parts) == pytest.approx(loss.item(), rel=1e-5)
    assert {name: sum(part[name] for _, part in parts) for name in metrics} == pytest.approx(metrics, rel=1e-5)


def test_tokens_of_another_distribution_are_weighed():
    """Drawn at half the probability that pi_old gives it, a token counts double; drawn at all of it, once."""
    samples = [Sample((1, 2, 3), (False, True, True), old=(-1.0, -1.0), behaviour=(-1.0 - math.log(2), -1.0))]
    filling = fill(samples, [1.0], [(0.0, 0.0)], PpoConfig(lam=1.0, whiten=False))[0]
    logprobs = torch.tensor([-1.0, -1.0], requires_grad=True)
    Ppo(PpoConfig(correction=CorrectionConfig(high=3.0)))(logprobs, pack(filling, 10)[0])[0].backward()
    assert logprobs.grad.tolist() == pytest.approx([-1.0, -0.5])


def test_a_probability_that_vanished_makes_no_nan():
    """e^200 is infinite in float32, and times an advantage of zero it would be NaN."""
    sample = Sample((1, 2), (False, True), old=(-200.0,), advantages=(0.0,), values=(0.0,), returns=(0.0,))
    logprobs = torch.zeros(1, requires_grad=True)
    loss, _ = Ppo(PpoConfig())(logprobs, pack([sample], 10)[0])
    loss.backward()
    assert loss.item() == 0 and logprobs.grad.item() == 0

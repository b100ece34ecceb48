"""Law 6: equal rewards teach nothing, make no NaN, and are counted."""

import pytest
import torch

from afterbase.objective.advantage import advantages
from afterbase.objective.grpo import Grpo, GrpoConfig
from afterbase.records import Sample
from afterbase.train.packing import pack
from afterbase.train.trainer import LocalTrainer, TrainerConfig


def test_seven_equal_rewards_teach_nothing():
    """Seven float32 rewards of 0.1 do not sum to 0.7: their spread is about 7e-9, which must not be divided by."""
    rewards = torch.tensor([[0.1] * 7, [0.0] * 6 + [1.0]])
    found = advantages(rewards)
    assert found.equal.tolist() == [True, False]
    assert found.values[0].tolist() == [0.0] * 7 and found.values[1, 6] > 2


@pytest.mark.parametrize("reward", [0.1, 1.1, -3.3, 1000.1])
def test_equal_rewards_of_any_size_teach_nothing(reward):
    found = advantages(torch.full((1, 7), reward))
    assert found.equal.tolist() == [True] and found.values.tolist() == [[0.0] * 7]


def test_rewards_that_differ_by_rounding_are_equal():
    """0.1 + 0.2 is not 0.3 in binary; sums of weighted parts come out like that."""
    found = advantages(torch.tensor([[0.1 + 0.2, 0.3, 0.3]], dtype=torch.float64))
    assert found.equal.tolist() == [True] and found.values.tolist() == [[0.0] * 3]


def test_an_answer_whose_verifier_failed_is_as_if_never_drawn():
    rewards, valid = torch.tensor([[1.0, 0.0, torch.nan, 1.0]]), torch.tensor([[True, True, False, True]])
    masked, without = advantages(rewards, valid).values, advantages(torch.tensor([[1.0, 0.0, 1.0]])).values
    assert masked[0, [0, 1, 3]].tolist() == pytest.approx(without[0].tolist())
    assert masked[0, 2] == 0.0


def test_a_group_with_one_valid_answer_or_none_teaches_nothing():
    rewards, valid = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[True, False], [False, False]])
    found = advantages(rewards, valid)
    assert found.values.tolist() == [[0.0, 0.0], [0.0, 0.0]] and found.equal.tolist() == [True, True]


@pytest.mark.parametrize("ratio", ["token", "sequence", "gspo"])
@pytest.mark.parametrize("surprise", [0.0, 5.0, 200.0])
def test_a_step_of_equal_groups_moves_nothing(tiny, random_tokens, ratio, surprise):
    """Even where the ratio to the old policy has overflowed: nothing times infinity would be NaN."""
    model = tiny("qwen2")
    samples = [Sample(tuple(random_tokens(6, seed)), (False, *(True,) * 5), advantage=0.0, old=(-3.0 - surprise,) * 5) for seed in (1, 2)]
    trainer = LocalTrainer(model, TrainerConfig(), steps=1)
    for batch in pack(samples, 100):
        trainer.forward_backward(batch, Grpo(GrpoConfig(ratio=ratio)))
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())

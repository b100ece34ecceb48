"""Eq. 26-27 against loops over tokens in float64, and the corners of the clip by hand."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from afterbase.objective.grpo import Grpo, GrpoConfig
from afterbase.records import Sample
from afterbase.train.packing import pack

LENGTHS, ADVANTAGES, WEIGHTS = (5, 4, 2, 1), (1.2, -0.7, 0.4, -2.0), (1.0, 0.5, 2.0, 1.0)


def answers(seed: int = 0) -> tuple[list[Sample], list[list[float]]]:
    """Four answers of five to one tokens, and log-probabilities that moved far enough from the old ones to be clipped at times."""
    random, samples, current = torch.Generator().manual_seed(seed), [], []
    for length, advantage, weight in zip(LENGTHS, ADVANTAGES, WEIGHTS, strict=True):
        old, change, drift = (torch.randn(length, generator=random, dtype=torch.float64) for _ in range(3))
        old = old.abs().neg() - 0.5
        current.append((old + 0.3 * change).tolist())
        reference = tuple((old + 0.5 * drift).tolist())
        samples.append(Sample((7,) * (length + 1), (False,) + (True,) * length, weight, advantage, tuple(old.tolist()), reference))
    return samples, current


def clipped_term(ratio: float, advantage: float, low: float, high: float) -> float:
    return min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def kl_term(current: float, reference: float) -> float:
    return math.exp(reference - current) - (reference - current) - 1


def by_token(samples, current, beta, low, high, average) -> float:
    """Minus Eq. 26 with one ratio a token; `average` says whether tokens or answers weigh the same."""
    loss = 0.0
    for sample, now in zip(samples, current, strict=True):
        share = 1 / sum(LENGTHS) if average == "token" else 1 / len(now) / len(LENGTHS)
        for new, old, reference in zip(now, sample.old, sample.reference, strict=True):
            term = clipped_term(math.exp(new - old), sample.advantage, low, high) - beta * kl_term(new, reference)
            loss -= sample.weight * share * term
    return loss


def by_sequence(samples, current, beta, low, high) -> float:
    """Minus Eq. 26 to the letter: pi(o|q) is the product of the tokens' probabilities."""
    loss = 0.0
    for sample, now in zip(samples, current, strict=True):
        term = clipped_term(math.exp(sum(now) - sum(sample.old)), sample.advantage, low, high)
        loss -= sample.weight / len(LENGTHS) * (term - beta * kl_term(sum(now), sum(sample.reference)))
    return loss


def flat(current) -> torch.Tensor:
    return torch.tensor([value for answer in current for value in answer], dtype=torch.float32, requires_grad=True)


CASES = [
    (GrpoConfig(clip=0.1, kl=0.3), lambda s, c: by_token(s, c, 0.3, 0.1, 0.1, "token")),
    (GrpoConfig(clip=0.1, clip_high=0.4), lambda s, c: by_token(s, c, 0.0, 0.1, 0.4, "token")),
    (GrpoConfig(clip=0.2, kl=0.3, average="sequence"), lambda s, c: by_token(s, c, 0.3, 0.2, 0.2, "sequence")),
    (GrpoConfig(clip=0.2, kl=0.3, ratio="sequence"), lambda s, c: by_sequence(s, c, 0.3, 0.2, 0.2)),
    (GrpoConfig(clip=0.05, clip_high=0.3, ratio="sequence"), lambda s, c: by_sequence(s, c, 0.0, 0.05, 0.3)),
]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("config", "closed"), CASES, ids=["token", "clip high", "sequence mean", "sequence", "sequence clip high"])
def test_loss_and_gradient_are_the_closed_form(config, closed, seed):
    """The gradient of the loops is taken by central differences."""
    samples, current = answers(seed)
    (batch,) = pack(samples, 100)
    logprobs = flat(current)
    loss, _ = Grpo(config)(logprobs, batch)
    loss.backward()
    assert loss.item() == pytest.approx(closed(samples, current), rel=1e-5)
    slopes = []
    for answer in current:
        for place, value in enumerate(answer):
            ends = []
            for answer[place] in (value + 1e-6, value - 1e-6):
                ends.append(closed(samples, current))
            answer[place] = value
            slopes.append((ends[0] - ends[1]) / 2e-6)
    torch.testing.assert_close(logprobs.grad, torch.tensor(slopes), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [case[0] for case in CASES])
def test_batches_of_one_step_add_up(config):
    samples, current = answers()
    (whole,) = pack(samples, 100)
    loss, metrics = Grpo(config)(flat(current), whole)
    parts = [Grpo(config)(flat([now]), batch) for now, batch in zip(current, pack(samples, 1), strict=True)]
    assert sum(part.item() for part, _ in parts) == pytest.approx(loss.item(), rel=1e-5)
    assert {name: sum(part[name] for _, part in parts) for name in metrics} == pytest.approx(metrics, rel=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"),
    [(1.5, 1.0, 0.0), (0.5, 1.0, -0.5), (1.5, -1.0, 1.5), (0.5, -1.0, 0.0), (1.1, 1.0, -1.1), (0.9, -1.0, 0.9)],
)
@pytest.mark.parametrize("kind", ["token", "sequence", "gspo"])
def test_the_clip_holds_back_only_what_went_too_far(ratio, advantage, gradient, kind):
    """With epsilon 0.2: a good token already up by half gains no more, a bad one already halved sinks no more; the way back is open."""
    (batch,) = pack([Sample((1, 2), (False, True), advantage=advantage, old=(0.0,))], 10)
    logprob = torch.tensor([math.log(ratio)], requires_grad=True)
    loss, metrics = Grpo(GrpoConfig(clip=0.2, ratio=kind))(logprob, batch)
    loss.backward()
    assert logprob.grad.item() == pytest.approx(gradient)
    assert metrics["train/clip_fraction/mean"] == (1.0 if gradient == 0 else 0.0)
    assert metrics["train/ratio/mean"] == pytest.approx(ratio)


def test_clip_high_moves_the_upper_end_only():
    """With 0.2 below and 0.6 above, a ratio of 1.5 still learns and one of 0.5 is still held."""
    (batch,) = pack(
        [Sample((1, 2), (False, True), advantage=1.0, old=(0.0,)), Sample((1, 2), (False, True), advantage=-1.0, old=(0.0,))], 10
    )
    logprobs = torch.tensor([math.log(1.5), math.log(0.5)], requires_grad=True)
    Grpo(GrpoConfig(clip=0.2, clip_high=0.6))(logprobs, batch)[0].backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.75, 0.0])


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"), [(2.5, -1.0, 2.5), (3.5, -1.0, 0.0), (3.5, 1.0, 0.0), (1.1, 1.0, -1.1), (0.5, -1.0, 0.0)]
)
def test_dual_clip_bounds_what_a_bad_token_that_ran_away_can_do(ratio, advantage, gradient):
    """With c = 3 a bad token of ratio 3.5 pushes no more; everything else is as without."""
    (batch,) = pack([Sample((1, 2), (False, True), advantage=advantage, old=(0.0,))], 10)
    logprob = torch.tensor([math.log(ratio)], requires_grad=True)
    loss, metrics = Grpo(GrpoConfig(dual_clip=3))(logprob, batch)
    loss.backward()
    assert logprob.grad.item() == pytest.approx(gradient)
    assert metrics["train/clip_fraction/mean"] == (1.0 if gradient == 0 else 0.0)


def test_cispo_clips_the_weight_and_never_the_gradient():
    """Ratios of 1/2, 1.1 and 2 between bounds of 0 and 1.2: each token's gradient is its weight times its advantage."""
    samples = [Sample((1, 2), (False, True), advantage=advantage, old=(0.0,)) for advantage in (-1.0, 2.0, 1.0)]
    (batch,) = pack(samples, 10)
    logprobs = torch.tensor([0.5, 1.1, 2.0]).log().requires_grad_()
    loss, metrics = Grpo(GrpoConfig(surrogate="cispo", clip=1, clip_high=0.2))(logprobs, batch)
    loss.backward()
    assert (logprobs.grad * 3).tolist() == pytest.approx([0.5, -2.2, -1.2])
    assert metrics["train/clip_fraction/mean"] == pytest.approx(1 / 3)


def test_an_answers_ratio_is_the_product_or_the_geometric_mean_of_its_tokens():
    """Ratios of 2 and 8: 16 together (Eq. 26), 4 in the geometric mean (GSPO); the 3 of another answer is its own."""
    samples = [Sample((1, 2, 3), (False, True, True), old=(0.0, 0.0)), Sample((1, 2), (False, True), old=(0.0,))]
    (batch,) = pack(samples, 10)
    logprobs = torch.tensor([2.0, 8.0, 3.0]).log()
    means = [Grpo(GrpoConfig(ratio=ratio))(logprobs, batch)[1]["train/ratio/mean"] for ratio in ("token", "sequence", "gspo")]
    assert [3 * mean for mean in means] == pytest.approx([2 + 8 + 3, 16 + 16 + 3, 4 + 4 + 3], rel=1e-5)


def test_a_constant_length_divides_every_answer_alike():
    """Answers of 3 tokens and 1 token as if each were 4 long: 3/4 and 1/4 of a half each."""
    samples = [Sample((1,) * 4, (False, True, True, True), advantage=1.0, old=(0.0,) * 3), Sample((1, 1), (False, True), old=(0.0,))]
    (batch,) = pack(samples, 10)
    loss, _ = Grpo(GrpoConfig(average="constant", constant_length=4))(torch.zeros(4), batch)
    assert loss.item() == pytest.approx(-3 / 8)


def test_the_bonus_is_the_weighed_mean_entropy():
    """Entropies of 1, 2 and 3 nats and a weight of 1/2: the loss is lower by 1."""
    (batch,) = pack([Sample((1, 2, 3, 4), (False, True, True, True), old=(0.0,) * 3)], 10)
    objective = Grpo(GrpoConfig(entropy=0.5))
    loss, metrics = objective(torch.zeros(3), batch, torch.tensor([1.0, 2.0, 3.0]))
    assert loss.item() == pytest.approx(-1.0) and metrics["train/entropy/mean"] == 2.0
    assert objective.entropy == "learned" and Grpo(GrpoConfig()).entropy == "measured"


def test_what_is_measured_depends_on_what_is_given():
    """No entropy, reference or behaviour: no such numbers; with them they are there, weight or no weight."""
    plain = Sample((1, 2, 3), (False, True, True), old=(-1.0, -2.0))
    rich = replace(plain, reference=(-1.0, -2.0), behaviour=(-1.5, -2.25))
    always = {"train/ratio/mean", "train/clip_fraction/mean", "train/policy_kl/mean"}
    (batch,), (fuller,) = pack([plain], 10), pack([rich], 10)
    logprobs = torch.tensor([-1.0, -2.0])
    assert Grpo(GrpoConfig())(logprobs, batch)[1].keys() == always
    found = Grpo(GrpoConfig())(logprobs, fuller, torch.ones(2))[1]
    assert found.keys() - always == {
        "train/reference_kl/mean",
        "train/entropy/mean",
        "train/logprob_gap/mean",
        "train/logprob_gap/max",
    }
    assert found["train/logprob_gap/mean"] == 0.375 and found["train/logprob_gap/max"] == 0.5


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"average": "constant"}, "needs constant_length"),
        ({"constant_length": 5}, "used by average='constant' only"),
        ({"ratio": "sequence", "average": "token"}, "one term per output"),
        ({"ratio": "sequence", "average": "constant", "constant_length": 5}, "one term per output"),
        ({"ratio": "sequence", "surrogate": "cispo"}, "take ratio='token' or 'gspo'"),
        ({"surrogate": "cispo", "dual_clip": 3}, "surrogate='cispo' leave it out"),
        ({"surrogate": "plain", "dual_clip": 3}, "surrogate='plain' leave it out"),
        ({"surrogate": "plain", "clip_high": 0.3}, "does not clip"),
        ({"kl_in": "reward", "kl_estimator": "unbiased"}, "take 'k1' or 'k3'"),
        ({"correction": {"low": 2.0, "high": 2.0}}, "not below high=2"),
        ({"dual_clip": 1.0}, "greater than 1"),
    ],
)
def test_what_cannot_stand_together_is_refused_in_words(knobs, said):
    with pytest.raises(ValidationError, match=said):
        GrpoConfig(**knobs)


def test_the_config_says_who_needs_a_reference():
    """Of (needs one, takes it off rewards, pulls answers of advantage 0)."""
    cases = [{}, {"kl": 0.1}, {"kl": 0.1, "kl_in": "reward"}, {"kl_in": "reward"}, {"entropy": 0.1}]
    found = [(c.needs_reference, c.penalizes_rewards, c.pulls_without_advantage) for c in (GrpoConfig(**case) for case in cases)]
    assert found == [(False, False, False), (True, False, True), (True, True, False), (False, False, False), (False, False, True)]


def test_token_and_sequence_means_differ_by_length_only():
    """Answers of 3 tokens and 1 token with A = 1 and ratio 1: by token 3/4 and 1/4 of the pull, by sequence half and half."""
    samples = [
        Sample((1,) * 4, (False, True, True, True), advantage=1.0, old=(0.0,) * 3),
        Sample((1, 1), (False, True), advantage=1.0, old=(0.0,)),
    ]
    (batch,) = pack(samples, 10)
    pulls = []
    for average in ("token", "sequence"):
        logprobs = torch.zeros(4, requires_grad=True)
        Grpo(GrpoConfig(average=average))(logprobs, batch)[0].backward()
        pulls.append([-logprobs.grad[:3].sum().item(), -logprobs.grad[3].item()])
    assert pulls[0] == pytest.approx([0.75, 0.25]) and pulls[1] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("kind", ["token", "sequence"])
@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
def test_a_ratio_past_float32_stays_finite(kind, advantage):
    (batch,) = pack([Sample((1, 2), (False, True), advantage=advantage, old=(-200.0,), reference=(100.0,))], 10)
    logprob = torch.tensor([-1.0], requires_grad=True)
    loss, _ = Grpo(GrpoConfig(ratio=kind, kl=0.1))(logprob, batch)
    loss.backward()
    assert loss.isfinite() and logprob.grad.isfinite().all()


def test_sampled_tokens_come_with_their_log_probabilities():
    (batch,) = pack([Sample((1, 2), (False, True), old=(0.0,))], 10)
    with pytest.raises(AssertionError, match="log-probabilities"):
        Grpo(GrpoConfig())(torch.zeros(1), replace(batch, old=None))

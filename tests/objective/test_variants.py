"""Every variant of the objective against loops over answers and tokens in float64, written down from the papers."""

import math
from statistics import fmean

import pytest
import torch

from afterbase.objective.grpo import Grpo, GrpoConfig
from afterbase.records import Sample
from afterbase.train.packing import pack

LENGTHS, ADVANTAGES, WEIGHTS = (5, 4, 2, 1), (1.2, -0.7, 0.4, -2.0), (1.0, 0.5, 2.0, 1.0)


def answers(seed: int = 0) -> tuple[list[Sample], list[list[float]], list[list[float]]]:
    """Four answers, their log-probabilities now, far enough from the old ones to be clipped at times, and their entropies."""
    random, samples, current, entropies = torch.Generator().manual_seed(seed), [], [], []
    for length, advantage, weight in zip(LENGTHS, ADVANTAGES, WEIGHTS, strict=True):
        drawn, change, drift, gap, entropy = (torch.randn(length, generator=random, dtype=torch.float64) for _ in range(5))
        old = drawn.abs().neg() - 0.5
        current.append((old + 0.4 * change).tolist())
        entropies.append(entropy.abs().tolist())
        per_token = (tuple(values.tolist()) for values in (old, old + 0.5 * drift, old + 0.5 * gap))
        samples.append(Sample((7,) * (length + 1), (False,) + (True,) * length, weight, advantage, *per_token))
    return samples, current, entropies


def ratios(kind: str, new: list[float], old: tuple[float, ...]) -> list[float]:
    """pi/pi_old at each token: its own, that of the whole answer, or the answer's geometric mean."""
    if kind == "token":
        return [math.exp(a - b) for a, b in zip(new, old, strict=True)]
    total = sum(new) - sum(old)
    return [math.exp(total if kind == "sequence" else total / len(new))] * len(new)


def gain(config: GrpoConfig, ratio: float, frozen: float, advantage: float, logprob: float) -> float:
    """What one token's surrogate is worth; `frozen` is the ratio that gradients do not see."""
    low, high = 1 - config.clip, 1 + (config.clip if config.clip_high is None else config.clip_high)
    if config.surrogate == "plain":
        return ratio * advantage
    if config.surrogate == "cispo":
        return min(max(frozen, low), high) * advantage * logprob
    value = min(ratio * advantage, min(max(ratio, low), high) * advantage)
    return max(value, config.dual_clip * advantage) if config.dual_clip and advantage < 0 else value


def distance(estimator: str, new: float, old: float, reference: float) -> float:
    k3 = math.exp(reference - new) - (reference - new) - 1
    return {"k1": new - reference, "k2": (new - reference) ** 2 / 2, "k3": k3, "unbiased": math.exp(new - old) * k3}[estimator]


def corrections(config: GrpoConfig, sample: Sample) -> list[float]:
    """pi_old/behaviour of each token, or of the whole answer, held between its bounds."""
    if config.correction is None:
        return [1.0] * len(sample.old)
    low, high = config.correction.low, config.correction.high
    weights = ratios(config.correction.level, list(sample.old), sample.behaviour)
    if config.correction.mode == "clip":
        return [min(max(weight, low), high) for weight in weights]
    return [weight if low <= weight <= high else 0.0 for weight in weights]


def slow(config: GrpoConfig, samples, current, frozen, entropies) -> float:
    """Minus the objective, answer by answer and token by token."""
    loss = 0.0
    for sample, new, still, spreads in zip(samples, current, frozen, entropies, strict=True):
        worth = [
            gain(config, ratio, constant, sample.advantage, logprob) * weight
            for ratio, constant, logprob, weight in zip(
                ratios(config.ratio, new, sample.old),
                ratios(config.ratio, still, sample.old),
                new,
                corrections(config, sample),
                strict=True,
            )
        ]
        if config.ratio == "sequence":
            pull = [distance(config.kl_estimator, sum(new), sum(sample.old), sum(sample.reference))] * len(new)
        else:
            pull = [distance(config.kl_estimator, *each) for each in zip(new, sample.old, sample.reference, strict=True)]
        terms = [a - config.kl * b + config.entropy * c for a, b, c in zip(worth, pull, spreads, strict=True)]
        average = config.average or ("token" if config.ratio == "token" else "sequence")
        if average == "token":
            share = sum(terms) / sum(LENGTHS)
        elif average == "sequence":
            share = fmean(terms) / len(LENGTHS)
        else:
            share = sum(terms) / (len(LENGTHS) * config.constant_length)
        loss -= sample.weight * share
    return loss


def flat(rows) -> torch.Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=torch.float32, requires_grad=True)


def slopes(function, rows: list[list[float]]) -> torch.Tensor:
    """The gradient by central differences."""
    found = []
    for row in rows:
        for place, value in enumerate(row):
            ends = []
            for row[place] in (value + 1e-6, value - 1e-6):
                ends.append(function())
            row[place] = value
            found.append((ends[0] - ends[1]) / 2e-6)
    return torch.tensor(found)


CORRECTIONS = [{"level": level, "mode": mode, "low": 0.7, "high": 1.3} for level in ("token", "sequence") for mode in ("clip", "mask")]
CASES = [
    {},
    {"clip": 0.1, "clip_high": 0.4, "kl": 0.3},
    {"dual_clip": 1.3},
    {"average": "sequence", "kl": 0.3},
    {"average": "constant", "constant_length": 7, "kl": 0.3},
    {"ratio": "sequence", "kl": 0.3},
    {"ratio": "sequence", "clip": 0.05, "clip_high": 0.3, "dual_clip": 1.4},
    {"ratio": "sequence", "kl": 0.3, "kl_estimator": "unbiased"},
    {"ratio": "gspo", "clip": 0.03, "clip_high": 0.04},
    {"ratio": "gspo", "average": "token", "kl": 0.2},
    {"ratio": "gspo", "average": "constant", "constant_length": 9},
    {"surrogate": "cispo", "clip": 1, "clip_high": 0.2, "kl": 0.1},
    {"surrogate": "cispo", "ratio": "gspo", "average": "constant", "constant_length": 3},
    {"surrogate": "plain", "average": "sequence"},
    {"surrogate": "plain", "ratio": "sequence"},
    {"surrogate": "plain", "ratio": "gspo"},
    {"kl": 0.5, "kl_estimator": "k1"},
    {"kl": 0.5, "kl_estimator": "k2"},
    {"kl": 0.5, "kl_estimator": "unbiased"},
    {"entropy": 0.2},
    {"entropy": 0.2, "ratio": "gspo", "kl": 0.1},
    *({"correction": correction, "kl": 0.2, "entropy": 0.1} for correction in CORRECTIONS),
    {"correction": CORRECTIONS[2], "ratio": "sequence", "kl": 0.2},
    {"correction": CORRECTIONS[1], "surrogate": "cispo", "average": "sequence"},
]
each_case = pytest.mark.parametrize("knobs", CASES, ids=[" ".join(f"{k}={v}" for k, v in case.items()) or "default" for case in CASES])


@pytest.mark.parametrize("seed", [0, 1, 2])
@each_case
def test_loss_and_gradients_are_those_of_the_loops(knobs, seed):
    config = GrpoConfig(**knobs)
    samples, current, entropies = answers(seed)
    frozen = [list(row) for row in current]
    (batch,) = pack(samples, 100)
    logprobs, entropy = flat(current), flat(entropies)
    loss, _ = Grpo(config)(logprobs, batch, entropy)
    loss.backward()
    assert loss.item() == pytest.approx(slow(config, samples, current, frozen, entropies), rel=2e-5, abs=1e-6)
    by_logprob = slopes(lambda: slow(config, samples, current, frozen, entropies), current)
    torch.testing.assert_close(logprobs.grad, by_logprob, atol=1e-5, rtol=2e-4)
    if config.entropy:
        by_entropy = slopes(lambda: slow(config, samples, current, frozen, entropies), entropies)
        torch.testing.assert_close(entropy.grad, by_entropy, atol=1e-5, rtol=2e-4)


@each_case
def test_every_case_above_clips_and_corrects_somewhere(knobs):
    """Else the test above would not see it."""
    seen: dict[str, float] = {}
    for seed in (0, 1, 2):
        samples, current, entropies = answers(seed)
        (batch,) = pack(samples, 100)
        for name, value in Grpo(GrpoConfig(**knobs))(flat(current), batch, flat(entropies))[1].items():
            seen[name] = max(value, seen.get(name, 0.0))
    assert (seen["train/clip_fraction/mean"] > 0) == (knobs.get("surrogate") != "plain")
    assert (seen.get("train/correction_clipped/fraction", 0.0) > 0) == ("correction" in knobs)


@each_case
def test_batches_of_one_step_add_up(knobs):
    """Loss, gradient and metrics; of a metric in /max the largest counts."""
    objective = Grpo(GrpoConfig(**knobs))
    samples, current, entropies = answers()
    (whole,) = pack(samples, 100)
    logprobs = flat(current)
    loss, metrics = objective(logprobs, whole, flat(entropies))
    loss.backward()
    parts, gradients = [], []
    for batch in pack(samples, 6):
        rows = flat([current[place] for place in batch.samples])
        parts.append(objective(rows, batch, flat([entropies[place] for place in batch.samples])))
        parts[-1][0].backward()
        gradients.append(rows.grad)
    assert len(parts) > 2
    assert sum(part.item() for part, _ in parts) == pytest.approx(loss.item(), rel=1e-5, abs=1e-7)
    torch.testing.assert_close(torch.cat(gradients), logprobs.grad, atol=1e-7, rtol=1e-5)
    together = {name: (max if name.endswith("/max") else sum)(part[name] for _, part in parts) for name in metrics}
    assert together == pytest.approx(metrics, rel=1e-5)


@each_case
def test_answers_of_advantage_zero_have_no_gradient_of_their_own(knobs):
    """Whatever the ratio is; only a pull in the loss or a bonus moves them, and the config says so."""
    config = GrpoConfig(**knobs)
    samples, current, entropies = answers()
    (batch,) = pack([Sample(each.tokens, each.learn, 1.0, 0.0, each.old, each.reference, each.behaviour) for each in samples], 100)
    logprobs, entropy = flat(current), flat(entropies)
    Grpo(config)(logprobs, batch, entropy)[0].backward()
    moved = bool(logprobs.grad.any()) or (entropy.grad is not None and bool(entropy.grad.any()))
    assert moved == config.pulls_without_advantage


@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
@each_case
def test_whatever_overflows_stays_finite(knobs, advantage):
    """pi/pi_old = e^199, pi_ref/pi = e^101 and pi_old/behaviour = e^100, all beyond float32."""
    (batch,) = pack([Sample((1, 2), (False, True), 1.0, advantage, (-200.0,), (100.0,), (-300.0,))], 10)
    logprob = torch.tensor([-1.0], requires_grad=True)
    loss, metrics = Grpo(GrpoConfig(**knobs))(logprob, batch, torch.ones(1))
    loss.backward()
    assert loss.isfinite() and logprob.grad.isfinite().all() and all(map(math.isfinite, metrics.values()))

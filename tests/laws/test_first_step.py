"""Law 7: on the first on-policy step the ratio is 1, nothing is clipped, KL is 0, and the gradient is the plain policy gradient."""

import asyncio
from dataclasses import replace

import pytest
import torch

from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.objective.grpo import Grpo, GrpoConfig
from afterbase.records import Sample, Sampling
from afterbase.segments import Segments
from afterbase.train.packing import pack
from afterbase.train.trainer import LocalTrainer, TrainerConfig

TEMPERATURE = 0.8


@pytest.fixture(scope="module", params=["qwen2", "deepseek_v3"])
def setting(request, tiny, random_tokens):
    """A model, and four of its own answers with advantages that sum to 0."""
    model, prompt = tiny(request.param), random_tokens(5)
    sampling = Sampling(TEMPERATURE, max_tokens=12, stop_ids=(0, 1, 2, 3, 4))
    answers = asyncio.run(LocalEngine(model, EngineConfig(rows=4)).generate(prompt, sampling, n=4))
    samples = [
        Sample(
            (*prompt, *one.tokens), (False,) * 5 + (True,) * len(one.tokens), advantage=advantage, old=one.logprobs, temperature=TEMPERATURE
        )
        for one, advantage in zip(answers, (1.5, -0.5, -0.5, -0.5), strict=True)
    ]
    assert len({len(sample.old) for sample in samples}) > 1
    return model, samples


def learned(setting, config: GrpoConfig) -> tuple[dict[str, float], list[torch.Tensor]]:
    model, samples = setting
    trainer = LocalTrainer(model, TrainerConfig(balance_loss=0.0), steps=1)
    (batch,) = pack(samples, 1000)
    metrics = trainer.forward_backward(replace(batch, reference=trainer.score(batch)), Grpo(config))
    gradients = [parameter.grad.clone() if parameter.grad is not None else None for parameter in model.parameters()]
    model.zero_grad()
    return metrics, gradients


@pytest.mark.parametrize("ratio", ["token", "sequence", "gspo"])
def test_ratio_is_one_and_nothing_is_clipped(setting, ratio):
    metrics, _ = learned(setting, GrpoConfig(ratio=ratio, kl=0.5))
    assert metrics["train/ratio/mean"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["train/clip_fraction/mean"] == 0.0
    assert metrics["train/reference_kl/mean"] == pytest.approx(0.0, abs=1e-9)
    assert metrics["train/policy_kl/mean"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("config", "share"),
    [
        (GrpoConfig(kl=0.5), lambda tokens, total: 1 / total),
        (GrpoConfig(kl=0.5, average="sequence"), lambda tokens, total: 1 / tokens / 4),
        (GrpoConfig(kl=0.5, ratio="sequence"), lambda tokens, total: 1 / 4),
        (GrpoConfig(kl=0.5, ratio="gspo"), lambda tokens, total: 1 / tokens / 4),
        (GrpoConfig(kl=0.5, average="constant", constant_length=12), lambda tokens, total: 1 / 12 / 4),
        (GrpoConfig(kl=0.5, surrogate="cispo", kl_estimator="k2"), lambda tokens, total: 1 / total),
        (GrpoConfig(kl=0.5, surrogate="plain", kl_estimator="unbiased"), lambda tokens, total: 1 / total),
    ],
    ids=["token", "token, sequence mean", "sequence", "gspo", "constant", "cispo", "plain"],
)
def test_its_gradient_is_the_plain_policy_gradient(setting, config, share):
    """grad of -sum_i A_i log pi(o_i) times each token's share; the KL term has a minimum there and adds nothing."""
    model, samples = setting
    _, gradients = learned(setting, config)
    loss, total = 0.0, sum(len(sample.old) for sample in samples)
    for sample in samples:
        tokens = torch.tensor(sample.tokens)
        logits = model.logits(model(tokens, Segments.of([len(tokens)]))) / TEMPERATURE
        logprobs = logits[:-1].log_softmax(-1).gather(1, tokens[1:, None])[4:]
        loss = loss - sample.advantage * logprobs.sum() * share(len(sample.old), total)
    loss.backward()
    plain = [parameter.grad for parameter in model.parameters()]
    size = torch.cat([gradient.flatten() for gradient in plain if gradient is not None]).norm()
    for ours, wanted in zip(gradients, plain, strict=True):
        assert (ours is None) == (wanted is None)
        if ours is not None:
            torch.testing.assert_close(ours, wanted, atol=2e-5 * float(size), rtol=1e-4)
    model.zero_grad()

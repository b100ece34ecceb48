"""Multi-token prediction against its equations written out, sequence by sequence.  [V3 Eq. 21-25]"""

import pytest
import torch

from afterbase.model.transformer import shifted
from afterbase.objective.likelihood import Likelihood
from afterbase.records import Sample
from afterbase.segments import Segments
from afterbase.train.packing import pack
from afterbase.train.trainer import LocalTrainer, TrainerConfig

LAMBDA = 0.3


def rms(row, norm):
    return row / (row.square().mean() + norm.eps).sqrt() * norm.weight


def by_equations(model, samples, total) -> torch.Tensor:
    """lambda/D sum_k L^k, with the paper's slices: at depth k only the first T - k places exist."""
    losses = []
    for sample in samples:
        tokens, embedding = sample.tokens, model.model.embed_tokens.weight
        hidden = list(model(torch.tensor(tokens), Segments.of([len(tokens)])))
        for depth, module in enumerate(model.mtp, start=1):
            places = len(tokens) - depth
            if places < 1:
                break
            joined = []
            for i in range(places):  # h'^k_i = M_k [RMSNorm(h^{k-1}_i); RMSNorm(Emb(t_{i+k}))], embedding first as published
                halves = (rms(embedding[tokens[i + depth]], module.enorm), rms(hidden[i], module.hnorm))
                joined.append(module.eh_proj.weight @ torch.cat(halves))
            segments = Segments.of([places])
            hidden = list(sum(module.block(torch.stack(joined), None, segments, model.rotary(segments.positions))))  # h^k, not normalized
            for i in range(places - 1):  # P^k_{i+k+1} = OutHead(h^k_i)
                target = i + depth + 1
                if sample.learn[target]:
                    log_p = (model.lm_head.weight @ rms(hidden[i], module.norm)).log_softmax(0)[tokens[target]]
                    losses.append(-log_p * sample.weight / total / len(model.mtp))
    return LAMBDA * torch.stack(losses).sum()


class Nothing:
    """An objective without a loss, so that only the MTP modules learn."""

    entropy = "unused"

    def __call__(self, logprobs, batch, entropy=None):
        return 0.0 * logprobs.sum(), {}


@pytest.mark.parametrize(("family", "modules"), [("deepseek_v3", 1), ("deepseek_v3", 2), ("qwen2", 3)])
def test_the_loss_and_its_gradient_are_the_equations(tiny, random_tokens, family, modules):
    """Ragged lengths down to sequences too short for a module to predict anything; the first third is not learned."""
    model = tiny(family, num_nextn_predict_layers=modules)
    samples = [Sample(tuple(random_tokens(n, n)), tuple(place >= n // 3 for place in range(n)), 1.0 + 0.5 * (n % 2)) for n in (9, 6, 3, 2)]
    (batch,) = pack(samples, 100)
    config = TrainerConfig(mtp=LAMBDA, balance_loss=0.0)
    metrics = LocalTrainer(model, config, steps=1).forward_backward(batch, Nothing())
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    wanted = by_equations(model, samples, batch.total_tokens)
    wanted.backward()
    assert LAMBDA * metrics["train/mtp_loss/mean"] == pytest.approx(wanted.item(), rel=1e-5)
    for (name, parameter), ours in zip(model.named_parameters(), gradients, strict=True):
        theirs = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(torch.zeros_like(parameter) if ours is None else ours, theirs, atol=1e-5, rtol=1e-4, msg=name)


def test_it_comes_on_top_of_the_objective(tiny, random_tokens):
    """Gradients add: likelihood and 0.3 MTP together are the two apart."""
    model = tiny("deepseek_v3", num_nextn_predict_layers=1)
    (batch,) = pack([Sample(tuple(random_tokens(8)), (True,) * 8)], 100)

    def gradient(mtp, objective):
        LocalTrainer(model, TrainerConfig(mtp=mtp, balance_loss=0.0), steps=1).forward_backward(batch, objective)
        found = model.lm_head.weight.grad.clone()
        model.zero_grad()
        return found

    nothing = gradient(LAMBDA, Nothing())
    torch.testing.assert_close(gradient(LAMBDA, Likelihood()), gradient(0.0, Likelihood()) + nothing, atol=1e-6, rtol=1e-5)


def test_cut_off_from_the_trunk_the_modules_learn_the_same_and_nothing_else_learns(tiny, random_tokens):
    model = tiny("deepseek_v3", num_nextn_predict_layers=2)
    (batch,) = pack([Sample(tuple(random_tokens(8)), (True,) * 8)], 100)

    def gradients(reaches):
        config = TrainerConfig(mtp=LAMBDA, mtp_reaches_trunk=reaches, balance_loss=0.0)
        LocalTrainer(model, config, steps=1).forward_backward(batch, Nothing())
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        model.zero_grad()
        return found

    whole, cut = gradients(True), gradients(False)
    assert {name.split(".")[0] for name in whole} == {"model", "mtp", "lm_head"} and {name.split(".")[0] for name in cut} == {"mtp"}
    assert all(torch.equal(cut[name], whole[name]) for name in whole if name.startswith("mtp"))


def test_shifting_stays_within_each_sequence():
    """Tokens 1 2 3 | 4 5 by one are 2 3 3 | 5 5, and by two 3 3 3 | 5 5."""
    tokens, segments = torch.tensor([1, 2, 3, 4, 5]), Segments.of([3, 2])
    assert shifted(tokens, segments, 1).tolist() == [2, 3, 3, 5, 5]
    assert shifted(tokens, segments, 2).tolist() == [3, 3, 3, 5, 5]

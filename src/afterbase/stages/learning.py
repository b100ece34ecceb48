"""From judged groups to new weights: samples, their advantages, and the round's optimizer updates.  [V3 Eq. 26-28]"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import chain
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from afterbase.dist import dealt, merged
from afterbase.objective.advantage import advantages, spread
from afterbase.objective.grpo import Grpo
from afterbase.objective.kl import penalties
from afterbase.objective.ppo import Ppo, ValueLoss, fill
from afterbase.objective.shaping import overlong_penalty
from afterbase.records import Rollout, Sample
from afterbase.stages.rl_config import RlConfig
from afterbase.stages.session import Session
from afterbase.train.base import Objective
from afterbase.train.critic import Critic, scored
from afterbase.train.packing import pack, step_totals
from afterbase.train.reference import Underneath
from afterbase.train.trainer import LocalTrainer

MEANS = ("ratio", "clip_fraction", "policy_kl", "reference_kl", "entropy", "logprob_gap", "correction")
OVER_COMPUTED = {*(f"train/{name}/mean" for name in MEANS), "train/correction_clipped/fraction"}
"""Metrics of the objective: means over the answers that have a gradient."""

OF_THE_FIRST = {"train/logprob_gap/mean", "train/logprob_gap/max"}
"""Metrics that only the first update of a round can tell: after it the weights have moved."""

CRITIC = "critic"
"""What PPO's critic is called among the models of a checkpoint."""

COUNTED = {"train/skipped_updates/count", "train/value_skipped_updates/count"}
"""Metrics that add up over the updates of a round."""

Clock = Callable[[str], AbstractContextManager[None]]
Groups = Sequence[Sequence[Rollout]]
Reference = LocalTrainer | Underneath


class Learning:
    """What a round teaches: the steps that every objective shares."""

    def __init__(self, config: RlConfig, session: Session, reference: Reference | None, clock: Clock) -> None:
        self.config, self.session, self.reference, self.clock = config, session, reference, clock
        self.objective: Objective = self.objective_of(config)

    def objective_of(self, config: RlConfig) -> Objective:
        """What is minimized."""
        raise NotImplementedError

    def valued(self, groups: Groups, drafts: list[Sample]) -> tuple[list[Sample], dict[str, float]]:
        """The judged answers' samples with their advantages; and what there is to say of them."""
        raise NotImplementedError

    def needed(self, samples: list[Sample]) -> list[Sample]:
        """Those that an update cannot do without."""
        return samples

    def round(self, step: int, groups: Groups) -> dict[str, float]:
        """Learn from the groups of one round; its metrics."""
        with self.clock("score"):
            samples, metrics = self.samples(groups)
        with self.clock("update"):
            return self.update(step, samples) | metrics  # what was measured before the first update is not overwritten by it

    def samples(self, groups: Groups) -> tuple[list[list[Sample]], dict[str, float]]:
        """Each group as samples with their advantages; answers whose verifier failed are masked out."""
        judged = [rollout for group in groups for rollout in group if rollout.score.outcome != "error"]
        drafts, metrics = self.scored([_sample(rollout, self.config) for rollout in judged])
        flat, more = self.valued(groups, drafts)
        return self.grouped(groups, flat), metrics | more

    def scored(self, samples: list[Sample]) -> tuple[list[Sample], dict[str, float]]:
        """The samples with what the reference says of their tokens and, where the drawing is corrected for, the policy of now."""
        metrics: dict[str, float] = {}
        if self.config.objective.correction is not None:
            now = self.session.scored(samples)
            gaps = (torch.tensor(list(chain.from_iterable(now))) - torch.tensor([value for each in samples for value in each.old])).abs()
            metrics = {"train/logprob_gap/mean": float(gaps.mean()), "train/logprob_gap/max": float(gaps.max())} if len(gaps) else {}
            samples = [replace(sample, old=old) for sample, old in zip(samples, now, strict=True)]
        if self.reference is not None:
            far = merged(scored(self.reference, dealt(samples)))
            samples = [replace(sample, reference=reference) for sample, reference in zip(samples, far, strict=True)]
        return samples, metrics

    def empty(self, group: Sequence[Rollout]) -> bool:
        """Whether all judged answers of a group earned the same; a domain of weight 0 has nothing to teach, whatever they earned."""
        equal = advantages(self.rewards([group]), _valid([group])).equal
        return bool(equal[0]) and self.config.weight(group[0].prompt.domain) > 0

    def rewards(self, groups: Groups) -> Float[Tensor, "groups answers"]:
        """The judge's values, less the punishment of answers that come near the length cap."""
        values = torch.tensor([[rollout.score.value for rollout in group] for group in groups])
        overlong = self.config.overlong
        lengths = torch.tensor([[rollout.completion.length for rollout in group] for group in groups])
        caps = torch.tensor([[self.config.drawing(group[0].prompt.domain).max_tokens] for group in groups])
        return values + overlong.penalty * overlong_penalty(lengths, caps, overlong.buffer)

    def grouped(self, groups: Groups, flat: list[Sample]) -> list[list[Sample]]:
        """The samples group by group again, without those that a choice leaves out of the loss."""
        rest, cut = iter(flat), self.config.overlong.mask
        kept = []
        for group in groups:
            pairs = [(rollout, next(rest)) for rollout in group if rollout.score.outcome != "error"]
            kept.append([sample for rollout, sample in pairs if sample.weight and not (cut and rollout.completion.finish == "length")])
        return kept

    def update(self, step: int, groups: list[list[Sample]]) -> dict[str, float]:
        """The round's optimizer updates, each on its share of the groups; metrics are their mean."""
        share = len(groups) // self.config.minibatches
        found: dict[str, list[float]] = {}
        for epoch in range(self.config.epochs):
            order = list(range(len(groups)))
            if epoch:
                random.Random(f"{self.config.seed}/{step}/{epoch}").shuffle(order)
            for first in range(0, len(groups), share):
                chosen = [sample for place in order[first : first + share] for sample in groups[place]]
                for name, value in self.learn(chosen).items():
                    found.setdefault(name, []).append(value)
        return {name: _over_updates(name, values) for name, values in found.items()}  # an update that computed nothing has no ratio

    def learn(self, samples: list[Sample]) -> dict[str, float]:
        """One update."""
        needed, totals = self.needed(samples), step_totals(samples)
        metrics = self.session.learn(self.session.batches(needed, totals), self.objective)
        share = step_totals(needed)[0] / max(totals[0], 1)
        # Shares of the step add up over its batches; a ratio is a mean over the answers that were computed.
        metrics |= {name: metrics[name] / share for name in OVER_COMPUTED & metrics.keys()}
        return {"train/learned_tokens/count": float(totals[0]), **metrics}


class GrpoLearning(Learning):
    """GRPO: an answer is compared with its siblings.  [V3 Eq. 26-28]"""

    def objective_of(self, config: RlConfig) -> Grpo:
        """Minus Eq. 26."""
        return Grpo(config.objective)

    def valued(self, groups: Groups, drafts: list[Sample]) -> tuple[list[Sample], dict[str, float]]:
        """How much better each answer was than its siblings, whose verifiers did not fail."""
        objective, valid = self.config.objective, _valid(groups)
        rewards = self.rewards(groups)
        if objective.penalizes_rewards:
            told_apart = valid & ~advantages(rewards, valid).equal[:, None]
            cost = torch.zeros_like(rewards)
            cost[valid] = penalties(drafts, objective.kl, objective.kl_estimator).to(rewards.dtype)
            # Among equal rewards the cost would be all there is, and Eq. 28 blows up the least difference to full size.
            rewards -= torch.where(told_apart, cost, 0.0)
        found = advantages(rewards, valid, [group[0].prompt.domain for group in groups], objective.advantage)
        samples = [replace(sample, advantage=value) for sample, value in zip(drafts, found.values[valid].tolist(), strict=True)]
        return samples, _of_groups(rewards, valid, found.equal)

    def needed(self, samples: list[Sample]) -> list[Sample]:
        """Answers of advantage zero count, but where nothing else learns from them they are not computed."""
        return samples if self.needs_all() else [each for each in samples if each.advantage]

    def needs_all(self) -> bool:
        """Whether answers of advantage zero matter all the same: to the pull of Eq. 27, to entropy, to MTP, or to the experts' balance."""
        trainer, model = self.config.trainer, self.session.model.config
        balancing = bool(model.n_routed_experts) and bool(trainer.balance_loss or trainer.balance_speed)
        return self.config.objective.pulls_without_advantage or bool(trainer.mtp) or balancing


class PpoLearning(Learning):
    """PPO: a token is compared with what a critic expected of it.  [Setup]"""

    def __init__(self, config: RlConfig, session: Session, reference: Reference | None, critic: Critic, clock: Clock) -> None:
        super().__init__(config, session, reference, clock)
        self.critic, self.expectation = critic, ValueLoss(config.objective)

    def objective_of(self, config: RlConfig) -> Ppo:
        """Minus the clipped gain."""
        return Ppo(config.objective)

    def valued(self, groups: Groups, drafts: list[Sample]) -> tuple[list[Sample], dict[str, float]]:
        """Each token's advantage over the critic's expectation."""
        rewards, valid = self.rewards(groups), _valid(groups)
        samples, metrics = fill(drafts, rewards[valid].tolist(), scored(self.critic, drafts), self.config.objective)
        return samples, metrics | _of_groups(rewards, valid, advantages(rewards, valid).equal)

    def learn(self, samples: list[Sample]) -> dict[str, float]:
        """One update of the policy and one of the critic."""
        batches = pack(samples, self.config.trainer.tokens_per_batch, self.critic.device)
        return self.session.learn(batches, self.expectation, CRITIC) | super().learn(samples)


def _valid(groups: Groups) -> Tensor:
    """[groups answers] Whose verifiers did not fail."""
    return torch.tensor([[rollout.score.outcome != "error" for rollout in group] for group in groups])


def _of_groups(rewards: Tensor, valid: Tensor, equal: Tensor) -> dict[str, float]:
    """How far the answers of a group differ."""
    return {
        "train/equal_groups/fraction": float(equal.float().mean()),
        "train/group_spread/mean": float(spread(rewards, valid).mean()),
    }


def _sample(rollout: Rollout, config: RlConfig) -> Sample:
    """An answer as something to learn from: the model's own tokens only."""
    completion, domain = rollout.completion, rollout.prompt.domain
    own = completion.own or (True,) * len(completion.tokens)
    drawn = completion.sampled_logprobs if config.objective.correction is not None else completion.logprobs
    return Sample(
        tokens=(*rollout.prompt_tokens, *completion.tokens),
        learn=(False,) * len(rollout.prompt_tokens) + own,
        weight=config.weight(domain),
        old=_where(own, completion.logprobs),
        behaviour=_where(own, drawn),
        temperature=config.drawing(domain).temperature,
    )


def _where(own: Sequence[bool], values: Sequence[float]) -> tuple[float, ...]:
    return tuple(value for value, mine in zip(values, own, strict=True) if mine)


def _over_updates(name: str, values: list[float]) -> float:
    """One number for a round out of those of its updates."""
    if name in OF_THE_FIRST:
        return values[0]
    return sum(values) if name in COUNTED else fmean(values)

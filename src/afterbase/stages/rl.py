"""Reinforcement learning with verifiable rewards: sample a group of answers, judge them, learn from how they compare.  [V3 5.2]"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from afterbase.config import Config
from afterbase.dist import here
from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.model.checkpoint import load_model
from afterbase.objective.advantage import group_advantages
from afterbase.objective.grpo import Grpo, GrpoConfig
from afterbase.prompts.source import Mixture, RowSource, SourceConfig, open_mixture
from afterbase.records import Prompt, Rollout, Sample, Sampling
from afterbase.rewards.base import Judge, RewardsConfig, build
from afterbase.rollouts.sample import check_fit, sample_group
from afterbase.rollouts.store import write_rollouts
from afterbase.stages.check_rewards import refuse_bad_gold
from afterbase.stages.held_out import NOTHING, HeldOut, HeldOutConfig, open_questions, trained_on
from afterbase.stages.rl_metrics import rollout_metrics
from afterbase.stages.run import Run, StageKind
from afterbase.stages.session import Session, learn
from afterbase.train.packing import pack
from afterbase.train.resume import SavingConfig
from afterbase.train.trainer import LocalTrainer, TrainerConfig

OVER_COMPUTED = {"train/ratio/mean", "train/clip_fraction/mean", "train/policy_kl/mean", "train/reference_kl/mean"}
"""Metrics of the objective: means over the answers that have a gradient."""

SHOWN = {"train/reward/mean": "reward", "train/accuracy/mean": "accuracy", "eval/accuracy/mean": "held_out"}
"""Metrics that the progress bar and the summary show; a round whose verdicts all failed, or without evaluation, lacks them."""

SUMMARY = (*SHOWN, "eval/accuracy/low", "eval/accuracy/high", "eval/questions/count")
"""Metrics of the last round that stand in done.json."""


class DrawConfig(Config):
    """How answers are drawn during training."""

    temperature: float = Field(1.0, gt=0)
    """Divides the logits; the trainer's log-probabilities use the same."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Keep the smallest set of tokens with this much probability; 1 keeps all, so that pi_old is what was sampled."""
    top_k: int = Field(0, ge=0)
    """Keep the k most probable tokens; 0 keeps all."""
    max_tokens: int = Field(512, gt=0)
    """Length cap of an answer in tokens."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer, besides the end-of-sequence token."""

    def sampling(self, seed: int) -> Sampling:
        """The engine's side of it, with the seed of one group."""
        return Sampling(self.temperature, self.top_p, self.top_k, self.max_tokens, self.stop, seed=seed)


class RlConfig(Config):
    """GRPO on prompts with rewards."""

    model: Path
    """The checkpoint directory to start from, in Hugging Face format."""
    prompts: list[SourceConfig] = Field(min_length=1)
    """The questions; each carries its domain."""
    template: Literal["chat", "r1-zero", "plain"] = "chat"
    """How a question is put: the tokenizer's chat template, or R1-Zero's for a base model [Slides Table 1]."""
    rewards: RewardsConfig = RewardsConfig()
    """What judges the answers, by domain."""
    steps: int = Field(100, gt=0)
    """Rounds of sampling and learning."""
    prompts_per_step: int = Field(32, gt=0)
    """Questions in a round."""
    group: int = Field(8, ge=2)
    """G, answers to each question."""
    minibatches: int = Field(1, gt=0)
    """Optimizer updates in a round, each on its share of the groups."""
    sampling: DrawConfig = DrawConfig()
    """How answers are drawn."""
    objective: GrpoConfig = GrpoConfig()
    """What is learned from them."""
    trainer: TrainerConfig = TrainerConfig()
    """How the model is updated."""
    engine: EngineConfig = EngineConfig()
    """How the engine batches."""
    saving: SavingConfig = SavingConfig(every=20)
    """When checkpoints are written; counted in rounds."""
    held_out: HeldOutConfig = HeldOutConfig()
    """Questions asked during training that nothing is trained on."""
    max_errors: float = Field(0.2, ge=0, le=1)
    """Share of a round's verdicts that may fail (the verifier's fault, masked) before the run stops in words."""
    max_refused_gold: float = Field(0.02, ge=0, le=1)
    """Share of reference answers, in a sample of up to 200 prompts, that their own verifiers may refuse, or the run does not start; 1 looks
    at none."""
    seed: int = 0
    """Fixes prompts, their order and every draw."""

    @model_validator(mode="after")
    def _fits_together(self) -> RlConfig:
        if self.prompts_per_step % self.minibatches:
            raise ValueError(
                f"prompts_per_step={self.prompts_per_step} does not divide into minibatches={self.minibatches}; make it a multiple"
            )
        if self.trainer.precision != self.engine.precision:
            raise ValueError(
                f"trainer.precision={self.trainer.precision!r} and engine.precision={self.engine.precision!r} differ; "
                "set both alike, or the sampled log-probabilities are not the trainer's"
            )
        if met := trained_on(self.held_out, self.prompts):
            raise ValueError(f"held_out.prompts would ask what is trained on: {met}; set part and hold_out on both, or give another source")
        return self


def run_rl(config: RlConfig, run: Run) -> None:
    """Train from the first round, or from the latest checkpoint, to the last."""
    judge = build(config.rewards)  # first of all: that a compiler is missing is told before a model is loaded
    rounds, updates = config.steps, config.minibatches
    try:
        session = Session.start(run, config.model, config.trainer, config.saving, rounds, updates)
        loop = Loop.open(config, session, judge)
    except BaseException:
        asyncio.run(judge.close())
        raise
    asyncio.run(loop.run())


@dataclass(eq=False)
class Loop:
    """Everything that a round touches."""

    config: RlConfig
    session: Session
    prompts: Mixture
    judge: Judge
    engine: LocalEngine
    reference: LocalTrainer | None
    held_out: HeldOut

    @classmethod
    def open(cls, config: RlConfig, session: Session, judge: Judge) -> Loop:
        """Everything ready for the next round."""
        prompts = open_mixture(config.prompts, config.seed)
        if session.cursor is not None:
            prompts.restore(session.cursor)
        engine = LocalEngine(session.model, config.engine, session.tokenizer.decode)
        engine.version = session.trainer.done
        for source in prompts.sources:
            if isinstance(source, RowSource):  # generated prompts are without end, and short
                check_fit(source.prompts, session.tokenizer, config.template, engine.room)
        asked = open_questions(config.held_out, config.prompts, prompts)
        check_fit(asked, session.tokenizer, config.template, engine.room)
        held_out = HeldOut(config.held_out, asked, config.steps, config.sampling.sampling(config.seed << 40), config.max_errors)
        return cls(config, session, prompts, judge, engine, _reference(config), held_out)

    async def run(self) -> None:
        """Round after round: prompts, groups, rewards, advantages, update, load."""
        config, session = self.config, self.session
        try:
            await self.begin()
            with session.run.progress(config.steps, "rl", session.step) as progress:
                for step in range(session.step, config.steps):
                    metrics = await self.round(step)
                    progress.advance(1, **{shown: metrics[name] for name, shown in SHOWN.items() if name in metrics})
        finally:
            await self.judge.close()
            await self.engine.close()
        session.finish({name: session.last[name] for name in SUMMARY if name in session.last})

    async def begin(self) -> None:
        """What is looked at once, before the first round: do the verifiers accept the references, and is there anything held out?"""
        if self.session.step:
            return
        recipe = self.session.run.directory / "config.json"
        await refuse_bad_gold(self.judge, self.prompts.sources, self.config.max_refused_gold, recipe)
        if self.config.held_out.every and not self.held_out.prompts:
            print(f"rl: {NOTHING}", file=sys.stderr)

    async def round(self, step: int) -> dict[str, float]:
        """One round, logged and saved."""
        asked = await self.held_out.evaluate(step, self.judged, self.session.run)
        began = perf_counter()
        prompts = self.prompts.take(self.config.prompts_per_step)
        groups = await asyncio.gather(*[self.judged_group(step, number, prompt) for number, prompt in enumerate(prompts)])
        sampled = perf_counter()
        metrics = rollout_metrics(groups, self.config.max_errors)
        samples, advantage_metrics = self.samples(groups)
        metrics |= advantage_metrics | self.update(samples) | asked
        await self.engine.load(self.session.trainer.weights(), self.session.trainer.done)
        run = self.session.run
        drawn = [(rollout, self.seed(step, number)) for number, group in enumerate(groups) for rollout in group]
        write_rollouts(run.directory / "rollouts" / f"{step:06d}.jsonl", drawn)
        run.tracker.log(step, metrics)
        now = perf_counter()
        run.tracker.time(
            step, {"time/sample/seconds": sampled - began, "time/update/seconds": now - sampled, "time/step/seconds": now - began}
        )
        self.session.save_if_due(self.prompts.state())
        return metrics

    async def judged_group(self, step: int, number: int, prompt: Prompt) -> list[Rollout]:
        """G answers to one prompt, judged while other groups are still being drawn."""
        return await self.judged(prompt, self.config.sampling.sampling(self.seed(step, number)), self.config.group)

    async def judged(self, prompt: Prompt, sampling: Sampling, n: int) -> list[Rollout]:
        """n answers to one prompt with their scores."""
        rollouts = await sample_group(self.engine, self.session.tokenizer, prompt, self.config.template, sampling, n)
        scores = await asyncio.gather(*[self.judge(rollout) for rollout in rollouts])
        return [rollout.judged(score) for rollout, score in zip(rollouts, scores, strict=True)]

    def seed(self, step: int, number: int) -> int:
        """What fixes the draws of one round's prompt of this number."""
        return (self.config.seed << 40) + (step << 16) + number

    def samples(self, groups: list[list[Rollout]]) -> tuple[list[list[Sample]], dict[str, float]]:
        """Each group as samples with their advantages; answers whose verifier failed are masked out."""
        rewards = torch.tensor([[rollout.score.value for rollout in group] for group in groups])
        valid = torch.tensor([[rollout.score.outcome != "error" for rollout in group] for group in groups])
        advantages, equal = group_advantages(rewards, valid, self.config.objective.scale)
        rows = zip(groups, advantages.tolist(), valid.tolist(), strict=True)
        samples = [
            [_sample(rollout, advantage) for rollout, advantage, counts in zip(group, row, usable, strict=True) if counts]
            for group, row, usable in rows
        ]
        centred, _ = group_advantages(rewards, valid, scale=False)
        spread = (centred.square().sum(1) / valid.sum(1).clamp_min(1)).sqrt().mean()
        return samples, {"train/equal_groups/fraction": float(equal.float().mean()), "train/group_spread/mean": float(spread)}

    def update(self, groups: list[list[Sample]]) -> dict[str, float]:
        """The round's optimizer updates, each on its share of the groups; metrics are their mean."""
        share = len(groups) // self.config.minibatches
        found: dict[str, list[float]] = {}
        for first in range(0, len(groups), share):
            for name, value in self._update([sample for group in groups[first : first + share] for sample in group]).items():
                found.setdefault(name, []).append(value)
        return {name: fmean(values) for name, values in found.items()}  # an update in which nothing was computed has no ratio

    def _update(self, samples: list[Sample]) -> dict[str, float]:
        """One update. Answers of advantage zero count, but where nothing else learns from them they are not computed."""
        needed = samples if self.needs_all() else [each for each in samples if each.advantage]
        totals = sum(sum(each.learn) for each in samples), len(samples)
        trainer = self.session.trainer
        batches = pack(needed, self.config.trainer.tokens_per_batch, trainer.device, totals)
        if self.reference:
            batches = [self.reference.with_reference(batch) for batch in batches]
        metrics = learn(trainer, batches, Grpo(self.config.objective))
        by_token = self.config.objective.ratio == self.config.objective.average == "token"
        share = sum(sum(each.learn) for each in needed) / max(totals[0], 1) if by_token else len(needed) / max(totals[1], 1)
        # Shares of the step add up over its batches; a ratio is a mean over the answers that were computed.
        metrics |= {name: metrics[name] / share for name in OVER_COMPUTED & metrics.keys()}
        return {"train/learned_tokens/count": float(totals[0]), **metrics}

    def needs_all(self) -> bool:
        """Whether answers of advantage zero matter all the same: to the pull of Eq. 27, to MTP, or to the balance of the experts."""
        trainer, model = self.config.trainer, self.session.model.config
        balancing = bool(model.n_routed_experts) and bool(trainer.balance_loss or trainer.balance_speed)
        return self.reference is not None or bool(trainer.mtp) or balancing


def _sample(rollout: Rollout, advantage: float) -> Sample:
    prompt, answer = rollout.prompt_tokens, rollout.completion.tokens
    return Sample(
        tokens=(*prompt, *answer),
        learn=(False,) * len(prompt) + (True,) * len(answer),
        advantage=advantage,
        old=rollout.completion.logprobs,
    )


def _reference(config: RlConfig) -> LocalTrainer | None:
    """The frozen model that Eq. 27 pulls towards; none is loaded when its weight is 0."""
    if not config.objective.kl:
        return None
    model = load_model(config.model, here().device, torch.float32).requires_grad_(False)
    return LocalTrainer(model, config.trainer, 1)


def _inputs(config: RlConfig) -> dict[str, Path]:
    sources = {f"prompts.{number}": source for number, source in enumerate(config.prompts)}
    sources |= {f"held_out.{number}": source for number, source in enumerate(config.held_out.prompts)}
    return {"model": config.model, **{name: source.path for name, source in sources.items() if hasattr(source, "path")}}


def _size(config: RlConfig) -> dict[str, Any]:
    return {"steps": config.steps, "prompts per step": config.prompts_per_step, "group": config.group}


STAGE = StageKind(
    config=RlConfig,
    run=run_rl,
    inputs=_inputs,
    artefact=lambda config, directory: directory / "checkpoints" / "final",
    size=_size,
)

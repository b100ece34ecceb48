"""Prompts put to the engine as their domain wants it, and the answers put to the judge."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack

from afterbase.engine.local import LocalEngine
from afterbase.records import Prompt, Rollout, Sampling
from afterbase.rewards.base import Reward
from afterbase.rollouts.sample import sample_group
from afterbase.rollouts.tools import EnvironmentConfig
from afterbase.rollouts.turns import Env, converse, instructed
from afterbase.stages.rl_config import RlConfig
from afterbase.text.tokenizer import Tokenizer


class Asker:
    """One engine, one judge, and an environment for each kind that a recipe names."""

    def __init__(self, config: RlConfig, engine: LocalEngine, tokenizer: Tokenizer, judge: Reward) -> None:
        self.config, self.engine, self.tokenizer, self.judge = config, engine, tokenizer, judge
        wanted = [config.environment, *(domain.environment for domain in config.domains.values())]
        self.environments: dict[str, Env] = {_key(each): each.build() for each in wanted if each is not None}

    def sampling(self, prompt: Prompt, seed: int) -> Sampling:
        """How training draws the answers to a prompt."""
        return self.config.drawing(prompt.domain).sampling(seed)

    async def draw(self, prompt: Prompt, sampling: Sampling, n: int) -> list[Rollout]:
        """n answers to one prompt, in one turn or in conversation with its domain's environment."""
        env = self.environment(prompt)
        asked = self.engine, self.tokenizer, prompt, self.config.template, sampling, n
        return await converse(*asked, env) if env else await sample_group(*asked)

    def environment(self, prompt: Prompt) -> Env | None:
        """Whom the model talks to when it answers a prompt."""
        settings = self.config.surroundings(prompt.domain)
        return self.environments[_key(settings)] if settings else None

    def instructed(self, prompt: Prompt) -> Prompt:
        """The prompt as the model reads it: with what its environment adds to the question."""
        env = self.environment(prompt)
        return instructed(prompt, env.instruction) if env else prompt

    async def judged(self, rollouts: list[Rollout]) -> list[Rollout]:
        """The same answers with their scores."""
        scores = await self.judge.group(rollouts)
        return [rollout.judged(score) for rollout, score in zip(rollouts, scores, strict=True)]

    async def ask(self, prompt: Prompt, sampling: Sampling, n: int) -> list[Rollout]:
        """n judged answers to one prompt."""
        return await self.judged(await self.draw(prompt, sampling, n))

    async def close(self) -> None:
        """End the environments, the engine and the judge, each whatever becomes of the others."""
        async with AsyncExitStack() as stack:
            for each in (self.engine, self.judge, *self.environments.values()):  # the last one first
                stack.push_async_callback(each.close)


def _key(settings: EnvironmentConfig) -> str:
    return settings.model_dump_json()


def outcomes(groups: Iterable[list[Rollout]]) -> Iterable[tuple[str, int, int]]:
    """Of each group: the prompt's id, how many answers were right, and how many could be judged."""
    for group in groups:
        judged = [rollout.score.outcome for rollout in group if rollout.score.outcome != "error"]
        if judged:
            yield group[0].prompt.id, judged.count("correct"), len(judged)

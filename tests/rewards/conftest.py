import asyncio
from collections.abc import Callable

import pytest

from afterbase.records import Completion, Message, Prompt, Rollout, Score


def make_rollout(text: str, answer: str | None = "4", question: str = "What is it?", domain: str = "math", tokens: int = 0) -> Rollout:
    prompt = Prompt("p-1", (Message("user", question),), domain, answer)
    return Rollout(prompt, (), Completion((7,) * tokens, (), (), 0, "stop"), text)


@pytest.fixture
def rollout() -> Callable[..., Rollout]:
    return make_rollout


@pytest.fixture
def ask() -> Callable[..., Score]:
    """What a part or a judge says of a text."""
    return lambda reward, text, **prompt: asyncio.run(reward(make_rollout(text, **prompt)))

import asyncio
import json

import pytest

from afterbase.evals.benchmark import BenchmarkConfig
from afterbase.records import Completion
from afterbase.text.chat import HOUSE_TEMPLATE
from afterbase.text.tokenizer import SPECIAL, train_bpe


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(iter(["What is 2 + 2? <think>2 + 2 = 4</think> The answer is 4."] * 3), 300, list(SPECIAL), HOUSE_TEMPLATE)


class Killed(Exception):
    """What a test's engine dies of."""


class FakeEngine:
    """Answers by a function of the question and the sample's number; remembers what it was asked, and can die."""

    def __init__(self, tokenizer, answer, dies_at=None):
        self.tokenizer, self.answer, self.dies_at = tokenizer, answer, dies_at
        self.asked = []

    async def generate(self, prompt, sampling, n=1, tag=""):
        question = self.tokenizer.decode(prompt)
        self.asked.append((question, sampling.seed))
        if len(self.asked) == self.dies_at:
            raise Killed
        await asyncio.sleep(0)
        return [self.completion(self.answer(question, sample)) for sample in range(n)]

    def completion(self, text):
        if text is None:
            return Completion((), (), (), 0, "failed")
        tokens = self.tokenizer.encode(text)
        return Completion(tuple(tokens), (0.0,) * len(tokens), (0.0,) * len(tokens), 0, "stop" if text.endswith(".") else "length")


@pytest.fixture
def killed():
    return Killed


@pytest.fixture
def engine_of(tokenizer):
    return lambda answer, dies_at=None: FakeEngine(tokenizer, answer, dies_at)


@pytest.fixture
def sums(tmp_path):
    """A file of sums, `n + n = ?`, and a benchmark over it whose answers are compared as plain text."""

    def make(count, **changes):
        path = tmp_path / f"sums-{count}.jsonl"
        path.write_text("".join(json.dumps({"question": f"{n} + {n} = ?", "answer": str(2 * n)}) + "\n" for n in range(count)))
        page = {
            "name": "sums",
            "prompts": [{"kind": "jsonl", "path": path}],
            "template": "plain",
            "rewards": {"domains": {"default": [{"kind": "match"}, {"kind": "format", "boxed": False}]}},
            "sampling": {"max_tokens": 64},
        }
        return BenchmarkConfig.model_validate({**page, **changes})

    return make

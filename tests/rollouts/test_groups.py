"""From a prompt to a group: the very tokens that were drawn, and rows on disk."""

import asyncio
import json

import pytest

from afterbase.records import Completion, Message, Prompt, Sampling, Score
from afterbase.rollouts.sample import sample_group
from afterbase.rollouts.store import record, write_rollouts
from afterbase.text.chat import prompt_tokens
from afterbase.text.tokenizer import SPECIAL, train_bpe

PROMPT = Prompt("sums-7", (Message("user", "What is 2 + 2?"),), domain="math", answer="4")


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(iter(["What is 2 + 2? The answer is 4. Let me think."] * 3), 320, list(SPECIAL), "{{ messages[0].content }} A:")


class Parrot:
    """An engine that says one line n times and remembers what it was asked."""

    def __init__(self, line: tuple[int, ...]):
        self.line = line

    async def generate(self, prompt, sampling, n=1, tag=""):
        self.asked = (tuple(prompt), sampling, n)
        return [Completion(self.line, (-0.5,) * len(self.line), (-0.25,) * len(self.line), 3, "stop") for _ in range(n)]


def group(tokenizer, line, **sampling):
    engine = Parrot(line)
    return engine, asyncio.run(sample_group(engine, tokenizer, PROMPT, "chat", Sampling(**sampling), 3))


def test_tokens_are_kept_as_seen_and_drawn(tokenizer):
    """No text is tokenized again between sampling and learning, not even text that could be tokenized otherwise."""
    line = tuple(token for letter in "answer" for token in tokenizer.encode(letter))
    engine, rollouts = group(tokenizer, line, seed=5)
    assert len(line) > len(tokenizer.encode("answer")) and engine.asked[2] == len(rollouts) == 3
    for rollout in rollouts:
        assert rollout.prompt is PROMPT and rollout.score is None and rollout.seed == 5
        assert rollout.prompt_tokens == engine.asked[0] == tuple(prompt_tokens(tokenizer, PROMPT, "chat"))
        assert rollout.completion.tokens == line and rollout.text == "answer"


def test_thinking_tags_stay_in_the_text_and_the_end_marker_does_not(tokenizer):
    line = (*tokenizer.encode("<think>2</think>4"), tokenizer.eos_id)
    _, rollouts = group(tokenizer, line)
    assert rollouts[0].text == "<think>2</think>4"


def test_the_tokenizers_stop_ids_join_those_asked_for(tokenizer):
    """Each once, and the rest of the sampling is as asked for."""
    own = tuple(tokenizer.stop_ids)
    for asked in ((7,), (7, own[0])):
        engine, _ = group(tokenizer, (5,), stop_ids=asked, seed=4, max_tokens=9)
        sampling = engine.asked[1]
        assert sorted(sampling.stop_ids) == sorted((7, *own)) and (sampling.seed, sampling.max_tokens) == (4, 9)


def test_a_rollout_becomes_a_row_that_reads_by_itself(tokenizer):
    _, rollouts = group(tokenizer, tuple(tokenizer.encode("4")), seed=11)
    row = record(rollouts[0].judged(Score(1.0, {"answer": 1.0}, "correct", "4 = 4")))
    assert row == {
        "prompt": "sums-7", "domain": "math", "question": "What is 2 + 2?", "answer": "4", "response": "4", "tokens": 1, "finish": "stop",
        "version": 3, "seed": 11, "value": 1.0, "parts": {"answer": 1.0}, "outcome": "correct", "note": "4 = 4",
    }  # fmt: skip
    assert "value" not in record(rollouts[0])


def test_rows_are_written_one_a_line_whatever_the_text(tokenizer, tmp_path):
    _, rollouts = group(tokenizer, tuple(tokenizer.encode("小明\n说\u2028“4”")))
    write_rollouts(tmp_path / "rollouts" / "000003.jsonl", rollouts)
    lines = (tmp_path / "rollouts" / "000003.jsonl").read_bytes().decode().split("\n")
    assert [json.loads(line)["response"] for line in lines[:-1]] == ["小明\n说\u2028“4”"] * 3 and lines[-1] == ""

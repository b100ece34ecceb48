r"""GSM8K: 1,319 grade-school word problems (the test file).

Protocol: zero-shot; the instruction below after each question; the gold answer is what follows `####` in the published file; the
model's answer is the last \boxed{..}, judged for mathematical equality; greedy, one answer to each question, at most 1,024 tokens.
Figures in papers are often few-shot or from another template: compare only what was asked the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from afterbase.evals.benchmark import AskConfig, Benchmark
from afterbase.prompts.source import JsonlSource


class Gsm8k(Benchmark):
    """GSM8K by its published protocol; a recipe that changes a field changes the protocol, and the table says so."""

    kind: Literal["gsm8k"] = "gsm8k"
    """This benchmark."""
    name: str = "gsm8k"
    """What the tables call it."""
    path: Path
    """The published JSONL, plain, .gz or .xz: test for figures, train only for a look at what was learned."""
    instruction: str = r"Please reason step by step, and put your final answer within \boxed{}."
    """Added to the end of every question."""
    sampling: AskConfig = AskConfig(max_tokens=1024)
    """Greedy."""

    def sources(self) -> Sequence[JsonlSource]:
        """The file, with the answers that follow `####`."""
        return [JsonlSource(path=self.path, name=self.name, answer_pattern=r"#### (.+)$")]

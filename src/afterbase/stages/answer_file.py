"""A file of questions in, a file of answers out: one JSON object a line, in batches, and resumed where a kill left it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from afterbase.engine.checks import check_sampling
from afterbase.engine.draw import row_key
from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.errors import AfterbaseError, ConfigError, DataError
from afterbase.lineage import append, digest, fingerprint, storing, write_atomic
from afterbase.prompts.rows import json_rows
from afterbase.records import Completion, Message, Prompt, Sampling
from afterbase.stages.progress import Progress
from afterbase.stages.session import load_pair
from afterbase.stages.stopping import Stopping
from afterbase.text.chat import begins_in_thought, check_template, messages_of, prompt_tokens
from afterbase.text.think import split
from afterbase.text.tokenizer import Tokenizer

ASKED = ("messages", "prompt_token_ids", "prompt", "question")
"""Where a row's question is looked for: a conversation, tokens, a text."""


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How a file of questions is answered."""

    model: Path
    """The checkpoint's directory."""
    source: Path
    """JSON Lines; each row holds one of ASKED, and may hold anything else, which goes along."""
    out: Path
    """JSON Lines: the same rows in the same order, each with its `answers` or the `error` that it met."""
    sampling: Sampling
    """How each answer is drawn; row i draws from stream i of its seed."""
    n: int = 1
    """Answers to each question."""
    template: str = "chat"
    """How questions are put to the model."""
    tokens: bool = False
    """Whether token ids and log-probabilities are written too."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How much runs at once."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row that is to be answered."""

    number: int
    """Its place in the file, from 0."""
    row: dict[str, Any]
    """All that stands in it."""
    mark: str
    """The hash of all that its answers depend on."""


def answer_file(settings: AnswerSettings) -> int:
    """Answer every row that has no answer yet; returns how many rows met an error."""
    check_template(settings.template)
    if settings.out.resolve() == settings.source.resolve():
        raise ConfigError(f"--out {settings.out} is the file of questions itself; give another")
    questions = list(_questions(settings))
    with Stopping():
        lines = _kept(settings.out, questions)
        left = [question for question in questions if question.number not in lines]
        if left:
            model, tokenizer = load_pair(settings.model)
            sampling = replace(settings.sampling, stop_ids=tokenizer.stop_ids)
            check_sampling(sampling, model.config.vocab_size)
            settings = replace(settings, sampling=sampling)
            engine = LocalEngine(model, settings.engine, tokenizer.decode)
            asyncio.run(_Answerer(settings, tokenizer, engine, lines).answer(left, len(questions)))
            if drafted := engine.speculation():
                print(drafted, file=sys.stderr)
        whole = "".join(lines[question.number] for question in questions)
        if not settings.out.exists() or settings.out.read_bytes() != whole.encode():
            write_atomic(settings.out, whole)  # they were written as they came
    return sum("error" in json.loads(line) for line in lines.values())


class _Answerer:
    """Questions on their way through the engine."""

    def __init__(self, settings: AnswerSettings, tokenizer: Tokenizer, engine: LocalEngine, lines: dict[int, str]) -> None:
        self.settings, self.tokenizer, self.engine, self.lines = settings, tokenizer, engine, lines
        self.drawn = 0

    async def answer(self, left: Sequence[Question], total: int) -> None:
        """Keep twice as many answers in flight as there are rows, and write each line when it is there."""
        ahead = -(-2 * self.settings.engine.rows // self.settings.n)
        coming, running, start = iter(left), set(), time.monotonic()
        with Progress(total, "answered", total - len(left)) as progress:
            while True:
                while len(running) < ahead and (question := next(coming, None)):
                    running.add(asyncio.create_task(self._line(question)))
                if not running:
                    break
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                fresh = dict(task.result() for task in done)
                append(self.settings.out, "".join(fresh.values()))
                self.lines |= fresh
                progress.advance(len(fresh), **{"tokens/s": self.drawn / max(time.monotonic() - start, 1e-9)})

    async def _line(self, question: Question) -> tuple[int, str]:
        """A row's number and its line in the file of answers."""
        sampling = replace(self.settings.sampling, seed=row_key(self.settings.sampling.seed, question.number))
        try:
            tokens = self._tokens(question.row)
            self.engine.check(tokens, sampling, self.settings.n)
        except AfterbaseError as error:  # the row's own fault: the others go on
            said = {"error": str(error)}
        else:
            completions = await self.engine.generate(tokens, sampling, self.settings.n)
            self.drawn += sum(len(completion.tokens) for completion in completions)
            opened = begins_in_thought(self.tokenizer, tokens)
            said = {"answers": [self._answer(completion, opened) for completion in completions]}
            if self.settings.tokens:
                said["prompt_token_ids"] = tokens
        return question.number, json.dumps({**question.row, **said, "mark": question.mark}) + "\n"

    def _tokens(self, row: dict[str, Any]) -> list[int]:
        """What the engine is given; an AfterbaseError says why there is nothing of the kind in the row."""
        kind = next(name for name in ASKED if name in row)
        value = row[kind]
        if kind == "prompt_token_ids":
            if not isinstance(value, list) or not all(type(token) is int for token in value):
                raise DataError(f"prompt_token_ids is {str(value)[:40]}; give a list of token ids")
            return value
        if kind != "messages" and not isinstance(value, str):
            raise DataError(f"{kind} is {str(value)[:40]}; give a text")
        turns = messages_of(value) if kind == "messages" else (Message("user", value),)
        return prompt_tokens(self.tokenizer, Prompt("row", turns), self.settings.template)

    def _answer(self, completion: Completion, opened: bool) -> dict[str, Any]:
        response = split(text := self.tokenizer.decode(completion.tokens), opened)
        answer = {"text": text, "thought": response.thought, "answer": response.answer}
        answer |= {"finish": completion.finish, "tokens": len(completion.tokens)}
        if self.settings.tokens:
            answer |= {"token_ids": completion.tokens, "logprobs": completion.logprobs, "sampled_logprobs": completion.sampled_logprobs}
        return answer


def _questions(settings: AnswerSettings) -> Iterator[Question]:
    """The rows of the file; DataError for one without a question."""
    how = [digest(settings.model), asdict(settings.sampling), settings.n, settings.template, settings.tokens, settings.engine.precision]
    how.append(settings.engine.context)
    for where, number, row in json_rows(settings.source):
        if not isinstance(row, dict) or not any(name in row for name in ASKED):
            raise DataError(f"{where}: came {json.dumps(row)[:60]}; a row is an object with one of {', '.join(ASKED)}")
        yield Question(number, row, fingerprint([how, number, json.dumps(row, sort_keys=True)]))


def _kept(out: Path, questions: Sequence[Question]) -> dict[int, str]:
    """The lines of questions that are answered already, by number; a line that a kill cut off is taken out of the file."""
    if not out.exists():
        return {}
    *whole, half = out.read_bytes().split(b"\n")
    numbers, lines = {question.mark: question.number for question in questions}, {}
    cut_off = half.startswith(b"{") and _row(half) is None
    for line in whole if cut_off or not half else [*whole, half]:  # a last line that no kill explains is somebody else's
        number = numbers.get(str((_row(line) or {}).get("mark")))
        if number is None:
            raise ConfigError(
                f"{out} holds answers to other questions, of another model or by other settings, such as {line[:60]!r}; "
                "give another --out, or remove it"
            )
        lines[number] = line.decode() + "\n"
    if half:
        with storing(out):
            os.truncate(out, out.stat().st_size - len(half))
    return lines


def _row(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line, None when there is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None

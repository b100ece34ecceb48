"""Talking to a checkpoint: one prompt, or a conversation that streams and shows or hides the thinking."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.errors import AfterbaseError, ConfigError
from afterbase.evals.tables import CONTROLS
from afterbase.records import Message, Prompt, Sampling
from afterbase.stages.session import load_pair
from afterbase.text.chat import begins_in_thought, prompt_tokens
from afterbase.text.stream import StreamDecoder
from afterbase.text.think import render_thought
from afterbase.text.tokenizer import TAGS, Tokenizer

HIDING = "(thinking)"
ALONE = EngineConfig(rows=1)


def run_generate(*, model: Path, prompt: str, template: str, sampling: Sampling, show_thought: bool, engine: EngineConfig) -> None:
    """Answer one prompt on standard output; what drafting did is said on standard error."""
    talker = Talker.open(model, template, engine)
    talker.answer((Message("user", prompt),), sampling, show_thought)
    if drafted := talker.engine.speculation():
        print(drafted, file=sys.stderr)


def run_chat(*, model: Path, show_thought: bool, temperature: float, max_tokens: int) -> None:
    """A conversation on the terminal, until the end of input or /quit; /think shows or hides the thinking, /new forgets."""
    talker = Talker.open(model, "chat")
    if talker.tokenizer.chat_template is None:
        raise ConfigError(f"{model} has no chat template, so it cannot converse; try `afterbase generate {model} --template plain`")
    print(f"Talking to {model}. /think shows or hides the thinking, /new begins anew, /quit ends.", file=sys.stderr)
    messages: list[Message] = []
    while (line := _line()) is not None:
        if line == "/quit":
            break
        if line == "/new":
            messages = []
        elif line == "/think":
            show_thought = not show_thought
            print(f"thinking is {'shown' if show_thought else 'hidden'}", file=sys.stderr)
        elif line:
            messages.append(Message("user", line))
            try:
                reply = talker.answer(tuple(messages), Sampling(temperature, max_tokens=max_tokens, seed=len(messages)), show_thought)
            except AfterbaseError as error:
                print(f"{error}; /new begins anew", file=sys.stderr)
                messages.pop()
            else:
                messages.append(Message("assistant", reply))


def _line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


@dataclass(eq=False)
class Talker:
    """A checkpoint ready to answer."""

    tokenizer: Tokenizer
    """Its tokenizer."""
    engine: LocalEngine
    """Its engine, one request at a time."""
    template: str
    """How questions are put to it."""

    @classmethod
    def open(cls, directory: Path, template: str, engine: EngineConfig = ALONE) -> Talker:
        """Load a checkpoint."""
        model, tokenizer = load_pair(directory)
        return cls(tokenizer, LocalEngine(model, engine.model_copy(update={"rows": 1}), tokenizer.decode), template)

    def answer(self, messages: tuple[Message, ...], sampling: Sampling, show_thought: bool) -> str:
        """Print the answer as it is drawn; returns all of it, thinking included."""
        tokens = prompt_tokens(self.tokenizer, Prompt("talk", messages), self.template)
        printer = Printer(StreamDecoder(self.tokenizer), show_thought, begins_in_thought(self.tokenizer, tokens))
        sampling = replace(sampling, stop_ids=self.tokenizer.stop_ids)
        (completion,) = asyncio.run(self.engine.generate(tokens, sampling, 1, lambda sample, token, logprob: printer.push(token)))
        printer.finish()
        if printer.text.strip() and not printer.printed:
            print("(the answer ended within its thought; show the thinking, or allow more tokens)", file=sys.stderr)
        return self.tokenizer.decode(completion.tokens)


@dataclass(eq=False)
class Printer:
    """Text on its way to the terminal; a hidden thought shows as one word while it lasts."""

    decoder: StreamDecoder
    """Tokens to text, never half a character."""
    show_thought: bool
    """Whether the thinking is printed."""
    opened: bool
    """Whether the prompt had opened the thought already."""
    text: str = ""
    """Everything so far."""
    printed: str = ""
    """What the reader has before them."""

    def push(self, token: int) -> None:
        """One more token."""
        self.text += CONTROLS.sub("", self.decoder.push(token))
        self._print()

    def finish(self) -> None:
        """The rest, and the end of the line."""
        self.text += CONTROLS.sub("", self.decoder.finish())
        self._print(last=True)
        print(flush=True)

    def _print(self, last: bool = False) -> None:
        text = self.text if last else self.text[: len(self.text) - _begun(self.text)]
        visible = text if self.show_thought else render_thought(text, False, self.opened)
        if not visible.startswith(self.printed):  # what was taken for the answer has turned out to be a thought
            print(flush=True)
            self.printed = ""
        if sys.stderr.isatty() and not self.printed:
            print(f"\r{' ' * len(HIDING)}\r" if visible else f"\r{HIDING}", end="", file=sys.stderr, flush=True)
        print(visible[len(self.printed) :], end="", flush=True)
        self.printed = visible


def _begun(text: str) -> int:
    """How many last characters may be the beginning of a tag, which is not printed before it is known."""
    begun = (size for tag in TAGS for size in range(min(len(tag) - 1, len(text)), 0, -1) if tag.startswith(text[-size:]))
    return max(begun, default=0)

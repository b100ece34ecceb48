"""From a checked request to its answer: the engine's tokens, told whole or as a stream of events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from afterbase.engine.dialects import Chats, Completions, Part, Refusal, Spelled, usage
from afterbase.engine.serving.bodies import Body
from afterbase.engine.serving.desk import Desk
from afterbase.engine.serving.telling import Telling
from afterbase.engine.serving.wire import Connection
from afterbase.errors import AfterbaseError, Busy
from afterbase.records import Completion, Sampling
from afterbase.text.stream import StreamDecoder
from afterbase.text.think import split
from afterbase.text.tokenizer import Tokenizer

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that has passed every check."""

    body: Body
    """What was asked."""
    dialect: type[Completions] | type[Chats]
    """How it is answered."""
    prompts: Sequence[list[int]]
    """The prompts' tokens."""
    samplings: Sequence[Sampling]
    """How the n answers to each are drawn."""
    opened: bool | None = None
    """Whether the prompt has begun a thought; None for plain completions, whose thoughts are text."""
    hidden: bool = False
    """Whether thoughts are not sent."""

    @property
    def answers(self) -> int:
        """How many: n to the first prompt, n to the second, and so on."""
        return len(self.prompts) * self.body.n


@dataclass(frozen=True, slots=True)
class Event:
    """News of one answer: a token as it is drawn, the completion at its end, or why there is none."""

    index: int
    """Which of the request's answers."""
    token: int | None = None
    """The latest token."""
    logprob: float = 0.0
    """Its log-probability."""
    completion: Completion | None = None
    """All that was drawn."""
    failure: Exception | None = None
    """What ended it."""


class Answering:
    """One request while it is answered."""

    def __init__(self, desk: Desk, tokenizer: Tokenizer, model: str, number: int, asked: Asked) -> None:
        self.desk, self.tokenizer, self.asked = desk, tokenizer, asked
        self.head: dict[str, Any] = {"id": f"{asked.dialect.prefix}-{number:016x}", "created": int(time.time()), "model": model}

    async def answer(self, out: Connection) -> None:
        """Draw the answers and send them."""
        with ExitStack() as places:
            places.enter_context(self.desk.place(self.asked.answers))
            async with aclosing(self._events(places)) as events:
                await (self._stream if self.asked.body.stream else self._whole)(events, out)

    async def _events(self, places: ExitStack) -> AsyncIterator[list[Event]]:
        """What has happened since the last look, until every answer has ended; leaving early withdraws the rest.

        Their places are free before the last of it is sent: a client that has its answer may ask at once for another.
        """
        queue: asyncio.Queue[Event] = asyncio.Queue()
        asks = [asyncio.create_task(self._ask(number, queue.put_nowait)) for number in range(len(self.asked.prompts))]
        left = self.asked.answers
        try:
            while left:
                news = [await queue.get()]
                while not queue.empty():
                    news.append(queue.get_nowait())
                if failure := next((event.failure for event in news if event.failure), None):
                    raise failure
                left -= sum(event.completion is not None for event in news)
                if not left:
                    places.close()
                yield news
        finally:
            for ask in asks:
                ask.cancel()
            await asyncio.gather(*asks, return_exceptions=True)

    async def _ask(self, number: int, tell: Callable[[Event], None]) -> None:
        """The n answers to one of the prompts."""
        body, first = self.asked.body, number * self.asked.body.n

        def heard(sample: int, token: int, logprob: float) -> None:
            tell(Event(first + sample, token, logprob))

        try:
            completions = await self.desk.ask(
                self.asked.prompts[number], self.asked.samplings[number], body.n, heard if body.stream else None
            )
        except Exception as failure:
            tell(Event(first, failure=failure))
        else:
            for index, completion in enumerate(completions, start=first):
                tell(Event(index, completion=completion))

    async def _whole(self, events: AsyncIterator[list[Event]], out: Connection) -> None:
        """One JSON object."""
        drawn: dict[int, Completion] = {}
        try:
            async for news in events:
                drawn |= {event.index: event.completion for event in news if event.completion}
        except Busy:  # somebody came first by a hair
            raise
        except AfterbaseError as error:  # the engine's, in our own words
            raise Refusal(500, str(error)) from None
        parts = [self._part(index, drawn[index]) for index in range(self.asked.answers)]
        body, dialect = self.asked.body, self.asked.dialect
        choices = [dialect.choice(part, body.return_token_ids, streamed=False, first=True) for part in parts]
        cost = self._usage(sum(len(completion.tokens) for completion in drawn.values()))
        about = {"object": dialect.whole, "choices": choices, "usage": cost, "system_fingerprint": _weights(drawn[0])}
        await out.reply(200, {**self.head, **about, **dialect.about(parts[0])})

    def _part(self, index: int, completion: Completion) -> Part:
        """A whole answer."""
        telling, thought = self._telling(None), None
        text = telling.push(completion.tokens)[0] + telling.finish()[0]
        if self.asked.opened is not None and (response := split(text, self.asked.opened)).thought is not None:
            text, thought = response.answer, None if self.asked.hidden else response.thought
        return Part(index, text, thought, completion.tokens, self._spelled(completion), completion.finish, self._prompt(index))

    async def _stream(self, events: AsyncIterator[list[Event]], out: Connection) -> None:
        """A chunk for every stretch of an answer."""
        body = self.asked.body
        tellings = [self._telling(self.asked.opened) for _ in range(self.asked.answers)]
        spelling = [Spelling(self.tokenizer, body.skip_special_tokens) for _ in tellings]
        await out.begin()
        try:
            for index in range(len(tellings)):
                await self._push(out, Part(index, "", None, (), None, None, self._prompt(index)), first=True)
            async for news in events:
                for index in dict.fromkeys(event.index for event in news):
                    part = self._stretch(tellings[index], spelling[index], [event for event in news if event.index == index])
                    await self._push(out, part)
            if body.include_usage:
                await self._send(out, {"choices": [], "usage": self._usage(sum(each.count for each in spelling))})
        except Exception as error:
            ours = isinstance(error, AfterbaseError)
            await out.push(_event(Refusal(500, str(error) if ours else "the server failed at this request").shape))
            if not ours and not isinstance(error, OSError):
                raise
        await out.push(DONE)
        await out.end()

    def _telling(self, opened: bool | None) -> Telling:
        """An answer from its first token on."""
        sampling = self.asked.samplings[0]
        return Telling(self.tokenizer, sampling.stop, self.asked.body.skip_special_tokens, opened, sampling.min_tokens)

    def _stretch(self, telling: Telling, spelling: Spelling, news: list[Event]) -> Part:
        """What the news add to an answer."""
        last = news[-1].completion
        if last:
            new = list(zip(last.tokens, last.logprobs, strict=True))[spelling.count :]
        else:
            new = [(event.token, event.logprob) for event in news]
        tokens = [token for token, _ in new]
        spelling.count += len(new)
        text, thought = telling.push(tokens)
        if last:
            rest = telling.finish()
            text, thought = text + rest[0], thought + rest[1]
        spelled = spelling.spell(new) if self.asked.body.wants_logprobs else None
        return Part(news[0].index, text, None if self.asked.hidden else thought, tokens, spelled, last.finish if last else None)

    async def _push(self, out: Connection, part: Part, first: bool = False) -> None:
        """One chunk, if it says anything."""
        body, dialect = self.asked.body, self.asked.dialect
        if first and dialect is Completions and part.prompt is None:
            return
        if first or part.text or part.thought or part.finish or (part.tokens and body.return_token_ids) or part.spelled:
            choice = dialect.choice(part, body.return_token_ids, streamed=True, first=first)
            cost = {"usage": None} if body.include_usage else {}
            await self._send(out, {"choices": [choice], **cost, **dialect.about(part)})

    async def _send(self, out: Connection, table: dict[str, Any]) -> None:
        await out.push(_event({**self.head, "object": self.asked.dialect.chunk, **table}))

    def _prompt(self, index: int) -> Sequence[int] | None:
        return self.asked.prompts[index // self.asked.body.n] if self.asked.body.return_token_ids else None

    def _usage(self, drawn: int) -> dict[str, int]:
        return usage(sum(map(len, self.asked.prompts)), drawn)

    def _spelled(self, completion: Completion) -> list[Spelled] | None:
        """Every token drawn with its log-probability, when they were asked for."""
        if not self.asked.body.wants_logprobs:
            return None
        return Spelling(self.tokenizer, self.asked.body.skip_special_tokens).spell(zip(completion.tokens, completion.logprobs, strict=True))


class Spelling:
    """Names an answer's tokens while they come."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        self.tokenizer, self.decoder = tokenizer, StreamDecoder(tokenizer, skip_special)
        self.count, self.offset = 0, 0  # tokens and letters so far

    def spell(self, tokens: Iterable[tuple[int, float]]) -> list[Spelled]:
        """These tokens, with their log-probabilities, by name."""
        spelled = []
        for token, logprob in tokens:
            spelled.append(Spelled(self.tokenizer.decode([token], skip_special=False), logprob, self.offset))
            self.offset += len(self.decoder.push(token))
        return spelled


def _event(table: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(table).encode() + b"\n\n"


def _weights(completion: Completion) -> str:
    """Which weights drew it, where clients look for what may change answers."""
    return f"weights-{completion.version}"

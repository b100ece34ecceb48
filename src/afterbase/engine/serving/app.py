"""The OpenAI-compatible API of one model: /v1/models, /v1/completions and /v1/chat/completions."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from afterbase.engine.dialects import Chats, Completions, Refusal
from afterbase.engine.serving.answering import Answering, Asked
from afterbase.engine.serving.bodies import Body, ChatBody, CompletionBody, messages_of, prompts_of, read_body, sampling_of
from afterbase.engine.serving.desk import Desk
from afterbase.engine.serving.wire import Connection, Request
from afterbase.errors import AfterbaseError, Busy, EngineError, TooLong
from afterbase.records import Message, Prompt, Sampling
from afterbase.text.chat import begins_in_thought, prompt_tokens
from afterbase.text.tokenizer import Tokenizer

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine for itself."""
LETTERS = 64
"""More to a token than any vocabulary has on average."""


@dataclass(frozen=True, slots=True)
class Served:
    """What is served, and to whom."""

    name: str
    """The model's name in requests."""
    tokenizer: Tokenizer
    """Its tokenizer."""
    template: str
    """How conversations are put to it."""
    key: str | None
    """What clients must show; None asks for nothing and answers only to names of this machine."""
    hide_thought: bool
    """Whether nobody gets to see thoughts."""
    draws: Callable[[], int]
    """Fresh random numbers below 2**63: seeds of requests without one, and ids."""


class Api:
    """Answers requests with the engine behind the desk."""

    def __init__(self, desk: Desk, served: Served) -> None:
        self.desk, self.served, self.since = desk, served, int(time.time())
        self.routes: dict[str, tuple[str, Callable[[Request, Connection], Awaitable[None]]]] = {
            "/health": ("GET", self._health),
            "/v1/models": ("GET", self._models),
            f"/v1/models/{served.name}": ("GET", self._model),
            "/v1/completions": ("POST", self._complete),
            "/v1/chat/completions": ("POST", self._chat),
        }

    def admit(self, head: Request) -> None:
        """Let a request in by its head: known client, known place, JSON."""
        if self.served.key is None:
            self._check_host(head.headers.get("host", ""))
        elif head.path != "/health" and not self._known(head):
            raise Refusal(401, "the API key is missing or wrong; send it as Authorization: Bearer KEY", "invalid_api_key")
        if head.path not in self.routes:
            raise Refusal(404, f"there is nothing at {head.path[:100]}; the places are {', '.join(self.routes)}", "not_found")
        method = self.routes[head.path][0]
        if head.method != method:
            raise Refusal(405, f"{head.path} takes {method}, not {head.method[:20]}", "method_not_allowed")
        # A web page can make a browser send other types here without asking; this one it must ask for, and we never say yes.
        if method == "POST" and head.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "send the request as content-type: application/json")

    async def __call__(self, request: Request, out: Connection) -> None:
        """Answer one request; what the engine refuses is refused in its words."""
        try:
            await self.routes[request.path][1](request, out)
        except Busy as error:
            raise Refusal(429, str(error), "queue_full") from None
        except TooLong as error:
            raise Refusal(400, str(error), "context_length_exceeded") from None
        except EngineError as error:
            raise Refusal(400, str(error)) from None

    def _known(self, head: Request) -> bool:
        """Whether the client shows the key."""
        kind, _, key = head.headers.get("authorization", "").partition(" ")
        return hmac.compare_digest(key.strip().encode(), (self.served.key or "").encode()) and kind.lower() == "bearer"

    def _check_host(self, host: str) -> None:
        """Without a key only this machine's own names: a page whose name was made to point here must not read along."""
        name = host[: host.rindex("]") + 1] if "]" in host else host.partition(":")[0]
        if name.lower() not in LOOPBACK:
            raise Refusal(403, f"without an API key this server answers to {', '.join(LOOPBACK)} only, not to {host[:100]!r}")

    async def _health(self, request: Request, out: Connection) -> None:
        """That the server answers; to those who may ask the rest, how many drafts were kept."""
        told = self.served.key is None or self._known(request)
        drafts = await self.desk.speculation() if told else None
        await out.reply(200, {"status": "ok"} | ({"accepted_drafts": drafts.whole.fractions, "drafts": str(drafts)} if drafts else {}))

    async def _models(self, request: Request, out: Connection) -> None:
        await out.reply(200, {"object": "list", "data": [self._card()]})

    async def _model(self, request: Request, out: Connection) -> None:
        await out.reply(200, self._card())

    def _card(self) -> dict[str, Any]:
        room = {"max_model_len": self.desk.engine.room}
        return {"id": self.served.name, "object": "model", "created": self.since, "owned_by": "afterbase", **room}

    async def _complete(self, request: Request, out: Connection) -> None:
        body = self._read(CompletionBody, request)
        asked = prompts_of(body)
        self.desk.check(len(asked) * body.n)
        self._check_length(max(map(len, asked)), "prompt")
        prompts = await asyncio.to_thread(self._encoded, asked)
        await self._answer(Asked(body, Completions, prompts, [self._sampling(body, prompt) for prompt in prompts]), out)

    async def _chat(self, request: Request, out: Connection) -> None:
        body = self._read(ChatBody, request)
        messages = messages_of(body)
        self.desk.check(body.n)
        self._check_length(sum(len(message["content"]) for message in messages), "messages")
        prompt, opened = await asyncio.to_thread(self._laid_out, messages)
        hidden = self.served.hide_thought or not body.include_reasoning
        await self._answer(Asked(body, Chats, [prompt], [self._sampling(body, prompt)], opened, hidden), out)

    async def _answer(self, asked: Asked, out: Connection) -> None:
        await Answering(self.desk, self.served.tokenizer, self.served.name, self.served.draws(), asked).answer(out)

    def _read(self, kind: type[Body], request: Request) -> Any:
        body = read_body(kind, request.body)
        if body.model not in (None, self.served.name):
            said = f"there is no model {body.model[:100]!r} here; it is {self.served.name!r}"
            raise Refusal(404, said, "model_not_found", "model")
        return body

    def _check_length(self, length: int, param: str) -> None:
        """Before time is spent on a text that cannot fit."""
        if length > LETTERS * self.desk.engine.room:
            said = f"a text of {length} letters does not fit into the context of {self.desk.engine.room} tokens; shorten it"
            raise Refusal(400, said, "context_length_exceeded", param)

    def _encoded(self, prompts: Sequence[str | list[int]]) -> list[list[int]]:
        """The prompts' tokens; a text begins as the model's texts do."""
        tokenizer = self.served.tokenizer
        start = [tokenizer.bos_id] if tokenizer.bos_id is not None and tokenizer.begins_with_bos else []
        try:
            return [start + tokenizer.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        except AfterbaseError as error:
            raise Refusal(400, str(error), param="prompt") from None

    def _laid_out(self, messages: list[dict[str, str]]) -> tuple[list[int], bool]:
        """The conversation's tokens, and whether their end has begun a thought."""
        turns = tuple(Message(**message) for message in messages)
        try:
            tokens = prompt_tokens(self.served.tokenizer, Prompt("request", turns), self.served.template)
        except AfterbaseError as error:
            raise Refusal(400, str(error), param="messages") from None
        return tokens, begins_in_thought(self.served.tokenizer, tokens)

    def _sampling(self, body: Body, prompt: list[int]) -> Sampling:
        """How the answers to a prompt are drawn, once the engine has found nothing wrong with it.

        OpenAI refuses a limit that the context has no room for; the engine itself would end the answer there.
        """
        engine, room = self.desk.engine, self.desk.engine.room
        most = body.most or max(1, min(body.usual or room, room - len(prompt)))
        if len(prompt) + most > room:
            raise TooLong(f"a prompt of {len(prompt)} tokens and an answer of {most} do not fit into the context of {room}; ask for less")
        seed = self.served.draws() if body.seed is None else body.seed
        sampling = sampling_of(body, self.served.tokenizer.stop_ids, engine.model.config.vocab_size, most, seed)
        engine.check(prompt, sampling, body.n)
        return sampling

"""The shapes of OpenAI's API: what answers, streams and errors look like.

With return_token_ids, which vLLM's clients know, token ids stand beside the texts: what was drawn is never tokenized again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from afterbase.errors import AfterbaseError

WORDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}


class Refusal(AfterbaseError):
    """A request that is not answered, with the status that says why."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    @property
    def shape(self) -> dict[str, Any]:
        """As clients expect it."""
        kind = WORDS.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self)[:1000], "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, slots=True)
class Spelled:
    """A token as answers name it, e.g. Spelled(42, " the", 17, -0.5)."""

    text: str
    """How it is written."""
    logprob: float
    """Its log-probability under the full distribution at the request's temperature."""
    offset: int
    """Where its text begins in the answer."""

    @property
    def content(self) -> dict[str, Any]:
        """As chat answers list it."""
        whole = "\ufffd" not in self.text  # else it is a part of a character, whose bytes are not known here
        return {"token": self.text, "logprob": self.logprob, "bytes": list(self.text.encode()) if whole else None, "top_logprobs": []}


@dataclass(frozen=True, slots=True)
class Part:
    """An answer or a stretch of it."""

    index: int
    """Which of the request's answers."""
    text: str
    """Its text; in a chat what follows the thought."""
    thought: str | None
    """What was thought; None when nothing was or nobody is to see it."""
    tokens: Sequence[int]
    """Its tokens."""
    spelled: Sequence[Spelled] | None
    """The same with log-probabilities, when they were asked for."""
    finish: str | None
    """Why the answer ended; None while it goes on."""
    prompt: Sequence[int] | None = None
    """The prompt's tokens, in the first stretch and when asked for."""


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """What a request cost."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


class Completions:
    """How /v1/completions speaks."""

    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    @staticmethod
    def choice(part: Part, ids: bool, streamed: bool, first: bool) -> dict[str, Any]:
        """One answer, or a stretch of it."""
        logprobs = None
        if part.spelled is not None:
            logprobs = {
                "tokens": [token.text for token in part.spelled],
                "token_logprobs": [token.logprob for token in part.spelled],
                "text_offset": [token.offset for token in part.spelled],
                "top_logprobs": None,
            }
        choice = {"index": part.index, "text": part.text, "logprobs": logprobs, "finish_reason": part.finish}
        if ids:
            choice |= {"token_ids": list(part.tokens), **({"prompt_token_ids": list(part.prompt)} if part.prompt is not None else {})}
        return choice

    @staticmethod
    def about(part: Part) -> dict[str, Any]:
        """What stands beside the choices."""
        return {}


class Chats:
    """How /v1/chat/completions speaks."""

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    @staticmethod
    def choice(part: Part, ids: bool, streamed: bool, first: bool) -> dict[str, Any]:
        """One answer, or a stretch of it."""
        said: dict[str, Any] = {"role": "assistant"} if first else {}
        if part.text or first:
            said["content"] = part.text
        if part.thought or (part.thought is not None and not streamed):
            said["reasoning_content"] = part.thought
        logprobs = None if part.spelled is None else {"content": [token.content for token in part.spelled], "refusal": None}
        choice = {"index": part.index, "delta" if streamed else "message": said, "logprobs": logprobs, "finish_reason": part.finish}
        return {**choice, **({"token_ids": list(part.tokens)} if ids else {})}

    @staticmethod
    def about(part: Part) -> dict[str, Any]:
        """What stands beside the choices."""
        return {} if part.prompt is None else {"prompt_token_ids": list(part.prompt)}

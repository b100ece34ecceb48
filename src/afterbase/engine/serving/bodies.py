"""What a request to the server may ask: OpenAI's fields, and those that vLLM's clients know.

The latter are top_k, min_p, repetition_penalty, min_tokens, stop_token_ids, ignore_eos, skip_special_tokens, include_reasoning and
return_token_ids, which adds prompt_token_ids and token_ids to answers. A field that is neither served nor without effect is refused,
never dropped silently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from pydantic import Field

from afterbase.config import Config, build, nearest
from afterbase.engine.checks import COLDEST, STRONGEST
from afterbase.engine.dialects import Refusal
from afterbase.errors import ConfigError
from afterbase.records import Sampling

B = TypeVar("B", bound="Body")

IGNORED = ("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier", "parallel_tool_calls")
"""Fields that change no token here."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,), "echo": (False,), "suffix": ("",), "top_logprobs": (0,), "store": (False,), "tools": ([],), "tool_choice": ("none",),
    "response_format": ({"type": "text"},), "include_stop_str_in_output": (False,),
}  # fmt: skip
"""Fields that are known and not served: only these values, which change nothing, are taken."""
STOPS, STOP_LETTERS, STOP_IDS = 16, 256, 64
"""At most so many stop strings, letters in each, and stop ids: every running row looks for them at every token."""
TOKEN = re.compile("0|[1-9][0-9]{0,9}", re.ASCII)
"""How a token id is written as a key in JSON."""
BIASES, MOST_BIAS = 1024, 100
"""At most so many tokens may have a bias, and at most this much of it, up or down."""


class Body(Config, strict=True, allow_inf_nan=False):
    """What both kinds of request may ask."""

    model: str | None = None
    """The served model's name; unset means the one there is."""
    max_tokens: int | None = Field(None, ge=1)
    """At most this many new tokens."""
    temperature: float = Field(1.0, ge=0, le=100)
    """Divides the logits; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Keep the smallest set of tokens with this much probability."""
    top_k: int = Field(0, ge=-1, lt=2**31)
    """Keep this many most probable tokens; 0 or -1 keeps all."""
    min_p: float = Field(0.0, ge=0, lt=1)
    """Keep the tokens that are at least this share as probable as the best one; 0 keeps all."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """Taken off the logit of each token that stands in the answer so far."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """Taken off as often as it stands there."""
    repetition_penalty: float = Field(1.0, ge=1 / STRONGEST, le=STRONGEST)
    """Divides positive logits, and multiplies negative ones, of each token that stands in the prompt or the answer so far."""
    logit_bias: Any = None
    """{"token id": number}: added to these tokens' logits."""
    min_tokens: int = Field(0, ge=0)
    """Among the first so many tokens none ends the answer."""
    n: int = Field(1, ge=1)
    """Answers to each prompt."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """Fixes the draw, whatever shares the batch."""
    stop: Any = None
    """A string, or a list of them, at which the text ends; it is cut off."""
    stop_token_ids: Any = ()
    """Tokens that end the answer, beside those of the model."""
    ignore_eos: bool = False
    """Whether the model's own stop tokens do not end the answer."""
    skip_special_tokens: bool = True
    """Whether special tokens are left out of the text."""
    stream: bool = False
    """Whether the answer is sent while it is drawn."""
    stream_options: Any = None
    """{"include_usage": true} sends the usage after the last chunk."""
    return_token_ids: bool = False
    """Whether the token ids of prompts and answers are sent, stop tokens included."""

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options) and self.stream_options.get("include_usage") is True

    @property
    def wants_logprobs(self) -> bool:
        """Whether each token's log-probability is sent."""
        raise NotImplementedError

    @property
    def most(self) -> int | None:
        """The limit on new tokens that the request names."""
        return self.max_tokens

    @property
    def usual(self) -> int | None:
        """The limit of a request that names none; None is all that fits."""
        return None


class CompletionBody(Body):
    """A request to /v1/completions."""

    prompt: Any
    """A text, a list of token ids, or a list of either."""
    logprobs: int | None = Field(None, ge=0)
    """0 sends the log-probability of each token drawn; others are not known."""

    @property
    def wants_logprobs(self) -> bool:
        """Whether each token's log-probability is sent."""
        return self.logprobs is not None

    @property
    def usual(self) -> int:
        """OpenAI's own."""
        return 16


class ChatBody(Body):
    """A request to /v1/chat/completions."""

    messages: Any
    """The conversation."""
    max_completion_tokens: int | None = Field(None, ge=1)
    """OpenAI's newer name of max_tokens."""
    logprobs: bool = False
    """Whether the log-probability of each token drawn is sent."""
    include_reasoning: bool = True
    """Whether the thought is sent, in reasoning_content."""

    @property
    def wants_logprobs(self) -> bool:
        """Whether each token's log-probability is sent."""
        return self.logprobs

    @property
    def most(self) -> int | None:
        """The limit on new tokens that the request names."""
        return self.max_completion_tokens or self.max_tokens


def read_body(kind: type[B], data: bytes) -> B:
    """The request in a body; Refusal says in one sentence what is wrong with it."""
    try:
        table = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON ({str(error)[:100]}); send one JSON object in UTF-8") from None
    if not isinstance(table, dict):
        raise Refusal(400, f"the body is {type(table).__name__} in JSON; send an object")
    table = {name: value for name, value in table.items() if value is not None and name not in IGNORED}
    for name in table.keys() & NEUTRAL.keys():
        if table.pop(name) not in NEUTRAL[name]:
            raise Refusal(400, f"{name} is not supported here; leave it out", param=name, code="unsupported_parameter")
    known = list(kind.model_fields)
    for name in table:
        if name not in known:
            said = f"there is no field {name[:60]!r}{nearest(name[:60], [*known, *NEUTRAL])}"
            raise Refusal(400, said, param=name[:60], code="unknown_parameter")
    try:
        body = build(kind, table, "the request")
    except ConfigError as error:
        raise Refusal(400, str(error)) from None
    if body.stream_options is not None and not (body.stream and isinstance(body.stream_options, dict)):
        raise Refusal(400, 'stream_options is an object such as {"include_usage": true}, and needs stream: true', param="stream_options")
    if kind is CompletionBody and body.logprobs:
        raise Refusal(400, "logprobs above 0 are not known here; ask for 0, the drawn tokens' own", param="logprobs")
    return body


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def sampling_of(body: Body, stop_ids: Sequence[int], vocab_size: int, most: int, seed: int) -> Sampling:
    """How the request's answers are drawn."""
    ids = _stop_ids(body.stop_token_ids, vocab_size)
    return Sampling(
        temperature=0.0 if body.temperature < COLDEST else body.temperature,
        top_p=body.top_p,
        top_k=max(body.top_k, 0),
        max_tokens=most,
        stop=_stops(body.stop),
        stop_ids=tuple(dict.fromkeys([*(() if body.ignore_eos else stop_ids), *ids])),
        seed=seed,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=_biases(body.logit_bias or {}, vocab_size),
        min_tokens=body.min_tokens,
    )


def _stops(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not _list_of(stops, str, STOPS) or not all(0 < len(stop) <= STOP_LETTERS for stop in stops):
        raise Refusal(400, f"stop is a string or a list of at most {STOPS}, each of 1 to {STOP_LETTERS} letters", param="stop")
    return tuple(stops)


def _stop_ids(given: Any, vocab_size: int) -> list[int]:
    ids = list(given) if isinstance(given, list | tuple) else [None]
    if not _list_of(ids, int, STOP_IDS) or not all(0 <= token < vocab_size for token in ids):
        said = f"stop_token_ids is a list of at most {STOP_IDS} tokens, each 0 to {vocab_size - 1}"
        raise Refusal(400, said, param="stop_token_ids")
    return ids


def _biases(given: Any, vocab_size: int) -> tuple[tuple[int, float], ...]:
    """JSON has texts for keys; "07" would be another name for "7"."""
    known = isinstance(given, dict) and len(given) <= BIASES and all(TOKEN.fullmatch(token) for token in given)
    if not known or not all(int(token) < vocab_size and _bias(number) for token, number in given.items()):
        allowed = f"each 0 to {vocab_size - 1}, with a number from -{MOST_BIAS} to {MOST_BIAS}"
        said = f"logit_bias is an object of at most {BIASES} token ids, {allowed}"
        raise Refusal(400, said, param="logit_bias")
    return tuple((int(token), float(number)) for token, number in given.items())


def _bias(number: Any) -> bool:
    return type(number) in (int, float) and abs(number) <= MOST_BIAS


def prompts_of(body: CompletionBody) -> list[str | list[int]]:
    """The prompts of a completion request."""
    prompt = body.prompt
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and _list_of(prompt, int)):
        return [prompt]
    if isinstance(prompt, list) and prompt and all(isinstance(each, str) or (each and _list_of(each, int)) for each in prompt):
        return prompt
    raise Refusal(400, "prompt is a string, a list of token ids, or a list of either, none of them empty", param="prompt")


def messages_of(body: ChatBody) -> list[dict[str, str]]:
    """The conversation with plain texts; what a client sends back of earlier answers beside role and content is passed over."""
    if not isinstance(body.messages, list) or not body.messages:
        raise Refusal(400, "messages is a list of at least one object with role and content", param="messages")
    return [_plain(message) for message in body.messages]


def _plain(message: Any) -> dict[str, str]:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
    if isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        content = "".join(part["text"] for part in content)
    role = "system" if role == "developer" else role
    if role not in ("system", "user", "assistant") or not isinstance(content, str) or message.get("tool_calls"):
        raise Refusal(400, "a message is an object with role (system, user or assistant) and content, a text", param="messages")
    return {"role": role, "content": content}


def _list_of(values: Any, kind: type, most: int | None = None) -> bool:
    return isinstance(values, list) and (most is None or len(values) <= most) and all(type(value) is kind for value in values)

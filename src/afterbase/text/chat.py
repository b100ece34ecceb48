"""Conversations to tokens: what the engine is asked, and which tokens of a conversation are learned.

A learned answer must be what the engine would have had to write, after exactly the tokens that the engine would have been given.
So the prompt is `encode(template(messages before the answer, answering))`, the answer is encoded on its own (no merge crosses the border
between them) and ends with the token that stops the engine, and the two are joined as tokens, never as text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from afterbase.errors import CheckpointError, ConfigError, DataError
from afterbase.records import Message, Prompt, Sample
from afterbase.text.template import HOUSE_TEMPLATE, layout
from afterbase.text.think import CLOSE, OPEN, opens
from afterbase.text.tokenizer import Tokenizer

__all__ = [
    "HOUSE_TEMPLATE", "TEMPLATES", "begins_in_thought", "learn_mask", "messages_of", "prompt_tokens", "render", "render_text", "sft_sample",
]  # fmt: skip

Turns = Literal["all", "last"]

R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>."
)
"""The instruction that R1-Zero is trained under, word for word.  [Slides Table 1]"""
PROMPT_END = 16
"""Tokens in which a prompt that has opened the thought for the model says so."""

PROBE = "afterbaseprobe"  # an answer that no template has a reason to change: what stands around it is the template's own


def render_text(tokenizer: Tokenizer, messages: Sequence[Message], answering: bool) -> str:
    """The conversation in the tokenizer's chat template; `answering` ends it with the generation prompt."""
    if not messages:
        raise DataError("a conversation without messages cannot be rendered; give at least one user message")
    if tokenizer.chat_template is None:
        raise CheckpointError(
            "this tokenizer has no chat template; choose template 'plain' or 'r1-zero', or add chat_template.jinja to its directory"
        )
    names = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    tokens = {name: tokenizer.token(token_id) or "" for name, token_id in names.items()}
    rows = [{"role": message.role, "content": message.content} for message in messages]
    return layout(tokenizer.chat_template, rows, answering, tokens)


def render(tokenizer: Tokenizer, messages: Sequence[Message], answering: bool) -> list[int]:
    """The conversation's tokens in the tokenizer's chat template; `answering` ends them with the generation prompt."""
    return tokenizer.encode(render_text(tokenizer, messages, answering))


def learn_mask(tokenizer: Tokenizer, messages: Sequence[Message], turns: Turns) -> tuple[list[int], list[bool]]:
    """A conversation up to its last answer, as tokens, and which of them the loss covers.

    The last answer is always learned: thought, answer and stop token, after the very prompt that the engine would be given.
    With turns="all" an earlier answer is learned as well if, token for token, it stands in the sequence as it was generated: the sequence
    begins with that turn's own prompt and then that turn's answer. Under a template that rewrites earlier turns (DeepSeek-R1's drops their
    thoughts, others strip white space) the rewritten turns are context only; to learn them too, make one sample of each beginning of the
    conversation that ends with an answer, with turns="last". What follows the last answer is left out, nothing there can be learned.
    A conversation without an answer, or whose template loses the border between prompt and answer, raises DataError.
    """
    if turns not in ("all", "last"):
        raise ConfigError(f"turns={turns!r} is unknown; choose 'all' or 'last'")
    if tokenizer.prepends_space:
        raise CheckpointError(
            "this tokenizer puts a space before every text it encodes, so answers have no clean beginning; use a byte-level one"
        )
    places = [place for place, message in enumerate(messages) if message.role == "assistant"]
    if not places:
        raise DataError("a conversation to learn from has no assistant message; add the answer or drop the row")
    prompt, answer = _turn(tokenizer, messages, places[-1])
    tokens = prompt + answer
    learn = [False] * len(prompt) + [True] * len(answer)
    for place in places[:-1] if turns == "all" else []:
        try:
            before, said = _turn(tokenizer, messages, place)
        except DataError:
            continue  # no engine could have written it, but it may well stand before the last answer
        end = len(before) + len(said)
        if tokens[:end] == before + said:
            learn[len(before) : end] = [True] * len(said)
    learn[0] = False  # nothing comes before the first token, so nothing can predict it
    return tokens, learn


def sft_sample(tokenizer: Tokenizer, row_messages: Sequence[Message | Mapping[str, Any]], turns: Turns) -> Sample:
    """A conversation to fine-tune on, as `learn_mask` defines it; messages may be JSON objects with role and content."""
    tokens, learn = learn_mask(tokenizer, messages_of(row_messages), turns)
    return Sample(tuple(tokens), tuple(learn))


def messages_of(row: Sequence[Message | Mapping[str, Any]]) -> tuple[Message, ...]:
    """Messages out of JSON objects such as {"role": "user", "content": "Hi"}; DataError when one is not like that."""
    if isinstance(row, str) or not isinstance(row, Sequence):
        raise DataError(f"messages are {type(row).__name__}; give a list of objects with role and content")
    return tuple(message if isinstance(message, Message) else _message(message) for message in row)


def _message(row: Any) -> Message:
    role, content = (row.get("role"), row.get("content")) if isinstance(row, Mapping) else (None, None)
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise DataError(f"a message is {str(row)[:80]!r}; give an object with role (system, user or assistant) and content, a string")
    return Message(role, content)


def begins_in_thought(tokenizer: Tokenizer, prompt: Sequence[int]) -> bool:
    """Whether a prompt's tokens end inside a thought, so that the answer begins there: what `think.split` calls `opened`."""
    return opens(tokenizer.decode(prompt[-PROMPT_END:], skip_special=False))


def check_template(template: str) -> None:
    """ConfigError for a template that is none of TEMPLATES."""
    if template not in TEMPLATES:
        raise ConfigError(f"template {template!r} is unknown; choose one of {', '.join(TEMPLATES)}")


def prompt_tokens(tokenizer: Tokenizer, prompt: Prompt, template: str) -> list[int]:
    """What the engine is given for a prompt under one of TEMPLATES."""
    check_template(template)
    return TEMPLATES[template](tokenizer, prompt.messages)


def _chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    return render(tokenizer, messages, answering=True)


def _r1_zero(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The instruction, any system text, the turns as "User: .." and "Assistant: ..", and last "Assistant:" for the model to go on from."""
    names = {"system": "", "user": "User: ", "assistant": "Assistant: "}
    spoken = [names[message.role] + message.content for message in messages]
    return _text(tokenizer, " ".join([R1_ZERO, *spoken, "Assistant:"]))


def _plain(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Nothing but the messages, one after the other: for base models and prompts that bring their own examples."""
    return _text(tokenizer, "\n".join(message.content for message in messages))


def _text(tokenizer: Tokenizer, text: str) -> list[int]:
    start = [tokenizer.bos_id] if tokenizer.bos_id is not None and tokenizer.begins_with_bos else []
    return start + tokenizer.encode(text)


TEMPLATES: dict[str, Callable[[Tokenizer, Sequence[Message]], list[int]]] = {"chat": _chat, "r1-zero": _r1_zero, "plain": _plain}
"""How a prompt is laid out: the tokenizer's own chat template, R1-Zero's for base models [Slides Table 1], or the bare text."""


def _turn(tokenizer: Tokenizer, messages: Sequence[Message], place: int) -> tuple[list[int], list[int]]:
    """What the engine is given before the answer at `place`, and what it then has to write, its stop token included."""
    if place == 0:
        raise DataError("a conversation begins with the assistant, which has nothing to answer; put a system or user message first")
    prompt = render_text(tokenizer, messages[:place], answering=True)
    answer = tokenizer.encode(_answer(tokenizer, messages[: place + 1], prompt))
    stop = next((index for index, token in enumerate(answer) if token in tokenizer.stop_ids), None)
    if stop is None:  # a template that only ends turns with a line end still has to teach the engine to stop
        return tokenizer.encode(prompt), [*answer, tokenizer.eos_id]
    if tokenizer.decode(answer[stop + 1 :]).strip():
        token = tokenizer.token(answer[stop])
        raise DataError(
            f"{token} stands before the end of the answer {messages[place].content[:40]!r}, where the engine would stop; remove it"
        )
    return tokenizer.encode(prompt), answer[: stop + 1]


def _answer(tokenizer: Tokenizer, messages: Sequence[Message], prompt: str) -> str:
    """The text that follows `prompt` when the last message is generated: as the template writes it, unless that would lose a thought."""
    said = messages[-1].content
    written = render_text(tokenizer, messages, answering=False)
    opened = opens(prompt)
    answer = written[len(prompt) :] if written.startswith(prompt) else None
    if answer is None or _letters(said) not in _letters(OPEN * opened + answer):
        answer = _verbatim(tokenizer, messages, prompt)
    if opened and CLOSE not in answer:
        raise DataError(f"the chat template opens {OPEN} for the assistant but the answer {said[:40]!r} never closes it; add its thought")
    return answer


def _verbatim(tokenizer: Tokenizer, messages: Sequence[Message], prompt: str) -> str:
    """The last message as it was said, between what the template puts around any answer: DeepSeek-R1's own template drops its thought."""
    said = messages[-1].content
    probed = render_text(tokenizer, [*messages[:-1], Message("assistant", PROBE)], answering=False)
    head, found, tail = probed.rpartition(PROBE)
    if not found or not (head.startswith(prompt) or prompt.startswith(head)):
        raise DataError(
            "the chat template writes an answered conversation differently from the prompt it gives to be answered, so what the model "
            "would have to write is unknown; use a template whose generation prompt is the beginning of the answered conversation"
        )
    lead, begun = head[len(prompt) :], prompt[len(head) :]
    if begun and said.startswith(begun):
        said = said[len(begun) :]
    elif opens(begun) and said.lstrip().startswith(OPEN):
        said = said.lstrip()[len(OPEN) :].lstrip("\n")  # the line end after the tag stands in the prompt
    return lead + said + tail


def _letters(text: str) -> str:
    """The text without white space, which templates move around."""
    return "".join(text.split())

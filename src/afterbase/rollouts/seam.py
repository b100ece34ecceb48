"""What a chat template writes between two turns of the assistant: the end of the one, the reply, the beginning of the next.

It is found by rendering, once, a conversation with words that no template has a reason to change. What the model drew is never rendered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from afterbase.errors import CheckpointError, ConfigError, DataError
from afterbase.records import Message
from afterbase.text.chat import render_text
from afterbase.text.tokenizer import Tokenizer

REMEDY = 'let the environment reply inside the turn (form = "inline"), or give the checkpoint another chat template'
SAID, HEARD, THOUGHT = "afterbasesaid", "afterbaseheard", "afterbasethought"


@dataclass(frozen=True, slots=True)
class Seam:
    """The template's own tokens around a reply."""

    before: tuple[int, ...]
    """From the end of what the assistant says to the reply; where the turn is ended by a token, that token is the first."""
    after: tuple[int, ...]
    """From the end of the reply to where the assistant speaks again."""
    stop: int
    """How many tokens of `before` end the assistant's turn: a model that has ended it has drawn them itself."""

    def join(self, reply: Sequence[int], ended: bool) -> tuple[int, ...]:
        """What is appended to the model's tokens; `ended`: the last of them is a stop token."""
        return (*self.before[self.stop if ended else 0 :], *reply, *self.after)


def find_seam(tokenizer: Tokenizer, messages: Sequence[Message], role: Literal["tool", "user"]) -> Seam:
    """The seam around replies of this role in a conversation that begins with these messages.

    ConfigError where the template writes what was said earlier differently once more is said, as those do that drop earlier thoughts:
    then no continued sequence of tokens is a conversation of this template.
    """
    whole = _rendered(tokenizer, messages, role, answering=True)
    if whole == _rendered(tokenizer, messages, "assistant", answering=True):
        raise ConfigError(f"the chat template has no turn for the role {role!r}, it writes it as the assistant's; {REMEDY}")
    first = render_text(tokenizer, [*messages, _answer(1)], answering=False)
    begun = first[: first.rfind(SAID + "1")]
    if THOUGHT + "1" not in begun or not whole.startswith(begun):
        raise ConfigError(f"the chat template changes what was said before (such as earlier thoughts) once a {role} replies; {REMEDY}")
    between = _pieces(whole[len(begun) :], [SAID + "1", HEARD + "1", SAID + "2", HEARD + "2"])
    if not between:
        raise ConfigError(f"the chat template leaves out or moves what a {role} replies; {REMEDY}")
    before, lead, again, after = between
    if again != before or not lead.startswith(after) or THOUGHT + "2" not in lead:
        raise ConfigError(f"the chat template writes the second reply of a {role} differently from the first; {REMEDY}")
    tokens = tokenizer.encode(before)
    stop = next((place + 1 for place, token in enumerate(tokens) if token in tokenizer.stop_ids), 0)
    return Seam(tuple(tokens), tuple(tokenizer.encode(after)), stop)


def _rendered(tokenizer: Tokenizer, messages: Sequence[Message], role: str, answering: bool) -> str:
    """Two answers, each with a reply to it; "" where the template refuses them."""
    talk = [turn for number in (1, 2) for turn in (_answer(number), Message(role, f"{HEARD}{number}"))]
    try:
        return render_text(tokenizer, [*messages, *talk], answering)
    except (CheckpointError, DataError) as error:
        if role == "assistant":
            return ""
        raise ConfigError(f"{error}; {REMEDY}") from None


def _answer(number: int) -> Message:
    return Message("assistant", f"<think>\n{THOUGHT}{number}\n</think>\n\n{SAID}{number}")


def _pieces(text: str, marks: Sequence[str]) -> list[str]:
    """What follows each of the marks up to the next one; empty where a mark does not stand there exactly once, in this order."""
    pieces, rest = [], text
    for mark in marks:
        piece, found, rest = rest.partition(mark)
        if not found or mark in rest:
            return []
        pieces.append(piece)
    return [*pieces[1:], rest]

"""An answer told while it comes: whole characters, nothing from the first stop string on, and the thought apart from what is said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from afterbase.text.stream import StreamDecoder
from afterbase.text.think import ANSWER_CLOSE, ANSWER_OPEN, CLOSE, OPEN
from afterbase.text.tokenizer import Tokenizer


class Telling:
    """One answer on its way from tokens to what a client reads: `push` and `finish` give (text, thought)."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], skip_special: bool, opened: bool | None, patience: int = 0) -> None:
        """`opened`: whether the prompt has begun a thought; None leaves thoughts in the text. `patience`: that many first tokens go on
        whatever they say."""
        self.decoder, self.cut = StreamDecoder(tokenizer, skip_special), Cut(stops)
        self.apart, self.patience = None if opened is None else Apart(opened), patience

    def push(self, tokens: Iterable[int]) -> tuple[str, str]:
        """What these tokens add."""
        tokens = iter(tokens)
        early = [self.decoder.push(token) for token in islice(tokens, self.patience)]
        self.patience -= len(early)
        return self._told(self.cut.push("".join(early), free=True) + self.cut.push("".join(map(self.decoder.push, tokens))))

    def finish(self) -> tuple[str, str]:
        """What was still held back."""
        text, thought = self._told(self.cut.push(self.decoder.finish()) + self.cut.finish())
        last = self.apart.finish() if self.apart else ("", "")
        return text + last[0], thought + last[1]

    def _told(self, text: str) -> tuple[str, str]:
        return self.apart.push(text) if self.apart else (text, "")


class Cut:
    """A text up to the first of some strings; what may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.held, self.over = tuple(stops), "", False

    def push(self, text: str, free: bool = False) -> str:
        """What is certain after this; no string that ends within a `free` text counts."""
        if self.over:
            return ""
        passed = len(self.held) + (len(text) if free else 0)
        text = self.held + text
        found = [place for stop in self.stops if (place := text.find(stop, max(0, passed - len(stop) + 1))) >= 0]
        self.over = bool(found)
        end = min(found) if found else len(text) - begun(text, self.stops)
        self.held = "" if found else text[end:]
        return text[:end]

    def finish(self) -> str:
        """What turned out to be no beginning of a stop string."""
        held, self.held = self.held, ""
        return held


class Apart:
    """A text with its thought taken apart; of a well-formed response it makes what `think.split` does.

    What was sent cannot be taken back: the first </think> ends the thought, and a thought that does not begin the response is text.
    """

    def __init__(self, opened: bool) -> None:
        self.held, self.text, self.thinking = "", "", ""
        self.stretch = Stretch(CLOSE)
        self.state = self._thought if opened else self._start

    def push(self, text: str) -> tuple[str, str]:
        """(what is said, what is thought) for certain after this."""
        self.held += text
        self.text = self.thinking = ""
        while self.state():
            pass
        return self.text, self.thinking

    def finish(self) -> tuple[str, str]:
        """What was held back."""
        if self.state == self._thought:
            return "", self.stretch.finish()
        if self.state == self._rest:
            return self.stretch.finish(), ""
        return (self.held.strip() if self.state == self._answer else self.held), ""

    def _start(self) -> bool:
        """Before it is known whether there is a thought."""
        first = self.held.lstrip()
        if first.startswith(OPEN):
            self.held, self.state = first[len(OPEN) :], self._thought
            return True
        if OPEN.startswith(first):
            return False
        self.state = self._plain
        return True

    def _plain(self) -> bool:
        self.text, self.held = self.held, ""
        return False

    def _thought(self) -> bool:
        self.thinking, rest = self.stretch.push(self.held)
        self.held = rest or ""
        if rest is None:
            return False
        self.state = self._answer
        return True

    def _answer(self) -> bool:
        """Before it is known whether the answer stands between tags."""
        first = self.held.lstrip()
        tagged = first.startswith(ANSWER_OPEN)
        if not tagged and ANSWER_OPEN.startswith(first):
            return False
        self.held = first[len(ANSWER_OPEN) :] if tagged else first
        self.stretch, self.state = Stretch(ANSWER_CLOSE if tagged else ""), self._rest
        return True

    def _rest(self) -> bool:
        self.text, rest = self.stretch.push(self.held)
        self.held = ""
        if rest is not None:
            self.state = self._over
        return False

    def _over(self) -> bool:
        """Behind the closing tag of the answer."""
        self.held = ""
        return False


class Stretch:
    """A text up to its end mark, without the white space around it, while it comes; without a mark it goes on for ever."""

    def __init__(self, end: str) -> None:
        self.end, self.held, self.started = end, "", False

    def push(self, text: str) -> tuple[str, str | None]:
        """What is certain now, and what follows the end mark once it was there."""
        held = self.held + text
        held = held if self.started else held.lstrip()
        before, found, rest = held.partition(self.end) if self.end else (held, "", "")
        if found:
            return before.rstrip(), rest
        certain = held[: len(held) - begun(held, (self.end,))].rstrip()
        self.held, self.started = held[len(certain) :], self.started or bool(certain)
        return certain, None

    def finish(self) -> str:
        """What was held back: no end mark, or white space at the end, which goes."""
        return self.held.rstrip()


def begun(text: str, marks: Sequence[str]) -> int:
    """How many last letters of a text may be the beginning of one of the marks."""
    sizes = (size for mark in marks for size in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-size:]))
    return max(sizes, default=0)

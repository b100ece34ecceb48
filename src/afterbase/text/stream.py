"""Tokens to readable text while they are still coming."""

from __future__ import annotations

from afterbase.text.tokenizer import Tokenizer

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are no whole character (yet)."""


class StreamDecoder:
    """Turns tokens into text as they come, for a chat that is read while it is written.

    The pieces joined, `finish()` included, are `decode` of all the tokens; no piece ends in half a character.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True):
        """`skip_special` as in `Tokenizer.decode`."""
        self._tokenizer = tokenizer
        self._skip = skip_special
        self._before: list[int] = []
        self._waiting: list[int] = []

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is half there."""
        self._waiting.append(token)
        new = self._new()
        return "" if new.endswith(UNFINISHED) else self._emit(new)

    def finish(self) -> str:
        """What was still waiting, when no more tokens come."""
        return self._emit(self._new())

    def _new(self) -> str:
        # Decoded behind the previous piece: some vocabularies drop the space before the first word they are given.
        before = self._tokenizer.decode(self._before, self._skip)
        return self._tokenizer.decode(self._before + self._waiting, self._skip)[len(before) :]

    def _emit(self, text: str) -> str:
        if text:
            self._before, self._waiting = self._waiting, []
        return text

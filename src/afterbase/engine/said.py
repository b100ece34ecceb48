"""What running requests have drawn, as tensors, and how the host reads it: for those who follow, for stop strings, and at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from afterbase.engine.group import Drawn, Group
from afterbase.errors import EngineError
from afterbase.records import Completion, Sampling

STOP_WINDOW = 8
"""Tokens of text looked at beyond a stop string's length in bytes; a token may hold a single byte."""


class Said:
    """The tokens of every row, with their log-probabilities."""

    def __init__(self, rows: int, room: int, device: torch.device, decode: Callable[[Sequence[int]], str] | None) -> None:
        self.room, self.device, self.decode = room, device, decode
        self.owners: list[tuple[Group, int]] = []
        self.watched = self.listening = False  # whether anybody reads along, or waits for a stop string
        self.counts = torch.zeros(rows, dtype=torch.long, device=device)  # tokens drawn
        self.tokens = torch.zeros(rows, 0, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(rows, 0, device=device)
        self.sampled = torch.zeros(rows, 0, device=device)

    def _grow(self, room: int) -> None:
        """Room for that many drawn tokens in every row."""
        if room <= self.tokens.shape[1]:
            return
        room = min(self.room, max(room, 2 * self.tokens.shape[1]))  # seldom: recorded steps point to what is replaced here
        for name in ("tokens", "logprobs", "sampled"):
            old = getattr(self, name)
            setattr(self, name, F.pad(old, (0, room - old.shape[1])))

    def _tell(self, part: slice, counts: list[int] | None = None) -> None:
        """Pass on what was drawn since the last look to those who read along; the device is asked once for all of them."""
        heard = [row for row in range(part.start, part.stop) if self.owners[row][0].watch] if self.watched else []
        if not heard:
            return
        known = self._counted(heard) if counts is None else [counts[row] for row in heard]
        told = [self.owners[row][0].told.get(self.owners[row][1], 0) for row in heard]
        news = [count - before for count, before in zip(known, told, strict=True)]
        width = max(news)
        tokens, logprobs = (self._last_of(state, heard, known, width) for state in (self.tokens, self.logprobs))
        for place, row in enumerate(heard):
            group, sample = self.owners[row]
            first = width - news[place]
            group.tell(sample, tokens[place][first:], logprobs[place][first:])

    def _counted(self, rows: list[int]) -> list[int]:
        """How many tokens each of these rows has drawn."""
        return self.counts[torch.tensor(rows, device=self.device)].tolist()

    def _last_of(self, state: Tensor, rows: list[int], counts: list[int], width: int) -> list[list]:
        """The last `width` of the first `counts` that each of these rows drew; places before its first token hold anything."""
        lines, ends = torch.tensor([rows, counts], device=self.device)[:, :, None]
        return state[lines, (ends - torch.arange(width, 0, -1, device=self.device)).clamp_min(0)].tolist()

    def _spoken(self, part: slice) -> Tensor:
        """Whether each row's text now ends with one of its stop strings; the device is asked once for all rows."""
        spoken = torch.zeros(part.stop - part.start, dtype=torch.bool, device=self.device)
        heard = [row for row in range(part.start, part.stop) if self.owners[row][0].sampling.stop] if self.listening else []
        if not heard:
            return spoken
        samplings, counts = [self.owners[row][0].sampling for row in heard], self._counted(heard)
        width = max(map(_window, samplings))
        windows = self._last_of(self.tokens, heard, counts, width)
        spoken[torch.tensor(heard, device=self.device) - part.start] = torch.tensor(
            [
                count > sampling.min_tokens and self._ends_with(window[-min(count, _window(sampling)) :], sampling.stop)
                for count, window, sampling in zip(counts, windows, samplings, strict=True)
            ],
            device=self.device,
        )
        return spoken

    def _cut(self, counts: list[int]) -> set[int]:
        """The rows whose text came to a stop string since the last look; their counts end there, whatever was drawn behind it."""
        heard = [row for row, (group, _) in enumerate(self.owners) if group.sampling.stop] if self.listening else []
        if not heard:
            return set()
        news = [counts[row] - self.owners[row][0].searched.get(self.owners[row][1], 0) for row in heard]
        width = max(new + _window(self.owners[row][0].sampling) for new, row in zip(news, heard, strict=True))
        cut, windows = set(), self._last_of(self.tokens, heard, [counts[row] for row in heard], width)
        for row, new, window in zip(heard, news, windows, strict=True):
            (group, sample), said = self.owners[row], window[-min(counts[row], width) :]
            group.searched[sample] = counts[row]
            if (behind := self._after_a_stop(said, new, counts[row], group.sampling)) is not None:
                counts[row] -= behind
                cut.add(row)
        return cut

    def _after_a_stop(self, said: list[int], new: int, count: int, sampling: Sampling) -> int | None:
        """How many of the last `new` of `count` tokens come after the first stop string that ends among these; None where none does."""
        text, width = self.decode(said), _window(sampling)
        if not any(stop in text for stop in sampling.stop):  # seldom, and this is one text for all of them
            return None
        for after in range(new - 1, -1, -1):
            part = said[: len(said) - after]
            if count - after > sampling.min_tokens and self._ends_with(part[-width:], sampling.stop):
                return after
        return None

    def _ends_with(self, window: list[int], stops: tuple[str, ...]) -> bool:
        """Whether the last of these tokens completes a stop string."""
        text, before = self.decode(window), self.decode(window[:-1])
        return any(text.count(stop) > before.count(stop) for stop in stops)

    def _finish(self, ended: list[int], stopped: list[bool], counts: list[int], version: int) -> None:
        """Hand out what these rows have to say at their end."""
        for row, over, drawn in zip(ended, stopped, self._fetched(ended, counts), strict=True):
            group, sample = self.owners[row]
            if not math.isfinite(sum(drawn.logprobs)):
                group.fail(EngineError(f"weights {version} give logits that are not finite numbers; load some that have not diverged"))
            group.end(sample, Completion(drawn.tokens, drawn.logprobs, drawn.sampled, version, "stop" if over else "length"))

    def _fetched(self, chosen: list[int], counts: list[int]) -> list[Drawn]:
        """The first `counts` tokens that each of these rows has drawn, fetched from the device at once."""
        if not chosen:
            return []
        rows, longest = torch.tensor(chosen, device=self.device), max(counts)
        tokens, logprobs = self.tokens[rows, :longest].tolist(), self.logprobs[rows, :longest].tolist()
        whole = [self.owners[row][0].sampling.whole for row in chosen]
        sampled = logprobs if all(whole) else self.sampled[rows, :longest].tolist()
        fetched = []
        for place, count in enumerate(counts):
            full = tuple(logprobs[place][:count])
            fetched.append(Drawn(tuple(tokens[place][:count]), full, full if whole[place] else tuple(sampled[place][:count])))
        return fetched


def _window(sampling: Sampling) -> int:
    """Tokens in which the end of a stop string shows."""
    return STOP_WINDOW + max(len(stop.encode()) for stop in sampling.stop)

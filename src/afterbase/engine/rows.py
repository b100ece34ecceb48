"""The running requests of an engine, as tensors: one row each, the running ones first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from afterbase.engine.draw import Knobs, draw, knobs_of, plain_knobs, row_key, special
from afterbase.engine.group import Drawn, Group
from afterbase.records import Completion

STOP_WINDOW = 8
"""Tokens of text looked at beyond a stop string's length in bytes; a token may hold a single byte."""
STOPPED, FULL, IDLE = 1, 2, 3
"""Why a device's own steps pass over a row: a stop id, its limit, or nobody has it."""
Moves = list[tuple[Tensor, Tensor, int]]
"""What a cache must do when rows move: (target rows, source rows, tokens)."""


class Rows:
    """The state of every running request; row i is row i of the cache."""

    def __init__(self, rows: int, room: int, device: torch.device, decode: Callable[[Sequence[int]], str] | None) -> None:
        self.room, self.device, self.decode = room, device, decode
        self.running = 0
        self.fresh = 0  # rows placed in this step, whose first token comes from the prompt's logits
        self.owners: list[tuple[Group, int]] = []
        self.watched = self.listening = False  # whether anybody reads along, or waits for a stop string
        integer = {"dtype": torch.long, "device": device}
        self.keys = torch.zeros(rows, **integer)
        self.lengths = torch.zeros(rows, **integer)  # tokens in the cache
        self.counts = torch.zeros(rows, **integer)  # tokens drawn
        self.limits = torch.zeros(rows, **integer)  # tokens that may be drawn
        self.latest = torch.zeros(rows, **integer)  # the token drawn last
        self.done = torch.full((rows,), IDLE, dtype=torch.int8, device=device)  # 0 running, else how it ended
        self.temperature = torch.ones(rows, device=device)
        self.special = torch.zeros(rows, dtype=torch.bool, device=device)  # asks for more than the fast draw knows
        self.stop_ids = torch.full((rows, 1), -1, **integer)
        self.tokens = torch.zeros(rows, 0, **integer)
        self.logprobs = torch.zeros(rows, 0, device=device)
        self.sampled = torch.zeros(rows, 0, device=device)
        self.knobs: Knobs | None = None
        self.left: int | None = None  # tokens that the row with most before it may still draw, when it was counted

    def _grow(self, room: int) -> None:
        """Room for that many drawn tokens in every row."""
        if room <= self.tokens.shape[1]:
            return
        for name in ("tokens", "logprobs", "sampled"):
            old = getattr(self, name)
            setattr(self, name, F.pad(old, (0, room - old.shape[1])))

    def place(self, groups: list[Group]) -> list[int]:
        """Give every sample of the groups a row after the running ones; returns each group's first row."""
        firsts, first, settings = [], len(self.owners), []
        for group in groups:
            firsts.append(len(self.owners))
            sampling, limit = group.sampling, max(1, min(group.sampling.max_tokens, self.room - len(group.prompt)))
            for sample in group.samples:
                self.owners.append((group, sample))
                settings.append((row_key(sampling.seed, sample), len(group.text), len(group.text) - len(group.prompt), limit, sampling))
        part, self.fresh = slice(first, len(self.owners)), len(settings)
        keys, lengths, counts, limits, samplings = zip(*settings, strict=True)
        self._grow(max(limits))
        self._widen(max(len(sampling.stop_ids) for sampling in samplings))
        width = self.stop_ids.shape[1]
        for state, values in (
            (self.keys, keys),
            (self.lengths, lengths),
            (self.counts, counts),
            (self.limits, limits),
            (self.temperature, [sampling.temperature for sampling in samplings]),
            (self.special, [special(sampling, self.device) for sampling in samplings]),
            (self.stop_ids, [[*sampling.stop_ids, *[-1] * (width - len(sampling.stop_ids))] for sampling in samplings]),
        ):
            state[part] = torch.tensor(values, dtype=state.dtype, device=self.device)
        self._restore(part)
        self.done[part], self.done[part.stop :] = 0, IDLE
        self.running = len(self.owners)
        self.watched = any(group.watch for group, _ in self.owners)
        self.listening = any(group.sampling.stop for group, _ in self.owners)
        self.knobs = self.left = None
        return firsts

    def _restore(self, part: slice) -> None:
        """Give back what requests had drawn before they lost their rows."""
        for row, (group, _) in enumerate(self.owners[part], start=part.start):
            if before := group.drawn:
                for state, values in ((self.tokens, before.tokens), (self.logprobs, before.logprobs), (self.sampled, before.sampled)):
                    state[row, : len(values)] = torch.tensor(values, dtype=state.dtype, device=self.device)

    def last(self) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"], int]:
        """Each running row's latest token, the position it goes to, and the longest row once it is there."""
        n = self.running
        lengths = self.lengths[:n].clone()
        self.lengths[:n] += 1
        return self.latest[:n], lengths, int(lengths.max()) + 1

    def advance(self, logits: Float[Tensor, "n V"], version: int) -> Moves:
        """Draw a token for the rows that `logits` belong to, end those that are done, and close the gaps.

        Returns the moves that the cache must make: (target rows, source rows, tokens).
        """
        first = self.running - self.fresh if self.fresh else 0
        part = slice(first, self.running)
        knobs = self._knobs(part)
        drawn = draw(logits, knobs, self.keys[part], self.counts[part], self.tokens[part])
        places = self.counts[part, None]
        self.tokens[part].scatter_(1, places, drawn.tokens[:, None])
        self.logprobs[part].scatter_(1, places, drawn.logprobs[:, None])
        if knobs.differing:  # otherwise they are the log-probabilities themselves
            self.sampled[part].scatter_(1, places, drawn.sampled_logprobs[:, None])
        self.latest[part] = drawn.tokens
        self.counts[part] += 1
        stopped = (drawn.tokens[:, None] == self.stop_ids[part]).any(1)
        self.fresh = 0
        return self._end(part, stopped, self.counts[part] >= self.limits[part], version)

    def burst(self, most: int) -> int:
        """How many steps a device may take on its own, 0 when its draws need the host; one where every text may end it by a stop string."""
        if self._knobs(slice(0, self.running)).hosted:
            return 0
        if self.listening:
            return 1
        if self.left is None:
            self.left = int((self.limits[: self.running] - self.counts[: self.running]).max())
        steps = min(most, self.left)
        self.left -= steps
        return steps

    def look(self, version: int) -> Moves:
        """End the rows that ended in the device's own steps; returns the cache's moves."""
        part = slice(0, self.running)
        return self._end(part, self.done[part] == STOPPED, self.done[part] == FULL, version)

    def filled(self) -> int:
        """Tokens that the longest running row has in the cache."""
        return int(self.lengths[: self.running].max()) if self.running else 0

    def withdraw(self) -> Moves:
        """Take the rows of those for whom nobody waits; returns the cache's moves."""
        return self._close([row for row, (group, _) in enumerate(self.owners) if group.over])

    def preempt(self, many: int) -> tuple[list[Group], Moves]:
        """Take that many rows from the youngest requests; returns what they were, youngest first, and the cache's moves."""
        age = [(group.arrival, sample) for group, sample in self.owners]
        rows = sorted(range(len(age)), key=age.__getitem__, reverse=True)[:many]
        parts = []
        for row, drawn in zip(rows, self._fetched(rows), strict=True):
            group, sample = self.owners[row]
            parts.append(group.part(range(sample, sample + 1), drawn))
        return parts, self._close(sorted(rows))

    def retract(self, first: int) -> None:
        """Forget the rows from this one on, which never came to run."""
        del self.owners[first:]
        self.fresh = 0
        self._leave(len(self.owners))

    def drop(self) -> list[Group]:
        """Forget every running request, without the device, which may be what failed; returns their groups."""
        groups = list({id(group): group for group, _ in self.owners}.values())
        self.owners, self.running, self.fresh, self.knobs, self.left = [], 0, 0, None, None
        return groups

    def _leave(self, left: int) -> None:
        """From now on only that many rows run; a device's steps pass over the others."""
        self.done[left : self.running] = IDLE
        self.running, self.knobs, self.left = left, None, None

    def _knobs(self, part: slice) -> Knobs:
        """The settings of these rows; kept between steps while the rows stay the same."""
        if self.knobs is None or part.start or len(self.knobs.temperature) != part.stop:
            if bool(self.special[part].any()):
                knobs = knobs_of([(group.prompt, group.sampling) for group, _ in self.owners[part]], self.device)
            else:
                knobs = plain_knobs(self.temperature[part])
            if part.start:
                return knobs
            self.knobs = knobs
        return self.knobs

    def _tell(self, part: slice) -> None:
        """Pass on what was drawn since the last look to those who read along; the device is asked once for all of them."""
        heard = [row for row in range(part.start, part.stop) if self.owners[row][0].watch] if self.watched else []
        if not heard:
            return
        rows = torch.tensor(heard, device=self.device)
        told = [self.owners[row][0].told.get(self.owners[row][1], 0) for row in heard]
        news = [count - known for count, known in zip(self.counts[rows].tolist(), told, strict=True)]
        width = max(news)
        tokens, logprobs = self._last_of(self.tokens, rows, width), self._last_of(self.logprobs, rows, width)
        for place, row in enumerate(heard):
            group, sample = self.owners[row]
            first = width - news[place]
            group.tell(sample, tokens[place][first:], logprobs[place][first:])

    def _last_of(self, state: Tensor, rows: Tensor, width: int) -> list[list]:
        """The last `width` of what each of these rows drew; places before its first token hold anything."""
        places = self.counts[rows, None] - torch.arange(width, 0, -1, device=self.device)
        return state[rows[:, None], places.clamp_min(0)].tolist()

    def _spoken(self, part: slice) -> Tensor:
        """Whether each row's text now ends with one of its stop strings; the device is asked once for all rows."""
        spoken = torch.zeros(part.stop - part.start, dtype=torch.bool, device=self.device)
        heard = [row for row in range(part.start, part.stop) if self.owners[row][0].sampling.stop] if self.listening else []
        if not heard:
            return spoken
        rows, samplings = torch.tensor(heard, device=self.device), [self.owners[row][0].sampling for row in heard]
        width = STOP_WINDOW + max(len(stop.encode()) for sampling in samplings for stop in sampling.stop)
        counts, windows = self.counts[rows].tolist(), self._last_of(self.tokens, rows, width)
        spoken[rows - part.start] = torch.tensor(
            [
                count > sampling.min_tokens and self._ends_with(window[-min(count, width) :], sampling.stop)
                for count, window, sampling in zip(counts, windows, samplings, strict=True)
            ],
            device=self.device,
        )
        return spoken

    def _ends_with(self, window: list[int], stops: tuple[str, ...]) -> bool:
        """Whether the last of these tokens completes a stop string."""
        text, before = self.decode(window), self.decode(window[:-1])
        return any(text.count(stop) > before.count(stop) for stop in stops)

    def _end(self, part: slice, stopped: Tensor, full: Tensor, version: int) -> Moves:
        """Tell who follows, hand out the finished rows, and move the last ones into their places."""
        self._tell(part)
        stopped = stopped | self._spoken(part)
        over = stopped | full
        if not bool(over.any()):
            return []
        places = over.nonzero().squeeze(1)
        ended = (places + part.start).tolist()
        for row, completion in zip(ended, self._completions(ended, stopped[places].tolist(), version), strict=True):
            group, sample = self.owners[row]
            group.end(sample, completion)
        return self._close(ended)

    def _close(self, ended: list[int]) -> Moves:
        """Move the last running rows into the places of those that ended; returns the cache's moves."""
        if not ended:
            return []
        gone = set(ended)
        left = self.running - len(ended)
        targets = [row for row in ended if row < left]
        sources = [row for row in range(left, self.running) if row not in gone]
        for target, source in zip(targets, sources, strict=True):
            self.owners[target] = self.owners[source]
        del self.owners[left:]
        moves = self._moved(targets, sources)
        self._leave(left)
        return moves

    def _moved(self, targets: list[int], sources: list[int]) -> Moves:
        """Give the sources' state to the targets; returns what the cache must do."""
        if not targets:
            return []
        to, come = torch.tensor(targets, device=self.device), torch.tensor(sources, device=self.device)
        for state in (
            self.keys, self.lengths, self.counts, self.limits, self.temperature, self.special,
            self.stop_ids, self.latest, self.done, self.tokens, self.logprobs, self.sampled,
        ):  # fmt: skip
            state[to] = state[come]
        return [(to, come, int(self.lengths[to].max()))]

    def _completions(self, ended: list[int], stopped: list[bool], version: int) -> list[Completion]:
        """What these rows have to say at their end."""
        completions = []
        for over, drawn in zip(stopped, self._fetched(ended), strict=True):
            completions.append(Completion(drawn.tokens, drawn.logprobs, drawn.sampled, version, "stop" if over else "length"))
        return completions

    def _fetched(self, chosen: list[int]) -> list[Drawn]:
        """What these rows have drawn, fetched from the device at once."""
        if not chosen:
            return []
        rows = torch.tensor(chosen, device=self.device)
        counts = self.counts[rows].tolist()
        longest = max(counts)
        tokens, logprobs = self.tokens[rows, :longest].tolist(), self.logprobs[rows, :longest].tolist()
        whole = [self.owners[row][0].sampling.whole for row in chosen]
        sampled = logprobs if all(whole) else self.sampled[rows, :longest].tolist()
        fetched = []
        for place, count in enumerate(counts):
            full = tuple(logprobs[place][:count])
            fetched.append(Drawn(tuple(tokens[place][:count]), full, full if whole[place] else tuple(sampled[place][:count])))
        return fetched

    def _widen(self, stops: int) -> None:
        """Make room for a request with more stop ids than any before."""
        if stops > self.stop_ids.shape[1]:
            self.stop_ids = F.pad(self.stop_ids, (0, stops - self.stop_ids.shape[1]), value=-1)

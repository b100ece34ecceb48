"""How the cache's memory is cut into rows: slots of one common length, which follows the requests.

A slot is as long as the longest running request needs, so shorter ones waste the rest of theirs; in return a decoding step reads views
of plain tensors, and nothing is looked up.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor

from afterbase.engine.group import Group
from afterbase.errors import EngineError
from afterbase.model.cache import Cache
from afterbase.model.config import ModelConfig

STEP = 64
"""Slots are multiples of this many tokens."""
GIB = 2**30
GROWTH = 1.25
"""A slot that must grow grows by this much at least: each time the running rows' memories are copied."""

Make = Callable[[int, int], Cache]
"""(rows, room) -> a cache."""


class Slots(Protocol):
    """The cache, and who fits into it."""

    cache: Cache | None
    """None until the first request comes."""
    elastic: bool
    """Whether slots follow the running rows as they grow."""
    spare: int
    """Tokens at the end of a slot that no request may fill: drafts may reach past the last one."""
    tokens: float
    """Those of all slots together."""

    def needs(self, group: Group) -> int:
        """Tokens that a slot must hold for these requests to start."""

    def ahead(self, waiting: Iterable[Group]) -> int:
        """Tokens that a slot had better hold because of those who wait further back."""

    def fit(self, needed: int) -> int:
        """How many rows there are when slots must hold that many tokens."""

    def hold(self, needed: int, running: int, filled: int) -> None:
        """Make slots hold that many tokens; the running rows keep the `filled` tokens they have at most. EngineError if memory ends."""

    def release(self) -> None:
        """Give the memory back."""


class Growing:
    """Without a budget: always the same number of rows, each as long as the longest request that has come may become."""

    elastic = False
    """A slot has room for the whole of its request from the beginning."""

    tokens = math.inf
    """As many as it takes."""

    def __init__(self, make: Make, rows: int, room: int, spare: int = 0) -> None:
        self.make, self.rows, self.room, self.spare = make, rows, room, spare
        self.cache: Cache | None = None

    def needs(self, group: Group) -> int:
        """All that the requests may ever take."""
        return min(self.room, stepped(group.most)) + self.spare

    def ahead(self, waiting: Iterable[Group]) -> int:
        """What the longest needs: the cache grows once for all of them."""
        return max(map(self.needs, waiting), default=0)

    def fit(self, needed: int) -> int:
        """The rows there are, whatever a slot holds."""
        return self.rows

    def hold(self, needed: int, running: int, filled: int) -> None:
        """A cache of longer slots, beside the old one until its rows have moved."""
        if self.cache is not None and needed <= self.cache.room:
            return
        cache = made(self.make, self.rows, needed)
        if self.cache is not None:
            cache.take(self.cache)
        self.cache = cache

    def release(self) -> None:
        """Give the memory back."""
        self.cache = None


class Budgeted:
    """A fixed number of tokens, cut into many short slots or few long ones as the running requests grow and end.

    The memory is taken once and stays where it is. A request takes what it has drawn, not what it may draw: the rest of the budget works
    for others, and when it is short the youngest rows make way (see scheduler.py).
    """

    elastic = True
    """Slots follow the rows."""

    def __init__(self, make: Make, tokens: int, rows: int, room: int, spare: int, reach: int) -> None:
        """`reach`: tokens that a row may gain between two looks."""
        self.make, self.rows, self.room, self.spare, self.reach = make, rows, room + spare, spare, reach
        self.tokens = min(tokens, rows * self.room)
        self.cache: Cache | None = None
        self.memories: list[Tensor] = []  # [layers, all numbers of one layer] for each of the cache's blocks

    def needs(self, group: Group) -> int:
        """What there is to read, and what may be drawn before the next look."""
        return self._most(stepped(min(group.most, len(group.text) + self.reach) + self.spare))

    def ahead(self, waiting: Iterable[Group]) -> int:
        """Nothing: slots can be cut anew."""
        return 0

    def fit(self, needed: int) -> int:
        """As many rows as the budget has slots of the length that `hold` would give them."""
        return min(self.rows, self.tokens // self._cut(needed))

    def hold(self, needed: int, running: int, filled: int) -> None:
        """Cut the same memory anew if slots are too short, or far too long for those who run and wait."""
        if self.cache is None:
            whole = made(self.make, 1, self.tokens)
            self.memories = [block.flatten(1) for block in whole.blocks]
            self.cache = self._laid(whole, self._cut(needed), 0, 0)
        elif (room := self._cut(needed)) != self.cache.room:
            self.cache = self._laid(self.cache, room, running, filled)

    def _cut(self, needed: int) -> int:
        """The length of slots that hold that many tokens, chosen so that it seldom changes."""
        now = self.cache.room if self.cache else 0
        if needed > now:
            return self._most(stepped(max(needed, int(GROWTH * now))))
        return self._most(needed) if 2 * needed <= now else now

    def _most(self, tokens: int) -> int:
        return min(tokens, self.room, self.tokens)

    def _laid(self, old: Cache, room: int, running: int, filled: int) -> Cache:
        """The memory as slots of `room` tokens, with what the running rows of the old ones hold."""
        new = copy.copy(old)
        new.rows, new.room, new.blocks = min(self.rows, self.tokens // room), room, []
        for memory, block in zip(self.memories, old.blocks, strict=True):
            heads, width = block.shape[2], block.shape[4]
            slots = memory[:, : new.rows * heads * room * width].unflatten(1, (new.rows, heads, room, width))
            for layer, before in zip(slots, block, strict=True) if filled else ():
                layer[:running, :, :filled] = before[:running, :, :filled].clone()  # old and new overlap
            new.blocks.append(slots)
        new.layers = list(zip(*new.blocks, strict=True))
        return new

    def release(self) -> None:
        """Give the memory back."""
        self.cache, self.memories = None, []


def token_bytes(config: ModelConfig, item: int, ahead: int = 0) -> int:
    """Bytes that the cache takes for one token of one request, in numbers of `item` bytes; `ahead` more layers are a drafter's."""
    width = config.kv_lora_rank + config.qk_rope_head_dim if config.is_mla else 2 * config.num_key_value_heads * config.head_dim
    return (config.num_hidden_layers + ahead) * width * item


def stepped(tokens: int) -> int:
    """That many tokens in whole steps."""
    return -(-tokens // STEP) * STEP


def made(make: Make, rows: int, room: int) -> Cache:
    """A cache, or in words why not."""
    try:
        return make(rows, room)
    except RuntimeError as error:  # torch's out-of-memory errors, on either kind of device
        raise EngineError(
            f"a cache of {rows} requests x {room} tokens does not fit into memory ({str(error).splitlines()[0]}); "
            "lower engine.rows or engine.memory, or the length of prompts and answers"
        ) from None

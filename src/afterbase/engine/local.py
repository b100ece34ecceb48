"""An engine in this process, sampling from the very tensors that the trainer updates.

(Dense models decode from fused copies of them, which `load` refreshes: see runner.py, and cuda/runner.py for GPUs.)

Requests join and leave at every step (continuous batching). The running ones are always the first rows of the cache, so that a
decoding step reads views, never copies; a row that ends gives its place to the last one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from afterbase.engine.checks import check_places, check_prompt, check_sampling
from afterbase.engine.config import EngineConfig
from afterbase.engine.group import Group, Watch
from afterbase.engine.rows import Moves, Rows
from afterbase.engine.runner import runner_for
from afterbase.engine.scheduler import Scheduler
from afterbase.engine.seen import Seen
from afterbase.engine.several import SeveralRows
from afterbase.engine.slots import GIB, Budgeted, Growing, token_bytes
from afterbase.engine.speculative import Speculation, speculator_for
from afterbase.engine.steady import steadied
from afterbase.engine.weights import checksum, take
from afterbase.errors import EngineError, TooLong
from afterbase.model.cache import Cache
from afterbase.model.logprob import token_logprobs
from afterbase.model.transformer import Transformer
from afterbase.records import Completion, Sampling
from afterbase.segments import Segments, carried

BURST = 16
"""Decoding steps between two looks at the queue and at other tasks."""
PAUSE = 5e-4
"""Seconds between two questions to the device whether it has come as far as the host may look."""


class LocalEngine:
    """Continuous batching over one model."""

    def __init__(
        self, model: Transformer, config: EngineConfig, decode: Callable[[Sequence[int]], str] | None = None, version: int = 0
    ) -> None:
        """`decode` turns tokens into text; only requests with stop strings need it. `version` is what the model's weights are called."""
        self.model, self.config = model, config
        self.device = model.lm_head.weight.device
        self.room = min(config.context or model.config.max_position_embeddings, model.config.max_position_embeddings)
        self.version = version
        self.runner = runner_for(model, torch.bfloat16 if config.precision == "bfloat16" else torch.float32)
        if config.deterministic:
            self.runner = steadied(self.runner, config.memory is not None)
        halved = config.precision == "bfloat16" and (self.runner.compact or self.device.type != "cpu")
        self.dtype = torch.bfloat16 if halved else model.lm_head.weight.dtype
        self.rows = (SeveralRows if config.speculative else Rows)(config.rows, self.room, self.device, decode)
        self.speculator = speculator_for(config.speculative, model, self.rows, self.runner)
        self.rows.width = 1 + (self.speculator.drafter.tokens if self.speculator else 0)
        self.rows.singly = config.deterministic
        self.reach = BURST * self.rows.width  # tokens that a row may gain between two looks
        self.slots = self._slots()
        self.scheduler = Scheduler(self.slots, self.rows, config.prefill_tokens, self.reach, self._move, self._settle)
        self.waiting = self.scheduler.waiting
        self.arrivals = itertools.count()
        self.seen: Seen | None = None  # what the host has not looked at yet
        self.driver: asyncio.Task | None = None
        self.weights = (*model.parameters(), *model.buffers())
        self.stamp = self._stamp()

    @property
    def cache(self) -> Cache | None:
        """What the running rows remember."""
        return self.slots.cache

    @property
    def most(self) -> int | None:
        """Answers that may run or wait at a time; None is any number."""
        return None if self.config.queue is None else self.config.rows + self.config.queue

    async def generate(
        self, prompt: Sequence[int], sampling: Sampling, n: int = 1, watch: Watch | None = None, tag: str = ""
    ) -> list[Completion]:
        """n completions of one prompt, read once; `watch` is told (sample, token, log-probability) soon after each draw (streaming).

        `tag` says what they are about: `speculation` counts by it. Cancelling frees the rows.

        EngineError when it cannot be served: in itself, or because too many wait.
        """
        self.check(prompt, sampling, n)
        check_places(self.scheduler.held, n, self.most)
        loop = asyncio.get_running_loop()
        group = Group(tuple(prompt), sampling, range(n), loop.create_future(), watch, tag, arrival=next(self.arrivals))
        self.waiting.append(group)
        if self.driver is None or self.driver.done():
            self.driver = loop.create_task(self._drive())
            self.driver.add_done_callback(lambda driver: driver.cancelled() or driver.exception())  # a stop is told once, by who asked
        return await group.future

    def check(self, prompt: Sequence[int], sampling: Sampling, n: int = 1) -> None:
        """EngineError for what can never be served; any thread may ask."""
        check_sampling(sampling, self.model.config.vocab_size)
        check_prompt(prompt, n, self.model.config.vocab_size, self.room)
        if sampling.stop and self.rows.decode is None:
            raise EngineError(f"stop strings such as {sampling.stop[0]!r} need an engine that was given a decoder; use stop ids")
        tokens = min(len(prompt) + sampling.max_tokens, self.room) + self.slots.spare
        if tokens > self.slots.tokens:
            raise TooLong(
                f"a prompt of {len(prompt)} tokens and up to {sampling.max_tokens} new ones take {tokens} tokens of cache, "
                f"engine.memory={self.config.memory:g} GiB holds {self.slots.tokens}; ask for fewer, or raise it"
            )

    async def score(self, tokens: Sequence[int]) -> list[float]:
        """Log-probability of each token after the first, at temperature 1."""
        if not 0 < len(tokens) <= self.room:
            raise EngineError(f"a sequence of {len(tokens)} tokens cannot be scored; give 1 to {self.room}, the context")
        with torch.inference_mode(), self._autocast():
            stream = torch.tensor(tokens, device=self.device)
            hidden = self.model(stream, Segments.of([len(tokens)], self.device))
            return token_logprobs(hidden[:-1], self.model.lm_head.weight, stream[1:]).tolist()

    def speculation(self) -> Speculation | None:
        """What drafting did so far; None where nothing is drafted."""
        return self.speculator.speculation if self.speculator else None

    async def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Sample from these weights from now on. The trainer's own tensors are taken as they are; others are copied in."""
        if self.rows.running and self.rows.behind:
            self._settle()
        self.scheduler.forget()
        if self.waiting or self.rows.running:
            raise EngineError(f"weights {version} came while requests of weights {self.version} run; wait for them before loading")
        take(self.model, weights, version)
        self.version = version
        self.runner.refresh()
        if self.speculator:
            self.speculator.refresh()
        self.stamp = self._stamp()

    def checksum(self) -> int:
        """Which weights are sampled from now, as a number below 2**53 (see weights.py): one pass over all of them."""
        self._check_stamp()
        return checksum(self.weights)

    async def close(self) -> None:
        """Stop; requests still running end with an EngineError."""
        if self.driver is not None:
            self.driver.cancel()
            self.driver = None  # it ends only when other tasks run, and who asks before that needs another
        self._fail(EngineError("the engine was closed while requests were running"))
        self.slots.release()
        self.runner.release()

    async def _drive(self) -> None:
        """Step until nothing is left; between steps other tasks run, so finished answers are judged while others go on."""
        try:
            while self.waiting or self.rows.running:
                self._steps()
                await asyncio.sleep(0)
                while self.seen and not self.seen.ready:  # and for as long as the device has more to do
                    await asyncio.sleep(PAUSE)
        except Exception as error:
            self._fail(error)  # whoever asked raises it

    def _fail(self, error: Exception) -> None:
        for group in (*self.waiting, *self.rows.drop()):
            group.fail(error)
        self.waiting.clear()
        self.seen = None

    @torch.inference_mode()
    def _steps(self) -> None:
        """Let requests in, then give every running one its next tokens until one ends or others may join.

        Several steps share one autocast context, which casts each weight once.
        """
        self._check_stamp()
        if self.seen:
            self._or_drop(self._look)
        self.scheduler.forget()
        self.scheduler.make_way()
        with self._autocast():
            while admitted := self.scheduler.admit():
                self._enter(admitted)
            if self.rows.running:
                self._go_on()

    def _enter(self, groups: list[Group]) -> None:
        """Read the groups' prompts and draw what follows. What fails for several is tried one by one: a fault is its owner's alone."""
        first = self.rows.running
        try:
            logits = self._prefill(groups)
            self._move(self.rows.begin(logits) if self.runner.alone else self.rows.advance(logits, self.version))
        except Exception as error:
            self.rows.retract(first)
            if len(groups) == 1:
                groups[0].fail(error)
            else:
                for group in groups:
                    self._enter([group])

    def _go_on(self) -> None:
        """Give the running rows their next tokens."""
        self._or_drop(self._burst if self.runner.alone and not self.rows.hosted else self._stepwise)

    def _or_drop(self, step: Callable[[], None]) -> None:
        """Do this with the running rows. If it fails, what they remember is half written; those who wait lose nothing."""
        try:
            step()
        except Exception as error:
            self.seen = None
            for group in self.rows.drop():
                group.fail(error)

    def _burst(self) -> None:
        """Steps that the device takes on its own, while the host looks at what came of those before; so it never waits for the host."""
        self.seen = self.rows.seen()
        if steps := self.rows.burst(BURST):
            (self.speculator or self.runner).burst(self.rows, self.cache, steps)

    def _look(self) -> None:
        """End the rows that had ended before the burst that is under way; where none is, those that have ended by now."""
        seen, self.seen = self.seen, None
        self._move(self.rows.look(self.version, seen))

    @torch.inference_mode()
    def _settle(self) -> None:
        """Wait for the device, and end the rows that it has ended by now."""
        self.seen = None
        self._or_drop(self._look)

    def _stepwise(self) -> None:
        """Steps of which the host sees every draw, until a request ends, so that others may take its place."""
        if self.rows.behind:
            self._settle()
        running = self.rows.running
        for _ in range(BURST if running else 0):
            self._move(self.speculator.step(self.cache, self.version, self._plain) if self.speculator else self._plain())
            if self.rows.running < running:
                break

    def _move(self, moves: Moves) -> None:
        for target, source, length in moves:
            self.cache.move(source, target, length)
            if self.speculator:
                self.speculator.drafter.move(target, source)

    def _plain(self) -> Moves:
        """One token for every running row; returns the cache's moves."""
        return self.rows.advance(self._decode(), self.version)

    def _slots(self) -> Growing | Budgeted:
        """The cache's memory, without a budget or with one."""
        drafter = self.speculator.drafter if self.speculator else None
        ahead, spare = (drafter.layers, drafter.tokens) if drafter else (0, 0)  # drafts may reach past the last token

        def make(rows: int, room: int) -> Cache:
            return Cache(self.model.config, rows, room, self.dtype, self.device, ahead)

        if self.config.memory is None:
            return Growing(make, self.config.rows, self.room, spare)
        tokens = int(self.config.memory * GIB / token_bytes(self.model.config, self.dtype.itemsize, ahead))
        return Budgeted(make, tokens, self.config.rows, self.room, spare, self.reach)

    def _prefill(self, groups: list[Group]) -> Tensor:
        """Read each group's prompt once, share its cache, and return the logits of each new row's first token [new, V]."""
        firsts = self.rows.place(groups)
        segments = Segments.of([len(group.text) for group in groups], self.device)
        tokens = carried(torch.tensor([token for group in groups for token in group.text]), self.device)
        step = self.cache.filling(segments, carried(torch.tensor(firsts), self.device))
        logits = self.speculator.drafter.read(tokens, segments, step) if self.speculator else self.runner.prefill(tokens, segments, step)
        if self.rows.fresh == len(groups):
            return logits
        members = [index for index, group in enumerate(groups) for _ in group.samples]
        members, sources = carried(torch.tensor([members, [firsts[index] for index in members]]), self.device)
        new = torch.arange(firsts[0], self.rows.running, device=self.device)
        self._move([(new, sources, segments.longest)])
        return logits[members]

    def _decode(self) -> Tensor:
        """The logits of every running row's next token [running, V]."""
        tokens, lengths, longest = self.rows.last()
        segments = Segments.decoding(lengths)
        return self.runner.decode(tokens, segments, self.cache.decoding(segments, longest))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def _check_stamp(self) -> None:
        if self._stamp() != self.stamp:
            raise EngineError(f"the weights changed after version {self.version} was loaded; call load() after every update")

    def _stamp(self) -> int:
        """Counts every in-place change of the weights, so that an unannounced one is noticed."""
        return sum(tensor._version for tensor in self.weights)

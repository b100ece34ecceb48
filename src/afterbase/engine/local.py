"""An engine in this process, sampling from the very tensors that the trainer updates.

(Dense models decode from fused copies of them, which `load` refreshes: see runner.py, and cuda/runner.py for GPUs.)

Requests join and leave at every step (continuous batching). The running ones are always the first rows of the cache, so that a
decoding step reads views, never copies; a row that ends gives its place to the last one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from afterbase.config import Config
from afterbase.engine.checks import check_sampling
from afterbase.engine.rows import Group, Rows
from afterbase.engine.runner import runner_for
from afterbase.errors import EngineError
from afterbase.model.cache import Cache
from afterbase.model.checkpoint import hf_weights
from afterbase.model.logprob import token_logprobs
from afterbase.model.transformer import Transformer
from afterbase.records import Completion, Sampling
from afterbase.segments import Segments

BURST = 16
"""Decoding steps between two looks at the queue and at other tasks."""


ROOM_STEP = 64
"""The cache grows by this many tokens."""


class EngineConfig(Config):
    """How much runs at once."""

    rows: int = Field(256, gt=0)
    """Requests that decode together; the cache is rows x context tokens."""
    context: int | None = Field(None, gt=0)
    """Longest prompt plus completion in tokens; unset means the model's own context length."""
    prefill_tokens: int = Field(8192, gt=0)
    """Prompt tokens read in one forward pass."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of matrix products; the same as the trainer's, or their log-probabilities part."""


class LocalEngine:
    """Continuous batching over one model."""

    def __init__(self, model: Transformer, config: EngineConfig, decode: Callable[[Sequence[int]], str] | None = None) -> None:
        """`decode` turns tokens into text; only requests with stop strings need it."""
        self.model, self.config = model, config
        self.device = model.lm_head.weight.device
        self.room = min(config.context or model.config.max_position_embeddings, model.config.max_position_embeddings)
        self.version = 0
        self.runner = runner_for(model, torch.bfloat16 if config.precision == "bfloat16" else torch.float32)
        halved = config.precision == "bfloat16" and (self.runner.compact or self.device.type != "cpu")
        self.dtype = torch.bfloat16 if halved else model.lm_head.weight.dtype
        self.rows = Rows(config.rows, self.room, self.device, decode)
        self.waiting: deque[Group] = deque()
        self.cache: Cache | None = None
        self.driver: asyncio.Task | None = None
        self.weights = (*model.parameters(), *model.buffers())
        self.stamp = self._stamp()

    async def generate(
        self, prompt: Sequence[int], sampling: Sampling, n: int = 1, watch: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """n completions of one prompt, read once; `watch` is told the first one's tokens as they are drawn (streaming).

        EngineError when the prompt leaves no room for an answer.
        """
        check_sampling(sampling, self.model.config.vocab_size)
        if not prompt:
            raise EngineError("an empty prompt cannot be continued; give at least one token, such as the beginning of a sentence")
        if max(prompt) >= self.model.config.vocab_size or min(prompt) < 0:
            raise EngineError(
                f"a prompt holds token {max(prompt)}, the model knows 0 to {self.model.config.vocab_size - 1}; "
                "encode it with the model's own tokenizer"
            )
        if len(prompt) >= self.room:
            raise EngineError(
                f"a prompt of {len(prompt)} tokens leaves no room in the context of {self.room}; shorten it or raise engine.context"
            )
        if sampling.stop and self.rows.decode is None:
            raise EngineError(f"stop strings such as {sampling.stop[0]!r} need an engine that was given a decoder; use stop ids")
        loop = asyncio.get_running_loop()
        groups = [
            Group(tuple(prompt), sampling, range(first, min(first + self.config.rows, n)), loop.create_future(), watch)
            for first in range(0, n, self.config.rows)
        ]
        self.waiting.extend(groups)
        if self.driver is None or self.driver.done():
            self.driver = loop.create_task(self._drive())
        return [completion for group in groups for completion in await group.future]

    async def score(self, tokens: Sequence[int]) -> list[float]:
        """Log-probability of each token after the first, at temperature 1."""
        if not 0 < len(tokens) <= self.room:
            raise EngineError(f"a sequence of {len(tokens)} tokens cannot be scored; give 1 to {self.room}, the context")
        with torch.inference_mode(), self._autocast():
            stream = torch.tensor(tokens, device=self.device)
            hidden = self.model(stream, Segments.of([len(tokens)], self.device))
            return token_logprobs(hidden[:-1], self.model.lm_head.weight, stream[1:]).tolist()

    async def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Sample from these weights from now on. The trainer's own tensors are taken as they are; others are copied in."""
        if self.waiting or self.rows.running:
            raise EngineError(f"weights {version} came while requests of weights {self.version} run; wait for them before loading")
        own, left = dict(hf_weights(self.model)), {name for name, _ in hf_weights(self.model)}
        with torch.no_grad():
            for name, tensor in weights:
                left.discard(name)
                if name not in own or own[name].shape != tensor.shape:
                    wanted = f"has it as {list(own[name].shape)}" if name in own else "has no such tensor"
                    raise EngineError(f"weights {version} hold {name} {list(tensor.shape)}, the model {wanted}; load a model of its shape")
                if own[name].data_ptr() != tensor.data_ptr():
                    own[name].copy_(tensor)
        if left:
            raise EngineError(f"weights {version} lack {len(left)} tensors of the model, {min(left)} among them; load all of them")
        self.version = version
        self.runner.refresh()
        self.stamp = self._stamp()

    async def close(self) -> None:
        """Stop; requests still running end with an EngineError."""
        if self.driver is not None:
            self.driver.cancel()
        self._fail(EngineError("the engine was closed while requests were running"))
        self.cache = None
        self.runner.release()

    async def _drive(self) -> None:
        """Step until nothing is left; between steps other tasks run, so finished answers are judged while others go on."""
        try:
            while self.waiting or self.rows.running:
                self._steps()
                await asyncio.sleep(0)
        except Exception as error:
            self._fail(error)  # whoever asked raises it

    def _fail(self, error: Exception) -> None:
        for group in (*self.waiting, *self.rows.drop()):
            if not group.future.done():
                group.future.set_exception(error)
        self.waiting.clear()

    @torch.inference_mode()
    def _steps(self) -> None:
        """Let requests in, then give every running one its next tokens until one ends or others may join.

        Several steps share one autocast context, which casts each weight once.
        """
        if self._stamp() != self.stamp:
            raise EngineError(f"the weights changed after version {self.version} was loaded; call load() after every update")
        self._make_room()
        with self._autocast():
            while admitted := self._admit():
                self._move(self.rows.advance(self._prefill(admitted), self.version))
            if self.rows.running and not self._burst():
                self._stepwise()

    def _burst(self) -> bool:
        """Steps that the device takes on its own; False where it does not."""
        steps = self.rows.burst(BURST) if self.runner.alone else 0
        if steps:
            self.runner.burst(self.rows, self.cache, steps)
            self._move(self.rows.look(self.version))
        return bool(steps)

    def _stepwise(self) -> None:
        """Steps of which the host sees every draw, until a request ends, so that others may take its place."""
        running = self.rows.running
        for _ in range(BURST):
            self._move(self.rows.advance(self._decode(), self.version))
            if self.rows.running < running:
                break

    def _move(self, moves: list[tuple[Tensor, Tensor, int]]) -> None:
        for target, source, length in moves:
            self.cache.move(source, target, length)

    def _make_room(self) -> None:
        """A cache as long as the longest request needs, and no longer: a context of 100,000 tokens is seldom used."""
        asked = max((len(group.prompt) + group.sampling.max_tokens for group in self.waiting), default=0)
        needed = min(self.room, -(-asked // ROOM_STEP) * ROOM_STEP)
        if self.cache is not None and needed <= self.cache.room:
            return
        try:
            cache = Cache(self.model.config, self.config.rows, needed, self.dtype, self.device)
        except RuntimeError as error:  # torch's out-of-memory errors, on either kind of device
            raise EngineError(
                f"a cache of {self.config.rows} requests x {needed} tokens does not fit into memory ({str(error).splitlines()[0]}); "
                "lower engine.rows, or the length of prompts and answers"
            ) from None
        if self.cache is not None:
            cache.take(self.cache)
        self.cache = cache

    def _admit(self) -> list[Group]:
        """The waiting groups that fit into the free rows and one forward pass, in order of arrival."""
        admitted, free, tokens = [], self.config.rows - self.rows.running, 0
        while self.waiting and len(self.waiting[0].samples) <= free:
            if admitted and tokens + len(self.waiting[0].prompt) > self.config.prefill_tokens:
                break
            group = self.waiting.popleft()
            free, tokens = free - len(group.samples), tokens + len(group.prompt)
            admitted.append(group)
        return admitted

    def _prefill(self, groups: list[Group]) -> Tensor:
        """Read each group's prompt once, share its cache, and return the logits of each new row's first token [new, V]."""
        firsts = self.rows.place(groups)
        segments = Segments.of([len(group.prompt) for group in groups], self.device)
        tokens = torch.tensor([token for group in groups for token in group.prompt], device=self.device)
        step = self.cache.filling(segments, torch.tensor(firsts, device=self.device))
        logits = self.runner.prefill(tokens, segments, step)
        if self.rows.fresh == len(groups):
            return logits
        members = torch.tensor([index for index, group in enumerate(groups) for _ in group.samples], device=self.device)
        new = torch.arange(firsts[0], self.rows.running, device=self.device)
        self.cache.move(torch.tensor(firsts, device=self.device)[members], new, segments.longest)
        return logits[members]

    def _decode(self) -> Tensor:
        """The logits of every running row's next token [running, V]."""
        tokens, lengths, longest = self.rows.last()
        segments = Segments.decoding(lengths)
        return self.runner.decode(tokens, segments, self.cache.decoding(segments, longest))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def _stamp(self) -> int:
        """Counts every in-place change of the weights, so that an unannounced one is noticed."""
        return sum(tensor._version for tensor in self.weights)

"""Rollouts of several turns: the model speaks, an environment replies, until either has nothing to add.

Tokens in, tokens out: every turn continues exactly the tokens that were drawn and appended before; nothing that the model drew is ever
decoded and encoded again. A reply is encoded once, as letters: a stop token or a thinking tag that is written in it is none. Only the
model's own tokens are learned (`Completion.own`).

    class Echo(Env):
        async def reply(self, turn: Turn) -> Reply | None:
            return Reply(turn.text) if turn.number < 3 else None
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from afterbase.engine.base import Engine
from afterbase.engine.draw import row_key
from afterbase.errors import CheckpointError, ConfigError, EngineError
from afterbase.records import Completion, Finish, Message, Prompt, Rollout, Sampling
from afterbase.rollouts.seam import Seam, find_seam
from afterbase.text.chat import begins_in_thought, prompt_tokens
from afterbase.text.think import OPEN
from afterbase.text.tokenizer import TAGS, Tokenizer

FEIGNED = re.compile("|".join(map(re.escape, TAGS)))
"""Tags that only the model may open and close; in Rollout.text a reply's own are shown as &lt;think>."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What an environment replies to."""

    prompt: Prompt
    """What was asked at the beginning."""
    text: str
    """What the model said since the last reply, special tokens left out."""
    transcript: tuple[Message, ...]
    """Everything that was said after the prompt; its last message is this turn."""
    number: int
    """1 for the model's first turn."""
    ended: bool
    """Whether the model ended its turn itself; False where it was stopped at one of the environment's stop strings."""
    seed: int
    """A number of this rollout and turn alone, the same in every run of the recipe: for environments that draw."""
    memory: dict[str, Any]
    """The environment's notes on this rollout, from turn to turn, in plain containers, as snapshots hold them; rewards find them as the
    prompt's column `environment`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What is said to the model, e.g. Reply("higher", role="user")."""

    text: str
    """The words; they are data, whatever stands in them."""
    role: Literal["tool", "user", "inline"] = "user"
    """Whose turn it is in the chat template; `inline`: no turn, the text goes on inside the model's own."""
    failed: bool = False
    """The environment's machine failed: the rollout ends and is masked, never punished; `text` says why."""


class Env:
    """Replies to the model. One object serves all rollouts at the same time: what belongs to one of them stands in `turn.memory`."""

    stop: tuple[str, ...] = ()
    """Strings at which the model is interrupted so that `reply` is asked, besides the ends of its turns."""
    instruction: str = ""
    """Stands after the question, so that the model knows whom it talks to; the prompt that rewards see is without it."""
    max_turns: int = 8
    """How often the model may speak in one rollout; a recipe's own number takes its place."""
    seconds: float | None = 60.0
    """For one reply, after which the rollout is masked; None where the environment keeps the time itself."""

    async def reply(self, turn: Turn) -> Reply | None:
        """What the model is told next; None ends the rollout."""
        raise NotImplementedError

    async def close(self) -> None:
        """Give back what was opened."""


async def converse(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: Prompt,
    template: str,
    sampling: Sampling,
    n: int,
    env: Env,
) -> list[Rollout]:
    """n rollouts of one prompt with an environment; `sampling.max_tokens` counts the model's own tokens of all its turns together.

    A rollout whose turns, tokens or room in the engine's context are used up ends with "length", without the reply that it could
    not answer; one whose environment failed ends with "failed". Each is drawn by itself and not as one of a group, so that none waits for
    its siblings; each turn has its own random stream of (seed, rollout, turn), whatever shares the batch.
    """
    if tokenizer.prepends_space:
        raise CheckpointError("this tokenizer puts a space before every text it encodes, so replies would change; use a byte-level one")
    asked = instructed(prompt, env.instruction)
    tokens = tuple(prompt_tokens(tokenizer, asked, template))
    talk = _Talk(engine, tokenizer, prompt, asked, template, sampling, env, tokens)
    return list(await asyncio.gather(*[talk.rollout(number) for number in range(n)]))


def instructed(prompt: Prompt, instruction: str) -> Prompt:
    """The prompt with the instruction after its question."""
    *before, last = prompt.messages
    return replace(prompt, messages=(*before, replace(last, content=f"{last.content}\n\n{instruction}"))) if instruction else prompt


def turn_metrics(rollouts: Iterable[Rollout]) -> dict[str, float]:
    """Turns of a rollout, and the share of rollouts that the environment's machine lost."""
    completions = [rollout.completion for rollout in rollouts]
    if not completions:
        return {}
    return {
        "train/turns/mean": sum(each.turns for each in completions) / len(completions),
        "train/tool_failures/fraction": sum(each.tool_failures > 0 for each in completions) / len(completions),
    }


@dataclass(eq=False)
class _Said:
    """One rollout as far as it has come."""

    drawn: list[Completion] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    own: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sampled: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    words: str = ""  # the model's, since the last reply
    turns: int = 1
    memory: dict[str, Any] = field(default_factory=dict)

    def speak(self, completion: Completion, text: str) -> None:
        """The model's own tokens."""
        self.drawn.append(completion)
        self.tokens += completion.tokens
        self.own += [True] * len(completion.tokens)
        self.logprobs += completion.logprobs
        self.sampled += completion.sampled_logprobs
        self.texts.append(text)
        self.words += text

    def hear(self, tokens: tuple[int, ...], text: str, reply: Reply) -> None:
        """Tokens that the model did not draw."""
        nothing = [0.0] * len(tokens)
        self.tokens += tokens
        self.own += [False] * len(tokens)
        self.logprobs += nothing
        self.sampled += nothing
        self.texts.append(text)
        if reply.text:
            self.messages += [Message("assistant", self.words), Message("user" if reply.role == "user" else "tool", reply.text)]
            self.words = ""
            self.turns += 1

    def completion(self, finish: Finish, reason: str, lost: bool) -> Completion:
        """The whole rollout as one completion; it is as old as its oldest turn."""
        version = min((each.version for each in self.drawn), default=0)
        tokens, logprobs, sampled = tuple(self.tokens), tuple(self.logprobs), tuple(self.sampled)
        return Completion(tokens, logprobs, sampled, version, finish, tuple(self.own), self.turns, int(lost), reason)


@dataclass(frozen=True, slots=True)
class _End:
    """Why a rollout is over."""

    finish: Finish
    reason: str = ""
    lost: bool = False


@dataclass(eq=False)
class _Talk:
    """What the rollouts of one prompt share."""

    engine: Engine
    tokenizer: Tokenizer
    prompt: Prompt
    asked: Prompt
    template: str
    sampling: Sampling
    env: Env
    tokens: tuple[int, ...]
    seams: dict[str, Seam] = field(default_factory=dict)

    async def rollout(self, number: int) -> Rollout:
        """One rollout from its first turn to its last."""
        said, end = _Said(), None
        while end is None:
            seed = row_key(row_key(self.sampling.seed, number), len(said.drawn))
            end = await self._speak(said, seed) or await self._hear(said, seed)
        opened = OPEN if begins_in_thought(self.tokenizer, self.tokens) else ""
        prompt = replace(self.prompt, extra=self.prompt.extra | {"environment": said.memory}) if said.memory else self.prompt
        completion = said.completion(end.finish, end.reason, end.lost)
        return Rollout(prompt, self.tokens, completion, opened + "".join(said.texts), seed=self.sampling.seed)

    async def _speak(self, said: _Said, seed: int) -> _End | None:
        """The model's next words after exactly what was said so far."""
        stop_ids = tuple(dict.fromkeys((*self.sampling.stop_ids, *self.tokenizer.stop_ids)))
        stop = tuple(dict.fromkeys((*self.sampling.stop, *self.env.stop)))
        left = self.sampling.max_tokens - sum(said.own)
        sampling = replace(self.sampling, stop=stop, stop_ids=stop_ids, max_tokens=left, seed=seed)
        try:
            [drawn] = await self.engine.generate((*self.tokens, *said.tokens), sampling, 1, tag=self.prompt.domain)
        except EngineError as error:
            if not said.drawn:
                raise EngineError(f"prompt {self.prompt.id}: {error}") from None
            return _End("failed", f"the engine failed in turn {said.turns}: {error}")
        said.speak(drawn, self.tokenizer.decode(drawn.tokens))
        return None if drawn.finish == "stop" else _End(drawn.finish)

    async def _hear(self, said: _Said, seed: int) -> _End | None:
        """The environment's reply, if there is one and the model can still answer it."""
        stopped = self._stopped(said)
        transcript = (*said.messages, Message("assistant", said.words))
        ended = stopped or any(stop in said.words for stop in self.sampling.stop)
        reply = await self._ask(Turn(self.prompt, said.words, transcript, said.turns, ended, seed, said.memory))
        if reply is None:
            return _End("stop")
        if reply.failed:
            return _End("failed", reply.text, lost=True)
        if reply.role == "inline" and ended:
            raise ConfigError(
                f"{type(self.env).__name__} replies inside a turn that the model has ended; return None there, or a reply as tool or user"
            )
        tokens, text = self._appended(reply, stopped)
        full = len(self.tokens) + len(said.tokens) + len(tokens) >= self.engine.room
        spent = sum(said.own) >= self.sampling.max_tokens or (reply.text and said.turns >= self.env.max_turns)
        idle = not (reply.text or said.drawn[-1].tokens)  # neither says anything: they would go on for ever
        if full or spent or idle:
            return _End("length")
        said.hear(tokens, text, reply)
        return None

    async def _ask(self, turn: Turn) -> Reply | None:
        """The reply; an environment that raises or hangs has failed, which is not the model's fault."""
        name = type(self.env).__name__
        try:
            async with asyncio.timeout(self.env.seconds) as clock:
                reply = await self.env.reply(turn)
        except ConfigError:
            raise
        except Exception as error:  # a lost rollout is data, not a crash
            why = f"did not reply within {self.env.seconds} s" if clock.expired() else f"failed with {type(error).__name__}: {error}"
            return Reply(f"{name} {why}", failed=True)
        if reply is not None and not isinstance(reply, Reply):
            raise ConfigError(f"{name}.reply returned {type(reply).__name__}; return a Reply, or None to end the rollout")
        return reply

    def _stopped(self, said: _Said) -> bool:
        """Whether the model's last token ends a turn by itself."""
        return not {*said.drawn[-1].tokens[-1:]}.isdisjoint((*self.sampling.stop_ids, *self.tokenizer.stop_ids))

    def _appended(self, reply: Reply, stopped: bool) -> tuple[tuple[int, ...], str]:
        """A reply with what the template puts around it, as tokens and for readers."""
        words = tuple(self.tokenizer.encode_plain(reply.text))
        shown = FEIGNED.sub(lambda tag: "&lt;" + tag.group()[1:], reply.text)
        if reply.role == "inline":
            return words, shown
        seam = self._seam(reply.role)
        around = [self.tokenizer.decode(part) for part in (seam.before, seam.after)]
        return seam.join(words, stopped), shown.join(around)

    def _seam(self, role: Literal["tool", "user"]) -> Seam:
        if self.template != "chat":
            raise ConfigError(
                f"{type(self.env).__name__} replies as {role}, but template {self.template!r} has no such turns; "
                'use template = "chat", or reply inside the turn (form = "inline")'
            )
        if role not in self.seams:
            self.seams[role] = find_seam(self.tokenizer, self.asked.messages, role)
        return self.seams[role]

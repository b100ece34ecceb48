"""Settings of a recipe that its own prompts leave without effect: a slip that nobody would notice while the run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from afterbase.errors import ConfigError
from afterbase.prompts.source import RowSource, Source
from afterbase.records import Prompt
from afterbase.rewards.base import DEFAULT
from afterbase.stages.rl_config import RlConfig
from afterbase.train.resume import is_plain


def refuse_what_does_nothing(config: RlConfig, sources: Sequence[Source], asked: Sequence[Prompt]) -> None:
    """ConfigError when a recipe sets something for prompts that no source has, or draws ahead what no checkpoint can hold."""
    there = _domains(sources, asked)
    if unknown := sorted(config.domains.keys() - there):
        raise ConfigError(f"domains.{unknown[0]}: no prompt is of that domain (there are: {', '.join(sorted(there))}); correct the name")
    column = config.curriculum.column
    if column and not any(column in prompt.extra for prompt in _examples(sources)):
        raise ConfigError(f"curriculum.column: no prompt has a column {column!r}; correct the name, or leave it out")
    for prompt in _examples(sources) if config.ahead else ():
        if odd := [name for name, value in prompt.extra.items() if not is_plain(value)]:
            raise ConfigError(
                f"prompt {prompt.id}: column {odd[0]!r} holds {type(prompt.extra[odd[0]]).__name__}, which a checkpoint cannot hold with "
                "the rounds that are drawn ahead; make it a text or a number, or set ahead = 0"
            )


def refuse_what_one_process_does(config: RlConfig) -> None:
    """ConfigError for what several processes cannot do together."""
    alone = {"objective.kind = 'ppo'": config.objective.kind == "ppo", "remembered": bool(config.remembered)}
    if wrong := [name for name, asked in alone.items() if asked]:
        raise ConfigError(f"{wrong[0]} works in one process only; leave it out, or start afterbase once, without torchrun")


def remarks(config: RlConfig, sources: Sequence[Source], asked: Sequence[Prompt], room: int) -> Iterator[str]:
    """One sentence for each domain whose rewards judge nothing, and one when the context of `room` tokens ends answers before their cap."""
    there = _domains(sources, asked)
    for name in sorted(config.rewards.domains.keys() - there - {DEFAULT}):
        yield f"rewards.domains.{name} judges nothing: no prompt is of that domain (there are: {', '.join(sorted(there))})"
    if (most := max(config.drawing(name).max_tokens for name in there)) >= room:
        yield f"max_tokens={most} does not fit into the context of {room} tokens, which ends answers before that; lower it"


def _domains(sources: Sequence[Source], asked: Sequence[Prompt]) -> set[str]:
    return {prompt.domain for prompt in (*_examples(sources), *asked)}


def _examples(sources: Sequence[Source]) -> Iterator[Prompt]:
    """Every row of a file, and one of each generator, whose prompts are all alike."""
    for source in sources:
        yield from source.prompts if isinstance(source, RowSource) else (source[0],)

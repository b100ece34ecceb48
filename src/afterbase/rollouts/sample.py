"""From one prompt to a group of G answers.  [V3 Eq. 26: {o_i} ~ pi_old(O|q)]"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from afterbase.engine.base import Engine
from afterbase.errors import DataError, EngineError
from afterbase.records import Completion, Prompt, Rollout, Sampling
from afterbase.text.chat import begins_in_thought, prompt_tokens
from afterbase.text.think import OPEN
from afterbase.text.tokenizer import Tokenizer


async def sample_group(engine: Engine, tokenizer: Tokenizer, prompt: Prompt, template: str, sampling: Sampling, n: int) -> list[Rollout]:
    """n answers to one prompt, as text and as the very tokens that were drawn; the tokenizer's stop ids end them.

    Where the template has opened the thought, the text begins with the tag all the same: whoever reads it sees one form only.
    """
    tokens = prompt_tokens(tokenizer, prompt, template)
    stops = tuple(dict.fromkeys((*sampling.stop_ids, *tokenizer.stop_ids)))
    try:
        completions = await engine.generate(tokens, replace(sampling, stop_ids=stops), n, tag=prompt.domain)
    except EngineError as error:
        raise EngineError(f"prompt {prompt.id}: {error}") from None
    opened = OPEN if begins_in_thought(tokenizer, tokens) else ""
    texts = [opened + answer_text(tokenizer, completion) for completion in completions]
    return [Rollout(prompt, tuple(tokens), *each, seed=sampling.seed) for each in zip(completions, texts, strict=True)]


def check_fit(prompts: Iterable[Prompt], tokenizer: Tokenizer, template: str, room: int) -> int:
    """The longest prompt's tokens; DataError when prompts leave no room for an answer, told before the first step, not at the one that
    draws them."""
    lengths = [(prompt.id, len(prompt_tokens(tokenizer, prompt, template))) for prompt in prompts]
    long = [(name, length) for name, length in lengths if length >= room]
    if long:
        name, length = long[0]
        others = f", and so do {len(long) - 1} more" if len(long) > 1 else ""
        raise DataError(
            f"prompt {name}: a prompt of {length} tokens leaves no room in the context of {room}{others}; shorten it, or leave it out"
        )
    return max((length for _, length in lengths), default=0)


def answer_text(tokenizer: Tokenizer, completion: Completion) -> str:
    """The completion as text, special tokens left out."""
    return tokenizer.decode(completion.tokens, skip_special=True)

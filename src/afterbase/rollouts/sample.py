"""From one prompt to a group of G answers.  [V3 Eq. 26: {o_i} ~ pi_old(O|q)]"""

from __future__ import annotations

from dataclasses import replace

from afterbase.engine.base import Engine
from afterbase.errors import EngineError
from afterbase.records import Completion, Prompt, Rollout, Sampling
from afterbase.text.chat import prompt_tokens
from afterbase.text.tokenizer import Tokenizer


async def sample_group(engine: Engine, tokenizer: Tokenizer, prompt: Prompt, template: str, sampling: Sampling, n: int) -> list[Rollout]:
    """n answers to one prompt, as text and as the very tokens that were drawn; the tokenizer's stop ids end them."""
    tokens = prompt_tokens(tokenizer, prompt, template)
    stops = tuple(dict.fromkeys((*sampling.stop_ids, *tokenizer.stop_ids)))
    try:
        completions = await engine.generate(tokens, replace(sampling, stop_ids=stops), n)
    except EngineError as error:
        raise EngineError(f"prompt {prompt.id}: {error}") from None
    return [Rollout(prompt, tuple(tokens), completion, answer_text(tokenizer, completion)) for completion in completions]


def answer_text(tokenizer: Tokenizer, completion: Completion) -> str:
    """The completion as text, special tokens left out."""
    return tokenizer.decode(completion.tokens, skip_special=True)

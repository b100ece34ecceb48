"""What moves a row's logits before the draw: penalties on what was said already, biases, and `min_tokens`.

All of it is worked out anew at each step from the prompt and the tokens that a row keeps anyway: no state of its own needs to follow a row
that moves, waits or is drawn again. While such rows run, a step takes a few tensors of (those rows) x (vocabulary).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from afterbase.records import Sampling

Asked = tuple[Sequence[int], Sampling]
"""A row's prompt, and how it is drawn."""
Steer = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Other logits [n, V] in place of these, given how many tokens each row has drawn [n] and which [n, room]."""


def steering_of(asked: Sequence[Asked], device: torch.device) -> tuple[Steer, ...]:
    """What these rows ask for, in the order in which it is done; a row that does not ask for what another does keeps its bits."""
    samplings = [sampling for _, sampling in asked]
    steps: list[Steer] = []
    if any(sampling.penalised for sampling in samplings):
        steps.append(Penalties.of(asked, device))
    if any(sampling.logit_bias for sampling in samplings):
        steps.append(Bias.of(samplings, device))
    if any(sampling.min_tokens and sampling.stop_ids for sampling in samplings):
        steps.append(Patience.of(samplings, device))
    return tuple(steps)


@dataclass(frozen=True, slots=True)
class Penalties:
    """Tokens that were said before become less likely [CTRL], or those of the answer alone [OpenAI]."""

    repetition: Float[Tensor, "n 1"]
    """Divides positive logits and multiplies negative ones."""
    presence: Float[Tensor, "n 1"]
    """Taken off once."""
    frequency: Float[Tensor, "n 1"]
    """Taken off as often as a token was said."""
    prompts: Int[Tensor, "n P"] | None
    """Filled up with their own first token; None where no row has a repetition penalty."""

    @staticmethod
    def of(asked: Sequence[Asked], device: torch.device) -> Penalties:
        """Those of these rows."""
        names = "repetition_penalty", "presence_penalty", "frequency_penalty"
        numbers = torch.tensor([[[getattr(sampling, name)] for _, sampling in asked] for name in names], device=device)
        repeating = any(sampling.repetition_penalty != 1 for _, sampling in asked)
        return Penalties(*numbers.float(), _filled([list(prompt) for prompt, _ in asked], device) if repeating else None)

    def __call__(self, logits: Float[Tensor, "n V"], counts: Int[Tensor, "n"], tokens: Int[Tensor, "n room"]) -> Float[Tensor, "n V"]:
        """The logits after all three."""
        tokens = tokens[:, : int(counts.max())]
        own = torch.arange(tokens.shape[1], device=tokens.device) < counts[:, None]
        times = torch.zeros_like(logits, dtype=torch.int32).scatter_add_(1, tokens, own.int())
        said = times > 0
        if self.prompts is not None:
            seen = said.scatter(1, self.prompts, True)
            logits = torch.where(seen, torch.where(logits > 0, logits / self.repetition, logits * self.repetition), logits)
        return logits - self.presence * said - self.frequency * times


@dataclass(frozen=True, slots=True)
class Bias:
    """Numbers that are added to single tokens' logits."""

    ids: Int[Tensor, "n B"]
    """Which tokens; none of those with a number comes twice in a row."""
    numbers: Float[Tensor, "n B"]
    """How much; filled up with zeros."""

    @staticmethod
    def of(samplings: Sequence[Sampling], device: torch.device) -> Bias:
        """Those of these rows."""
        width = max(len(sampling.logit_bias) for sampling in samplings)
        pairs = [[*sampling.logit_bias, *[(0, 0.0)] * (width - len(sampling.logit_bias))] for sampling in samplings]
        ids, numbers = ([[pair[part] for pair in row] for row in pairs] for part in (0, 1))
        return Bias(torch.tensor(ids, device=device), torch.tensor(numbers, dtype=torch.float32, device=device))

    def __call__(self, logits: Float[Tensor, "n V"], counts: Int[Tensor, "n"], tokens: Int[Tensor, "n room"]) -> Float[Tensor, "n V"]:
        """The sum."""
        return logits.scatter_add(1, self.ids, self.numbers)


@dataclass(frozen=True, slots=True)
class Patience:
    """No stop id before `min_tokens`."""

    least: Int[Tensor, "n"]
    """min_tokens, 0 for rows without stop ids."""
    stop_ids: Int[Tensor, "n S"]
    """Filled up with their own first one."""

    @staticmethod
    def of(samplings: Sequence[Sampling], device: torch.device) -> Patience:
        """That of these rows."""
        least = [sampling.min_tokens if sampling.stop_ids else 0 for sampling in samplings]
        return Patience(torch.tensor(least, device=device), _filled([list(sampling.stop_ids) or [0] for sampling in samplings], device))

    def __call__(self, logits: Float[Tensor, "n V"], counts: Int[Tensor, "n"], tokens: Int[Tensor, "n room"]) -> Float[Tensor, "n V"]:
        """Logits of minus infinity for stop ids that come too early."""
        early = (counts < self.least)[:, None].expand(self.stop_ids.shape)
        return logits.masked_fill(torch.zeros_like(logits, dtype=torch.bool).scatter_(1, self.stop_ids, early), -torch.inf)


def _filled(lines: Sequence[list[int]], device: torch.device) -> Int[Tensor, "n longest"]:
    """Lines of unequal length as one tensor, each filled up with its first token."""
    longest = max(map(len, lines))
    return torch.tensor([line + line[:1] * (longest - len(line)) for line in lines], device=device)

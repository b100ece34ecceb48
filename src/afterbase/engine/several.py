"""Running requests that take several tokens at a step: the drafted ones that the model would have drawn, and one more of its own.

Every draw belongs to a request and a position (see draw.py). So a draft is verified by making the model's own draw there, with the number
that belongs there: where the two are the same token, the next draw stands on what it would have stood on anyway. Nothing is drawn from
another distribution, and a request gets the very tokens that it gets without drafts, hot or greedy, steered or not.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from afterbase.engine.draw import Draw, draw
from afterbase.engine.rows import Moves, Rows


class SeveralRows(Rows):
    """Rows that can look at draws before they take them."""

    def drawn(self, logits: Float[Tensor, "n V"], ahead: int) -> Draw:
        """What each running row draws `ahead` draws after its next one, if these are its logits there; nothing moves."""
        part = slice(0, self.running)
        return draw(logits, self._knobs(part), self.keys[part], self.counts[part] + ahead, self.tokens[part])

    def verified(self, logits: Float[Tensor, "n w V"], drafts: Int[Tensor, "n k"]) -> Draw:
        """The model's draws [n w] after 0 to k drafts; each is right as long as all the drafts before it are."""
        self._note(self.tokens, drafts.clamp_min(0))  # penalties read what was said before
        draws = [self.drawn(logits[:, ahead], ahead) for ahead in range(logits.shape[1])]
        return Draw(*(torch.stack([getattr(one, name) for one in draws], dim=1) for name in Draw.__slots__))

    def allowed(self, tokens: Int[Tensor, "n w"]) -> Int[Tensor, "n"]:
        """How many of these each running row may take: up to the one that ends it."""
        rows, width = tokens.shape
        stops = (tokens[:, :, None] == self.stop_ids[:rows, None]).any(-1)
        if self.listening:
            stops |= self._spoken_each(tokens)
        first = torch.where(stops.any(1), stops.int().argmax(1) + 1, width)
        return torch.minimum(first, self.limits[:rows] - self.counts[:rows])

    def take(self, drawn: Draw, taken: Int[Tensor, "n"], version: int) -> Moves:
        """Keep the first `taken` tokens of each running row, of whose text the cache now holds as many more; as `advance` does.

        Returns the moves that the cache must make: (target rows, source rows, tokens).
        """
        part = slice(0, self.running)
        for kept, values in ((self.tokens, drawn.tokens), (self.logprobs, drawn.logprobs), (self.sampled, drawn.sampled_logprobs)):
            self._note(kept, values)
        self.latest[part] = drawn.tokens.gather(1, taken[:, None] - 1).squeeze(1)
        self.counts[part] += taken
        self.lengths[part] += taken
        stopped = (self.latest[part, None] == self.stop_ids[part]).any(1)
        return self._end(part, stopped, self.counts[part] >= self.limits[part], version)

    def _note(self, kept: Tensor, values: Tensor) -> None:
        """Write after what the running rows have drawn, as far as there is room: nobody reads past a row's count."""
        places = self.counts[: len(values), None] + torch.arange(values.shape[1], device=values.device)
        rows, columns = (places < kept.shape[1]).nonzero(as_tuple=True)
        kept[rows, places[rows, columns]] = values[rows, columns]

    def _spoken_each(self, tokens: Int[Tensor, "n w"]) -> Tensor:
        """Whether each row's text would end with one of its stop strings after each of these tokens [n w]."""
        part, counts = slice(0, self.running), self.counts[: self.running].clone()
        self._note(self.tokens, tokens)
        spoken = []
        for ahead in range(1, tokens.shape[1] + 1):
            self.counts[part] = torch.minimum(counts + ahead, self.limits[part])  # nothing is kept past the limit
            spoken.append(self._spoken(part))
        self.counts[part] = counts
        return torch.stack(spoken, dim=1)

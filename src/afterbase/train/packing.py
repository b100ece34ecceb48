"""Samples packed into streams, isolated from each other.  [V3 5.1: "isolated and mutually invisible"]"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from afterbase.records import Batch, Sample
from afterbase.segments import Segments


def pack(
    samples: Sequence[Sample], tokens_per_batch: int, device: torch.device | str = "cpu", totals: tuple[int, int] | None = None
) -> list[Batch]:
    """One optimizer step's samples as streams of at most `tokens_per_batch` tokens (a longer sample gets a stream of its own).

    Samples are laid out by length: neighbours of similar length waste least, and no gradient depends on the order.
    `totals` is (learned tokens, sequences) of the whole step when `samples` leave some of it out.
    """
    learned = [sum(sample.learn[1:]) for sample in samples]
    total_tokens, total_sequences = totals or (sum(learned), sum(count > 0 for count in learned))
    ordered = sorted((sample for sample, count in zip(samples, learned, strict=True) if count), key=lambda s: -len(s.tokens))
    return [_batch(group, max(total_tokens, 1), max(total_sequences, 1), device) for group in _groups(ordered, tokens_per_batch)]


def _groups(samples: Iterable[Sample], tokens_per_batch: int) -> list[list[Sample]]:
    groups: list[list[Sample]] = []
    room = 0
    for sample in samples:
        if len(sample.tokens) > room:
            groups.append([])
            room = tokens_per_batch
        groups[-1].append(sample)
        room -= len(sample.tokens)
    return groups


def _batch(samples: list[Sample], total_tokens: int, total_sequences: int, device: torch.device | str) -> Batch:
    segments = Segments.of([len(sample.tokens) for sample in samples], device)
    learn = torch.tensor([flag and place > 0 for sample in samples for place, flag in enumerate(sample.learn)])
    picked = learn.nonzero().squeeze(1).to(device)
    owner = segments.owner[picked]

    def per_token(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)[owner]

    def joined(name: str) -> torch.Tensor | None:
        if not getattr(samples[0], name):
            return None
        values = torch.tensor([value for sample in samples for value in getattr(sample, name)], dtype=torch.float32, device=device)
        assert len(values) == len(picked), f"{name} holds {len(values)} log-probabilities for {len(picked)} learned tokens"
        return values

    return Batch(
        tokens=torch.tensor([token for sample in samples for token in sample.tokens], device=device),
        segments=segments,
        picked=picked,
        owner=owner,
        weights=per_token([sample.weight for sample in samples]),
        advantages=per_token([sample.advantage for sample in samples]),
        old=joined("old"),
        reference=joined("reference"),
        total_tokens=total_tokens,
        total_sequences=total_sequences,
    )

"""Worked solutions of generated problems, right and wrong: what textbooks, forums and careless people write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from afterbase.errors import ConfigError
from afterbase.records import Prompt


@dataclass(frozen=True, slots=True)
class Work:
    """A solution, e.g. Work(("4 - 1 = 3", "3 - 7 = -4"), "-4")."""

    steps: tuple[str, ...]
    """One calculation a line; empty for questions that need none."""
    answer: str
    """What the last step gives."""


def work_out(prompt: Prompt, rng: Random, slips: int = 0) -> Work:
    """The worked solution of a generated problem; with `slips`, that many steps miscalculate and the rest follow from them."""
    generator = prompt.extra.get("generator", "")
    if generator not in _WRITERS:
        return Work((), prompt.answer or "")
    return _WRITERS[generator](prompt, _Slips(rng, slips))


def can_work_out(generator: str) -> bool:
    """Whether solutions of this generator's problems can be written step by step."""
    return generator in _WRITERS


def guess(prompt: Prompt, rng: Random) -> str:
    """What somebody would answer without thinking: near the truth, seldom right."""
    if prompt.extra.get("generator", "") not in _WRITERS:
        return prompt.answer or ""
    try:
        return str(int(prompt.answer or "") + rng.choice((-9, -6, -4, -3, -2, -1, 0, 1, 2, 3, 5, 7)))
    except ValueError:
        raise ConfigError(f"{prompt.id}: answer {prompt.answer!r} is no whole number; guesses are made for numbers only") from None


class _Slips:
    """Which calculations go wrong."""

    def __init__(self, rng: Random, slips: int) -> None:
        self.rng, self.slips = rng, slips

    def plan(self, steps: int) -> list[int]:
        """The error added to each step's result."""
        wrong = set(self.rng.sample(range(steps), min(self.slips, steps)))
        return [self.rng.choice((-10, -2, -1, 1, 2, 10)) if step in wrong else 0 for step in range(steps)]


def _chain_sum(prompt: Prompt, slips: _Slips) -> Work:
    """Left to right, one running total a line."""
    first, *rest = prompt.extra["metadata"]["expression"].split()
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    total, steps = int(first), []
    if not pairs:
        return Work((first,), first)
    for (sign, term), error in zip(pairs, slips.plan(len(pairs)), strict=True):
        result = (total + int(term) if sign == "+" else total - int(term)) + error
        steps.append(f"{total} {sign} {term} = {result}")
        total = result
    return Work(tuple(steps), str(total))


def _leg_counting(prompt: Prompt, slips: _Slips) -> Work:
    """Legs of each kind, then their running sum."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    animals = prompt.extra["metadata"]["animals"]
    errors = iter(slips.plan(2 * len(animals) - 1))
    steps, total = [], None
    for animal, count in animals.items():
        legs, error = count * ANIMALS[animal], next(errors)
        legs += error if legs + error >= 0 else -error  # a slip stays a slip where there are no legs to lose
        steps.append(f"{animal}: {count} * {ANIMALS[animal]} = {legs}")
        if total is None:
            total = legs
        else:
            added = total + legs + next(errors)
            steps.append(f"{total} + {legs} = {added}")
            total = added
    return Work(tuple(steps), str(total))


_WRITERS: dict[str, Callable[[Prompt, _Slips], Work]] = {"chain_sum": _chain_sum, "leg_counting": _leg_counting}

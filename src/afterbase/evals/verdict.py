"""Whether each checkpoint is better than the one it came from, said plainly, also when it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from afterbase.errors import ConfigError
from afterbase.evals.metrics import Interval, difference, disjoint
from afterbase.evals.result import Result


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two checkpoints on one benchmark, e.g. `r1-zero` against `base`, its parent."""

    later: Result
    """The checkpoint in question."""
    earlier: Result
    """What it is held against."""
    relation: str
    """What the earlier one is to it: `parent`, `stage before`, `parent and stage before`, or `base`."""

    @property
    def gain(self) -> Interval:
        """Later minus earlier accuracy with its 95% interval."""
        return difference(self.later.accuracy, self.earlier.accuracy)

    @property
    def disjoint(self) -> bool:
        """Whether the two accuracies' own intervals share no point."""
        return disjoint(self.later.accuracy, self.earlier.accuracy)

    @property
    def verdict(self) -> str:
        """One plain phrase."""
        gain = self.gain
        if gain.n == 0:
            return "unknown: nothing could be judged"
        if gain.low > 0:
            return "improved"
        if gain.high < 0:
            return "did not improve: it got worse"
        if gain.mean > 0:
            return "higher, but within chance"
        return "did not improve"


def comparisons(results: Sequence[Result], parents: Mapping[str, str]) -> list[Comparison]:
    """Every checkpoint against its parent (whose weights its training started from) and against the stage before it.

    `results` stand in the order of the river, for one benchmark. Without an entry in `parents` a checkpoint's parent is the stage
    before it; R1's large SFT starts from the base again [Setup], so there the two differ.
    """
    by_name = {result.model: result for result in results}
    if strange := sorted((set(parents) | set(parents.values())) - by_name.keys()):
        raise ConfigError(f"parents names {', '.join(strange)}, which were not evaluated; the checkpoints are {', '.join(by_name)}")
    found = []
    for before, result in pairwise(results):
        parent = by_name[parents.get(result.model, before.model)]
        if parent is before:
            found.append(Comparison(result, before, "parent and stage before"))
        else:
            found += [Comparison(result, parent, "parent"), Comparison(result, before, "stage before")]
    return found

"""The same warnings while a run trains: each is told once, and again only when it had gone away for a while."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from afterbase.stages.rules import RULES
from afterbase.stages.symptoms import find
from afterbase.stages.vitals import Vitals, WarningsConfig


class Watch:
    """Looks at every line that a run logs, e.g. `for sentence in watch.look(step, metrics): print(sentence)`.

    It is a function of the lines that it has seen and its memory does not grow with them: `resumed` makes the one that never stopped.
    """

    def __init__(self, config: WarningsConfig, recipe: Mapping[str, Any]):
        """`recipe` is the run's own, as config.json holds it: suggestions start from its values."""
        self.recipe = recipe
        self.vitals = Vitals(config)
        self.seen: dict[str, int] = {}

    @classmethod
    def resumed(cls, config: WarningsConfig, recipe: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Watch:
        """The watch of a run that has logged `rows` already; what it said then is not said again."""
        watch = cls(config, recipe)
        rows = list(rows)
        recent = max(len(rows) - config.window - 1, 0)  # a symptom that was last seen earlier is forgotten
        for row in rows[:recent]:
            watch.vitals.add(row)
        for row in rows[recent:]:
            watch.look(row["step"], row)
        return watch

    def look(self, step: int, row: Mapping[str, Any]) -> list[str]:
        """What is new to say after this step, one line each.

        A symptom that comes and goes around its threshold is one symptom: it has gone when a whole window has passed without it.
        """
        self.vitals.add({**row, "step": step})
        now = self.vitals.steps
        self.seen = {name: last for name, last in self.seen.items() if now - last <= self.vitals.limits.window}
        found = find(self.vitals, RULES, self.recipe)
        new = [symptom.sentence() for symptom in found if symptom.name not in self.seen]
        self.seen |= {symptom.name: now for symptom in found}
        return new

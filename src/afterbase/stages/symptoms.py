"""What can be wrong with a run, each with its figure, why it matters and what to try: pure functions of its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from afterbase.stages.vitals import Name, Vitals, WarningsConfig

Severity = Literal["note", "warning", "critical"]


@dataclass(frozen=True, slots=True)
class Try:
    """One setting worth changing, e.g. Try("sampling.max_tokens", times(2, 512)) suggests sampling.max_tokens=2048 where it was 1024."""

    key: str
    """Its place in the recipe."""
    change: Callable[[Any], Any]
    """From the present value (None when unset) to the suggested one; None when there is nothing to suggest."""
    of: str = ""
    """The setting whose value `change` is given, when it is another one."""

    def override(self, recipe: Mapping[str, Any]) -> str | None:
        """The suggestion as the command line takes it; None for a recipe that has no such key, as PPO's has no clip_high."""
        known, old = _look_up(recipe, self.key)
        new = self.change(_look_up(recipe, self.of)[1] if self.of else old)
        return f"{self.key}={_toml(new)}" if known and new not in (None, old) else None


def _look_up(recipe: Mapping[str, Any], key: str) -> tuple[bool, Any]:
    """Whether a recipe has the key, and its value; below a table that is left unset everything may be."""
    value: Any = recipe
    for part in key.split("."):
        if value is None:
            return True, None
        if not isinstance(value, Mapping) or part not in value:
            return False, None
        value = value[part]
    return True, value


def set_to(new: Any) -> Callable[[Any], Any]:
    """That value, whatever it was."""
    return lambda old: new


def times(factor: float, default: float) -> Callable[[Any], Any]:
    """A multiple of the present value, to three digits, and a whole number where `default` is one."""

    def change(old: Any) -> Any:
        new = (default if old is None else old) * factor
        return max(1, round(new)) if isinstance(default, int) else float(f"{new:.3g}")

    return change


def at_least(least: float, factor: float) -> Callable[[Any], Any]:
    """A multiple of the present value, and not below `least`."""
    return lambda old: max(least, type(least)(f"{(old or 0) * factor:.3g}"))


def where(present: Any, new: Any) -> Callable[[Any], Any]:
    """That value where the present one is `present`, else nothing."""
    return lambda old: new if old == present else None


@dataclass(frozen=True, slots=True)
class Rule:
    """One symptom: how it is seen and what is said of it."""

    name: Name
    """What it is called."""
    severity: Severity
    """How bad it is: `critical` means that what is learned is wrong or nothing."""
    measured: str
    """What is looked at."""
    threshold: str
    """When it is told, with the fields of WarningsConfig in braces."""
    look: Callable[[Vitals], str | None]
    """The figure in a sentence, or None when all is well."""
    why: str
    """Why it matters."""
    advice: str
    """What to do besides, or when no setting helps."""
    tries: tuple[Try, ...] = ()
    """Settings to try."""


@dataclass(frozen=True, slots=True)
class Symptom:
    """One thing found wrong, e.g. Symptom("truncated", "warning", "34% of the answers ..", "A thought ..", "", ("overlong.mask=true",))."""

    name: str
    """What it is called in docs/doctor.md."""
    severity: Severity
    """How bad it is."""
    figure: str
    """What was measured, where, and what the threshold is."""
    why: str
    """Why it matters."""
    advice: str
    """What to do."""
    overrides: tuple[str, ...] = ()
    """Settings to try, as the command line takes them."""

    def sentence(self) -> str:
        """All of it in one line, as a run prints it."""
        tries = f" Try {' or '.join(self.overrides)}." if self.overrides else ""
        return f"{self.name}: {self.figure} {self.why}{tries} {self.advice}".strip()


def find(vitals: Vitals, rules: Iterable[Rule], recipe: Mapping[str, Any]) -> list[Symptom]:
    """Every symptom that shows, the rules in their order; `recipe` is what the suggestions start from."""
    found = []
    for rule in rules:
        if rule.name not in vitals.limits.quiet and (figure := rule.look(vitals)) is not None:
            overrides = tuple(override for each in rule.tries if (override := each.override(recipe)))
            found.append(Symptom(rule.name, rule.severity, figure, rule.why, rule.advice, overrides))
    return found


def threshold(rule: Rule, limits: WarningsConfig) -> str:
    """A rule's threshold in words."""
    return rule.threshold.format(**limits.model_dump())


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)

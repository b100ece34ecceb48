"""Does every verifier accept the reference of every row?  `afterbase check-rewards`, and the same question before RL begins.

A verifier that refuses right answers punishes them: better one look before training than a curve that nobody can explain.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from afterbase.config import Config, apply_overrides, build, nearest, read_toml
from afterbase.dist import dealt, merged
from afterbase.errors import ConfigError, DataError
from afterbase.lineage import write_atomic
from afterbase.prompts.base import Source
from afterbase.prompts.rows import FileSettings, json_rows
from afterbase.prompts.source import JsonlSource, ParquetSource, RowSource, SourceConfig
from afterbase.records import Prompt
from afterbase.rewards.base import Judge, RewardsConfig
from afterbase.rewards.base import build as build_judge
from afterbase.rewards.gold import GoldCheck, check_golds
from afterbase.stages.progress import Progress

GENERATED = 256
"""Questions that a generator is asked for: it has no end, and its answers are all made alike."""
SAMPLE = 200
"""Prompts that are looked at before RL begins, equal shares of all sources; all of them where there are fewer."""
SHOWN = 20
"""Rows of one kind that are listed; the JSON report has all of them."""
NAMED = 3
"""Refused rows that the refusal to start names."""


class CheckRewardsConfig(Config):
    """What is checked: the part of an RL recipe that says what is asked and what judges the answers."""

    prompts: list[SourceConfig] = Field(min_length=1)
    """The questions with their references; every row of a file, and the first ones of a generator."""
    rewards: RewardsConfig = RewardsConfig()
    """What judges the answers, by domain."""
    seed: int = 0
    """Fixes what generators make."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One prompt's check and where its row stands, e.g. Checked(GoldCheck(...), "data.jsonl, line 7")."""

    check: GoldCheck
    """What the verifiers said."""
    place: str
    """File and line where they are known, else the source's name."""

    def record(self) -> dict[str, Any]:
        """The row as JSON takes it."""
        prompt = self.check.prompt
        return {
            "id": prompt.id,
            "place": self.place,
            "domain": prompt.domain,
            "question": prompt.question,
            "gold": prompt.answer,
            "response": self.check.response,
            "outcome": self.check.outcome or "not checkable",
            "note": self.check.note,
        }


@dataclass(frozen=True)
class Findings:
    """What came of a whole check."""

    rows: int
    """Prompts looked at."""
    refused: list[Checked]
    """Those whose reference some verifier does not accept."""
    unchecked: list[Checked]
    """Those that bring nothing to check, such as a program's task without a solution."""

    @property
    def checked(self) -> int:
        """Prompts whose reference could be held against a verifier."""
        return self.rows - len(self.unchecked)

    @property
    def fine(self) -> bool:
        """Whether something was checked and all of it accepted."""
        return bool(self.checked) and not self.refused

    def record(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return {
            "rows": self.rows,
            "checked": self.checked,
            "accepted": self.checked - len(self.refused),
            "refused": len(self.refused),
            "not_checkable": len(self.unchecked),
            "refused_rate": len(self.refused) / self.checked if self.checked else None,
            "outcomes": dict(sorted(Counter(each.check.outcome for each in self.refused).items())),
            "refused_rows": [each.record() for each in self.refused],
            "not_checkable_rows": [each.record() for each in self.unchecked],
        }

    def lines(self) -> Iterator[str]:
        """The report as a person reads it."""
        accepted = self.checked - len(self.refused)
        share = f" ({accepted / self.checked:.2%})" if self.checked else ""
        yield f"{self.rows} rows: {accepted} of {self.checked} checked references accepted{share}, {len(self.refused)} refused"
        for outcome in sorted({each.check.outcome for each in self.refused}):
            found = [each for each in self.refused if each.check.outcome == outcome]
            yield f"\nrefused as {outcome} ({len(found)}, {len(found) / self.checked:.2%}):"
            yield from _listed(
                found, lambda each: f"{_shown(each.check.prompt.answer or each.check.response)}: {_shown(each.check.note, 300)}"
            )
        if self.unchecked:
            yield f"\nnot checkable ({len(self.unchecked)}): nothing in these rows says what a right answer is"
            yield from _listed(self.unchecked, lambda each: f"domain {_shown(each.check.prompt.domain)}")


def run_check_rewards(
    data: Path, overrides: list[str], *, rewards: Path | None = None, report: Path | None = None, say: Callable[[str], None] = print
) -> bool:
    """Check a data file or a recipe, tell what was found, and return whether every reference that can be checked is accepted."""
    config = read_check(data, overrides, rewards)
    findings = asyncio.run(_check(config))
    if report:
        table = {"data": str(data), "config": config.model_dump(mode="json"), **findings.record()}
        write_atomic(report, json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    for line in findings.lines():
        say(line)
    return findings.fine


def read_check(data: Path, overrides: list[str], rewards: Path | None = None) -> CheckRewardsConfig:
    """What a data file or a recipe asks to be checked, with the rewards of another recipe and overrides on top."""
    table = _table(data)
    if rewards:
        recipe = _recipe(rewards)
        if "rewards" not in recipe:
            raise ConfigError(f"{rewards} has no [rewards]; give a recipe that says what judges the answers, such as one for rl")
        table["rewards"] = recipe["rewards"]
    for override in overrides:
        head = override.partition("=")[0].strip().partition(".")[0]
        if head not in CheckRewardsConfig.model_fields:
            known = list(CheckRewardsConfig.model_fields)
            raise ConfigError(f"{override!r} begins with {head!r}, which check-rewards does not read{nearest(head, known)}")
    return build(CheckRewardsConfig, apply_overrides(table, overrides), str(data))


async def refuse_bad_gold(judge: Judge, sources: Sequence[Source], most: float, recipe: Path) -> None:
    """DataError when verifiers refuse more than the share `most` of the references in a sample of the sources; 1 looks at nothing."""
    if most >= 1:
        return
    room = max(1, SAMPLE // len(sources))
    checks = merged(await check_golds(judge, dealt([prompt for source in sources for prompt in spread(source, room)])))
    checked = [check for check in checks if check.outcome is not None]
    refused = [check for check in checked if check.outcome != "correct"]
    if len(refused) > most * len(checked):
        named = "; ".join(f"{each.prompt.id}: {_shown(each.note, 160)}" for each in refused[:NAMED])
        raise DataError(
            f"the verifiers refuse the reference answers of {len(refused)} of {len(checked)} prompts, the first: {named}; at most "
            f"max_refused_gold={most:g} of them may, or right answers are punished; see all with `afterbase check-rewards {recipe}`, "
            "then mend the rows or the rewards"
        )


def spread(source: Source, most: int) -> list[Prompt]:
    """At most `most` of a source's prompts, evenly spread over it: the same ones each time, and not only its easy beginning."""
    size = len(source)
    return [source[at * size // most] for at in range(most)] if size > most else [source[at] for at in range(size)]


async def _check(config: CheckRewardsConfig) -> Findings:
    opened = [(settings, settings.open(config.seed)) for settings in config.prompts]
    rows = [_all(source) for _, source in opened]
    refused: list[Checked] = []
    unchecked: list[Checked] = []
    count = Counter()
    judge = build_judge(config.rewards)
    try:
        with Progress(sum(map(len, rows)), "check-rewards") as progress:

            def told(check: GoldCheck) -> None:
                count.update(refused=check.outcome not in ("correct", None))
                progress.advance(1, refused=count["refused"])

            for (settings, _), prompts in zip(opened, rows, strict=True):
                checks = [check for check in await check_golds(judge, prompts, told) if check.outcome != "correct"]
                places = _places(settings, {check.prompt.id for check in checks})
                for check in checks:
                    found = Checked(check, places.get(check.prompt.id, _named(settings)))
                    (unchecked if check.outcome is None else refused).append(found)
    finally:
        await judge.close()
    return Findings(sum(map(len, rows)), refused, unchecked)


def _all(source: Source) -> Sequence[Prompt]:
    return source.prompts if isinstance(source, RowSource) else [source[at] for at in range(min(len(source), GENERATED))]


def _table(data: Path) -> dict[str, Any]:
    """What `data` holds, as the table of a check: a recipe's own prompts and rewards, or a file of prompts."""
    if data.suffix in (".toml", ".json"):
        table = _recipe(data)
        if not isinstance(table.get("prompts"), list):
            raise ConfigError(f"{data} has no list of prompts; give an rl or curate recipe, a run's config.json, or a file of prompts")
        table = {key: table[key] for key in (*CheckRewardsConfig.model_fields, "held_out") if key in table}
        held_out = table.pop("held_out", None)
        more = held_out.get("prompts", []) if isinstance(held_out, dict) else []
        return {**table, "prompts": [*table["prompts"], *more]}
    kind = "parquet" if data.suffix == ".parquet" else "jsonl"
    return {"prompts": [{"kind": kind, "path": str(data)}]}


def _recipe(path: Path) -> dict[str, Any]:
    if path.suffix != ".json":
        return read_toml(path)
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no recipe at {path}; give a TOML file, or the config.json of a run") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); give a TOML file, or the config.json of a run") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{path} holds {type(table).__name__}; a file of prompts ends in .jsonl, and a recipe is a table")
    return table


def _places(settings: SourceConfig, ids: set[str]) -> dict[str, str]:
    """Where the rows with these ids stand, as far as it can be told; a second look at the file, taken only when there is something."""
    if not ids or not isinstance(settings, JsonlSource | ParquetSource):
        return {}  # the ids of kind = "auto" are the rows' numbers
    name = settings.name or settings.path.name.split(".")[0]
    if isinstance(settings, ParquetSource):
        numbers = {each: each.removeprefix(f"{name}-") for each in ids}
        return {each: f"{settings.path}, row {int(number) + 1}" for each, number in numbers.items() if number.isdecimal()}
    places: dict[str, str] = {}
    for where, number, row in json_rows(settings.path):
        own = row.get(settings.columns.id) if isinstance(row, dict) else None
        places.setdefault(f"{name}-{number}" if own in (None, "") else str(own), where)
    return {each: places[each] for each in ids & places.keys()}


def _named(settings: SourceConfig) -> str:
    if isinstance(settings, FileSettings):
        return str(settings.path)
    return settings.name or settings.generator


def _listed(found: Sequence[Checked], told: Callable[[Checked], str]) -> Iterator[str]:
    for each in found[:SHOWN]:
        yield f"  {_shown(each.check.prompt.id)} ({_shown(each.place, 200)}): {told(each)}"
    if len(found) > SHOWN:
        yield f"  .. and {len(found) - SHOWN} more; --report FILE lists all of them"


def _shown(text: str, most: int = 80) -> str:
    """Text from a data file in one line that no control character of it can disturb."""
    line = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in " ".join(text.split()))
    return line if len(line) <= most else line[: most - 3] + "..."

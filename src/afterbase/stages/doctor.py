"""Why a run does not learn, in words: its symptoms with their figures, and what to try."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from afterbase.errors import ConfigError
from afterbase.stages.quotes import clean, quote
from afterbase.stages.rules import RULES
from afterbase.stages.run import DONE, LOCK, RECORD
from afterbase.stages.symptoms import Severity, Symptom, find
from afterbase.stages.vitals import Vitals, WarningsConfig
from afterbase.track import read_metrics

SILENT = 1800.0  # seconds without a line after which a run that is still open is asked about
SILENT_STEPS = 10  # and as many of its own slowest recent steps
STYLES: dict[Severity, str] = {"critical": "bold red", "warning": "bold yellow", "note": "bold cyan"}
TRAINING = ("pretrain", "sft", "rl")


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found in one run."""

    directory: str
    """Where."""
    stage: str
    """Its kind."""
    steps: int
    """Lines of metrics.jsonl."""
    state: str
    """done, running or stopped."""
    symptoms: tuple[Symptom, ...]
    """What is wrong, the gravest first."""

    @property
    def healthy(self) -> bool:
        """Whether nothing but notes was found."""
        return all(symptom.severity == "note" for symptom in self.symptoms)


def run_doctor(directory: Path, *, as_json: bool = False, examples: int = 2, console: Console | None = None) -> bool:
    """Examine a run, or every run of a pipeline, print what was found, and say whether all are healthy."""
    console = console or Console(highlight=False)
    examined = [examine(each) for each in runs_in(directory)]
    if as_json:
        record = {"healthy": all(each.healthy for each in examined), "runs": [asdict(each) for each in examined]}
        print(json.dumps(record, indent=1), file=console.file)
    else:
        for number, each in enumerate(examined):
            _print(console, each, examples, number)
    return all(each.healthy for each in examined)


def runs_in(directory: Path) -> list[Path]:
    """The run itself, or those of a pipeline's directory in their order; ConfigError when there are none."""
    if (directory / RECORD).is_file():
        return [directory]
    if not directory.is_dir():
        hint = f"; give its directory, {directory.parent}" if (directory.parent / RECORD).is_file() else "; give the directory of a run"
        raise ConfigError(f"{directory} {'is no directory' if directory.exists() else 'does not exist'}{hint}")
    found = sorted(path.parent for path in directory.glob(f"*/{RECORD}"))
    if not found:
        raise ConfigError(f"{directory} is not a run (it holds no {RECORD}), nor does it hold any; give the --out of a stage or a pipeline")
    order = _stages(directory)
    theirs = [path for path in found if path.name in order]  # a pipeline's old runs, moved aside, are no longer its own
    return sorted(theirs, key=lambda path: order.index(path.name)) or found


def examine(directory: Path, now: float | None = None) -> Examined:
    """Everything that the files of one run tell; `now` is the time in seconds since 1970."""
    record = _read(directory / RECORD)
    stage, recipe = str(record.get("stage")), record.get("recipe") or {}
    vitals = Vitals.of(read_metrics(directory / "metrics.jsonl"), _limits(recipe))
    state = "done" if (directory / DONE).exists() else "running" if _open(directory) else "stopped"
    symptoms = _standing(directory, stage, state, vitals.steps, time.time() if now is None else now)
    if stage in TRAINING:
        symptoms += find(vitals, RULES, recipe)
        symptoms += _short(vitals)
    return Examined(str(directory), stage, vitals.steps, state, tuple(sorted(symptoms, key=lambda each: list(STYLES).index(each.severity))))


def _standing(directory: Path, stage: str, state: str, steps: int, now: float) -> list[Symptom]:
    """Whether the run still goes on."""
    quiet, slowest = _silence(directory, now)
    if state == "stopped":
        saved = sorted(path.name for path in (directory / "checkpoints").glob("*") if path.name.isdigit())
        since = f"; the last is {_span(quiet)} old" if quiet is not None else ""
        begins = f"from its checkpoint of update {int(saved[-1])}" if saved else "from its beginning, for no checkpoint was saved yet"
        figure = f"There is no {DONE} and no process holds the run; {steps} lines were logged{since}."
        again = f"The command that began it goes on {begins}: afterbase {stage} RECIPE --out {directory} (a pipeline: its own command)."
        return [Symptom("stopped", "warning", figure, "It was stopped, killed or failed, and learns no more.", again)]
    if state == "running" and quiet is not None and quiet > max(SILENT, SILENT_STEPS * slowest):
        figure = f"A process holds the run, and its last line is {_span(quiet)} old; its slowest recent step took {_span(slowest)}."
        return [Symptom("silent", "warning", figure, "It waits for something.", "Look at its output; if it hangs, stop it and resume.")]
    return []


def _short(vitals: Vitals) -> list[Symptom]:
    needed = 2 * vitals.limits.window
    if vitals.steps >= needed:
        return []
    figure = f"There are {vitals.steps} steps, and {needed} are needed to compare the first {vitals.limits.window} with the last."
    return [Symptom("short", "note", figure, "What so few steps show may be chance.", "Train longer, then look again.")]


def _open(directory: Path) -> bool:
    """Whether a living process holds the run."""
    try:
        with (directory / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go with the file
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _silence(directory: Path, now: float) -> tuple[float | None, float]:
    """Seconds since the last line, None when there is none, and of the slowest recent step."""
    log = directory / "metrics.jsonl"
    if not log.exists() or not log.stat().st_size:
        return None, 0.0
    spans = [row.get("time/step/seconds") or 0.0 for row in read_metrics(directory / "timings.jsonl")[-SILENT_STEPS:]]
    return max(now - log.stat().st_mtime, 0.0), max(spans, default=0.0)


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _limits(recipe: Mapping[str, Any]) -> WarningsConfig:
    """The recipe's own thresholds; those of another version of afterbase give way to today's."""
    try:
        return WarningsConfig.model_validate(recipe.get("warnings", {}))
    except ValidationError:
        return WarningsConfig()


def _stages(directory: Path) -> list[str]:
    """The names of a pipeline's stages in their order."""
    graph = _read(directory / "pipeline.json") if (directory / "pipeline.json").exists() else {}
    return [str(entry.get("directory")) for entry in graph.get("stages", [])]


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); restore the file") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{path} is not a run's record: it holds {clean(table, 60)}; restore the file")
    return table


def _print(console: Console, examined: Examined, examples: int, number: int) -> None:
    count = f"{examined.steps} step{'' if examined.steps == 1 else 's'}"
    heading = Text(f"{examined.directory} ({clean(examined.stage)}, {count}, {examined.state})", style="bold")
    _say(console, Text("\n") + heading if number else heading)
    if not examined.symptoms:
        _say(console, Text("  no symptoms", style="green") if examined.stage in TRAINING else Text("  trains nothing"))
    for symptom in examined.symptoms:
        _say(console, Text.assemble("  ", (f"{symptom.severity}: {symptom.name}", STYLES[symptom.severity])))
        _tell(console, Text(symptom.figure))
        _tell(console, Text(f"{symptom.why} {symptom.advice}".rstrip()))
        if symptom.overrides:
            _say(console, Text.assemble("    try: ", ("   ".join(symptom.overrides), "green")))
        for line in quote(symptom.name, Path(examined.directory), examples):
            _tell(console, Text(f"e.g. {line}", style="dim"))


def _tell(console: Console, prose: Text) -> None:
    """Prose, indented; broken over lines on a terminal only, for whoever reads a pipe counts lines."""
    if console.is_terminal:
        console.print(Padding(prose, (0, 0, 0, 4)))
    else:
        _say(console, Text("    ") + prose)


def _say(console: Console, line: Text) -> None:
    console.print(line, soft_wrap=True)  # an override that is broken over two lines cannot be copied

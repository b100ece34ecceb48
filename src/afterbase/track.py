"""The log of a run: metrics.jsonl is the truth, one JSON object a line, bitwise the same for two runs that did the same.

Two rules keep it comparable and valid. Wall-clock numbers go to timings.jsonl, never into metrics.jsonl. JSON has no NaN and
no infinity, so a number that is not finite is written as null and its line says how many there were under
`track/nonfinite/count`, which stands in no healthy line.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afterbase.errors import DataError
from afterbase.lineage import append, storing, write_atomic

NAME = re.compile(r"[^/\s]+/[^/\s]+/[^/\s]+")


class Tracker:
    """Writes a run's numbers, e.g. `tracker.log(3, {"train/loss/mean": 1.2})` gives `{"step": 3, "train/loss/mean": 1.2}`."""

    def __init__(self, directory: Path):
        self.metrics = directory / "metrics.jsonl"
        self.timings = directory / "timings.jsonl"
        with storing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        for path in (self.metrics, self.timings):
            _drop_half_line(path)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line of metrics; keys are sorted and floats keep every digit."""
        append(self.metrics, _line(step, metrics))

    def time(self, step: int, timings: Mapping[str, float]) -> None:
        """Append one line of wall-clock numbers: seconds and rates, which no two runs share."""
        append(self.timings, _line(step, timings))

    def rewind(self, step: int) -> None:
        """Drop every line of this step and later, as a resume from the checkpoint of `step` needs."""
        for path in (self.metrics, self.timings):
            rows = read_metrics(path)
            if any(row["step"] >= step for row in rows):
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                write_atomic(path, "".join(line for line, row in zip(lines, rows, strict=False) if row["step"] < step))


class Silent(Tracker):
    """Writes nothing: another process writes the run's numbers."""

    def __init__(self, directory: Path):
        self.metrics, self.timings = directory / "metrics.jsonl", directory / "timings.jsonl"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def time(self, step: int, timings: Mapping[str, float]) -> None:
        """Nothing."""

    def rewind(self, step: int) -> None:
        """Nothing."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, oldest first; a half-written last line (the writer was killed) is left out."""
    if not path.exists():
        return []
    *lines, tail = path.read_bytes().split(b"\n")  # what follows the last newline was never finished
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row["step"] + 0
        except (ValueError, KeyError, TypeError):
            if number == len(lines) and not tail:
                break  # a power failure can leave a torn last line that has its newline
            raise DataError(f"{path}, line {number}: expected a JSON object with a step, found {line[:60]!r}; restore the file") from None
        rows.append(row)
    return rows


def _line(step: int, metrics: Mapping[str, float]) -> str:
    numbers = {name: _number(metrics[name]) for name in sorted(metrics)}
    for name in numbers:
        assert NAME.fullmatch(name), f"metric {name!r} is not named place/what/how"
    lost = sum(value is None for value in numbers.values())
    if lost:
        numbers = dict(sorted({**numbers, "track/nonfinite/count": lost}.items()))
    return json.dumps({"step": step, **numbers}, allow_nan=False) + "\n"


def _number(value: Any) -> int | float | None:
    """An int stays one; everything else (a tensor of one number too) becomes a float, or None when it is not finite."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _drop_half_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    rows = read_metrics(path)
    if len(rows) < content.count(b"\n"):  # a torn last line that has its newline
        whole = content.rfind(b"\n", 0, whole - 1) + 1
    if whole < len(content):
        with storing(path):
            os.truncate(path, whole)

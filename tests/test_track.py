import errno
import json
import math
import os
import re
from pathlib import Path

import pytest

from afterbase import lineage, room
from afterbase.errors import DataError
from afterbase.track import Tracker, read_metrics

DOCUMENT = Path(__file__).parents[1] / "docs" / "metrics.md"
SOURCES = Path(__file__).parents[1] / "src" / "afterbase"


def documented_names(markdown_text: str) -> set[str]:
    """Every `place/what/how` in code quotes; <part> stands for any one part."""
    return set(re.findall(r"`([a-z<][\w<>.-]*/[\w<>.-]+/[\w<>.-]+)`", markdown_text))


def test_lines_are_sorted_and_exact(tmp_path: Path):
    Tracker(tmp_path).log(3, {"train/loss/mean": 0.1 + 0.2, "engine/tokens/count": 7})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 3, "engine/tokens/count": 7, "train/loss/mean": 0.30000000000000004}\n'


def test_two_runs_that_did_the_same_have_the_same_bytes(tmp_path: Path):
    for name, order in (("a", ("x/y/z", "a/b/c")), ("b", ("a/b/c", "x/y/z"))):
        tracker = Tracker(tmp_path / name)
        tracker.time(0, {"time/step/seconds": ord(name)})
        tracker.log(0, dict.fromkeys(order, 1 / 3))
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()
    assert (tmp_path / "a/timings.jsonl").read_bytes() != (tmp_path / "b/timings.jsonl").read_bytes()


def test_numbers_that_are_not_finite_are_null_and_counted(tmp_path: Path):
    tracker = Tracker(tmp_path)
    tracker.log(0, {"train/loss/mean": math.nan, "train/norm/total": -math.inf, "train/rate/now": 1.0})
    tracker.log(1, {"train/loss/mean": 1.0})
    assert read_metrics(tracker.metrics) == [
        {"step": 0, "train/loss/mean": None, "train/norm/total": None, "train/rate/now": 1.0, "track/nonfinite/count": 2},
        {"step": 1, "train/loss/mean": 1.0},
    ]


def test_rewind_drops_the_step_and_what_follows(tmp_path: Path):
    tracker = Tracker(tmp_path)
    for step in range(4):
        tracker.log(step, {"a/b/c": step / 7})
        tracker.time(step, {"time/b/c": 1.0})
    before = (tmp_path / "metrics.jsonl").read_bytes()
    tracker.rewind(2)
    assert [row["step"] for row in read_metrics(tracker.metrics)] == [row["step"] for row in read_metrics(tracker.timings)] == [0, 1]
    for step in (2, 3):
        tracker.log(step, {"a/b/c": step / 7})
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("torn", ['{"step": 1, "a/b', '{"step": 1, "a/b/c": 2.0}', "\0\0\0\0", '{"step": 1, "a/\0\0\n'])
def test_a_half_written_last_line_is_dropped(tmp_path: Path, torn: str):
    tracker = Tracker(tmp_path)
    tracker.log(0, {"a/b/c": 1.0})
    with tracker.metrics.open("a") as file:
        file.write(torn)
    assert [row["step"] for row in read_metrics(tracker.metrics)] == [0]
    Tracker(tmp_path).log(1, {"a/b/c": 2.0})
    assert [row["a/b/c"] for row in read_metrics(tracker.metrics)] == [1.0, 2.0]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\nnonsense\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics.jsonl, line 2: expected a JSON object with a step"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_full_disk_leaves_the_lines_before_whole(tmp_path: Path, monkeypatch):
    tracker = Tracker(tmp_path)
    tracker.log(0, {"a/b/c": 1.0})
    before = tracker.metrics.read_bytes()

    write = os.write

    def fills_up(handle: int, content: bytes) -> int:
        if len(content) < 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, content[:-5])

    monkeypatch.setattr(lineage.os, "write", fills_up)

    def gives_up(seconds: float) -> None:
        assert tracker.metrics.read_bytes() == before
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "sleep", gives_up)
    with pytest.raises(KeyboardInterrupt):
        tracker.log(1, {"a/b/c": 2.0})
    assert tracker.metrics.read_bytes() == before


def test_names_are_place_what_how(tmp_path: Path):
    with pytest.raises(AssertionError, match="place/what/how"):
        Tracker(tmp_path).log(0, {"loss": 1.0})


def test_absent_metrics_are_no_rows(tmp_path: Path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_tensors_count_as_numbers(tmp_path: Path):
    torch = pytest.importorskip("torch")
    Tracker(tmp_path).log(0, {"a/b/c": torch.tensor(0.5)})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 0, "a/b/c": 0.5}


def test_every_metric_in_the_sources_is_documented():
    """A literal name must be in docs/metrics.md; a part made at run time (an f-string's {..}) stands there as <..>."""
    documented = documented_names(DOCUMENT.read_text(encoding="utf-8"))
    patterns = [re.compile(re.sub(r"<[^>]*>", r"[^/]+", name)) for name in documented]
    literal = re.compile(r'f?"([a-z{][\w{}.-]*/[\w{}.\[\]()-]+/[\w{}.\[\]()-]+)"(?=\s*[:\]])')
    unknown = {
        f"{file.name}: {name}"
        for file in SOURCES.rglob("*.py")
        for name in literal.findall(file.read_text(encoding="utf-8"))
        if not any(pattern.fullmatch(re.sub(r"\{[^}]*\}", "x", name)) for pattern in patterns)
    }
    assert unknown == set()

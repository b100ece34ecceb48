"""Curves over RL steps, read from the stages' metrics.jsonl and drawn one after the other along a common axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from afterbase.errors import DataError
from afterbase.lineage import storing
from afterbase.track import read_metrics

# Okabe and Ito's palette: told apart in print and by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
STYLE = {
    "svg.hashsalt": "afterbase",  # else the ids inside an SVG are random
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.titlesize": 11,
}
GREY = "#555555"
HELD_OUT = {"linestyle": "--", "linewidth": 1.0, "marker": "o", "markersize": 5, "markeredgecolor": "white"}
WINDOWS = 8  # a curve is smoothed over about an eighth of its steps: noise goes, the shape stays


@dataclass(frozen=True, slots=True)
class Stage:
    """One RL stage's metrics, e.g. Stage("r1-zero", {0: {"train/reward/mean": 0.1}, 1: {"train/reward/mean": 0.3}})."""

    label: str
    """Its name in the plots."""
    steps: dict[int, dict[str, float]]
    """What was logged at each step, in order."""

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """The steps at which `name` was logged, and its values there."""
        points = [(step, metrics[name]) for step, metrics in self.steps.items() if name in metrics]
        return [step for step, _ in points], [value for _, value in points]


@dataclass(frozen=True, slots=True)
class Curve:
    """One plot: a metric of training and, where it was measured, its held-out sibling."""

    file: str
    """File name without its ending."""
    metric: str
    """The metric's name in metrics.jsonl."""
    title: str
    """What is shown."""
    unit: str
    """The vertical axis, with its unit."""
    held_out: str | None = None
    """The metric measured on held-out problems during training."""
    share: bool = False
    """Whether it runs from 0 to 1 and is shown in percent."""


CURVES = (
    Curve("accuracy", "train/accuracy/mean", "Accuracy over RL steps", "share of responses correct", "eval/accuracy/mean", share=True),
    Curve("reward", "train/reward/mean", "Reward over RL steps", "mean reward (weighted sum of parts)"),
    Curve("response_length", "train/response_length/mean", "Response length over RL steps", "mean response length (tokens)"),
)


def read_stage(label: str, metrics: Path) -> Stage:
    """The stage behind a metrics.jsonl; DataError when there is none or a line does not fit."""
    if not metrics.exists():
        raise DataError(f"no metrics of stage {label!r} at {metrics}; give the directory of an rl stage that has run")
    steps: dict[int, dict[str, float]] = {}
    for row in read_metrics(metrics):
        numbers = {name: value for name, value in row.items() if name != "step" and value is not None}  # null: it was not finite
        steps.setdefault(int(row["step"]), {}).update(numbers)
    return Stage(label, dict(sorted(steps.items())))


def draw(curve: Curve, stages: Sequence[Stage], count: str, directory: Path) -> list[Path]:
    """Draw one curve as PNG and SVG into `directory`; no file when no stage logged it. `count` says in the title what n is."""
    shown = [stage for stage in stages if stage.series(curve.metric)[0]]
    if not shown:
        return []
    files = [directory / f"{curve.file}.{ending}" for ending in ("png", "svg")]
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.0), dpi=160, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        begin = 0
        for number, stage in enumerate(shown):
            _lines(axes, curve, stage, begin, COLOURS[number % len(COLOURS)])
            _band(axes, stage, begin, shaded=number % 2 == 1)
            begin += len(stage.steps)
        _dress(axes, curve, begin)
        axes.set_title(f"{curve.title} ({count})", loc="left", pad=24)
        figure.legend(handles=_legend(curve, shown), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        with storing(directory):
            figure.savefig(files[0], metadata={"Software": None})
            figure.savefig(files[1], metadata={"Date": None, "Creator": None})
    return files


def smoothed(values: Sequence[float], reach: int) -> list[float]:
    """Each value's mean with its `reach` neighbours on either side, fewer at the ends, e.g. [0, 3, 6, 3] -> [1.5, 3, 4, 4.5]."""
    return [fmean(values[max(0, at - reach) : at + reach + 1]) for at in range(len(values))]


def _reach(stage: Stage) -> int:
    return max(1, len(stage.steps) // (2 * WINDOWS))


def _lines(axes: Axes, curve: Curve, stage: Stage, begin: int, colour: str) -> None:
    """One stage's curve: light as it was measured, strong when smoothed, dots for the held-out problems."""
    place = {step: begin + at for at, step in enumerate(stage.steps)}
    steps, values = stage.series(curve.metric)
    where = [place[step] for step in steps]
    axes.plot(where, values, color=colour, alpha=0.3, linewidth=0.9)
    axes.plot(where, smoothed(values, _reach(stage)), color=colour, linewidth=2.0)
    if curve.held_out:
        steps, values = stage.series(curve.held_out)
        axes.plot([place[step] for step in steps], values, color=colour, **HELD_OUT)


def _band(axes: Axes, stage: Stage, begin: int, shaded: bool) -> None:
    """The stretch of the axis that belongs to one stage, with its name above it."""
    end = begin + len(stage.steps)
    if shaded:
        axes.axvspan(begin - 0.5, end - 0.5, color="#f2f2f2", linewidth=0, zorder=0)
    middle = (begin + end - 1) / 2
    label = f"{stage.label}\n{len(stage.steps)} steps".replace("$", r"\$")  # `$` would begin a formula
    axes.annotate(label, (middle, 1.0), (0, 3), xycoords=axes.get_xaxis_transform(), textcoords="offset points", ha="center", fontsize=8.5)


def _dress(axes: Axes, curve: Curve, steps: int) -> None:
    axes.set_xlim(-0.5, steps - 0.5)
    axes.set_xlabel("RL step, counted on from stage to stage")
    axes.set_ylabel(curve.unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    if curve.share:
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _legend(curve: Curve, stages: Sequence[Stage]) -> list[Line2D]:
    """What the lines mean; grey, for every stage has its own colour."""
    spans = sorted({2 * _reach(stage) + 1 for stage in stages})
    span = str(spans[0]) if len(spans) == 1 else f"{spans[0]} to {spans[-1]}"
    handles = [
        Line2D([], [], color=GREY, alpha=0.4, linewidth=0.9, label="each step"),
        Line2D([], [], color=GREY, linewidth=2.0, label=f"mean of {span} steps"),
    ]
    if curve.held_out and any(stage.series(curve.held_out)[0] for stage in stages):
        handles.append(Line2D([], [], color=GREY, label="held-out problems", **HELD_OUT))
    return handles

"""Whether what was asked and what was trained on are kept apart: a check of the stages' own recipes, not a promise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def sources_in(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every source of questions in a recipe, wherever it stands: a table with a `part` and a `hold_out`."""
    if isinstance(value, Mapping):
        if "part" in value and "hold_out" in value:
            yield value
        for key, inner in value.items():
            if key != "held_out":  # asked during training, never trained on; the recipe itself is checked for that
                yield from sources_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from sources_in(inner)


def origin(source: Mapping[str, Any]) -> str:
    """What a source's questions come from: a generator or a file."""
    return str(source.get("generator") or source.get("path"))


def meetings(training: Mapping[str, Any], asked: Any) -> list[str]:
    """One sentence for each training source that may hold a question that is asked; none when the two are disjoint.

    Both sides split by the hash of a question's text, the held-out side being the hashes below `hold_out`. So they are disjoint
    when the asked side is "held_out" and training is "train" with a `hold_out` at least as large.
    """
    found = []
    for question in sources_in(asked):
        for stage, recipe in training.items():
            for source in sources_in(recipe):
                apart = question["part"] == "held_out" and source["part"] == "train" and source["hold_out"] >= question["hold_out"]
                if origin(source) == origin(question) and not apart:
                    found.append(
                        f"{stage} reads the {source['part']} side of {origin(source)} with hold_out={source['hold_out']}, "
                        f"the evaluation asks the {question['part']} side with hold_out={question['hold_out']}"
                    )
    return list(dict.fromkeys(found))

"""Rollouts on disk, one JSON object a line: what was asked, drawn and judged, for people and for later stages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from afterbase.lineage import write_atomic
from afterbase.records import Rollout


def record(rollout: Rollout, seed: int) -> dict[str, Any]:
    """One rollout as a row; `seed` is its group's: with the question and its place in the group, the same weights draw it again."""
    score = rollout.score
    return {
        "prompt": rollout.prompt.id,
        "domain": rollout.prompt.domain,
        "question": rollout.prompt.question,
        "answer": rollout.prompt.answer,
        "response": rollout.text,
        "tokens": len(rollout.completion.tokens),
        "finish": rollout.completion.finish,
        "version": rollout.completion.version,
        "seed": seed,
        **({"value": score.value, "parts": score.parts, "outcome": score.outcome, "note": score.note} if score else {}),
    }


def write_rollouts(path: Path, rollouts: Iterable[tuple[Rollout, int]]) -> None:
    """Write one step's rollouts with their seeds, whole or not at all."""
    write_atomic(path, "".join(json.dumps(record(rollout, seed), ensure_ascii=False) + "\n" for rollout, seed in rollouts))

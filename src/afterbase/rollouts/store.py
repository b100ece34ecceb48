"""Rollouts on disk, one JSON object a line: what was asked, drawn and judged, for people and for later stages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

from afterbase.lineage import write_atomic
from afterbase.records import Completion, Message, Prompt, Rollout, Score


def record(rollout: Rollout) -> dict[str, Any]:
    """One rollout as a row: with its seed, its question and its place in the group the same weights draw it again."""
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
        "seed": rollout.seed,
        **({"value": score.value, "parts": score.parts, "outcome": score.outcome, "note": score.note} if score else {}),
    }


def frozen(rollout: Rollout) -> dict[str, Any]:
    """A rollout as plain containers, every digit kept: what a snapshot of a run holds of answers that nobody has learned from yet.

    Tuples of numbers are shared, not copied: this is asked for after every round, and answers are long.
    """
    prompt, score = rollout.prompt, rollout.score
    asked = {**_fields(prompt), "messages": tuple(map(_fields, prompt.messages)), "extra": deepcopy(prompt.extra)}
    judged = {**_fields(score), "parts": dict(score.parts)} if score else None
    return {**_fields(rollout), "prompt": asked, "completion": _fields(rollout.completion), "score": judged}


def thawed(value: dict[str, Any]) -> Rollout:
    """The rollout that was frozen."""
    prompt, completion, score = value["prompt"], value["completion"], value["score"]
    return Rollout(
        **{
            **value,
            "prompt": Prompt(**{**prompt, "messages": tuple(Message(**message) for message in prompt["messages"])}),
            "completion": Completion(**completion),
            "score": Score(**score) if score else None,
        }
    )


def write_rollouts(path: Path, rollouts: Iterable[Rollout]) -> None:
    """Write one step's rollouts, whole or not at all."""
    write_atomic(path, "".join(json.dumps(record(rollout), ensure_ascii=False) + "\n" for rollout in rollouts))


def _fields(record: Prompt | Message | Completion | Score | Rollout) -> dict[str, Any]:
    return {each.name: getattr(record, each.name) for each in fields(record)}

"""What `afterbase rl` does when it is given a model and a file of questions and nothing else: a recipe that learns, evaluates and saves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afterbase.config import apply_overrides, build, merged, read_toml
from afterbase.dist import here
from afterbase.errors import ConfigError
from afterbase.prompts.auto import AutoSource, Look
from afterbase.prompts.rows import RowSource, place

MOST_ASKED = 200
"""Questions that are held out at most; a tenth of the file where that is fewer."""


@dataclass(frozen=True)
class Chosen:
    """A recipe as a table, where its run goes and what is to be said of it."""

    table: dict[str, Any]
    """What an RL recipe would hold."""
    name: str
    """Of the run's directory under runs/."""
    said: str = ""
    """One line of what was chosen; "" when the recipe says it all."""


def choose(recipe: Path | None, overrides: Sequence[str], model: Path | None, data: Path | None) -> Chosen:
    """A recipe with the command's model and data in it; what no recipe says is chosen by a look at both."""
    table = read_toml(recipe) if recipe else {}
    if model:
        table["model"] = str(model)
    if data:
        table["prompts"] = [{"kind": "auto", "path": str(data)}]
    if recipe and not data:
        return Chosen(apply_overrides(table, list(overrides)), recipe.stem)
    table = apply_overrides(table, [each for each in overrides if _head(each) in ("model", "prompts")])
    lacking = [option for key, option in (("model", "--model DIR"), ("prompts", "--data FILE")) if not table.get(key)]
    if lacking:
        raise ConfigError(f"afterbase rl needs a recipe, or --model DIR and --data FILE; {' and '.join(lacking)} is missing")
    table, said = _looked(table, recipe is None, any(_head(each) == "rewards" for each in overrides))
    return Chosen(apply_overrides(table, list(overrides)), recipe.stem if recipe else _name(table), said)


def _looked(table: dict[str, Any], bare: bool, rewarded: bool) -> tuple[dict[str, Any], str]:
    """The table with all that a look at its questions decides; `bare`: no recipe says anything else."""
    first = table["prompts"][0] if isinstance(table["prompts"], list) and table["prompts"] else None
    if not isinstance(first, dict) or first.get("kind") != "auto":
        return (merged(_settings(table), table) if bare else table), ""
    source = build(AutoSource, first, "command line")
    look, rows = source.look(), source.open(0)
    held = {} if "hold_out" in first else {"hold_out": _share(rows)}
    table = {**table, "prompts": [{**first, **held}, *table["prompts"][1:]]}
    zero = bare and not _has_chat_template(Path(str(table["model"])))
    if "rewards" not in table and not rewarded:
        table["rewards"] = {"domains": {"default": _rewards(source, look, zero)}}
    table = merged(_settings(table), table) if bare else table
    asked = sum(place(prompt.question) < table["prompts"][0]["hold_out"] for prompt in rows.prompts)
    parts = table.get("rewards", {}).get("domains", {}).get("default", [])
    judged = " + ".join(_called(part) for part in parts) or "as given"
    columns = ", ".join(look.read)
    return table, f"rl: reading {len(rows)} prompts from {source.path.name} ({columns}); {asked} held out; rewards: {judged}"


def _settings(table: dict[str, Any]) -> dict[str, Any]:
    """What is set otherwise than in an empty recipe."""
    precision = "bfloat16" if here().device.type == "cuda" else "float32"
    return {
        "template": "chat" if _has_chat_template(Path(str(table["model"]))) else "r1-zero",
        "held_out": {"questions": MOST_ASKED},
        "trainer": {
            "precision": precision,
            "optim": {"weight_decay": 0.0, "schedule": {"kind": "constant", "peak": 1e-6, "warmup": 5}},
        },
        "engine": {"precision": precision},
    }


def _rewards(source: AutoSource, look: Look, zero: bool) -> list[dict[str, Any]]:
    """What judges the answers, as the parts of one domain; a base model is shown R1-Zero's form and held to it."""
    shape = {"kind": "format", "mode": "r1-zero"} if zero else {"kind": "format", "thought": "optional"}
    if look.judged_by == "nothing":
        raise ConfigError(
            f"no column of {source.path} says what a right answer is (there are {', '.join(look.there) or 'none'}); name it by "
            'prompts.0.columns.answer=NAME, or give rewards, such as rewards.domains.default=[{kind="function", path="my_rewards:brevity"}]'
        )
    if look.judged_by == "code":
        return [{"kind": "code", **({"languages": list(look.languages)} if look.languages else {})}]
    if look.judged_by == "instructions":
        return [{"kind": "instructions"}]
    if look.judged_by == "math":
        return [{"kind": "math", "fallback": "last_number"}, shape]
    return [{"kind": "match", **({"mode": "choice"} if look.judged_by == "choice" else {})}, shape]


def _called(part: dict[str, Any]) -> str:
    return "choice" if part.get("mode") == "choice" else str(part.get("name") or part["kind"])


def _share(rows: RowSource) -> float:
    """The hold_out that keeps a tenth of the questions from training, 200 at most and one at least; 0 where there is but one."""
    places = sorted({place(prompt.question) for prompt in rows.prompts})
    asked = max(1, min(MOST_ASKED, len(places) // 10))
    return round((places[asked - 1] + places[asked]) / 2, 9) if len(places) > asked else 0.0


def _has_chat_template(model: Path) -> bool:
    """Whether a checkpoint brings a chat template; what else it lacks is told where it is loaded."""
    try:
        settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = {}
    return (model / "chat_template.jinja").exists() or bool(isinstance(settings, dict) and settings.get("chat_template"))


def _head(override: str) -> str:
    return override.partition("=")[0].strip().partition(".")[0]


def _name(table: dict[str, Any]) -> str:
    first = table["prompts"][0]
    return "rl-" + str(Path(str(first.get("path") or first.get("generator", "data"))).name.split(".")[0])

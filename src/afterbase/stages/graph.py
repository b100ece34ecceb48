"""A pipeline as a table a person can check before hours are spent: what each stage reads, how big it is, whether it would run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from afterbase.config import Config
from afterbase.stages.run import StageKind

if TYPE_CHECKING:
    from afterbase.stages.pipeline import Planned

WELL_KNOWN = (
    "steps",
    "epochs",
    "tokens_per_step",
    "prompts_per_step",
    "group",
    "group_size",
    "candidates",
    "prompts",
    "questions",
    "limit",
)


def drawn(title: str, stages: Sequence[Planned], told: Mapping[str, str]) -> Table:
    """The graph of a pipeline, one row a stage; `told` says what would happen to each."""
    table = Table(title=title, title_justify="left")
    for column in ("stage", "kind", "from", "size", "state"):
        table.add_column(column, overflow="fold")
    for stage in stages:
        table.add_row(stage.name, stage.stage, ", ".join(stage.needs) or "-", size_of(stage.kind, stage.config), told[stage.name])
    return table


def size_of(kind: StageKind, config: Config) -> str:
    """How big a stage is, e.g. `1,234,567 parameters, 300 steps, 8,192 tokens per step`."""
    numbers = kind.size(config) if kind.size else well_known(config)
    return ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in numbers.items()) or "-"


def well_known(config: Config) -> dict[str, int]:
    """The numbers that a recipe shows by the names of its keys, and the parameters of its architecture if it gives one."""
    found = {name: getattr(config, name, None) for name in WELL_KNOWN}
    sizes = {name: value for name, value in found.items() if isinstance(value, int) and not isinstance(value, bool)}
    architecture = getattr(config, "architecture", None)
    return {"parameters": count_parameters(architecture), **sizes} if isinstance(architecture, Mapping) else sizes


def count_parameters(architecture: Mapping[str, Any]) -> int:
    """The parameters of a model with this Hugging Face config, multi-token prediction modules included; none is allocated."""
    import torch

    from afterbase.model.config import ModelConfig
    from afterbase.model.transformer import Transformer

    with torch.device("meta"):
        return sum(weight.numel() for weight in Transformer(ModelConfig.from_hf(architecture)).parameters())

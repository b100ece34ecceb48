"""What an update was computed from whose loss or gradient was not finite, kept for a person to look at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afterbase.lineage import write_atomic
from afterbase.records import Batch

KEPT = 20
"""Files: a run that skips now and then for days must not fill its disk with them; the latest stay."""


def keep_bad_batches(directory: Path, update: int, batches: Sequence[Batch], losses: Sequence[Tensor], norm: float) -> Path:
    """Write one update's batches as `<update>.pt`, which `torch.load` opens; returns the file.

    It holds {"update", "gradient_norm", "batches": [{"loss", "tokens", "lengths", "picked", "advantages", "old", ...}]}: each batch under
    the names of records.Batch, its segments as their lengths.
    """
    rows = [{"loss": float(loss), **_plain(batch)} for batch, loss in zip(batches, losses, strict=True)]
    content = io.BytesIO()
    torch.save({"update": update, "gradient_norm": norm, "batches": rows}, content)
    path = directory / f"{update:06d}.pt"
    write_atomic(path, content.getvalue())
    for old in sorted(directory.glob("*.pt"), key=lambda file: int(file.stem))[:-KEPT]:
        old.unlink()
    return path


def _plain(batch: Batch) -> dict[str, Any]:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    lengths = list(values.pop("segments").lengths)
    return {"lengths": lengths, **{name: each.cpu() if isinstance(each, Tensor) else each for name, each in values.items()}}

"""The safetensors files of a checkpoint: which tensor lies where, whether it fits, and its numbers, one file at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from afterbase.errors import CheckpointError
from afterbase.model.block_scales import SUFFIX, dequantize, scales_shape
from afterbase.model.layout import in_a_stack

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
"""What weights may be stored as, in safetensors' names; FP8 needs its scales, anything else (integers) is no weight."""
FP8 = "F8_E4M3"
NAMED = 6
"""How many wrong tensors an error names."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the numbers of one of the model's tensors are, e.g. Source(path, "model.norm.weight")."""

    path: Path
    """The file."""
    name: str
    """What they are called in it."""
    place: tuple[int, slice] | None = None
    """An expert's part of a stack of all experts; None is the whole tensor."""
    scales: Path | None = None
    """The file of the block scales, called `name` + `_scale_inv`; None where the numbers are stored as they are."""


def tensor_files(directory: Path) -> dict[str, Path]:
    """Which file holds each tensor; CheckpointError when a file is missing or not whole."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        try:
            named = {Path(file) for file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{index} cannot be read ({error}); it needs a 'weight_map'; copy the checkpoint again") from None
        if strange := sorted(str(file) for file in named if str(file) != file.name or file.suffix != ".safetensors"):
            raise CheckpointError(f"{index} names {some(strange)}, not the *.safetensors files beside it; bring the model's own index")
        paths = sorted(directory / file for file in named)
    else:
        paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise CheckpointError(f"{directory} has no *.safetensors files; convert other formats to safetensors first")
    found: dict[str, Path] = {}  # by what the files hold, not by what the index says of them
    for path in paths:
        with _opened(path) as shard:
            found |= dict.fromkeys(shard.keys(), path)
    return found


def sources(targets: Mapping[str, Tensor], files: Mapping[str, Path], scaled: bool) -> dict[str, Source]:
    """Where each tensor of the model is found, be it by itself or in a stack of experts; those that are not there are left out."""
    found = {}
    for name, target in targets.items():
        stored, place = (name, None) if name in files else in_a_stack(name, len(target)) or (name, None)
        if stored in files:
            found[name] = Source(files[stored], stored, place, files.get(stored + SUFFIX) if scaled else None)
    return found


def check_tensors(targets: Mapping[str, Tensor], found: Mapping[str, Source], experts: int, block: tuple[int, int] | None) -> torch.dtype:
    """The checkpoint's dtype, which is its embedding's (routers' biases are float32 everywhere); CheckpointError names what is misshapen
    or holds no plain floating-point numbers. Only headers are read, nothing is allocated."""
    wrong, dtype = [], torch.float32
    for name, source, shard in _by_file(found):
        target, stored = targets[name], shard.get_slice(source.name)
        shape, kind = stored.get_shape(), stored.get_dtype()
        wanted = list(target.shape) if source.place is None else _stacked(source, target, experts)
        where = f"in {source.path}"
        if shape != wanted:
            wrong.append(f"{source.name} is {shape}, the config wants {wanted} ({where})")
        elif source.scales is not None:
            wrong += _wrong_scales(source, shard, kind, shape, block)
        elif kind not in DTYPES:
            wrong.append(f"{source.name} holds {kind}, not one of {', '.join(DTYPES)}: convert it to bfloat16 ({where})")
        elif name.endswith("embed_tokens.weight"):
            dtype = DTYPES[kind]
    if wrong := list(dict.fromkeys(wrong)):  # all experts of a stack say the same of it
        raise CheckpointError(f"{some(wrong)}; the files and config.json are of different models")
    return dtype


def fill(
    targets: Mapping[str, Tensor],
    found: Mapping[str, Source],
    block: tuple[int, int] | None,
    parts: Mapping[str, tuple[slice, ...]] | None = None,
) -> None:
    """Copy every target from its file. A file is mapped into memory while it is read, and nothing beyond a few rows is copied twice.

    `parts` says which part of a whole tensor a target is, where it is one; of such parts in FP8 the whole is in memory for a moment.
    """
    for name, source, shard in _by_file({name: found[name] for name in targets}):
        target, stored, part = targets[name], shard.get_tensor(source.name), (parts or {}).get(name, ...)
        stored = stored if source.place is None else stored[source.place]
        if source.scales is None:
            target.copy_(stored[part].to(target.device))  # first there, then converted: a host's memory is the smaller one
            continue
        into = target if target.shape == stored.shape else torch.empty(stored.shape, device=target.device)
        with _beside(source, shard) as file:
            dequantize(into, stored, file.get_tensor(source.name + SUFFIX), block)
        if into is not target:
            target.copy_(into[part])


def some(items: list[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more


def _by_file(found: Mapping[str, Source]) -> Iterator[tuple[str, Source, Any]]:
    """Every tensor with its file open, each file opened once."""
    ordered = sorted(found.items(), key=lambda item: (item[1].path, item[1].name))
    for path, group in groupby(ordered, key=lambda item: item[1].path):
        with _opened(path) as shard:
            for name, source in group:
                yield name, source, shard


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is named by the index and missing; copy the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); copy it again") from None


@contextmanager
def _beside(source: Source, shard: Any) -> Iterator[Any]:
    """The open file of a tensor's scales, which seldom is another one."""
    if source.scales == source.path:
        yield shard
        return
    with _opened(source.scales) as other:
        yield other


def _stacked(source: Source, target: Tensor, experts: int) -> list[int]:
    """The shape of a stack whose parts are like this one."""
    rows, columns = target.shape
    return [experts, rows if source.name.endswith("down_proj") else 2 * rows, columns]


def _wrong_scales(source: Source, shard: Any, kind: str, shape: list[int], block: tuple[int, int] | None) -> list[str]:
    """What speaks against numbers of this kind with the scales that are stored beside them."""
    assert source.scales is not None and block is not None
    if kind != FP8 or len(shape) != 2:
        return [f"{source.name} holds {kind} {shape} and has scales, which only an {FP8} matrix may have (in {source.path})"]
    with _beside(source, shard) as file:
        scales = file.get_slice(source.name + SUFFIX)
        found, wanted = scales.get_shape(), scales_shape(tuple(shape), block)
        if found != wanted or scales.get_dtype() not in DTYPES:
            words = f"{scales.get_dtype()} {found}, the config wants {wanted} of {', '.join(DTYPES)}"
            return [f"{source.name}{SUFFIX} is {words} (in {source.scales})"]
    return []

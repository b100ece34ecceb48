"""Writing a checkpoint in Hugging Face format, tensor by tensor, so that a reader finds the old one, none, or the new one whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afterbase.lineage import sync
from afterbase.model.block_scales import BLOCK, FP8, SUFFIX, block_scales, quantize, scales_shape
from afterbase.model.config import ModelConfig
from afterbase.model.layout import hf_weights, is_scaled
from afterbase.model.lora import ENDS, adapters
from afterbase.model.transformer import Transformer

SHARD_BYTES = 5 << 30
"""Largest file that is written, unless a single tensor is larger."""
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64", FP8: "F8_E4M3"}
"""What safetensors calls the kinds of numbers."""
CONFIG, INDEX = "config.json", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to be written, which is not made before its turn comes."""

    name: str
    """What it is called in the file."""
    shape: list[int]
    """Its sizes."""
    dtype: torch.dtype
    """What it is stored as."""
    make: Callable[[], Tensor]
    """The tensor, on any device."""

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize


def save_model(model: Transformer, directory: Path, dtype: torch.dtype | None = None, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `config.json` and safetensors, in the model's dtype or the given one, into an existing directory.

    `torch.float8_e4m3fn` writes the published FP8 layout: projections with block scales, the rest in bfloat16. No more than one tensor
    is copied at a time. Adapters are merged in. What another checkpoint left in the directory is replaced when the new one is whole.
    """
    block = model.config.weight_block_size or BLOCK
    entries = [entry for name, tensor, make in _merged(model) for entry in _entries(name, tensor, make, dtype, block)]
    save_entries(entries, model.config, len(model.mtp), directory, dtype, shard_bytes)


def save_entries(
    entries: list[Entry],
    config: ModelConfig,
    modules: int,
    directory: Path,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the tensors of a model with so many MTP modules, wherever they come from, and its `config.json`."""
    block = config.weight_block_size or BLOCK
    table = config.to_hf()
    table |= {"num_nextn_predict_layers": modules} if config.model_type == "deepseek_v3" else {}
    table.pop("torch_dtype", None)  # its old name, under which the original may say something else
    table["dtype"] = str(next(entry.dtype for entry in entries if entry.dtype != FP8)).removeprefix("torch.")
    table |= {"quantization_config": _quantization(entries, block)} if dtype == FP8 else {}
    for leftover in directory.glob(".weights.tmp-*"):  # of a kill; in a container the next process often has the same number
        shutil.rmtree(leftover)
    new = directory / f".weights.tmp-{os.getpid()}"
    new.mkdir()
    try:
        names = [*write_shards(entries, new, shard_bytes), CONFIG]
        (new / CONFIG).write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name in names:
            sync(new / name)
        _take_the_place(new, names, directory)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_shards(entries: Iterable[Entry], directory: Path, shard_bytes: int = SHARD_BYTES) -> list[str]:
    """Write tensors as `model.safetensors`, or as several files with an index; returns the names of all."""
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.size > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.size
    if len(shards) == 1:
        write_safetensors(shards[0], directory / "model.safetensors")
        return ["model.safetensors"]
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards, strict=True):
        write_safetensors(shard, directory / file)
    places = {entry.name: file for file, shard in zip(files, shards, strict=True) for entry in shard}
    total = sum(entry.size for shard in shards for entry in shard)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [*files, INDEX]


def write_safetensors(entries: Iterable[Entry], path: Path) -> None:
    """One file: the length of a JSON header, the header, and every tensor's bytes in its order. The safetensors package itself would want
    them all at once."""
    ordered = sorted(entries, key=lambda entry: (-entry.dtype.itemsize, entry.name))  # wide numbers first, so that all are aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in ordered:
        header[entry.name] = {"dtype": NAMES[entry.dtype], "shape": entry.shape, "data_offsets": [end, end + entry.size]}
        end += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in ordered:
            tensor = entry.make().detach().to(entry.dtype).cpu().contiguous()
            assert list(tensor.shape) == entry.shape, f"{entry.name} came as {list(tensor.shape)}, {entry.shape} was announced"
            file.write(tensor.flatten().view(torch.uint8).numpy())


def _merged(model: Transformer) -> Iterator[tuple[str, Tensor, Callable[[], Tensor]]]:
    """Each tensor's name, one of its shape and dtype, and how it comes about: of an adapted layer W + s B A, when its turn comes."""
    layers = {f"{name}.weight": layer for name, layer in adapters(model).items()}
    for name, tensor in hf_weights(model):
        if not name.endswith(ENDS):
            yield name, tensor, partial(getattr, layers[name], "weight") if name in layers else lambda tensor=tensor: tensor


def _entries(name: str, tensor: Tensor, make: Callable[[], Tensor], dtype: torch.dtype | None, block: tuple[int, int]) -> Iterator[Entry]:
    """How a tensor is stored: as it is, converted, or as FP8 numbers and their scales. Routing biases always are what they are."""
    shape = list(tensor.shape)
    if dtype == FP8 and is_scaled(name):
        yield Entry(name, shape, FP8, lambda: quantize(make(), block_scales(make(), block), block))
        yield Entry(name + SUFFIX, scales_shape(tensor.shape, block), torch.float32, lambda: block_scales(make(), block))
        return
    plain = torch.bfloat16 if dtype == FP8 else dtype or tensor.dtype
    yield Entry(name, shape, tensor.dtype if name.endswith("e_score_correction_bias") else plain, make)


def _quantization(entries: list[Entry], block: tuple[int, int]) -> dict[str, Any]:
    """What transformers and vLLM read of FP8 weights."""
    plain = [entry.name.removesuffix(".weight") for entry in entries if len(entry.shape) == 2 and entry.dtype != FP8]
    plain = [name for name in plain if not name.endswith((SUFFIX, "embed_tokens", "shared_head.head"))]
    layout = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": list(block)}
    return {**layout, "modules_to_not_convert": sorted({"lm_head", *plain})}  # also of a head that is tied, which is in no file


def _take_the_place(new: Path, names: list[str], directory: Path) -> None:
    """Move a whole checkpoint over another: without its config.json, which goes first and comes last, a directory does not load."""
    (directory / CONFIG).unlink(missing_ok=True)
    for old in [*directory.glob("model*.safetensors"), directory / INDEX]:
        old.unlink(missing_ok=True)
    for name in names:
        os.replace(new / name, directory / name)

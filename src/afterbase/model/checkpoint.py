"""Checkpoints in Hugging Face format, in and out: `config.json` and `model*.safetensors`.

Parameters carry Hugging Face names already; what is called otherwise (stacked experts, MTP modules) is translated by layout.py, numbers in
FP8 by block_scales.py. Here is the way in; the way out is saving.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from afterbase.errors import CheckpointError
from afterbase.model.adapter_files import refuse_adapter
from afterbase.model.block_scales import SUFFIX
from afterbase.model.config import ModelConfig
from afterbase.model.layout import FUSED, hf_weights, is_duplicate, mtp_layer, slots
from afterbase.model.saving import save_model
from afterbase.model.shards import Source, check_tensors, fill, some, sources, tensor_files
from afterbase.model.transformer import Transformer

__all__ = ["Stored", "hf_weights", "load_config", "load_model", "look_at", "save_model", "unfilled"]


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """A checkpoint that was looked at and found whole, and of which nothing was read yet."""

    directory: Path
    """Where it is."""
    model: Transformer
    """What is stored, laid out on "meta", where numbers take no memory."""
    found: Mapping[str, Source]
    """Where the numbers of each tensor are, by Hugging Face names."""
    dtype: torch.dtype
    """What they are stored as."""


def load_config(directory: Path) -> ModelConfig:
    """The model's shape; CheckpointError when the directory holds none."""
    path = directory / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        refuse_adapter(directory)
        raise CheckpointError(f"{directory} is no checkpoint: it has no config.json; give a Hugging Face model directory") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); the checkpoint is damaged, copy it again") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} holds a JSON {type(raw).__name__}, not a table; give a Hugging Face model directory")
    return ModelConfig.from_hf(raw, str(path))


def load_model(directory: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Transformer:
    """The model in a checkpoint directory, in its own dtype unless `dtype` is given; weights in FP8 become those that they stand for.

    One file after the other is copied in, tensor by tensor, so that beside the model itself no more than one file is ever in memory.
    """
    stored = look_at(directory)
    _allocate(stored.model, device, dtype or stored.dtype, directory)
    fill(dict(slots(stored.model)), stored.found, stored.model.config.weight_block_size)  # storage is real now
    return stored.model


def unfilled(config: ModelConfig, device: torch.device | str) -> Transformer:
    """A model in float32 whose numbers are whatever is in memory, to be copied in."""
    with torch.device("meta"):
        model = Transformer(config)
    _allocate(model, device, torch.float32, Path("a model to draw from"))
    return model


def look_at(directory: Path) -> Stored:
    """What a checkpoint directory holds.

    Every file is looked at before memory is asked for: CheckpointError names tensors that are missing, left over or misshapen, and files
    that are not whole. MTP modules that the config announces and the files lack (transformers drops them when it saves) are left out, and
    the model's config says so.
    """
    config = load_config(directory)
    files = tensor_files(directory)
    if config.num_nextn_predict_layers and not any(mtp_layer(name, config) is not None for name in files):
        config = replace(config, num_nextn_predict_layers=0, kept={**config.kept, "num_nextn_predict_layers": 0})
    _check_number(config, files, directory)
    with torch.device("meta"):
        model = Transformer(config)
    block = config.weight_block_size
    found = sources(dict(slots(model)), files, scaled=block is not None)
    _check_names(dict(slots(model)), found, files, config, directory)
    return Stored(directory, model, found, check_tensors(dict(slots(model)), found, config.n_routed_experts or 0, block))


def _check_number(config: ModelConfig, files: Mapping[str, Path], directory: Path) -> None:
    """Said before a model of a damaged number's size is laid out."""
    apart = config.n_routed_experts if not any(name.endswith(FUSED) for name in files) else None
    if (fewest := config.num_hidden_layers + (apart or 0)) > len(files):
        raise CheckpointError(
            f"{directory} does not fit its config.json: it holds {len(files)} tensors, the config wants {fewest} or more; "
            "the files and config.json are of different models"
        )


def _check_names(
    targets: Mapping[str, Tensor], found: Mapping[str, Source], files: Mapping[str, Path], config: ModelConfig, directory: Path
) -> None:
    read = {name for source in found.values() for name in (source.name, source.name + SUFFIX if source.scales else "")}
    missing = sorted(targets.keys() - found.keys())
    extra = sorted(name for name in files.keys() - read if not is_duplicate(name, config))
    complaints = [f"missing {some(missing)}"] if missing else []
    complaints += [f"not in this model: {some(extra)}"] if extra else []
    if complaints:
        raise CheckpointError(f"{directory} does not fit its config.json: {'; '.join(complaints)}")


def _allocate(model: Transformer, device: torch.device | str, dtype: torch.dtype, directory: Path) -> None:
    """Give a model that was laid out on "meta" its memory: parameters in `dtype`, a tied head none of its own.

    The routers' biases stay in float32, whose small steps half precision would swallow.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = None
    try:
        model.to_empty(device=device)
    except RuntimeError as error:  # torch's out-of-memory errors, on either kind of device
        if "memory" not in str(error):
            raise
        size = sum(tensor.nbytes for tensor in model.state_dict().values())
        raise CheckpointError(
            f"{directory}: a model of {size:,} bytes does not fit into memory ({str(error).splitlines()[0]}); "
            "take a smaller model or a machine with more"
        ) from None
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight

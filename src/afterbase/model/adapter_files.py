"""Adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`, for a base that is named and lies elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from afterbase.errors import CheckpointError
from afterbase.model.lora import LoraConfig, adapters

ADAPTER = "adapter"
"""The directory of the adapters in a checkpoint."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What stands before a layer's name in a causal model that PEFT has wrapped."""


def save_adapter(model: nn.Module, config: LoraConfig, base: Path, directory: Path) -> None:
    """Write the model's adapters, in float32, into an existing directory; `base` is the checkpoint that they stand on."""
    table = _table(model, config, base)
    (directory / CONFIG).write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(model).items()}
    save_file(tensors, directory / WEIGHTS, {"format": "pt"})
    (directory / WEIGHTS).chmod(0o644)  # safetensors makes files that only their owner can read


@torch.no_grad()
def read_adapter(model: nn.Module, config: LoraConfig, directory: Path) -> None:
    """Make a model's adapters those in `directory`; CheckpointError in words when they are others, or cannot be read."""
    try:
        table = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        found = load_file(directory / WEIGHTS)
        came = table["r"], table["lora_alpha"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"the adapters in {directory} cannot be read ({error}); copy them again, or begin anew") from None
    if came != (config.rank, config.alpha):
        raise CheckpointError(
            f"{directory} holds adapters of rank {came[0]} and alpha {came[1]}, trainer.lora asks for {config.rank} and {config.alpha:g}; "
            "set them alike"
        )
    own = _tensors(model)
    wrong = [name for name in own.keys() | found.keys() if name not in own or name not in found or own[name].shape != found[name].shape]
    if wrong:
        raise CheckpointError(
            f"{directory / WEIGHTS} does not fit the model and trainer.lora.targets: {min(wrong)} is missing, left over or of another "
            f"shape, and {len(wrong) - 1} more; give the base and the targets that it was made with"
        )
    for name, tensor in found.items():
        own[name].copy_(tensor)


def refuse_adapter(directory: Path) -> None:
    """CheckpointError when a directory that should hold a model holds adapters alone; it names the model that they stand on."""
    for place in (directory, directory / ADAPTER):
        try:
            base = json.loads((place / CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        raise CheckpointError(
            f"{directory} holds an adapter and no model; give its base, {base}, or a checkpoint saved with trainer.lora.merge = true"
        )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """A and B of every adapted layer, under PEFT's names."""
    layers = adapters(model).items()
    return {f"{PREFIX}{name}.{factor}.weight": getattr(layer, factor) for name, layer in layers for factor in ("lora_A", "lora_B")}


def _table(model: nn.Module, config: LoraConfig, base: Path) -> dict[str, Any]:
    """What PEFT and vLLM want to know of the adapters."""
    return {
        "base_model_name_or_path": str(base),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(config.alpha) if config.alpha.is_integer() else config.alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.rank,
        "target_modules": sorted({name.rpartition(".")[2] for name in adapters(model)}),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }

"""Checkpoints in Hugging Face format, in and out: `config.json` and `model*.safetensors`.

Parameters carry Hugging Face names already; only stacked experts and the MTP modules are translated, here and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from afterbase.errors import CheckpointError
from afterbase.model.config import ModelConfig
from afterbase.model.transformer import Transformer

SHARD_BYTES = 5 << 30
"""Largest file that `save_model` writes."""
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
"""What weights may be stored as, in safetensors' names; anything else (integers, FP8 without its scales) is no weight."""
NAMED = 6
"""How many wrong tensors an error names."""


def load_config(directory: Path) -> ModelConfig:
    """The model's shape; CheckpointError when the directory holds none."""
    path = directory / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{directory} is no checkpoint: it has no config.json; give a Hugging Face model directory") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); the checkpoint is damaged, copy it again") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} holds a JSON {type(raw).__name__}, not a table; give a Hugging Face model directory")
    return ModelConfig.from_hf(raw, str(path))


def load_model(directory: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Transformer:
    """The model in a checkpoint directory, in its own dtype unless `dtype` is given.

    CheckpointError names tensors that are missing, left over or misshapen. MTP modules that the config announces and the files
    lack (transformers drops them when it saves) are left out, and the model's config says so.
    """
    config = load_config(directory)
    files = _tensor_files(directory)
    if config.num_nextn_predict_layers and not any(_mtp_layer(name, config) is not None for name in files):
        config = replace(config, num_nextn_predict_layers=0, kept={**config.kept, "num_nextn_predict_layers": 0})
    if (fewest := config.num_hidden_layers + (config.n_routed_experts or 0)) > len(files):
        raise CheckpointError(  # said before a model of a damaged number's size is laid out
            f"{directory} does not fit its config.json: it holds {len(files)} tensors, the config wants {fewest} or more; "
            "the files and config.json are of different models"
        )
    with torch.device("meta"):
        model = Transformer(config)
    targets = dict(_slots(model))
    _check(targets, {name for name in files if not _is_duplicate(name, config)}, directory)
    stored = _check_tensors(targets, files, directory)
    _allocate(model, device, directory)
    for path, names in _by_file(files, dict(_slots(model))).items():  # storage is real now
        with _opened(path) as shard:
            for name, target in names.items():
                target.copy_(shard.get_tensor(name))
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return _cast(model, dtype or stored)


def save_model(model: Transformer, directory: Path, dtype: torch.dtype | None = None) -> None:
    """Write `config.json` and safetensors, in the model's dtype or the given one, into an existing directory."""
    tensors = {name: _stored(name, tensor, dtype) for name, tensor in hf_weights(model)}
    _write_shards(tensors, directory)
    table = model.config.to_hf()
    table |= {"num_nextn_predict_layers": len(model.mtp)} if model.config.model_type == "deepseek_v3" else {}
    table["dtype"] = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    (directory / "config.json").write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def hf_weights(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the model under its Hugging Face name, as views: what a trainer hands to an engine."""
    yield from _slots(model)
    for depth in range(len(model.mtp)):  # the published layout repeats the shared embedding and head in each module
        prefix = f"model.layers.{model.config.num_hidden_layers + depth}."
        yield prefix + "embed_tokens.weight", model.model.embed_tokens.weight.detach()
        yield prefix + "shared_head.head.weight", model.lm_head.weight.detach()


def _slots(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, view) of every tensor a checkpoint must fill; each expert is a slice of its stack."""
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        name = _outer_name(name, model.config)
        stacked = re.fullmatch(r"(.*\.mlp\.experts)\.(gate_proj|up_proj|down_proj)", name)
        if stacked:
            for expert, matrix in enumerate(tensor.detach().unbind(0)):
                yield f"{stacked[1]}.{expert}.{stacked[2]}.weight", matrix
        else:
            yield name, tensor.detach()


def _outer_name(name: str, config: ModelConfig) -> str:
    """`mtp.0.block.X` is `model.layers.L.X` in a checkpoint, and its closing norm is `shared_head.norm`."""
    module = re.fullmatch(r"mtp\.(\d+)\.(.*)", name)
    if not module:
        return name
    inner = module[2].removeprefix("block.")
    inner = "shared_head.norm.weight" if inner == "norm.weight" else inner
    return f"model.layers.{config.num_hidden_layers + int(module[1])}.{inner}"


def _mtp_layer(name: str, config: ModelConfig) -> int | None:
    """The layer number of a tensor that belongs to an MTP module, else None."""
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    return int(layer[1]) if layer and int(layer[1]) >= config.num_hidden_layers else None


def _is_duplicate(name: str, config: ModelConfig) -> bool:
    """Tensors that repeat another one or can be computed."""
    if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and config.tie_word_embeddings):
        return True
    return _mtp_layer(name, config) is not None and name.endswith(("embed_tokens.weight", "shared_head.head.weight"))


def _tensor_files(directory: Path) -> dict[str, Path]:
    """Which file holds each tensor, from the index or from the files themselves."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        try:
            paths = sorted({directory / file for file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{index} cannot be read ({error}); it needs a 'weight_map'; copy the checkpoint again") from None
    else:
        paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise CheckpointError(f"{directory} has no *.safetensors files; convert other formats to safetensors first")
    found: dict[str, Path] = {}  # by what the files hold, not by what the index says of them
    for path in paths:
        with _opened(path) as shard:
            found |= dict.fromkeys(shard.keys(), path)
    return found


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is named by the index and missing; copy the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); copy it again") from None


def _check(targets: Mapping[str, Tensor], found: set[str], directory: Path) -> None:
    missing = sorted(targets.keys() - found)
    extra = sorted(found - targets.keys())
    complaints = [f"missing {_some(missing)}"] if missing else []
    complaints += [f"not in this model: {_some(extra)}"] if extra else []
    if complaints:
        raise CheckpointError(f"{directory} does not fit its config.json: {'; '.join(complaints)}")


def _check_tensors(targets: Mapping[str, Tensor], files: Mapping[str, Path], directory: Path) -> torch.dtype:
    """The checkpoint's dtype, which is its embedding's (routers' biases are float32 everywhere); CheckpointError names what is misshapen
    or holds no plain floating-point numbers. Only headers are read, nothing is allocated."""
    wrong, found = [], torch.float32
    for path, names in _by_file(files, targets).items():
        with _opened(path) as shard:
            for name, target in names.items():
                tensor = shard.get_slice(name)
                shape, dtype = tensor.get_shape(), tensor.get_dtype()
                if shape != list(target.shape):
                    wrong.append(f"{name} is {shape}, the config wants {list(target.shape)}")
                elif dtype not in DTYPES:
                    wrong.append(f"{name} holds {dtype}, not one of {', '.join(DTYPES)}: convert it to bfloat16")
                elif name.endswith("embed_tokens.weight"):
                    found = DTYPES[dtype]
    if wrong:
        raise CheckpointError(f"{directory}: {_some(wrong)}; the files and config.json are of different models")
    return found


def _by_file(files: Mapping[str, Path], targets: Mapping[str, Tensor]) -> dict[Path, dict[str, Tensor]]:
    """The tensors to fill by the file that holds them, each file to be opened once."""
    found: dict[Path, dict[str, Tensor]] = {}
    for name in sorted(files.keys() & targets.keys(), key=lambda name: (files[name], name)):
        found.setdefault(files[name], {})[name] = targets[name]
    return found


def _allocate(model: Transformer, device: torch.device | str, directory: Path) -> None:
    """Give a model that was laid out on "meta" its memory."""
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


def _some(items: list[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more


def _cast(model: Transformer, dtype: torch.dtype) -> Transformer:
    """Parameters in `dtype`; the routers' biases stay in float32, whose small steps half precision would swallow."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    keep = dtype is None or name.endswith("e_score_correction_bias")
    return (tensor if keep else tensor.to(dtype)).contiguous().cpu()


def _write_shards(tensors: dict[str, Tensor], directory: Path) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        # A tensor that shares storage with one already written would be refused: write its own copy.
        shards[-1][name] = tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor
        size += tensor.nbytes
    _own_storage(shards)
    if len(shards) == 1:
        _save(shards[0], directory / "model.safetensors")
        return
    places = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _save(shard, directory / file)
        places |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes files that only their owner can read


def _own_storage(shards: list[dict[str, Tensor]]) -> None:
    """Safetensors refuses tensors that share memory; the MTP modules' copies of embedding and head do."""
    seen: set[int] = set()
    for shard in shards:
        for name, tensor in shard.items():
            pointer = tensor.untyped_storage().data_ptr()
            if pointer in seen:
                shard[name] = tensor.clone()
            seen.add(pointer)

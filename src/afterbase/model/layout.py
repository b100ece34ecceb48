"""How a model's tensors are called in a published checkpoint: stacked experts one by one, MTP modules as layers behind the last."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor

from afterbase.model.config import ModelConfig
from afterbase.model.transformer import Transformer

_STACK = re.compile(r"(.*\.mlp\.experts)\.(gate_proj|up_proj|down_proj)")
_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight")
FUSED = ".mlp.experts.gate_up_proj"
"""The end of a name in the layout that transformers 5 has in memory, and writes if asked to: gate and up projections of all experts."""


def hf_weights(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the model under its Hugging Face name, as views: what a trainer hands to an engine."""
    yield from slots(model)
    for depth in range(len(model.mtp)):  # the published layout repeats the shared embedding and head in each module
        prefix = f"model.layers.{model.config.num_hidden_layers + depth}."
        yield prefix + "embed_tokens.weight", model.model.embed_tokens.weight.detach()
        yield prefix + "shared_head.head.weight", model.lm_head.weight.detach()


def slots(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, view) of every tensor a checkpoint must fill; each expert is a slice of its stack."""
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        name = _outer_name(name, model.config)
        if stacked := _STACK.fullmatch(name):
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


def in_a_stack(name: str, rows: int) -> tuple[str, tuple[int, slice]] | None:
    """Where a layout that stacks experts keeps this expert's matrix of so many rows: the stack's name, and the place in it."""
    expert = _EXPERT.fullmatch(name)
    if not expert:
        return None
    if expert[3] == "down_proj":
        return f"{expert[1]}.down_proj", (int(expert[2]), slice(None))
    half = slice(0, rows) if expert[3] == "gate_proj" else slice(rows, None)
    return f"{expert[1]}.gate_up_proj", (int(expert[2]), half)


def mtp_layer(name: str, config: ModelConfig) -> int | None:
    """The layer number of a tensor that belongs to an MTP module, else None."""
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    return int(layer[1]) if layer and int(layer[1]) >= config.num_hidden_layers else None


def is_duplicate(name: str, config: ModelConfig) -> bool:
    """Tensors that repeat another one or can be computed."""
    if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and config.tie_word_embeddings):
        return True
    return mtp_layer(name, config) is not None and name.endswith(("embed_tokens.weight", "shared_head.head.weight"))


def is_scaled(name: str) -> bool:
    """Whether this weight is stored in FP8 where a checkpoint is: projections of layers, but no router, embedding, head or `eh_proj`."""
    return re.search(r"\.(self_attn|mlp)\..*_proj(_with_mqa)?\.weight$", name) is not None

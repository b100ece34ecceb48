"""How a model is laid over the mesh: experts shared out, heads and widths cut, what is left sharded by FSDP2.

Tensor ranks cut an attention's heads and a feed-forward's width, so that each computes a part of the sum that leaves the layer; what is
small in such a layer (norms of heads, latents, routers) stays whole, and its gradient is the sum of what each rank found. Embedding and
head are sharded by FSDP2 alone, and tensor ranks share out the rows that go through the head.  [V3 3.2: parallelism]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from afterbase.model.block import Block
from afterbase.model.joined import Joined
from afterbase.model.moe import Experts, MoE, Router
from afterbase.model.parallel.experts import SharedOut
from afterbase.model.parallel.mesh import Mesh
from afterbase.model.parallel.pieces import Piece
from afterbase.model.parallel.talk import Added, Copied, Scaled
from afterbase.model.transformer import Transformer

BY_ROWS = ("q_proj", "k_proj", "v_proj", "q_b_proj", "kv_b_proj", "gate_proj", "up_proj")
"""Layers whose outputs are cut: a rank makes some of them."""
BY_COLUMNS = ("o_proj", "down_proj")
"""Layers whose inputs are cut: a rank makes a part of each output, and the parts are added."""


def lay_out(model: Transformer, mesh: Mesh, half: torch.dtype | None) -> list[Piece]:
    """Cut a model that every rank holds alike; matrices of blocks travel in `half` when it is given, all stay in float32 where they lie.

    A model on "meta" is cut there, and gets memory for this rank's parts alone, to be filled. It must not be cast or moved afterwards.
    Returns what this rank holds.
    """
    mesh.sizes.check(model.config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    cuts: dict[str, dict[str, int]] = {name: {} for name in shapes}
    _share_out_experts(model, mesh, cuts)
    _forget_copies(model)
    if mesh.sizes.tensor > 1:
        _cut_layers(model, mesh, cuts)
    whole = {id(p) for name, p in model.named_parameters() if p.dim() == 1 or name.endswith("mlp.gate.weight")}
    routed = {name for name in shapes if ".mlp.experts." in name}
    _shard(model, mesh, cuts, whole, half)
    if model.lm_head.weight.is_meta:
        model.to_empty(device=mesh.device)
    pieces = []
    for name, parameter in model.named_parameters():
        sharded = isinstance(parameter, DTensor)
        own = nn.Parameter(parameter.detach().to_local() if sharded else parameter.detach(), requires_grad=parameter.requires_grad)
        if sharded:
            cuts[name]["shard"] = parameter.placements[0].dim
        apart = "tensor" not in cuts[name] and mesh.sizes.tensor > 1 and _inside(name)
        partial = (() if sharded else ("shard",)) + (("tensor",) if apart else ())
        pieces.append(Piece(name, parameter, own, shapes[name], cuts[name], name in routed and mesh.sizes.expert > 1, partial))
    return pieces


def _inside(name: str) -> bool:
    """Whether a weight is read where tensor ranks compute different things: within a cut layer, or by the shares of the head."""
    return ".self_attn." in name or ".mlp." in name or name in ("model.embed_tokens.weight", "lm_head.weight")


def _share_out_experts(model: Transformer, mesh: Mesh, cuts: dict[str, dict[str, int]]) -> None:
    """Also where one rank has all of them: what calls them then keeps no copies of weights that come and go."""
    side = mesh.experts["expert"]
    for name, module in list(model.named_modules()):
        if isinstance(module, MoE):
            for inner, parameter in list(module.experts.named_parameters()):
                if side.size() > 1:
                    _keep(parameter, 0, side.get_local_rank(), side.size())
                    cuts[f"{name}.experts.{inner}"]["expert"] = 0
            module.experts = SharedOut(module.experts, side.get_group())


def _forget_copies(model: Transformer) -> None:
    for module in model.modules():
        for value in vars(module).values():
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Joined):
                    part.apart = True


def _cut_layers(model: Transformer, mesh: Mesh, cuts: dict[str, dict[str, int]]) -> None:
    for name, parameter in model.named_parameters():
        dimension = _cut_dimension(name, parameter.dim())
        if dimension is not None:
            _keep(parameter, dimension, mesh.share, mesh.sizes.tensor)
            cuts[name]["tensor"] = dimension
    for block in blocks(model):
        attention = block.self_attn
        if hasattr(attention, "num_heads"):
            attention.num_heads //= mesh.sizes.tensor
        for layer, last in ((attention, attention.o_proj), (block.mlp, None if isinstance(block.mlp, MoE) else block.mlp.down_proj)):
            layer.register_forward_pre_hook(lambda _, args: (Copied.apply(args[0], mesh.tensor), *args[1:]))
            layer.register_forward_hook(_adding(mesh, last))
    model.model.embed_tokens.register_forward_hook(lambda _, __, output: Scaled.apply(output, 1 / mesh.sizes.tensor))


def _cut_dimension(name: str, dimensions: int) -> int | None:
    """Where tensor ranks cut a weight, of which a layer's has two dimensions and a stack of experts three; None if it stays whole."""
    *_, layer, kind = "", *name.removesuffix(".weight").split(".")
    if kind == "bias":
        return 0 if layer in BY_ROWS else None
    return dimensions - 2 if kind in BY_ROWS else dimensions - 1 if kind in BY_COLUMNS else None


def _adding(mesh: Mesh, last: nn.Linear | None) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
    """A hook that adds the ranks' parts of a layer's output; a bias, which each part holds, counts once."""

    def add(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        if last is not None and last.bias is not None:
            output = output + last.bias * (1 / mesh.sizes.tensor - 1)
        return Added.apply(output, mesh.tensor)

    return add


def _keep(parameter: nn.Parameter, dimension: int, place: int, parts: int) -> None:
    parameter.data = parameter.data.chunk(parts, dimension)[place].contiguous().clone()


def _shard(model: Transformer, mesh: Mesh, cuts: dict[str, dict[str, int]], whole: set[int], half: torch.dtype | None) -> None:
    """FSDP2, block by block; embedding and head, which the residual stream and the chunks of the loss read, stay as they are."""
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    ignored = {parameter for parameter in model.parameters() if id(parameter) in whole}

    def free(parameter: nn.Parameter) -> Shard:
        taken = cuts[named[id(parameter)]].values()
        return Shard(next(dimension for dimension in range(parameter.dim()) if dimension not in taken))

    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    common = {"shard_placement_fn": free, "ignored_params": ignored}
    dense = mesh.dense["shard"]
    if mesh.sizes.expert > 1:
        for module in model.modules():
            if isinstance(module, Experts):
                fully_shard(module, mesh=mesh.experts["shard"], mp_policy=policy, **common)
    for module in (*model.model.layers, *model.mtp):
        fully_shard(module, mesh=dense, mp_policy=policy, **common)
    fully_shard(model, mesh=dense, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False), **common)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # every loss is a share of the step: gradients add up
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def blocks(model: Transformer) -> Iterator[Block]:
    """Those of the trunk, then those of the MTP modules."""
    yield from model.model.layers
    for module in model.mtp:
        yield module.block


def routers(model: Transformer) -> list[Router]:
    """In the order of the layers."""
    return [module for module in model.modules() if isinstance(module, Router)]

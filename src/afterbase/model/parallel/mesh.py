"""The processes as a block with four sides: data, context, expert and tensor; neighbours in the last talk most."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch
from pydantic import Field
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from afterbase.config import Config
from afterbase.errors import ConfigError
from afterbase.model.config import ModelConfig

SIDES = ("data", "context", "expert", "tensor")


class MeshConfig(Config):
    """How the processes that torchrun starts share the work; their number is the product of the four.

    With lora, Muon, offload, bfloat16 weights or FP8 each holds the whole model, and there is no other side than data.
    """

    data: int = Field(-1, ge=-1)
    """Ranks that each read batches of their own and hold a share of every weight (FSDP2); -1 takes what the others leave."""
    tensor: int = Field(1, ge=1)
    """Ranks that cut heads and feed-forward widths among them; must divide the heads, those of keys too, and the widths."""
    expert: int = Field(1, ge=1)
    """Ranks that share out the routed experts, each reading batches of its own; must divide the number of experts."""
    context: int = Field(1, ge=1)
    """Ranks that each hold a slice of one stream of tokens, for samples too long for one."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many ranks lie along each side, e.g. Sizes(data=2, context=1, expert=1, tensor=4) for eight."""

    data: int
    """Readers times FSDP shards."""
    context: int
    """Slices of a stream."""
    expert: int
    """Shares of the experts."""
    tensor: int
    """Shares of heads and widths."""

    @classmethod
    def of(cls, config: MeshConfig, world: int) -> Sizes:
        """The sides for `world` processes; ConfigError says which numbers would fit."""
        rest = config.tensor * config.expert * config.context
        asked = f"trainer.mesh: tensor={config.tensor} x expert={config.expert} x context={config.context} = {rest}"
        if world % rest:
            raise ConfigError(
                f"{asked} does not divide the {world} processes that were started; make the product one of {_divisors(world)}, "
                f"or start a multiple of {rest} processes"
            )
        data = world // rest if config.data == -1 else config.data
        if data * rest != world:
            raise ConfigError(
                f"{asked} times data={config.data} is {data * rest}, but {world} processes were started; set data={world // rest} or -1, "
                f"or start {max(data, 1) * rest}"
            )
        return cls(data, config.context, config.expert, config.tensor)

    def check(self, config: ModelConfig) -> None:
        """ConfigError when the model cannot be cut that way; it names the numbers that would."""
        cut = {"num_attention_heads": config.num_attention_heads, "intermediate_size": config.intermediate_size}
        if not config.is_mla:
            cut["num_key_value_heads"] = config.num_key_value_heads
        if config.n_routed_experts is not None:
            cut["moe_intermediate_size"] = config.moe_intermediate_size
        _must_divide("tensor", self.tensor, cut)
        if self.expert > 1 and config.n_routed_experts is None:
            raise ConfigError(f"trainer.mesh.expert={self.expert}, but a {config.model_type} model has no experts; set it to 1")
        _must_divide("expert", self.expert, {"n_routed_experts": config.n_routed_experts or 0})
        shards = self.data * self.context * self.expert
        if self.tensor > 1 or self.expert > 1:  # such weights are cut along their other side, which FSDP2 wants even
            widths = {"hidden_size": config.hidden_size}
            if config.is_mla:
                widths |= {name: size for name in ("q_lora_rank", "kv_lora_rank") if (size := getattr(config, name))}
            _must_divide("data x context x expert", shards, widths)


@dataclass(frozen=True, eq=False, slots=True)
class Mesh:
    """This process's place in the block and its ways to the others."""

    sizes: Sizes
    """The sides."""
    rank: int
    """This process among all."""
    dense: DeviceMesh
    """(shard, tensor): weights that every reader uses, FSDP shards over data, context and expert."""
    experts: DeviceMesh
    """(shard, expert, tensor): routed experts, FSDP shards over data and context."""
    context: ProcessGroup
    """Those that hold the other slices of this rank's stream."""
    device: torch.device
    """Where this rank computes."""

    @classmethod
    def of(cls, config: MeshConfig, device: torch.device) -> Mesh:
        """The block over all processes of the default group; every one of them must call this."""
        world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        sizes = Sizes.of(config, world)
        d, c, e, t = (getattr(sizes, side) for side in SIDES)
        kind = device.type
        dense = init_device_mesh(kind, (d * c * e, t), mesh_dim_names=("shard", "tensor"))
        experts = init_device_mesh(kind, (d * c, e, t), mesh_dim_names=("shard", "expert", "tensor"))
        context = init_device_mesh(kind, (d, c, e * t), mesh_dim_names=("data", "context", "rest"))
        return cls(sizes, rank, dense, experts, context.get_group("context"), device)

    @property
    def readers(self) -> int:
        """How many ranks read batches of their own."""
        return self.sizes.data * self.sizes.expert

    @property
    def reader(self) -> int:
        """Which of them this rank is, or holds a slice or a share for."""
        data, _, expert, _ = self._place()
        return data * self.sizes.expert + expert

    @property
    def slice(self) -> int:
        """Which slice of the stream this rank holds."""
        return self._place()[1]

    @property
    def tensor(self) -> ProcessGroup:
        """Those that hold the other shares of this rank's heads."""
        return self.dense.get_group("tensor")

    @property
    def share(self) -> int:
        """Which share of the heads this rank holds."""
        return self._place()[3]

    def _place(self) -> tuple[int, int, int, int]:
        place, rest = [], self.rank
        for side in reversed(SIDES):
            size = getattr(self.sizes, side)
            place.append(rest % size)
            rest //= size
        return tuple(reversed(place))


def _must_divide(side: str, size: int, numbers: dict[str, int]) -> None:
    wrong = {name: number for name, number in numbers.items() if number % size}
    if wrong:
        told = " and ".join(f"{name}={number}" for name, number in wrong.items())
        raise ConfigError(f"trainer.mesh: {side}={size} does not divide this model's {told}; {_divisors(gcd(*numbers.values()))} would")


def _divisors(number: int) -> str:
    found = [str(n) for n in range(1, min(number, 4096) + 1) if number % n == 0]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"

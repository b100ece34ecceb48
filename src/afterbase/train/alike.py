"""Learning in several processes that each hold the whole model: every one takes a share of a step's batches, and gradients are added.

So learns what FSDP2 cannot cut: adapters, matrices of half precision with masters, Muon's whole matrices, masters on the host, FP8.
All ranks make the same update, so what one of them writes is what a process that trains alone would write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup

from afterbase.dist import any_of, dealt, merged
from afterbase.errors import ConfigError
from afterbase.model.moe import Router
from afterbase.model.parallel.plan import routers
from afterbase.model.transformer import Transformer
from afterbase.records import Batch, Sample
from afterbase.train.base import Objective
from afterbase.train.packing import pack, unpacked
from afterbase.train.trainer import LocalTrainer, TrainerConfig, add_up, taught


def wants_whole(config: TrainerConfig) -> str | None:
    """The setting for whose sake every rank holds the whole model; ConfigError when the mesh would cut it all the same."""
    asked = {"lora": config.lora is not None, 'optim.kind = "muon"': config.optim.kind == "muon", "offload = true": config.offload}
    asked |= {'weights = "bfloat16"': config.weights == "bfloat16", 'precision = "fp8"': config.precision == "fp8"}
    found = next((name for name, there in asked.items() if there), None)
    sides = {side: getattr(config.mesh, side) for side in ("tensor", "expert", "context")}
    if found and (cut := [f"trainer.mesh.{side}={size}" for side, size in sides.items() if size > 1]):
        raise ConfigError(f"trainer.{found} wants the whole model in every process, and {cut[0]} cuts it; leave one of them out")
    if config.lora and config.lora.dropout:
        raise ConfigError("trainer.lora.dropout works in one process only; set it to 0, or start afterbase once, without torchrun")
    return found


class AlikeTrainer(LocalTrainer):
    """This rank's copy of the model and of its optimizer, and its share of every step's batches."""

    def batches(self, samples: Sequence[Sample], totals: tuple[int, int] | None = None) -> list[Batch]:
        """This rank's share of one step's samples, of which every rank gives the same; `totals` are the step's where it has more."""
        tokens = sum(len(sample.tokens) for sample in samples)
        most = min(self.config.tokens_per_batch, -(-tokens // dist.get_world_size()))
        return list(dealt(pack(samples, most, self.device, totals)))

    def learn(self, batches: Sequence[Batch], objective: Objective) -> dict[str, float]:
        """One optimizer step over all ranks' batches; every rank returns the metrics of the whole step."""
        return everyones(taught(self, batches, objective)) | self.step()

    def step(self) -> dict[str, float]:
        """The update of the summed gradients, on every rank alike."""
        self._add_gradients()
        self.trace.loads = summed_loads(self.trace.loads, self.model, self.device)
        return super().step()

    def scored(self, samples: Sequence[Sample]) -> list[tuple[float, ...]]:
        """`score` of every sample's learned tokens, on every rank, of which each reads its share."""
        own = [list(unpacked(batch, self.score(batch))) for batch in self.batches(samples)]
        found = dict(pair for pairs in merged(own) for pair in pairs)
        return [found.get(place, ()) for place in range(len(samples))]

    @torch.no_grad()
    def _add_gradients(self) -> None:
        """Sum over ranks, of whom some may have had no batch, or none that reaches a weight."""
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        there = torch.tensor([parameter.grad is not None for parameter in learning], dtype=torch.int32, device=self.device)
        dist.all_reduce(there)
        for parameter, count in zip(learning, there.tolist(), strict=True):
            if not count:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter, dtype=getattr(parameter, "grad_dtype", None) or parameter.dtype)
            dist.all_reduce(parameter.grad)

    def _sound(self, norm: Tensor) -> bool:
        return not any_of(not super()._sound(norm))


def everyones(own: dict[str, float]) -> dict[str, float]:
    """What all processes measured, of which each gives its own share of the step's metrics."""
    metrics: dict[str, float] = {}
    for share in merged([own]):
        add_up(metrics, share)
    return metrics


def summed_loads(
    loads: Mapping[Router, Int[Tensor, "E"]], model: Transformer, device: torch.device, group: ProcessGroup | None = None
) -> dict[Router, Int[Tensor, "E"]]:
    """Tokens that all ranks of the group (unset: all ranks) sent to each expert, of routers that any of them asked."""
    if not (asked := routers(model)):
        return {}
    none = torch.zeros(model.config.n_routed_experts, dtype=torch.long, device=device)
    every = torch.stack([loads.get(router, none).long() for router in asked])
    dist.all_reduce(every, group=group)
    return {router: load for router, load in zip(asked, every, strict=True) if int(load.sum())}

"""What a stage takes of a GPU, and the settings under which it fits there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil

import torch

from afterbase.dist import here, several
from afterbase.engine.config import EngineConfig
from afterbase.engine.runner import is_plain
from afterbase.engine.slots import GIB, stepped, token_bytes
from afterbase.errors import ConfigError
from afterbase.model.config import ModelConfig
from afterbase.model.footprint import FLASH, weights
from afterbase.model.parallel.mesh import MeshConfig, Sizes
from afterbase.train.alike import wants_whole
from afterbase.train.budget import ALONE, Budget, scoring, training
from afterbase.train.trainer import TrainerConfig

CONTEXT = GIB
"""Of the card: CUDA's context, kernels, and the libraries' workspaces."""
SLACK = 0.05
"""Share of the card that the allocator cannot use, in gaps between tensors."""
SHORT = 4096
"""Tokens of a pass from which on matrix products are wide enough: recomputing comes before shorter passes."""
LONG = 65_536
"""Tokens of a pass beyond which nothing is gained."""
CACHES = (1.0, 0.5, 0.25, 0.125)
"""Shares of the cache that all rows could fill, which are tried before offloading."""
HALF = TrainerConfig(precision="bfloat16")
"""What every choice starts from."""
CERTAIN = 1.1
"""A job is refused when it takes this much of what is free, and not before: the budget may be off by a tenth."""

Parts = Mapping[str, int]
"""Bytes by what they are for; their sum is the peak."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be trained, and where."""

    model: ModelConfig
    """Its shape."""
    drawing: bool
    """Whether an engine draws answers beside the trainer."""
    reference: bool
    """Whether a reference model is kept."""
    together: bool
    """Whether the stage may be run by several processes."""
    tokens: int
    """Of one update, over all GPUs."""
    longest: int
    """Tokens of the longest sample, which no pass can cut."""
    rows: int
    """Answers drawn at a time, where there is an engine."""
    gpus: int
    """How many there are."""
    card: int
    """Bytes of each."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Settings and what they take."""

    trainer: TrainerConfig
    """With the passes, the recomputation, the offloading and the mesh that were chosen."""
    engine: EngineConfig | None
    """Where answers are drawn."""
    parts: Parts
    """Of one GPU."""
    host: int
    """Bytes on the host, for each process."""
    card: int
    """Bytes of the card."""

    @property
    def total(self) -> int:
        """The peak, with what the card and the allocator keep for themselves."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether it is no more than the card has."""
        return self.total <= self.card


def choose(job: Job, base: TrainerConfig = HALF) -> Fit:
    """The first of the settings, from the fastest to the leanest, that fits; the leanest of all where none does. `base` is kept."""
    leanest: Fit | None = None
    for trainer, cache in _settings(job, base):
        fit = fitted(job, trainer, cache)
        if fit.fits:
            return fit
        leanest = fit if leanest is None or fit.total < leanest.total else leanest
    assert leanest is not None, "data alone is always a mesh"
    return leanest


def fitted(job: Job, trainer: TrainerConfig, cache: float = 1.0) -> Fit:
    """What these settings take, with a share of the cache that all rows together could fill."""
    sizes = sizes_of(trainer.mesh, job)
    stream = trainer.tokens_per_batch * sizes.context
    budget = training(job.model, trainer, stream, stream, sizes)
    parts, engine = _trained(budget), None
    if job.drawing:
        parts |= own_model(job.model, sizes) | engine_parts(job.model, trainer, job.rows, job.longest, cache)
        memory = None if cache == 1 else round(parts["KV cache"] / GIB, 2)
        engine = EngineConfig(rows=job.rows, context=job.longest, precision=trainer.precision, memory=memory)
    if job.reference and not trainer.lora:
        parts["reference model"] = scoring(job.model, trainer).standing
    parts |= {"CUDA context": CONTEXT, "allocator's gaps": int(SLACK * job.card)}
    return Fit(trainer, engine, parts, budget.host, job.card)


def engine_parts(model: ModelConfig, trainer: TrainerConfig, rows: int, longest: int, cache: float = 1.0) -> dict[str, int]:
    """The engine's copies of weights, and its cache when every row is as long as the longest."""
    item = 2 if trainer.precision != "float32" else 4
    return {
        "engine's copies": engine_copies(model, trainer),
        "KV cache": int(cache * rows * stepped(longest) * token_bytes(model, item)),
    }


def own_model(model: ModelConfig, sizes: Sizes) -> dict[str, int]:
    """The whole model in float32 that an engine draws from where the trainer's is in parts."""
    return {} if sizes == ALONE else {"engine's own model": 4 * weights(model).total}


def engine_copies(model: ModelConfig, trainer: TrainerConfig) -> int:
    """Bytes of the stacked weights that recorded steps read, where the model's steps can be recorded."""
    recorded = (is_plain(model) and model.head_dim in FLASH) or (model.is_mla and model.has_v3_experts)
    if trainer.precision == "float32" or not recorded:
        return 0
    count = weights(replace(model, num_nextn_predict_layers=0))
    return 2 * (count.matrices + count.experts) + (0 if trainer.weights == "bfloat16" else 2 * count.embedding)


def sizes_of(mesh: MeshConfig, job: Job) -> Sizes:
    """The mesh over the job's GPUs; one process where the stage knows no more."""
    return Sizes.of(mesh, job.gpus) if job.together and job.gpus > 1 else ALONE


def refuse_what_cannot_fit(
    model: ModelConfig, trainer: TrainerConfig, tokens: int = 0, drawing: bool = False, reference: bool = False
) -> None:
    """ConfigError when a GPU has too little memory for certain: for what stands there all the time and passes of so many `tokens`.

    `tokens` are those that some pass has for certain; 0 where that is not known.
    """
    device = here().device
    if device.type != "cuda":
        return
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    sizes = Sizes.of(trainer.mesh, torch.distributed.get_world_size()) if several() and not wants_whole(trainer) else ALONE
    parts = least(model, trainer, sizes, tokens)
    if drawing:
        parts |= own_model(model, sizes) | {"engine's copies": engine_copies(model, trainer)}
    if reference and not trainer.lora:
        parts |= {"reference model": scoring(model, trainer).weights}
    check(parts, free)


def least(model: ModelConfig, trainer: TrainerConfig, sizes: Sizes, tokens: int) -> dict[str, int]:
    """What training takes at the very least, with passes of so many tokens, of which one is learned."""
    return _trained(training(model, trainer, max(tokens, 1), 1, sizes))


def certain(trainer: TrainerConfig, step: int) -> int:
    """Tokens that the longest pass of a step of so many has at least: it ends where the next sample, which is no longer, has no room."""
    return 0 if several() else min(trainer.tokens_per_batch, step) // 2


def check(parts: Parts, free: int) -> None:
    """ConfigError, naming the largest parts, when they are more than what is free by more than the budget may be off."""
    total = sum(parts.values())
    if total <= CERTAIN * free:
        return
    largest = ", ".join(f"{name} {gib(size)}" for name, size in sorted(parts.items(), key=lambda part: -part[1])[:3])
    raise ConfigError(
        f"this needs about {gib(total)} of GPU memory ({largest}) and {gib(free)} are free; set trainer.recompute, trainer.offload or a "
        "smaller trainer.tokens_per_batch, or ask `afterbase plan` what fits"
    )


def gib(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / GIB:.1f} GiB"


def _trained(budget: Budget) -> dict[str, int]:
    """The budget's parts at its peak, which add up to it."""
    return {
        "weights": budget.weights, "gradients": budget.gradients, "optimizer": budget.optimizer, "copies for products": budget.copies,
        "activations": budget.activations, "logits": budget.logits, "a block's scratch": max(0, budget.scratch - budget.logits),
    }  # fmt: skip


def _settings(job: Job, base: TrainerConfig) -> Iterator[tuple[TrainerConfig, float]]:
    """Every choice, the fastest first, and for each the share of the whole cache: meshes, then offloading, then passes."""
    for mesh in _meshes(job):
        sizes = sizes_of(mesh, job)
        for offload in (False, True) if sizes == ALONE else (False,):
            for cache in CACHES if job.drawing else CACHES[:1]:
                for tokens, again in _passes(job, sizes):
                    chosen = {"offload": offload, "mesh": mesh, "tokens_per_batch": tokens, "recompute": again}
                    yield base.model_copy(update=chosen), cache


def _passes(job: Job, sizes: Sizes) -> Iterator[tuple[int, int]]:
    """Tokens of a rank's pass and blocks that are computed again: long passes, then recomputation, then shorter passes."""
    shortest = ceil(job.longest / sizes.context)
    most = max(shortest, min(LONG, ceil(job.tokens / (sizes.data * sizes.expert * sizes.context))))
    short, layers = max(shortest, min(most, SHORT)), job.model.num_hidden_layers
    tokens = most
    while tokens > short:
        yield tokens, 0
        tokens //= 2
    yield from ((short, again) for again in range(layers + 1))
    if shortest < short:
        yield shortest, layers


def _meshes(job: Job) -> Iterator[MeshConfig]:
    """Data alone, then with experts, heads and streams shared out as well, as little as possible; only what the model can be cut into."""
    cuts = [size for size in (1, 2, 4, 8, 16, 32, 64) if job.together and job.gpus % size == 0] or [1]
    every = sorted(((e, t, c) for e in cuts for t in cuts for c in cuts), key=lambda each: (each[0] * each[1] * each[2], each[2], each[1]))
    for expert, tensor, context in every:
        mesh = MeshConfig(tensor=tensor, expert=expert, context=context)
        try:
            sizes_of(mesh, job).check(job.model)
        except ConfigError:
            continue
        yield mesh

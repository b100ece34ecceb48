"""The plan of a training: its memory by part, the settings that fit it into the GPUs there are, and why those."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from afterbase.config import nearest
from afterbase.engine.slots import GIB
from afterbase.errors import ConfigError
from afterbase.model.checkpoint import load_config
from afterbase.model.footprint import weights
from afterbase.model.lora import LoraConfig
from afterbase.stages.fitting import HALF, Fit, Job, choose, gib, sizes_of
from afterbase.stages.registry import STAGES

TRAINING = ("pretrain", "sft", "rl")
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:GB|GiB|G)?", re.IGNORECASE)
LONGEST = 4096
"""Tokens of the longest sample, unless something else is said."""
LARGEST = 300 * GIB
"""The card that is suggested at most."""
MOST = 4096
"""GPUs that are suggested at most."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says."""

    model: Path
    """The checkpoint directory; its config.json is enough."""
    gpu: str
    """Memory of one GPU, such as 80GB."""
    gpus: int
    """How many."""
    tokens: int
    """Of one update, over all GPUs."""
    stage: str
    """What is to be run."""
    longest: int | None
    """Tokens of the longest sample."""
    rows: int
    """Answers drawn at a time."""
    reference: bool
    """Whether RL keeps a reference model."""


def run_plan(asked: Asked, *, as_json: bool = False, console: Console | None = None) -> bool:
    """Print the plan; whether it fits."""
    console = console or Console(highlight=False)
    job = job_of(asked)
    fit = choose(job)
    if as_json:
        print(json.dumps(record(job, fit), indent=1), file=console.file)
    else:
        _print(console, asked, job, fit)
    return fit.fits


def job_of(asked: Asked) -> Job:
    """The question in numbers; ConfigError when it cannot be meant."""
    if asked.stage not in TRAINING:
        raise ConfigError(f"--stage {asked.stage!r} trains nothing{nearest(asked.stage, TRAINING)}; give one of {', '.join(TRAINING)}")
    model = load_config(asked.model)
    longest = asked.longest or min(LONGEST, model.max_position_embeddings, asked.tokens)
    if longest > model.max_position_embeddings:
        raise ConfigError(f"--longest {longest} exceeds the model's context of {model.max_position_embeddings} tokens; give less")
    if longest > asked.tokens:
        raise ConfigError(f"--longest {longest} is more than the {asked.tokens} tokens of an update; raise --tokens, or lower --longest")
    drawing = asked.stage == "rl"
    together = STAGES[asked.stage].together
    card = memory(asked.gpu)
    return Job(model, drawing, drawing and asked.reference, together, asked.tokens, longest, asked.rows, asked.gpus, card)


def memory(told: str) -> int:
    """Bytes of a card, whose makers call 2^30 a GB."""
    found = SIZE.fullmatch(told.strip())
    if not found or not 1 <= float(found[1]) <= 10_000:
        raise ConfigError(f"--gpu {told!r} is no amount of memory; give the GB of one GPU, such as 80GB")
    return int(float(found[1]) * GIB)


def record(job: Job, fit: Fit) -> dict[str, Any]:
    """The plan as one JSON object; sizes in bytes."""
    return {
        "fits": fit.fits, "total": fit.total, "card": fit.card, "parts": dict(fit.parts), "host": fit.host,
        "parameters": weights(job.model).total, "settings": settings(fit), "why": why(job, fit),
        "change": [] if fit.fits else remedies(job, fit),
    }  # fmt: skip


def settings(fit: Fit) -> dict[str, dict[str, Any]]:
    """The keys of a recipe that differ from what they would be."""
    trainer, mesh = fit.trainer, fit.trainer.mesh
    own: dict[str, Any] = {"precision": trainer.precision, "tokens_per_batch": trainer.tokens_per_batch}
    own |= {"recompute": trainer.recompute} if trainer.recompute else {}
    own |= {"offload": True} if trainer.offload else {}
    found = {"trainer": own}
    if cuts := {name: size for name in ("tensor", "expert", "context") if (size := getattr(mesh, name)) > 1}:
        found["trainer.mesh"] = cuts
    if fit.engine:
        engine = fit.engine
        found["engine"] = {"precision": engine.precision, "rows": engine.rows, "context": engine.context}
        found["engine"] |= {"memory": engine.memory} if engine.memory else {}
    return found


def why(job: Job, fit: Fit) -> list[str]:
    """A reason for each choice."""
    trainer, layers = fit.trainer, job.model.num_hidden_layers
    sizes = sizes_of(trainer.mesh, job)
    readers = sizes.data * sizes.expert
    passes = -(-job.tokens // (trainer.tokens_per_batch * readers * sizes.context))
    said = [f"an update takes {passes} pass{'es' * (passes > 1)} of {trainer.tokens_per_batch} tokens on each GPU"]
    if trainer.recompute:
        said.append(
            f"{trainer.recompute} of {layers} blocks computed again on the way back, for what they keep does not fit beside the rest"
        )
    if trainer.offload:
        said.append(
            f"masters and moments on the host, {gib(fit.host)}, for the GPU has no room; a step waits for 4 bytes a weight each way"
        )
    if fit.engine and fit.engine.memory:
        said.append(f"engine.memory bounds the cache, for {job.rows} answers of {job.longest} tokens at once do not fit; the youngest wait")
    said += _mesh_words(job, fit)
    return said


def remedies(job: Job, fit: Fit) -> list[str]:
    """What to change where nothing fits."""
    said = [f"a GPU of {-(-fit.total // GIB)} GiB would do with the leanest settings"] if fit.total <= LARGEST else []
    if job.together and (more := _gpus_that_fit(job)):
        said.append(f"{more} GPUs of this size would do")
    others = {
        'trainer.weights = "bfloat16"': {"weights": "bfloat16"},
        "trainer.lora = {}": {"lora": LoraConfig()},
        'trainer.lora = {} and trainer.weights = "bfloat16"': {"lora": LoraConfig(), "weights": "bfloat16"},
    }
    for name, update in others.items():
        if choose(replace(job, gpus=1), HALF.model_copy(update=update)).fits:
            said.append(f"with {name} it would fit into one GPU")
            break
    if job.longest > 512:
        said.append(f"samples shorter than {job.longest} tokens take less: give --longest")
    if job.drawing and job.rows > 16:
        said.append("fewer answers at a time take less: give --rows")
    return said


def _gpus_that_fit(job: Job) -> int | None:
    gpus = 2 * job.gpus
    while gpus <= MOST:
        if choose(replace(job, gpus=gpus, tokens=max(job.tokens, gpus * job.longest))).fits:
            return gpus
        gpus *= 2
    return None


def _mesh_words(job: Job, fit: Fit) -> list[str]:
    """How the GPUs share the work."""
    if job.gpus == 1:
        return []
    if not job.together:
        return [f"this stage runs on one GPU; the other {job.gpus - 1} are free for another run or for evaluation"]
    mesh, sizes = fit.trainer.mesh, sizes_of(fit.trainer.mesh, job)
    readers = sizes.data * sizes.expert
    said = [f"of {job.gpus} GPUs {readers} read data of their own; all hold a share of every weight, gradient and moment (FSDP2)"]
    cut = {"tensor": "heads and widths", "expert": "experts", "context": "each stream of tokens"}
    for name, what in cut.items():
        if (size := getattr(mesh, name)) > 1:
            said.append(f"{size} GPUs cut {what} among them, for with less cutting it does not fit")
    return [*said, "start it by torchrun; of several GPUs the budget is arithmetic only, of one it is measured"]


def _counted(parameters: int) -> str:
    """As models are named: 671B, 1.54B, 3.3M."""
    size, letter = (parameters / 1e9, "B") if parameters >= 1e9 else (parameters / 1e6, "M")
    return f"{size:,.0f}{letter}" if size >= 100 else f"{size:.3g}{letter}"


def _print(console: Console, asked: Asked, job: Job, fit: Fit) -> None:
    total = weights(job.model).total
    title = f"{asked.stage} of {asked.model.name or asked.model}: {_counted(total)} parameters, {job.gpus} x {gib(job.card)}"
    table = Table(title=title, title_justify="left")
    table.add_column("of each GPU")
    table.add_column("GiB", justify="right")
    for name, size in fit.parts.items():
        if size:
            table.add_row(name, f"{size / GIB:.2f}")
    table.add_section()
    table.add_row("together", f"{fit.total / GIB:.2f}", style="bold")
    table.add_row("the card", f"{fit.card / GIB:.2f}")
    console.print(table)
    verdict = Text("it fits" if fit.fits else "it does not fit, not even so", style="bold green" if fit.fits else "bold red")
    console.print(verdict)
    for line in why(job, fit):
        console.print(f"- {line}", soft_wrap=True, markup=False)
    for line in [] if fit.fits else remedies(job, fit):
        console.print(f"to change: {line}", soft_wrap=True, markup=False)
    console.print("\n" + toml(settings(fit)), soft_wrap=True, markup=False)


def toml(tables: dict[str, dict[str, Any]]) -> str:
    """The settings as lines of a recipe."""
    blocks = [[f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())] for name, table in tables.items()]
    return "\n\n".join("\n".join(block) for block in blocks)

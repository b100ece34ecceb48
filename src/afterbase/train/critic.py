"""The critic of PPO: the policy's architecture with a head of one row, which says what it expects of the answer so far.  [Setup]

It is a trainer whose "log-probabilities" are values: packing, gradient clipping, skipped updates and balancing are LocalTrainer's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from afterbase.config import Config
from afterbase.errors import CheckpointError
from afterbase.model.checkpoint import load_config, load_model
from afterbase.model.rows import Take
from afterbase.model.transformer import Transformer
from afterbase.records import Batch, Entropy, Sample
from afterbase.train.optim import OptimConfig
from afterbase.train.packing import pack, unpacked
from afterbase.train.reference import Underneath
from afterbase.train.schedule import ScheduleConfig
from afterbase.train.trainer import LocalTrainer, TrainerConfig

WEIGHTS, STATE = "critic.safetensors", "critic_state.pt"


class CriticConfig(Config):
    """Where the critic comes from and how it learns; its precision, balancing and tokens in a batch are the policy's. It learns as
    a whole, where the policy has adapters too."""

    model: Path | None = None
    """The checkpoint directory that its trunk starts from; unset means the policy's own start."""
    optim: OptimConfig = Field(default_factory=lambda: OptimConfig(schedule=ScheduleConfig(peak=1e-5)))
    """Its own optimizer and learning rate."""


class Critic(LocalTrainer):
    """A value model with its optimizer; `score` gives the values that its weights expect now, `weights` is of no use to an engine."""

    def __init__(self, model: Transformer, config: CriticConfig, trainer: TrainerConfig, steps: int) -> None:
        """`model` is a value model, `trainer` the policy's settings and `steps` the length of the schedule."""
        super().__init__(model, trainer.model_copy(update={"optim": config.optim, "lora": None}), steps)

    @classmethod
    def start(cls, policy: Path, config: CriticConfig, trainer: TrainerConfig, steps: int, device: torch.device | str = "cpu") -> Critic:
        """A fresh critic, which expects 0 everywhere, on the trunk of `config.model` or of the policy's start."""
        return cls(value_model(load_model(config.model or policy, device, torch.float32)), config, trainer, steps)

    @classmethod
    def load(cls, directory: Path, config: CriticConfig, trainer: TrainerConfig, steps: int, device: torch.device | str = "cpu") -> Critic:
        """The critic exactly as `write` left it in `directory`; CheckpointError in words when it cannot be read."""
        with torch.device("meta"):
            model = value_model(Transformer(load_config(directory)))
        model.to_empty(device=device)
        try:
            model.load_state_dict(load_file(directory / WEIGHTS))
            state = torch.load(directory / STATE, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes make the unpickler fail in any way they like
            reason = str(error).partition("\n")[0]
            raise CheckpointError(
                f"the critic in {directory} cannot be read ({reason}); delete its checkpoint to resume before it"
            ) from None
        critic = cls(model, config, trainer, steps)
        critic.restore(state)
        return critic

    def write(self, directory: Path) -> None:
        """Weights and optimizer, in a new directory; whoever calls makes it atomic."""
        directory.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, directory / WEIGHTS)
        (directory / WEIGHTS).chmod(0o644)  # safetensors makes files that only their owner can read
        torch.save(self.state(), directory / STATE)
        (directory / "config.json").write_text(json.dumps(self.model.config.to_hf(), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def step(self) -> dict[str, float]:
        """LocalTrainer's step, its metrics named apart from the policy's: train/value_gradient/norm."""
        return {name.replace("train/", "train/value_", 1): number for name, number in super().step().items()}

    def _statistics(self, hidden: Float[Tensor, "T d"], batch: Batch, entropy: Entropy) -> tuple[Float[Tensor, "P"], None]:
        """What is expected when each learned token is about to be drawn: read one place before it, like its log-probability."""
        rows, head = Take.apply(hidden, batch.picked - 1), self.model.lm_head
        with torch.autocast(hidden.device.type, enabled=False):  # bfloat16 has too few digits for a difference of values
            return (rows.float() @ head.weight.float().T + head.bias).squeeze(1), None


def value_model(model: Transformer) -> Transformer:
    """The model with one row in place of its vocabulary's head, zero at first, and without MTP modules."""
    with model.model.norm.weight.device:
        model.lm_head = nn.Linear(model.config.hidden_size, 1)
    nn.init.zeros_(model.lm_head.weight)
    nn.init.zeros_(model.lm_head.bias)
    model.mtp = nn.ModuleList()
    model.config = replace(model.config, tie_word_embeddings=False, num_nextn_predict_layers=0)
    return model


def scored(trainer: LocalTrainer | Underneath, samples: Sequence[Sample]) -> list[tuple[float, ...]]:
    """`trainer.score` of every sample's learned tokens: a critic's values, or a reference's log-probabilities."""
    found: list[tuple[float, ...]] = [()] * len(samples)
    for batch in pack(samples, trainer.config.tokens_per_batch, trainer.device):
        for place, numbers in unpacked(batch, trainer.score(batch)):
            found[place] = numbers
    return found

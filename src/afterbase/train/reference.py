"""The reference of a policy that learns by adapters: the model that they stand on, in the same memory.  [V3 Eq. 27]"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from afterbase.model.lora import without_adapters
from afterbase.records import Batch
from afterbase.train.trainer import LocalTrainer, TrainerConfig


@dataclass(frozen=True, slots=True)
class Underneath:
    """A trainer's model with its adapters left out, for scoring only."""

    trainer: LocalTrainer
    """Whose adapters they are."""

    @property
    def config(self) -> TrainerConfig:
        """The trainer's."""
        return self.trainer.config

    @property
    def device(self) -> torch.device:
        """The trainer's."""
        return self.trainer.device

    def score(self, batch: Batch) -> Float[Tensor, "P"]:
        """Log-probabilities of the learned tokens."""
        with without_adapters(self.trainer.model):
            return self.trainer.score(batch)

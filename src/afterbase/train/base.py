"""What every trainer offers, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from afterbase.records import Batch, Entropy


class Objective(Protocol):
    """What is minimized: Likelihood, Grpo, Ppo, ValueLoss."""

    entropy: Entropy
    """Whether it looks at the entropy of each token's distribution, and whether gradient flows through it."""

    def __call__(
        self, logprobs: Float[Tensor, "P"], batch: Batch, entropy: Float[Tensor, "P"] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """Loss and metrics of one batch, both shares of the optimizer step, which add up; of metrics in /max the most counts."""


class Trainer(Protocol):
    """Learns from batches, step by step."""

    def forward_backward(self, batch: Batch, objective: Objective) -> dict[str, float]:
        """Add one batch's gradient; metrics are shares of the step."""

    def step(self) -> dict[str, float]:
        """Apply the gradients gathered since the last step."""

    def score(self, batch: Batch) -> Float[Tensor, "P"]:
        """Log-probabilities of the learned tokens, without gradient: pi_old, pi_ref."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, tensor) of everything an engine needs."""

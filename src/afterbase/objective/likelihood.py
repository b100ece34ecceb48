"""Maximum likelihood: the loss of pretraining and of supervised fine-tuning.  [V3 5.1]"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from afterbase.records import Batch, Entropy


class Likelihood:
    """Minus the mean log-probability of the learned tokens, over the whole optimizer step."""

    entropy: Entropy = "unused"

    def __call__(
        self, logprobs: Float[Tensor, "P"], batch: Batch, entropy: Float[Tensor, "P"] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """Loss and metrics of one batch; both are shares of the step, to be summed over its batches."""
        loss = -(logprobs * batch.weights).sum() / batch.total_tokens
        return loss, {"train/loss/mean": float(loss.detach())}

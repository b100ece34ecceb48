"""Learning in one process on one device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from afterbase.config import Config
from afterbase.model.balance import Trace, update_bias
from afterbase.model.checkpoint import hf_weights
from afterbase.model.fp8_experts import learn_in_fp8
from afterbase.model.logprob import token_logprobs, token_statistics
from afterbase.model.lora import LoraConfig, adapt
from afterbase.model.parallel.mesh import MeshConfig
from afterbase.model.rows import Take
from afterbase.model.transformer import Transformer
from afterbase.records import Batch, Entropy
from afterbase.train.base import Objective, Trainer
from afterbase.train.masters import Masters, halve
from afterbase.train.optim import OptimConfig, Together, optimizer
from afterbase.train.schedule import learning_rate


class TrainerConfig(Config):
    """How a model is updated."""

    optim: OptimConfig = OptimConfig()
    """Optimizer and learning rate."""
    tokens_per_batch: int = Field(4096, gt=0)
    """Tokens in one forward and backward pass, whose gradients add up to the step's; memory grows with it, results do not depend on it."""
    precision: Literal["float32", "bfloat16", "fp8"] = "float32"
    """Arithmetic of matrix products; optimizer state and reductions stay in float32 (bfloat16 by autocast). fp8: what bfloat16 is, but the
    linear layers of blocks and routed experts whose widths are multiples of 128 multiply in float8 e4m3, with a scale for each 1 x 128
    numbers of their input and 128 x 128 of a weight, while they learn. A GPU of compute capability 8.9 or later does so natively, any other
    device in float32 as if it did, slower."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """What matrices are held in. float32: 4 bytes each and 4 of gradient, and on a GPU in bfloat16 2 more for the copies that its products
    read, with 2 more in an engine. bfloat16: 2 bytes, and on a GPU 2 more for copies of those that are
    multiplied side by side (q, k, v; gate, up), 4 of gradient, and 4 of a float32 master that the optimizer updates; wants
    precision = "bfloat16" or "fp8". The optimizer's moments come on top, 8 bytes with AdamW."""
    offload: bool = False
    """Whether masters and moments lie in the host's memory and the update runs there: on the GPU 4 (float32) or 2 (bfloat16) bytes of a
    weight and 4 of gradient remain, on the host are 16; a step waits for 4 bytes each way."""
    recompute: int = Field(0, ge=0)
    """Blocks, from the first on, that keep only what they read, 6 bytes for each token and number of its hidden state (8 in float32),
    and compute the rest again in the backward pass: a third more arithmetic, the same gradients; more than there are means all of them."""
    mtp: float = Field(0.0, ge=0)
    """lambda in Eq. 24: weight of the multi-token prediction loss; 0 leaves the MTP modules alone."""
    mtp_reaches_trunk: bool = True
    """Whether the MTP loss also moves the trunk, the embedding and the head, as in pretraining; false cuts its gradient off from them, so
    that the modules go on predicting what the policy says without having a say in it."""
    balance_speed: float = Field(1e-3, ge=0)
    """gamma: how far the routing bias moves after each step [V3 Eq. 16]; 0 freezes it."""
    balance_loss: float = Field(1e-4, ge=0)
    """alpha in Eq. 17: weight of the sequence-wise balance loss; 0 computes none."""
    lora: LoraConfig | None = None
    """Adapters that learn in the model's place [Hu et al. 2021]; unset: the model itself learns."""
    mesh: MeshConfig = MeshConfig()
    """How processes that torchrun starts together share the work."""

    @model_validator(mode="after")
    def _half_weights_in_half_products(self) -> TrainerConfig:
        if self.weights == "bfloat16" and self.precision == "float32":
            raise ValueError('weights = "bfloat16" would be multiplied in float32; set precision = "bfloat16" too')
        return self

    @model_validator(mode="after")
    def _adapters_can_learn_so(self) -> TrainerConfig:
        if self.lora and self.lora.dropout and self.recompute:
            raise ValueError("recompute would draw another lora.dropout the second time; set one of them to 0")
        if self.lora and self.mtp and not self.mtp_reaches_trunk:
            raise ValueError("lora adapts the trunk alone, so an MTP loss that does not reach it moves nothing; set mtp = 0")
        return self


class Steps:
    """Where a trainer is in its schedule, and what its batches since the last step left: alike of a whole model and of one in parts."""

    def __init__(self, config: TrainerConfig, steps: int, device: torch.device) -> None:
        self.config, self.steps, self.device = config, steps, device
        self.trace = Trace(config.balance_loss)
        self.losses: list[Tensor] = []
        """Of the batches since the last step, one each."""
        self.judged: list[Tensor] = []
        """Those of the last step."""
        self.done = 0
        self.skipped = 0
        """Updates in a row, up to now, that were skipped."""

    def _set_rate(self, groups: Sequence[dict[str, Any]]) -> float:
        """This step's learning rate, which an optimizer's groups have from here on."""
        rate = learning_rate(self.config.optim.schedule, self.done, self.steps)
        for group in groups:
            group["lr"] = rate
        return rate

    def _finish(self, norm: Tensor, rate: float, finite: bool, busiest: dict[str, float]) -> dict[str, float]:
        """Count the step, forget its batches, and tell its metrics."""
        self.trace, self.losses, self.judged = Trace(self.config.balance_loss), [], self.losses
        self.done += 1
        self.skipped = 0 if finite else self.skipped + 1
        skipped = {} if finite else {"train/skipped_updates/count": 1}
        return {"train/gradient/norm": float(norm), "train/learning_rate/value": rate, **busiest, **skipped}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision != "float32")


class LocalTrainer(Steps):
    """One model, its optimizer and its routers' loads."""

    def __init__(self, model: Transformer, config: TrainerConfig, steps: int) -> None:
        """`steps` is the length of the schedule."""
        super().__init__(config, steps, next(model.parameters()).device)
        self.model = model
        if config.weights == "bfloat16":
            halve(model)
        if config.lora:
            adapt(model, config.lora)  # after the rounding: what learns stays in float32
        if config.precision == "fp8":
            learn_in_fp8(model)

    @cached_property
    def masters(self) -> Masters:
        """What the optimizer updates; made when it is first needed, for a reference model never learns."""
        return Masters([p for p in self.model.parameters() if p.requires_grad], self.config.offload)

    @cached_property
    def optimizer(self) -> torch.optim.AdamW | Together:
        """Of the masters."""
        return optimizer(self.model, self.config.optim, self.masters.updated)

    def forward_backward(self, batch: Batch, objective: Objective) -> dict[str, float]:
        """Add one batch's gradient; returns its share of the step's metrics."""
        with self._autocast():
            hidden = self.model(batch.tokens, batch.segments, trace=self.trace, recompute=self.config.recompute)
            logprobs, entropy = self._statistics(hidden, batch, objective.entropy)
            loss, metrics = objective(logprobs, batch, entropy)
            if self.config.mtp and len(self.model.mtp):
                ahead = self._ahead(hidden, batch)
                metrics["train/mtp_loss/mean"] = float(ahead.detach())
                loss = loss + self.config.mtp * ahead
            balance = self.trace.take_loss()
        if balance is not None:
            # Each batch's balance loss is a mean over its sequences: weigh it by its share of the step's.
            loss = loss + balance * (len(batch.segments.lengths) / batch.total_sequences)
        self.losses.append(loss.detach())
        loss.backward()
        return metrics

    def step(self) -> dict[str, float]:
        """Clip, update, nudge the routing biases, and forget the gradients.

        A loss or gradient that is not finite updates nothing and is counted: one bad batch must not ruin the weights.
        """
        rate = self._set_rate(self.optimizer.param_groups)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
        finite = self._sound(norm)
        if finite:
            self.masters.take_gradients()
            self.optimizer.step()
            self.masters.give_back()
        self.model.zero_grad(set_to_none=True)
        speed = 0.0 if self.config.lora else self.config.balance_speed
        return self._finish(norm, rate, finite, update_bias(self.trace.loads, speed) if finite else {})

    @torch.no_grad()
    def score(self, batch: Batch) -> Float[Tensor, "P"]:
        """Log-probabilities of the learned tokens under the current weights."""
        with self._autocast():
            return self._statistics(self.model(batch.tokens, batch.segments), batch, "unused")[0]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The model's tensors themselves, under their Hugging Face names; adapters apart from what they stand on."""
        return hf_weights(self.model)

    def state(self) -> dict[str, Any]:
        """Everything besides the weights that the next step depends on."""
        masters = {"masters": self.masters.state()} if self.masters.pairs else {}
        return {"done": self.done, "skipped": self.skipped, "optimizer": self.optimizer.state_dict(), **masters}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        self.done, self.skipped = state["done"], state["skipped"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.masters.restore(state.get("masters", []))

    def _sound(self, norm: Tensor) -> bool:
        """Whether the gradient's norm and every loss are finite: one question to the device for all of them."""
        return bool(torch.stack([norm, *self.losses]).isfinite().all())

    def _statistics(self, hidden: Float[Tensor, "T d"], batch: Batch, entropy: Entropy) -> tuple[Tensor, Tensor | None]:
        """Each learned token's log-probability and its distribution's entropy, read one place before it."""
        rows, targets = Take.apply(hidden, batch.picked - 1), batch.tokens[batch.picked]
        return token_statistics(rows, self.model.lm_head.weight, targets, batch.temperature, entropy)

    def _ahead(self, hidden: Float[Tensor, "T d"], batch: Batch) -> Float[Tensor, ""]:
        """The mean over depths of the MTP modules' cross-entropy on the learned tokens.  [V3 Eq. 24-25]"""
        place = batch.segments.positions[batch.picked]
        losses = []
        reaches = self.config.mtp_reaches_trunk
        head = self.model.lm_head.weight if reaches else self.model.lm_head.weight.detach()
        states_ahead = self.model.look_ahead(hidden, batch.tokens, batch.segments, self.trace, reaches)
        for depth, states in enumerate(states_ahead, start=1):
            reachable = batch.picked[place > depth]  # token t is predicted from t - depth - 1, which must be in its sequence
            rows = Take.apply(states, reachable - depth - 1)
            logprobs = token_logprobs(rows, head, batch.tokens[reachable])
            losses.append(-(logprobs * batch.weights[place > depth]).sum() / batch.total_tokens)
        return torch.stack(losses).mean()


def taught(trainer: Trainer, batches: Sequence[Batch], objective: Objective) -> dict[str, float]:
    """The gradients of a step's batches, added to what the trainer has; returns their metrics, added up."""
    metrics: dict[str, float] = {}
    for batch in batches:
        add_up(metrics, trainer.forward_backward(batch, objective))
    return metrics


def add_up(total: dict[str, float], share: dict[str, float]) -> None:
    """Take a batch's or a process's share of a step's metrics into the whole: they add up, and of those in /max the most counts."""
    for name, value in share.items():
        total[name] = max(total.get(name, value), value) if name.endswith("/max") else total.get(name, 0.0) + value

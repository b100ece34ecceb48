"""Log-probabilities of chosen tokens without ever holding `[T, vocabulary]`: the head is applied in chunks, twice.

The backward pass computes each chunk's logits again, so memory is one chunk of float32 logits, whatever the batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from afterbase.model import cuda
from afterbase.records import Entropy

CHUNK = 1 << 21
"""Logits in one chunk on a CPU: 8 MiB of float32."""


def token_logprobs(
    hidden: Float[Tensor, "P d"], head: Float[Tensor, "V d"], targets: Int[Tensor, "P"], temperature: float = 1.0
) -> Float[Tensor, "P"]:
    """log softmax(hidden @ head.T / temperature) at each target, in float32; differentiable in `hidden` and `head`."""
    return _TokenStatistics.apply(hidden, head, targets, temperature, False, torch.is_grad_enabled())[0]


def token_statistics(
    hidden: Float[Tensor, "P d"], head: Float[Tensor, "V d"], targets: Int[Tensor, "P"], temperature: float, entropy: Entropy
) -> tuple[Float[Tensor, "P"], Float[Tensor, "P"] | None]:
    """The same log-probabilities and, unless it is unused, the entropy in nats of each distribution, from the same logits.

    Gradient flows through the entropy only when it is learned.
    """
    if entropy == "unused":
        return token_logprobs(hidden, head, targets, temperature), None
    keep = torch.is_grad_enabled() and entropy != "learned"
    logprobs, entropies = _TokenStatistics.apply(hidden, head, targets, temperature, True, keep)
    return logprobs, entropies if entropy == "learned" else entropies.detach()


def _rows(weight: Tensor) -> int:
    return max(1, CHUNK // weight.shape[0])


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = (hidden @ weight.T).float()
    return logits if temperature == 1.0 else logits / temperature


class _TokenStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, with_entropy: bool, keep: bool
    ) -> tuple[Tensor, Tensor]:
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        with torch.autocast(hidden.device.type, enabled=False):
            of = triton.statistics if (triton := cuda.vocabulary_for(hidden)) else _statistics
            total, picked, entropy, kept = of(hidden, head.to(hidden.dtype), targets, temperature, with_entropy, keep)
        ctx.save_for_backward(hidden, head, targets, total, entropy, kept)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return picked - total, entropy

    @staticmethod
    def backward(ctx, gradient: Tensor | None, entropy_gradient: Tensor | None) -> tuple[Tensor, Tensor, None, None, None, None]:
        hidden, head, targets, total, entropy, kept = ctx.saved_tensors
        scale = torch.zeros_like(total) if gradient is None else gradient / ctx.temperature
        pull = None if entropy_gradient is None else entropy_gradient / ctx.temperature
        of = triton.gradients if (triton := cuda.vocabulary_for(hidden)) else _gradients
        into_hidden, into_head = of(hidden, head.to(hidden.dtype), targets, ctx.temperature, total, scale, pull, entropy, kept)
        return into_hidden, into_head, None, None, None, None


def _statistics(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, with_entropy: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, None]:
    """log Z, the targets' logits, and the entropies (empty unless wanted), all of logits / temperature; nothing is kept."""
    picked, totals, entropies = [], [], []
    for rows, wanted in zip(hidden.split(_rows(weight)), targets.split(_rows(weight)), strict=True):
        logits = _logits(rows, weight, temperature)
        picked.append(logits.gather(1, wanted[:, None]).squeeze(1))
        if not with_entropy:
            totals.append(logits.logsumexp(-1))
            continue
        top = logits.amax(-1, keepdim=True)  # taken off first: log Z - sum p logit cancels where the logits are large
        shares = logits.sub_(top).exp()
        sums = shares.sum(-1)
        totals.append(sums.log() + top.squeeze(1))
        entropies.append(sums.log() - torch.linalg.vecdot(shares, logits) / sums)
    total = torch.cat(totals)
    return total, torch.cat(picked), torch.cat(entropies) if with_entropy else total.new_zeros(0), None


def _gradients(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float,
    total: Tensor,
    scale: Tensor,
    pull: Tensor | None,
    entropy: Tensor,
    kept: None,
) -> tuple[Tensor, Tensor]:
    """What flows to hidden states and head from `scale` on the log-probabilities and `pull` on the entropies, both over temperature."""
    into_hidden, size = torch.empty_like(hidden), _rows(weight)
    into_head = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
    for start in range(0, len(hidden), size):
        part = slice(start, start + size)
        # d log p[target] / d logits = onehot(target) - softmax(logits);  d entropy / d logits = -p (log p + entropy)
        slope = _logits(hidden[part], weight, temperature) - total[part, None]
        if pull is None:
            slope = slope.exp_().mul_(-scale[part, None])
        else:
            slope = slope.exp() * -(scale[part, None] + pull[part, None] * (slope + entropy[part, None]))
        slope.scatter_add_(1, targets[part, None], scale[part, None])
        slope = slope.to(hidden.dtype)
        into_hidden[part] = slope @ weight
        into_head += slope.T @ hidden[part]
    return into_hidden, into_head

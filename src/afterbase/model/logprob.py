"""Log-probabilities of chosen tokens without ever holding `[T, vocabulary]`: the head is applied in chunks, twice.

The backward pass computes each chunk's logits again, so memory is one chunk of float32 logits, whatever the batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 1 << 21
"""Logits in one chunk: 8 MiB of float32."""


def token_logprobs(
    hidden: Float[Tensor, "P d"], head: Float[Tensor, "V d"], targets: Int[Tensor, "P"], temperature: float = 1.0
) -> Float[Tensor, "P"]:
    """log softmax(hidden @ head.T / temperature) at each target, in float32; differentiable in `hidden` and `head`."""
    return _TokenLogprobs.apply(hidden, head, targets, temperature)


@torch.no_grad()
def entropies(hidden: Float[Tensor, "P d"], head: Float[Tensor, "V d"], temperature: float = 1.0) -> Float[Tensor, "P"]:
    """Entropy in nats of each next-token distribution; no gradient."""
    parts = []
    for rows in hidden.split(_rows(head)):
        logprobs = _logits(rows, head, temperature).log_softmax(-1)
        parts.append(-(logprobs.exp() * logprobs).sum(-1))
    return torch.cat(parts)


def _rows(head: Tensor) -> int:
    return max(1, CHUNK // head.shape[0])


def _logits(hidden: Tensor, head: Tensor, temperature: float) -> Tensor:
    logits = (hidden @ head.to(hidden.dtype).T).float()
    return logits if temperature == 1.0 else logits / temperature


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float) -> Tensor:
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        with torch.autocast(hidden.device.type, enabled=False):
            picked, totals = [], []
            for rows, wanted in zip(hidden.split(_rows(head)), targets.split(_rows(head)), strict=True):
                logits = _logits(rows, head, temperature)
                totals.append(logits.logsumexp(-1))
                picked.append(logits.gather(1, wanted[:, None]).squeeze(1))
            total = torch.cat(totals)
        ctx.save_for_backward(hidden, head, targets, total)
        ctx.temperature = temperature
        return torch.cat(picked) - total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, head, targets, total = ctx.saved_tensors
        weight = head.to(hidden.dtype)
        hidden_gradient = torch.empty_like(hidden)
        head_gradient = torch.zeros_like(head)
        size, scale = _rows(head), gradient / ctx.temperature
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            # d log p[target] / d logits = onehot(target) - softmax(logits)
            slope = (_logits(hidden[part], head, ctx.temperature) - total[part, None]).exp_().mul_(-scale[part, None])
            slope.scatter_add_(1, targets[part, None], scale[part, None])
            slope = slope.to(hidden.dtype)
            hidden_gradient[part] = slope @ weight
            head_gradient += slope.T @ hidden[part]
        return hidden_gradient, head_gradient, None, None

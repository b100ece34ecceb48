"""Log-probabilities and entropies from a large head, and their gradients, on a GPU.

Logits are float32: their products are of half-precision numbers, but summed and kept in float32, because a logit of 20 rounded to
bfloat16 is off by up to 0.06 and so would be its log-probability. The forward pass makes them for some rows at a time. What the
backward pass needs is their slope, onehot(target) - softmax, half as large: kept while it is small enough. Else the logits are made again,
for all rows and some columns of the vocabulary, so that each part of the head has its whole gradient at once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from afterbase.model.cuda import product
from afterbase.model.cuda.launch import on

LOGITS = 1 << 28
"""Logits held at once: 1 GiB of float32, and half as much for their gradient."""
KEPT = 1 << 32
"""Logits whose slopes may be kept from the forward pass to the backward pass: 8 GiB of bfloat16, for 4% less time."""
ROWS = 128
"""Rows and columns are taken in multiples of this, as matrix products are laid out."""
BLOCK = 8192
"""Logits of a row that are read at a time."""
SLOPES = 2048
"""Logits whose gradient one program writes."""


def statistics(
    hidden: Float[Tensor, "P d"],
    weight: Float[Tensor, "V d"],
    targets: Int[Tensor, "P"],
    temperature: float,
    with_entropy: bool,
    keep: bool,
) -> tuple[Float[Tensor, "P"], Float[Tensor, "P"], Float[Tensor, "P"], Float[Tensor, "P V"] | None]:
    """log Z, the targets' logits, and the entropies (empty unless wanted), all of logits / temperature; and what `keep` keeps."""
    count, size = len(hidden), _share(weight.shape[0])
    total, picked = torch.empty(2, count, dtype=torch.float32, device=hidden.device)
    entropy = torch.empty(count if with_entropy else 0, dtype=torch.float32, device=hidden.device)
    keep = keep and hidden.dtype == torch.bfloat16 and count * weight.shape[0] <= KEPT
    slopes = torch.empty(count, weight.shape[0], dtype=hidden.dtype, device=hidden.device) if keep else None
    one = torch.ones_like(total)
    for start in range(0, count, size):
        logits = product(hidden[start : start + size], weight.T)
        rows = targets[start:], total[start:], picked[start:], entropy[start:]
        with on(logits):
            _statistics[(len(logits),)](logits, *rows, 1 / temperature, logits.shape[1], with_entropy, BLOCK)
        if slopes is not None:
            _slopes(logits, targets[start:], total[start:], one, None, one, slopes[start : start + size], 0, temperature)
        del logits  # before the next ones are made
    return total, picked, entropy, slopes


def gradients(
    hidden: Float[Tensor, "P d"],
    weight: Float[Tensor, "V d"],
    targets: Int[Tensor, "P"],
    temperature: float,
    total: Float[Tensor, "P"],
    scale: Float[Tensor, "P"],
    pull: Float[Tensor, "P"] | None,
    entropy: Float[Tensor, "P"],
    kept: Float[Tensor, "P V"] | None,
) -> tuple[Float[Tensor, "P d"], Float[Tensor, "V d"]]:
    """What flows to hidden states and head from `scale` on the log-probabilities and `pull` on the entropies, both over temperature."""
    if kept is not None:
        assert pull is None, "nothing is kept when entropies are learned"
        scaled = (hidden * scale[:, None]).to(hidden.dtype)
        return (product(kept, weight) * scale[:, None]).to(hidden.dtype), product(kept.T, scaled)
    into_head = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
    if not len(hidden):
        return torch.empty_like(hidden), into_head.zero_()
    into_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
    columns, size = weight.shape[0], _share(len(hidden))
    for start in range(0, columns, size):
        part = weight[start : start + size]
        logits = product(hidden, part.T)
        slope = torch.empty_like(logits, dtype=hidden.dtype)
        _slopes(logits, targets, total, scale, pull, entropy, slope, start, temperature)
        del logits
        into_hidden += product(slope, part)
        product(slope.T, hidden, out=into_head[start : start + size])
        del slope
    return into_hidden.to(hidden.dtype), into_head


def _slopes(
    logits: Tensor,
    targets: Tensor,
    total: Tensor,
    scale: Tensor,
    pull: Tensor | None,
    entropy: Tensor,
    out: Tensor,
    first: int,
    temperature,
) -> None:
    """The logits' gradient into `out`; they are those of the vocabulary from its entry `first` on."""
    rows, width = logits.shape
    with on(logits):
        _slope[rows, triton.cdiv(width, SLOPES)](
            logits, targets, total, scale, pull, entropy, out, width, first, 1 / temperature, pull is not None, SLOPES
        )


def _share(others: int) -> int:
    """How many rows fit, for so many columns; or the other way round."""
    fitting = LOGITS // others
    return max(1, fitting // ROWS * ROWS or fitting)


@triton.jit
def _statistics(
    logits, targets, total, picked, entropy, inverse_temperature, width: tl.constexpr, ENTROPY: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    largest, mass, moment = -1e30, 0.0, 0.0  # of exp(logit - largest), and of it times (logit - largest)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < width
        logit = tl.load(logits + row * width + columns, mask=inside, other=-1e30).to(tl.float32) * inverse_temperature
        above = tl.maximum(largest, tl.max(logit, axis=0))
        shrink = tl.exp(largest - above)
        if ENTROPY:
            moment = shrink * (moment + mass * (largest - above))
        below = tl.where(inside, logit - above, -1e4)
        weight = tl.exp(below)
        mass = mass * shrink + tl.sum(weight, axis=0)
        if ENTROPY:
            moment += tl.sum(weight * below, axis=0)
        largest = above
    tl.store(total + row, largest + tl.log(mass))
    target = tl.load(targets + row)
    tl.store(picked + row, tl.load(logits + row * width + target).to(tl.float32) * inverse_temperature)
    if ENTROPY:
        tl.store(entropy + row, tl.log(mass) - moment / mass)  # both terms are positive: nothing cancels


@triton.jit
def _slope(
    logits, targets, total, scale, pull, entropy, slope, width, first, inverse_temperature, PULLED: tl.constexpr, BLOCK: tl.constexpr
):
    # d log p[target] / d logits = onehot(target) - softmax(logits);  d entropy / d logits = -p (log p + entropy)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    logprob = tl.load(logits + row * width + columns, mask=inside, other=0.0).to(tl.float32) * inverse_temperature - tl.load(total + row)
    by = tl.load(scale + row)
    onto = tl.where(columns + first == tl.load(targets + row), by, 0.0)
    if PULLED:
        by += tl.load(pull + row) * (logprob + tl.load(entropy + row))
    tl.store(slope + row * width + columns, onto - tl.exp(logprob) * by, mask=inside)

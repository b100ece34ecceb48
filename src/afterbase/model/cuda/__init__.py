"""Kernels for NVIDIA GPUs, written in Triton; None where Triton is missing.

A GPU is bound by trips through memory wherever it does not multiply matrices: a norm that torch writes as six passes is one here. As on
a CPU, everything that uses a kernel has the same thing in torch beside it, and a test that they agree.
"""

from __future__ import annotations

import functools
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

KINDS = {torch.float32, torch.bfloat16, torch.float16}
"""The dtypes that kernels read."""
HALF = {torch.bfloat16, torch.float16}
"""Of them, what the matrix units multiply without rounding it first."""
WIDEST = 1 << 14
"""Numbers in the widest row that a norm holds in registers."""


@functools.cache
def kernels() -> ModuleType | None:
    """The kernels, imported when they are first needed: Triton takes a second to load."""
    try:
        from afterbase.model.cuda import layers
    except ImportError:
        return None
    return layers


def kernels_for(tensor: Tensor) -> ModuleType | None:
    """The kernels, where they can read such a tensor: on a GPU, in one of `KINDS`."""
    return kernels() if tensor.is_cuda and tensor.dtype in KINDS else None


def packed_for(queries: Tensor, values: Tensor) -> ModuleType | None:
    """The kernel for attention over a packed stream, where it knows such heads: in half precision, of one of its widths."""
    if queries.dtype not in HALF or queries.shape[-1] != values.shape[-1] or not kernels_for(queries):
        return None
    from afterbase.model.cuda import packed

    return packed if queries.shape[-1] in packed.WIDTHS else None


def product(a: Float[Tensor, "n k"], b: Float[Tensor, "k m"], out: Float[Tensor, "n m"] | None = None) -> Float[Tensor, "n m"]:
    """a @ b in float32, whatever they hold."""
    return torch.mm(a, b, out=out) if a.dtype == torch.float32 else torch.mm(a, b, out_dtype=torch.float32, out=out)


def vocabulary_for(hidden: Tensor) -> ModuleType | None:
    """The kernels for a large head, where they can read such hidden states."""
    if not kernels_for(hidden):
        return None
    from afterbase.model.cuda import vocabulary

    return vocabulary

"""Where a kernel runs."""

from __future__ import annotations

import torch
from torch import Tensor


def on(tensor: Tensor) -> torch.cuda.device:
    """Triton launches on the current device, wherever the tensors are; outside CUDA (Triton's interpreter) this changes nothing."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)

"""RMSNorm: scale by the root mean square, computed in float32."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Divide by the root mean square of the last dimension, then multiply by a learned weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """The normalized input, in the input's dtype; under autocast in its dtype, cast once for all that read it."""
        if hidden.dtype == torch.float32:
            normal = F.rms_norm(hidden, (hidden.shape[-1],), self.weight.float(), self.eps)
            device = hidden.device.type
            return normal.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else normal
        # Half precision is rounded before the weight multiplies it: where Hugging Face rounds, so the logits agree.
        return F.rms_norm(hidden.float(), (hidden.shape[-1],), None, self.eps).to(hidden.dtype) * self.weight

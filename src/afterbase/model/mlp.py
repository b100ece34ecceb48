"""SwiGLU, the feed-forward layer: down(silu(gate(x)) * up(x))."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """A gated feed-forward layer; also one shared expert."""

    def __init__(self, width: int, inner: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)

    def forward(self, hidden: Float[Tensor, "T d"]) -> Float[Tensor, "T d"]:
        """SwiGLU of each token."""
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))

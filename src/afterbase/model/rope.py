"""Rotary position embedding, plain and stretched to longer contexts (linear, llama3, YaRN).  [V3 Eq. 1-9; Slides, YaRN]"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from afterbase.model import cuda
from afterbase.model.config import ModelConfig
from afterbase.model.native import KINDS, kernels_for


class Rotate(torch.autograd.Function):
    """(a cos - b sin, b cos + a sin) for each pair (a, b), whose gradient is the rotation back."""

    @staticmethod
    def forward(
        ctx, heads: Float[Tensor, "T h rope"], cos: Float[Tensor, "T 1 half"], sin: Float[Tensor, "T 1 half"], interleaved: bool
    ) -> Float[Tensor, "T h rope"]:
        """Both halves rotated, laid side by side."""
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return turned(heads, cos, sin, interleaved, back=False)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient turned by the opposite angle, its pairs where they came from."""
        return turned(gradient, *ctx.saved_tensors, ctx.interleaved, back=True), None, None, None


def turned(heads: Float[Tensor, "T h rope"], cos: Tensor, sin: Tensor, interleaved: bool, back: bool) -> Float[Tensor, "T h rope"]:
    """Every pair turned, in float32, returned in the heads' dtype.

    Interleaved pairs are neighbours on the model's side and halves on the attention's.
    """
    native, half = kernels_for(heads), heads.shape[-1] // 2
    if native and heads.stride(-1) == 1 and cos.dtype == torch.float32:
        out = heads.new_empty(heads.shape)
        sizes = heads.shape[0], heads.shape[1], half, heads.stride(0), heads.stride(1)
        native("rotate", KINDS[heads.dtype], *sizes, heads, cos, sin, -1.0 if back else 1.0, int(interleaved), out)
        return out
    if (triton := cuda.kernels_for(heads)) and heads.stride(-1) == 1 and cos.dtype == torch.float32:
        return triton.rotate(heads, cos, sin, interleaved, back)
    gathered, scattered = interleaved and not back, interleaved and back
    a, b = (heads[..., 0::2], heads[..., 1::2]) if gathered else heads.chunk(2, dim=-1)
    wide = torch.promote_types(heads.dtype, torch.float32)
    a, b, sin = a.to(wide), b.to(wide), -sin if back else sin
    pairs = a * cos - b * sin, b * cos + a * sin
    return (torch.stack(pairs, dim=-1).flatten(-2) if scattered else torch.cat(pairs, dim=-1)).to(heads.dtype)


@dataclass(frozen=True, slots=True)
class Rotation:
    """The angles of each token of a stream, computed once and shared by all layers."""

    cos: Float[Tensor, "T 1 half"]
    """Cosines, times YaRN's attention factor."""
    sin: Float[Tensor, "T 1 half"]
    """Sines, times YaRN's attention factor."""
    interleaved: bool
    """Whether a pair is two neighbours instead of two halves."""

    def __call__(self, heads: Float[Tensor, "T h rope"]) -> Float[Tensor, "T h rope"]:
        """Each head rotated by its token's angles; interleaved pairs come out as halves, queries and keys alike."""
        return Rotate.apply(heads, self.cos, self.sin, self.interleaved)


class Rotary:
    """The rotary frequencies of one model; call it with positions to get a `Rotation`."""

    def __init__(self, config: ModelConfig) -> None:
        with torch.device("cpu"):  # also when the model's weights are being laid out on "meta"
            self.frequencies, self.factor = _frequencies(config)
        self.interleaved = config.rope_interleave
        self.table: Rotation | None = None

    def __call__(self, positions: Int[Tensor, "T"]) -> Rotation:
        """The rotation of tokens at these positions."""
        self.frequencies = self.frequencies.to(positions.device)
        if positions.device.type != "cpu":
            return self._at(positions)
        longest = int(positions.max()) + 1 if len(positions) else 0
        if self.table is None or len(self.table.cos) < longest:  # twice what is needed, so that growing sequences seldom make a new one
            self.table = self._at(torch.arange(2 * longest))
        return Rotation(self.table.cos[positions], self.table.sin[positions], self.interleaved)

    def _at(self, positions: Int[Tensor, "T"]) -> Rotation:
        angles = positions[:, None, None].float() * self.frequencies
        return Rotation(angles.cos() * self.factor, angles.sin() * self.factor, self.interleaved)


def softmax_scale(config: ModelConfig) -> float:
    """What multiplies MLA's scores: 1/sqrt(d_h + d^R_h), times YaRN's mscale twice when `mscale_all_dim` is set."""
    scale = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
    scaling = config.rope_scaling
    if scaling.get("mscale_all_dim"):
        scale *= _mscale(scaling.get("factor", 1.0), scaling["mscale_all_dim"]) ** 2
    return scale


def _frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """[rotary_dim / 2] radians per position, and the factor on cosines and sines."""
    width, scaling = config.rotary_dim, config.rope_scaling
    plain = config.rope_theta ** -(torch.arange(0, width, 2).float() / width)
    kind = scaling.get("rope_type", "default")
    if kind == "linear":
        return plain / scaling["factor"], 1.0
    if kind == "llama3":
        return _llama3(plain, scaling), 1.0
    if kind == "yarn":
        return _yarn(plain, config), _yarn_factor(scaling)
    return plain, 1.0


def _llama3(plain: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Long wavelengths divided by the factor, short ones kept, a ramp between."""
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    original = scaling["original_max_position_embeddings"]
    turns = original * plain / (2 * math.pi)
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - keep) * plain / factor + keep * plain


def _yarn(plain: Tensor, config: ModelConfig) -> Tensor:
    """Frequencies that turn often within the original context are kept, the rest divided by the factor, a ramp between."""
    scaling, width = config.rope_scaling, config.rotary_dim
    original = scaling.get("original_max_position_embeddings") or config.max_position_embeddings

    def dimension_of(turns: float) -> float:
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low, high = dimension_of(scaling.get("beta_fast") or 32), dimension_of(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    stretch = ((torch.arange(width // 2).float() - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain / scaling["factor"] * stretch + plain * (1 - stretch)


def _yarn_factor(scaling: Mapping[str, Any]) -> float:
    """The attention factor on cosines and sines."""
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    factor, mscale, all_dim = scaling["factor"], scaling.get("mscale"), scaling.get("mscale_all_dim")
    if mscale and all_dim:
        return _mscale(factor, mscale) / _mscale(factor, all_dim)
    return _mscale(factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

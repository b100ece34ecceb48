"""What attention does to a head's numbers, as one piece of code for every kernel that attends, so that all of them find the same bits.

A compiler may merge a product and a sum, and a sum's order follows the tile that a kernel works on; here neither is left to it. Merged
operations are written as such. Sums go through the matrix unit, which adds along a row in one order whatever the tile, or are exact. Keys
come in spans and blocks of one size from a sequence's first token on. So a token's mixture of values does not depend on whether it was
read in a prompt, drawn in any company, by one program or several, or trained on.
"""

from __future__ import annotations

import triton
import triton.language as tl

TOKENS = 64
"""Keys in a block."""
SPAN = 512
"""Keys in a span: what is absorbed block by block from nothing on, and then folded into what came before."""
ONES = tl.constexpr(16)
"""Columns of the narrowest matrix that the matrix unit multiplies by."""


@triton.jit
def turn(own, partner, cosine, sine):
    """One half of a rotated pair, `sine` with that half's sign."""
    return tl.fma(own, cosine, partner * sine)


@triton.jit
def shrinkage(rows, width, eps):
    """1 / sqrt(mean of squares + eps) of each row; the squares of half-precision numbers add up without error in float64."""
    squares = tl.sum((rows * rows).to(tl.float64), axis=1)
    return tl.rsqrt((squares / width).to(tl.float32) + eps)


@triton.jit
def nothing(ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """What has been seen before a span: peaks, sums of weights, mixtures of values."""
    return tl.full((ROWS,), -float("inf"), tl.float32), tl.zeros((ROWS, ONES), tl.float32), tl.zeros((ROWS, WIDTH), tl.float32)


@triton.jit
def absorb(scores, value, peak, weight, mix, slope):
    """Softmax goes on over one more block: `slope` times a score is its exponent to base 2, and -inf is what may not be seen.

    Peaks are whole numbers, so that moving to a higher one multiplies by a power of two, which rounds nothing.
    """
    higher = tl.maximum(peak, tl.ceil(tl.max(scores, axis=1) * slope))
    shares = tl.exp2(tl.fma(scores, slope, -higher[:, None])).to(value.dtype)
    shrink = tl.exp2(peak - higher)[:, None]
    weight = tl.dot(shares, tl.full((value.shape[0], ONES), 1.0, tl.float32).to(value.dtype), weight * shrink)
    return higher, weight, tl.dot(shares, value, mix * shrink)


@triton.jit
def fold(peak, weight, mix, other_peak, other_weight, other_mix):
    """What was seen up to a span, and the span; every product is by a power of two, so that only the sums round."""
    higher = tl.maximum(peak, other_peak)
    by, other_by = tl.exp2(peak - higher)[:, None], tl.exp2(other_peak - higher)[:, None]
    return higher, weight * by + other_weight * other_by, mix * by + other_mix * other_by


@triton.jit
def total(weight):
    """The sum of a row's weights, of which every column is a copy."""
    return tl.max(weight, axis=1)

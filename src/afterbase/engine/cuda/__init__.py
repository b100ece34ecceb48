"""Decoding on CUDA: Triton kernels between the matrix products, and whole steps recorded as graphs.

Nothing here is imported where there is no GPU, except by tests, which run the kernels in Triton's interpreter.
"""

from __future__ import annotations

import functools
import importlib.util


@functools.cache
def has_triton() -> bool:
    """Whether the kernels can be compiled here; torch's CUDA builds for Linux bring Triton along."""
    return importlib.util.find_spec("triton") is not None

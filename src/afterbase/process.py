"""How this process treats its memory and threads on a CPU; said before torch is imported, which reads some of it only then."""

from __future__ import annotations

import ctypes
import os
import sys

SETTINGS = {
    # Threads that wait by spinning make two torch processes, or one and a busy neighbour, many times slower than they need be.
    "GOMP_SPINCOUNT": "10000",
    # Large tensors on huge pages: a fresh 4 KiB page costs as much as writing it.
    "THP_MEM_ALLOC_ENABLE": "1",
}
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""glibc's numbers for mallopt."""
LARGEST, KEPT = 1 << 30, (1 << 31) - 1
"""Bytes: blocks up to the first are kept by the process when they are freed, and given out again without new pages."""


def prepare() -> None:
    """Set what the user has not set already."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(MMAP_THRESHOLD, LARGEST)
            mallopt(TRIM_THRESHOLD, KEPT)

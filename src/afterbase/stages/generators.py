"""Every random generator that code in this process may draw from: set, read and put back, so that a resumed run draws alike."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Set Python's, numpy's and torch's own generators, those of every GPU included."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def generators() -> dict[str, Any]:
    """Where they stand, as plain containers and tensors."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"python": [version, list(words), gauss], "numpy": [kind, keys.tolist(), *rest], "torch": torch.get_rng_state(), "cuda": cuda}


def restore_generators(state: dict[str, Any]) -> None:
    """Put them back; a machine with fewer GPUs than the saved one puts back those that it has."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda, device)

"""Fill in the middle: a document rearranged so that its middle comes last and must be written from both sides.  [Slides, FIM]"""

from __future__ import annotations

from random import Random

from afterbase.text.tokenizer import EOS, FILL_BEGIN, FILL_END, FILL_HOLE


def prefix_suffix_middle(document: str, rng: Random) -> str:
    """PSM: (prefix, middle, suffix) becomes (prefix, suffix, middle), cut at two random characters."""
    low, high = sorted(rng.sample(range(len(document) + 1), 2)) if document else (0, 0)
    prefix, middle, suffix = document[:low], document[low:high], document[high:]
    return f"{FILL_BEGIN}{prefix}{FILL_HOLE}{suffix}{FILL_END}{middle}{EOS}"

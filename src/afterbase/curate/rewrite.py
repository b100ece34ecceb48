"""R1-Zero's own solutions in the format of the house: readable thought, then a one-line answer with a box.  [Series: cold start]"""

from __future__ import annotations

from typing import Literal

from afterbase.rewards.extract import final_answer
from afterbase.text.think import split

Style = Literal["keep", "house"]


def rewritten(response: str, style: Style) -> str:
    """A verified response as it shall be learned; "keep" only trims it."""
    if style == "keep":
        return response.strip()
    thought = split(response).thought or ""
    inner = f"\n{thought}\n" if "\n" in thought else f" {thought} "  # a line stays in its line, as in the transcripts it was learned from
    return f"<think>{inner}</think>\nThe answer is \\boxed{{{final_answer(response, 'whole')}}}."

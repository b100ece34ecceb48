"""R1-Zero's own solutions in the format of the house: readable thought, then a one-line answer with a box.  [Series: cold start]"""

from __future__ import annotations

from typing import Literal

from afterbase.text.think import split

Style = Literal["keep", "house"]


def rewritten(response: str, style: Style) -> str:
    """A verified response as it shall be learned; "keep" only trims it."""
    if style == "keep":
        return response.strip()
    parts = split(response)
    return f"<think>\n{(parts.thought or '').strip()}\n</think>\nThe answer is \\boxed{{{parts.answer.strip()}}}."

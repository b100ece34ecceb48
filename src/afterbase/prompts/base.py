"""What every source of questions can do."""

from __future__ import annotations

from typing import Literal, Protocol, Self

from pydantic import Field, model_validator

from afterbase.config import Config
from afterbase.records import Prompt


class Source(Protocol):
    """A finite list of prompts with a name; the same index gives the same prompt, in this run and the next."""

    name: str
    """Unique within a mixture."""

    def __len__(self) -> int:
        """How many prompts there are."""
        ...

    def __getitem__(self, index: int) -> Prompt:
        """The prompt at an index from 0 to len - 1."""
        ...


class Sided(Config):
    """Which of a source's questions are trained on and which are kept from training."""

    hold_out: float = Field(0.0, ge=0, lt=1)
    """The fraction of questions that is kept away from training: of a file's, or of all that a generator could ever make."""
    part: Literal["train", "held_out"] = "train"
    """Which side of `hold_out` this is; a question's own text decides where it belongs, so the sides never meet, in any source."""

    @model_validator(mode="after")
    def _something_held_out(self) -> Self:
        if self.part == "held_out" and self.hold_out == 0:
            raise ValueError("part='held_out' of hold_out=0 is empty; set hold_out to the fraction that training left out")
        return self


class SourceSettings(Protocol):
    """The configuration of one source in a recipe: it says which `kind` it is and opens it."""

    kind: str
    """Which class of settings this is."""
    weight: float
    """The source's share of the mixture, relative to the others'."""

    def open(self, seed: int) -> Source:
        """The source itself; `seed` fixes what is generated, files do not need it."""
        ...

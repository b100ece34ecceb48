"""What every source of questions can do."""

from __future__ import annotations

from typing import Protocol

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


class SourceSettings(Protocol):
    """The configuration of one source in a recipe: it says which `kind` it is and opens it."""

    kind: str
    """Which class of settings this is."""
    weight: float
    """The source's share of the mixture, relative to the others'."""

    def open(self, seed: int) -> Source:
        """The source itself; `seed` fixes what is generated, files do not need it."""
        ...

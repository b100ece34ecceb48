"""The program in a response: what stands in the last fenced code block outside the thinking."""

from __future__ import annotations

import re
from dataclasses import dataclass

from afterbase.sandbox.languages import Language, tagged
from afterbase.text.think import split

# Nothing is tried twice: a tag of thousands of letters would otherwise take quadratic time.
_FENCE = re.compile(r"(?P<indent>[ \t>]*+)(?P<marks>`{3,}+|~{3,}+)[ \t]*+(?P<tag>[^\s`{]*+)[^`]*+")
_LONGEST_LINE = 200  # characters of a first line that are looked at


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block, e.g. Block("python", "print(1)\\n")."""

    tag: str
    """What stands behind the opening fence, in lower case."""
    text: str
    """The lines between the fences."""


def find_program(response: str, language: Language) -> tuple[str | None, str]:
    """The program, or None and why there is none.

    It is the last block whose tag names the language; without one the last block without a tag; without any block the whole answer,
    when its first line begins as programs of this language do. A block in another language is never taken.
    """
    answer = split(response).answer
    found = blocks(answer)
    own = [block for block in found if tagged(block.tag) is language] or [block for block in found if not block.tag]
    if own:
        return (own[-1].text, "") if own[-1].text.strip() else (None, "the code block is empty")
    if found:
        return None, f"no {language.name}: the code is marked as {', '.join(sorted({block.tag for block in found}))[:80]}"
    if re.match(language.opening, answer.lstrip()[:_LONGEST_LINE]):
        return answer + "\n", ""
    return None, "no code block"


def blocks(text: str) -> list[Block]:
    """All fenced blocks in order; one that is not closed goes to the end of the text."""
    found: list[Block] = []
    fence: re.Match[str] | None = None
    lines: list[str] = []
    for line in text.splitlines():
        mark = _FENCE.fullmatch(line)
        if fence is None:
            fence, lines = mark, []
        elif mark and mark["marks"].startswith(fence["marks"]) and not mark["tag"]:
            found.append(_block(fence, lines))
            fence = None
        else:
            lines.append(line)
    return [*found, _block(fence, lines)] if fence else found


def _block(fence: re.Match[str], lines: list[str]) -> Block:
    """A block that stands indented, as in a list, is moved to the left as far as its fence."""
    indent = fence["indent"]
    return Block(fence["tag"].lower(), "".join(line.removeprefix(indent) + "\n" for line in lines))

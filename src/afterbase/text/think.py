"""What a reasoning answer is made of: the thought between <think> tags, the answer after it, and the box around the result."""

from __future__ import annotations

import re
from dataclasses import dataclass

OPEN, CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"

# Code first: a tag inside a fence or between back ticks is quoted, not meant.
_CODE = r"```.*?```|`[^`\n]*`"
_THINK_TAGS = re.compile(r"</?think>")
_THINK_TAGS_OR_CODE = re.compile(rf"{_CODE}|</?think>", re.DOTALL)
_ANSWER_TAGS_OR_CODE = re.compile(rf"{_CODE}|</?answer>", re.DOTALL)
_BOXES = re.compile(r"\\(?:boxed\s*\{|fbox\s*\{|.)|[{}]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer taken apart, e.g. split("<think>2 + 2</think>4") is Response("2 + 2", "4", well_formed=True, tagged=False)."""

    thought: str | None
    """What was thought, without tags and the white space around it; None when nothing was, "" for an empty thought."""
    answer: str
    """What stands after the last thought, without <answer> tags; "" when the thought was never closed."""
    well_formed: bool
    """One thought at the very beginning, closed, then an answer that is not empty, with no <answer> tags or one pair around all of it."""
    tagged: bool
    """Whether the answer stood between <answer> and </answer>."""


def opens(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thought, so that the completion begins there: what `split` calls `opened`."""
    return prompt.rstrip().endswith(OPEN)


def split(text: str, opened: bool = False) -> Response:
    """Take a completion apart into thought and answer; never raises, whatever the model wrote.

    `opened`: the prompt has already opened the thought. Everything up to the last </think> is thought, so several blocks are one
    (malformed) thought, and a thought that is opened again and not closed leaves no answer. Tags in code are text, unless the thought
    would not close without them (a fence that is opened in the thought and closed in the answer hides what is between them).
    """
    tags = _tags(_THINK_TAGS_OR_CODE, text)
    if _unclosed(tags, opened):
        tags = _tags(_THINK_TAGS, text)
    if not tags and not opened:
        answer, tagged, _ = _untag(text)
        return Response(None, answer, False, tagged)
    closed_first = bool(tags) and tags[0].group() == CLOSE
    inside = opened or closed_first  # a </think> first: the model thought without saying so
    start = 0 if inside else tags[0].end()
    unclosed = _unclosed(tags, opened)
    end = len(text) if unclosed else tags[-1].start()
    thought = _without(tags, text, start, end).strip()
    if unclosed:
        return Response(thought, "", False, False)
    answer, tagged, neat = _untag(text[tags[-1].end() :])
    one_block = len(tags) == 1 if opened else len(tags) == 2 and not closed_first and not text[: tags[0].start()].strip()
    return Response(thought, answer, one_block and neat and bool(answer), tagged)


def boxed(text: str) -> str | None:
    r"""What the box that closes last holds, None without one; braces nest, escaped ones (\{) do not count.

    Of nested boxes it is the outer one: "\boxed{6, \boxed{5}}" claims both numbers, and neither alone.
    """
    found = boxes(text)
    return text[found[-1][0] : found[-1][1]].strip() if found else None


def boxes(text: str) -> list[tuple[int, int]]:
    r"""Where the content of each \boxed{} and \fbox{} begins and ends, in the order of their ends; of nested boxes only the outer one."""
    open_braces: list[int | None] = []  # where the content of a box begins, None for a brace that is no box
    found: list[tuple[int, int]] = []
    for mark in _BOXES.finditer(text):  # one pass: thousands of unclosed boxes cost no more than other text
        if mark.group().endswith("{") and mark.group() != r"\{":
            open_braces.append(mark.end() if len(mark.group()) > 1 else None)
        elif mark.group() == "}" and open_braces:
            begin = open_braces.pop()
            if begin is not None:
                while found and found[-1][0] > begin:
                    found.pop()
                found.append((begin, mark.start()))
    return found


def render_thought(text: str, show: bool, opened: bool = False) -> str:
    """A completion for a reader: the answer alone, or behind the thought, which is quoted line by line with "> "."""
    response = split(text, opened)
    if not show or not response.thought:
        return response.answer
    quoted = "\n".join(f"> {line}".rstrip() for line in response.thought.splitlines())
    return f"{quoted}\n\n{response.answer}".rstrip()


def _tags(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """The tags that a pattern finds, without the code that it steps over."""
    return [match for match in pattern.finditer(text) if match.group().startswith("<")]


def _unclosed(tags: list[re.Match[str]], opened: bool) -> bool:
    return tags[-1].group() == OPEN if tags else opened


def _without(tags: list[re.Match[str]], text: str, start: int, end: int) -> str:
    """The text from start to end, tags taken out."""
    pieces = []
    for tag in tags:
        if start <= tag.start() < end:
            pieces.append(text[start : tag.start()])
            start = tag.end()
    return "".join([*pieces, text[start:end]])


def _untag(text: str) -> tuple[str, bool, bool]:
    """The answer without <answer> tags, whether it stood between them, and whether it was neatly tagged or not tagged at all."""
    tags = _tags(_ANSWER_TAGS_OR_CODE, text)
    if not tags:
        return text.strip(), False, True
    last_open = max((i for i, tag in enumerate(tags) if tag.group() == ANSWER_OPEN), default=None)
    if last_open is None:
        return text[: tags[0].start()].strip(), False, False
    closing = tags[last_open + 1] if last_open + 1 < len(tags) else None
    answer = text[tags[last_open].end() : closing.start() if closing else len(text)].strip()
    around = text[: tags[0].start()].strip() or text[tags[-1].end() :].strip()
    return answer, closing is not None, len(tags) == 2 and closing is not None and not around

"""An answer told in pieces is the answer told at once, however it is cut."""

import pytest

from afterbase.engine.serving.telling import Apart, Cut, begun
from afterbase.text.think import split


def in_pieces(teller, text, size):
    pieces = [teller.push(text[i : i + size]) for i in range(0, len(text), size)]
    return [*pieces, teller.finish()]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize(
    ("text", "stops", "kept"),
    [
        ("The end. More", ("end",), "The "),
        ("aaab", ("aab",), "a"),
        ("ab", ("abc", "b"), "a"),
        ("abab", ("abc",), "abab"),
        ("no stop", (), "no stop"),
        ("END", ("END",), ""),
    ],
)
def test_a_text_ends_before_the_first_stop_string(text, stops, kept, size):
    assert "".join(in_pieces(Cut(stops), text, size)) == kept


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(
    ("text", "stops", "free", "kept"),
    [
        ("one. two. three.", (".",), 4, "one. two"),
        ("one. two. three.", (".",), 3, "one"),
        ("abcd", ("bc",), 2, "a"),
        ("abcd", ("bc",), 3, "abcd"),
        ("xXyXXz", ("yXX", "X"), 4, "xX"),
        ("xXyX-Xz", ("yXX", "X"), 4, "xXyX-"),
    ],
)
def test_no_stop_string_counts_that_ends_among_the_first_letters(text, stops, free, kept, size):
    cut = Cut(stops)
    early = [cut.push(text[i : min(i + size, free)], free=True) for i in range(0, free, size)]
    assert "".join([*early, *in_pieces(cut, text[free:], size)]) == kept


def test_only_what_may_begin_a_mark_is_held_back():
    assert begun("a <th", ("<think>", "</think>")) == 3 and begun("a <", ("<think>",)) == 1 and begun("think>", ("<think>",)) == 0
    cut = Cut(("stop",))
    assert [cut.push(piece) for piece in ("on s", "to", "ne")] == ["on ", "", "stone"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("<think>12 + 30\n= 42</think>\n\nIt is\n 42. \n", False),
        ("\n <think> 12 + 30 </think> <answer> 42 </answer>\n", False),
        ("<think></think>42", False),
        ("12 + 30</think>\n42", True),
        ("\n12 < 30 </thinking>\n</think>\n<answers> 42", True),
        ("<think>endless </thin", False),
        ("endless", True),
    ],
)
def test_a_well_formed_response_is_taken_apart_as_split_does(text, opened, size):
    said, thought = map("".join, zip(*in_pieces(Apart(opened), text, size), strict=True))
    whole = split(text, opened)
    assert (said, thought) == (whole.answer, whole.thought)


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("text", ["It is 42.\n", " <thi", "", "a <think>b</think>", "\n\n"])
def test_a_response_without_a_thought_is_left_as_it_is(text, size):
    said, thought = map("".join, zip(*in_pieces(Apart(False), text, size), strict=True))
    assert (said, thought) == (text, "")


def test_a_thought_streams_while_it_lasts():
    apart = Apart(False)
    assert [apart.push(piece) for piece in ("<thi", "nk> So", " on", " </think>", " The", "n")] == [
        ("", ""), ("", "So"), ("", " on"), ("", ""), ("The", ""), ("n", ""),
    ]  # fmt: skip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterbase.text.think import Response, boxed, opens, render_thought, split

PARTS = ["<think>", "</think>", "<answer>", "</answer>", "`", "```", "\n", " ", "4", "\\boxed{", "}", "{", "\\", "\\}"]
soup = st.lists(st.sampled_from(PARTS), max_size=14).map("".join) | st.text()


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ("<think>2 + 2</think>4", Response("2 + 2", "4", True, False)),
        ("\n<think>\n2 + 2\n</think>\n\n4\n", Response("2 + 2", "4", True, False)),
        ("<think>2 + 2</think> <answer> 4 </answer>", Response("2 + 2", "4", True, True)),
        ("<think></think>4", Response("", "4", True, False)),
        ("4", Response(None, "4", False, False)),
        ("<answer>4</answer>", Response(None, "4", False, True)),
        ("", Response(None, "", False, False)),
        ("<think>2 + 2", Response("2 + 2", "", False, False)),
        ("<think>2 + 2</think>", Response("2 + 2", "", False, False)),
        ("2 + 2</think>4", Response("2 + 2", "4", False, False)),
        ("</think>2 + 2</think>4", Response("2 + 2", "4", False, False)),
        ("Well. <think>2 + 2</think>4", Response("2 + 2", "4", False, False)),
        ("<think>a</think>b<think>c</think>d", Response("abc", "d", False, False)),
        ("<think>a</think>b<think>c", Response("abc", "", False, False)),
        ("<think>a<think>b</think>c</think>d", Response("abc", "d", False, False)),
        ("<think>a</think>so <answer>4</answer>", Response("a", "4", False, True)),
        ("<think>a</think><answer>4", Response("a", "4", False, False)),
        ("<think>a</think>4</answer>", Response("a", "4", False, False)),
        ("<think>a</think><answer>3</answer><answer>4</answer>", Response("a", "4", False, True)),
        ("<think>a</think><answer></answer>", Response("a", "", False, True)),
        ("<think><answer>3</answer></think>4", Response("<answer>3</answer>", "4", True, False)),
    ],
)
def test_thought_and_answer_come_apart(text, response):
    assert split(text) == response


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ("2 + 2\n</think>4", Response("2 + 2", "4", True, False)),
        ("2 + 2", Response("2 + 2", "", False, False)),
        ("<think>2 + 2</think>4", Response("2 + 2", "4", False, False)),
        ("a</think>b</think>c", Response("ab", "c", False, False)),
        ("", Response("", "", False, False)),
    ],
)
def test_a_thought_may_begin_in_the_prompt(text, response):
    assert split(text, opened=True) == response
    assert opens("<｜Assistant｜><think>\n") and not opens("<｜Assistant｜>")


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<think>the tag `</think>` ends</think>4", "the tag `</think>` ends", "4"),
        ("<think>a</think>Write `<think>` first.", "a", "Write `<think>` first."),
        ("<think>a</think>```\n<think></think>\n<answer>\n```", "a", "```\n<think></think>\n<answer>\n```"),
    ],
)
def test_tags_in_code_are_text(text, thought, answer):
    assert split(text) == Response(thought, answer, True, False)


def test_a_fence_left_open_in_the_thought_hides_no_answer():
    assert split("<think>try ```x = 2</think>```print(4)```") == Response("try ```x = 2", "```print(4)```", True, False)


@settings(deadline=None)
@given(text=soup, opened=st.booleans())
def test_split_takes_anything_and_invents_nothing(text, opened):
    response = split(text, opened)
    assert response.answer in text
    assert not response.well_formed or (response.thought is not None and response.answer)
    assert response.answer or not response.well_formed


@settings(deadline=None)
@given(thought=st.text("ab \n{}"), answer=st.text("4 x\n", min_size=1).filter(str.strip), tagged=st.booleans())
def test_what_was_put_together_comes_apart_again(thought, answer, tagged):
    text = f"<think>{thought}</think>" + (f"<answer>{answer}</answer>" if tagged else answer)
    assert split(text) == Response(thought.strip(), answer.strip(), True, tagged)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} or \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"\boxed {7}", "7"),
        (r"\boxed{6, \boxed{5}}", r"6, \boxed{5}"),
        (r"\boxed{3}, then \boxed{4", "3"),
        (r"{ \boxed{4}", "4"),
        (r"} \boxed{a \\}", r"a \\"),
        (r"\boxed{}", ""),
        (r"\boxed{4", None),
        (r"\boxed 4", None),
        ("boxed{4}", None),
    ],
)
def test_the_last_closed_box_counts(text, value):
    assert boxed(text) == value


def test_a_box_in_the_thought_is_no_answer():
    assert boxed(split(r"<think>\boxed{3}</think>I do not know").answer) is None


@settings(deadline=None)
@given(text=soup)
def test_boxed_takes_anything(text):
    assert boxed(text) is None or boxed(text) in text


@pytest.mark.parametrize("piece", [r"\boxed{", "\\", "<think>", "</think>", "```", "`", "<answer>", r"\boxed ", "{"])
def test_a_degenerate_completion_is_read_in_no_time(piece):
    text = piece * (200_000 // len(piece))
    found = split(text), split(text, opened=True)  # were it quadratic, this would take minutes
    assert all(part in text for response in found for part in (response.answer, response.thought or ""))
    assert boxed(text) is None or boxed(text) in text


def test_a_reader_sees_the_thought_only_when_asked():
    text = "<think>2\n\n+ 2</think><answer>4</answer>"
    assert render_thought(text, show=False) == "4"
    assert render_thought(text, show=True) == "> 2\n>\n> + 2\n\n4"
    assert render_thought("4", show=True) == "4"
    assert render_thought("2 + 2", show=True, opened=True) == "> 2 + 2"
    assert render_thought("2 + 2", show=False, opened=True) == ""

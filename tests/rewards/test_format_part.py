import pytest

from afterbase.rewards.format import FormatConfig

ZERO = [
    ("<think>2+2</think> <answer>4</answer>", 1.0),
    ("\n<think>2+2</think>\n<answer>4</answer>\n", 1.0),
    ("<think>2+2</think><answer>4</answer>", 1.0),
    ("<think>2+2</think> <answer>4</answer> Done.", 0.0),
    ("Well. <think>2+2</think> <answer>4</answer>", 0.0),
    ("<think>2+2</think> so <answer>4</answer>", 0.0),
    ("<answer>4</answer> <think>2+2</think>", 0.0),
    ("<think> </think> <answer>4</answer>", 0.0),
    ("<think>2+2</think> <answer> </answer>", 0.0),
    ("<think>2+2</think> <answer>4", 0.0),
    ("<think>2+2 <answer>4</answer>", 0.0),
    ("<think>2</think><think>2</think> <answer>4</answer>", 0.0),
    ("<think>2</think> <answer>4</answer><answer>4</answer>", 0.0),
    ("<think>a <answer>4</answer></think>", 0.0),
    ("4", 0.0),
    ("", 0.0),
]
HOUSE = [
    ("<think>2+2</think>\nIt is \\boxed{4}.", 1.0),
    ("<think>2+2</think>\nIt is 4.", 0.0),
    ("<think>\\boxed{4}</think>\nIt is 4.", 0.0),
    ("<think>2+2</think>\\boxed{4} or \\boxed{5}", 0.0),
    ("<think>2+2</think>\\boxed{}", 0.0),
    ("<think>2+2</think>\\boxed{4", 0.0),
    ("<think>2+2</think>", 0.0),
    ("<think></think>\\boxed{4}", 0.0),
    ("<think>2+2\\boxed{4}", 0.0),
    ("Hm <think>2+2</think>\\boxed{4}", 0.0),
    ("<think>2</think><think>2</think>\\boxed{4}", 0.0),
    ("<think>2</think><answer>\\boxed{4}</answer>", 0.0),
    ("\\boxed{4}</think><think>2", 0.0),
]


@pytest.mark.parametrize(("text", "value"), ZERO)
def test_the_zero_form_is_one_thought_then_one_answer_and_nothing_else(ask, text, value):
    assert ask(FormatConfig(mode="r1-zero").build(), text).value == value


@pytest.mark.parametrize(("text", "value"), HOUSE)
def test_the_house_form_is_a_thought_then_an_answer_with_one_box(ask, text, value):
    score = ask(FormatConfig(mode="house").build(), text)
    assert score.value == value and bool(score.note) == (value == 0.0)


def test_box_and_thought_are_needed_only_where_asked_for(ask):
    free, unthinking = FormatConfig(boxed=False).build(), FormatConfig(thought="optional").build()
    assert ask(free, "<think>2+2</think>It is 4.").value == 1.0 and ask(free, "It is 4.").value == 0.0
    assert ask(unthinking, r"It is \boxed{4}.").value == 1.0 and ask(unthinking, r"<think>It is \boxed{4}.").value == 0.0


def test_format_does_not_care_whether_the_answer_is_right(ask):
    assert ask(FormatConfig().build(), "<think>2+2</think>\\boxed{5}", answer="4").value == 1.0

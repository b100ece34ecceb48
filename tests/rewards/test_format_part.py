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
    ("```\n<think>2+2</think> <answer>4</answer>\n```", 0.0),
    ("<think>as in `<think>`</think> <answer>4</answer>", 0.0),
    ("<think>2 ```</think> <answer>``` 4</answer>", 1.0),
    ("<think>a<think>b</think></think> <answer>4</answer>", 0.0),
    ("<think>a</think> <answer><answer>4</answer></answer>", 0.0),
    ("<think>2+2</think> <answer>4</answer> <think>or 5</think>", 0.0),
    ("<think>2+2</think> <answer>4</answer> <THINK>or 5</THINK>", 0.0),
    ("<think>2+2</think> <answer>4 <think >or 5</think ></answer>", 0.0),
    ("<think>2+2</think> <answer>4 < / think ></answer>", 0.0),
    ('<think>2+2</think> <answer>4 <answer type="late">5</answer>', 0.0),
    ("<think>2+2 <thi\u200bnk></think> <answer>4</answer>", 0.0),
    ("<think>2+2 ＜ａｎｓｗｅｒ＞</think> <answer>4</answer>", 0.0),
    ("<Think>2+2</Think> <Answer>4</Answer>", 0.0),
    ("< think >2+2</ think > <answer>4</answer>", 0.0),
    ("\u200b<think>2+2</think> <answer>4</answer>", 0.0),
    ("<think>\u200b\ufeff</think> <answer>4</answer>", 0.0),
    ("<think>...</think> <answer>4</answer>", 0.0),
    ("<think>2+2</think> <answer>\u200b</answer>", 0.0),
    ("<think>2+2</think> <answer>\\boxed{4</answer>}", 0.0),
    ("<think>if x < think and y > answer</think> <answer>∞</answer>", 1.0),
    ("<think>I am thinking <b>hard</b></think> <answer>4</answer>", 1.0),
    ("<think>2\u0301\u200b</think> <answer>4</answer>", 1.0),
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
    ("<think>2+2</think>\\boxed{4} or \\fbox{5}", 0.0),
    ("<think>2+2</think>\\fbox{4}", 1.0),
    ("<think>2+2</think>\\boxed{\\boxed{4}}", 0.0),
    ("<think>2+2</think>\\boxed{\u200b}", 0.0),
    ("<think>2+2</think>\\boxed{\u3164\u2800\ufe0f}", 0.0),
    ("<think>\u3164\u115f</think>\\boxed{4}", 0.0),
    ("<think>2+2</think>\\boxed{✓\ufe0f}", 1.0),
    ("<think>2+2</think>\\boxed{\\,\\text{ }}", 0.0),
    ("<think>2+2</think>\\boxed{...}", 0.0),
    ("<think>2+2</think>\\boxed 4", 0.0),
    ("<think>2+2</think>\\boxed{\\text{no}}", 1.0),
    ("<think>2+2</think>\\boxed{\\emptyset}", 1.0),
    ("<think>2+2\\boxed{</think>4}", 0.0),
    ("<think>2+2</think>\\boxed{<think>4</think>}", 0.0),
    ("<think>2+2</think>\\boxed{4}<think>or 5</think>", 0.0),
    ("<think>2+2</think>\\boxed{4} <Thinking>or 5</Thinking>", 0.0),
    ("<think>2 `x</think> so `y` is \\boxed{4}", 1.0),
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


@pytest.mark.parametrize(
    "text",
    [
        "<think>a <answer>4</answer></think>",
        "<think>a</think> so <answer>4</answer>",
        "<answer>4</answer><think>a</think>",
        "<think>a</answer></think> <answer>4",
    ],
)
def test_the_note_says_what_is_wrong(ask, text):
    assert "in this order" in ask(FormatConfig(mode="r1-zero").build(), text).note


def test_format_does_not_care_whether_the_answer_is_right(ask):
    assert ask(FormatConfig().build(), "<think>2+2</think>\\boxed{5}", answer="4").value == 1.0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("mode", ["r1-zero", "house"])
def test_no_text_makes_it_slow(ask, mode):
    for unit in ("<", "< ", "<think", "</", "\\boxed{", "`", "```", "\u0315\u0327", "\u200b", "<answer ", "\n"):
        text = "<think>" + unit * (300_000 // len(unit))  # minutes for any rule that is quadratic
        assert ask(FormatConfig(mode=mode).build(), text + "</think>\\boxed{4}").value in (0.0, 1.0)
        assert ask(FormatConfig(mode=mode).build(), text).value == 0.0

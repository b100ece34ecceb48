import pytest

from afterbase.curate.rewrite import rewritten
from afterbase.rewards.format import house_fault
from afterbase.text.think import boxed, split


@pytest.mark.parametrize(
    "said",
    [
        "<think> 1 + 1 = 2 </think> <answer> 2 </answer>",
        "<think>1 + 1 = 2</think> It is \\boxed{2}, of course.",
        "<think>\n1 + 1 = 2\n</think>\n<answer>It is \\boxed{2}</answer>",
    ],
)
def test_the_house_format_says_the_same_thought_and_the_same_answer(said):
    house = rewritten(said, "house")
    response = split(house)
    assert house == "<think> 1 + 1 = 2 </think>\nThe answer is \\boxed{2}."
    assert (response.thought, boxed(response.answer), response.well_formed, house_fault(house)) == ("1 + 1 = 2", "2", True, "")
    assert rewritten(house, "house") == house


def test_a_thought_of_several_lines_stands_in_lines_of_its_own():
    house = rewritten("<think>1 + 1 = 2\n2 + 2 = 4</think> \\boxed{4}", "house")
    assert house == "<think>\n1 + 1 = 2\n2 + 2 = 4\n</think>\nThe answer is \\boxed{4}."


def test_kept_responses_are_only_trimmed():
    assert rewritten("  <think>a</think> b\n", "keep") == "<think>a</think> b"

import pytest

from afterbase.rewards.match import MatchPart, choice, normalized

ROWS = [
    ("exact", "Paris", "Paris", "correct"),
    ("exact", "paris", "Paris", "wrong"),
    ("normalized", " the  PARIS. ", "Paris", "correct"),
    ("normalized", "The Eiffel\nTower!", "eiffel tower", "correct"),
    ("normalized", "London", "Paris", "wrong"),
    ("normalized", "A", "a", "correct"),
    ("normalized", "Paris or London", "Paris", "wrong"),
    ("normalized", "北京。", "北京", "correct"),
    ("choice", "B", "B", "correct"),
    ("choice", "(B)", "B", "correct"),
    ("choice", "B. Because it is", "(B)", "correct"),
    ("choice", r"\text{(B)}", "B", "correct"),
    ("choice", "The answer is (B).", "B", "correct"),
    ("choice", "The answer is A, no, the answer is B", "B", "correct"),
    ("choice", "答案是B", "B", "correct"),
    ("choice", "A, C", "AC", "correct"),
    ("choice", "A", "AC", "wrong"),
    ("choice", "A or B", "B", "no_answer"),
    ("choice", "Because", "B", "no_answer"),
    ("choice", "C", "B", "wrong"),
    ("normalized", "...", "Paris", "no_answer"),
]


@pytest.mark.parametrize(("mode", "answer", "gold", "outcome"), ROWS)
@pytest.mark.parametrize("form", ["<think>B, Paris</think>{}", "<think>x</think> <answer>{}</answer>", r"<think>x</think>So: \boxed{{{}}}"])
def test_the_answer_part_is_matched_as_text(ask, form, mode, answer, gold, outcome):
    score = ask(MatchPart(mode), form.format(answer), answer=gold)
    assert (score.outcome, score.value) == (outcome, float(outcome == "correct")), score.note


def test_without_reference_there_is_nothing_to_match(ask):
    assert ask(MatchPart(), "Paris", answer=None).outcome == "error"


def test_forms_of_an_answer():
    assert normalized("The  Cat.") == "cat" and normalized("a") == "a"
    assert choice("D") == "D" and choice("C, A") == "AC" and choice("No idea") == ""

import asyncio
import random

import pytest

from afterbase.records import Completion, Message, Prompt, Rollout
from afterbase.rewards.choice import chosen, listed, options
from afterbase.rewards.match import MatchConfig, MatchPart, f1, normalized, references, same_items

ROWS = [
    ("exact", "Paris", "Paris", "correct"),
    ("exact", "paris", "Paris", "wrong"),
    ("normalized", " the  PARIS. ", "Paris", "correct"),
    ("normalized", "The Eiffel\nTower!", "eiffel tower", "correct"),
    ("normalized", "London", "Paris", "wrong"),
    ("normalized", "A", "a", "correct"),
    ("normalized", "Paris or London", "Paris", "wrong"),
    ("normalized", "北京。", "北京", "correct"),
    ("normalized", "Ｐａｒｉｓ\u200b", "Paris", "correct"),
    ("normalized", ".5", "5", "wrong"),
    ("normalized", "5!", "5", "wrong"),
    ("normalized", "-5", "5", "wrong"),
    ("normalized", "C++", "C", "wrong"),
    ("normalized", '**"Paris"**', "Paris", "correct"),
    ("choice", "B", "B", "correct"),
    ("choice", "(B)", "B", "correct"),
    ("choice", "(b)", "B", "correct"),
    ("choice", "B. Because it is", "(B)", "correct"),
    ("choice", r"\text{(B)}", "B", "correct"),
    ("choice", "The answer is (B).", "B", "correct"),
    ("choice", "The answer is A, no, the answer is B", "B", "correct"),
    ("choice", "Option A is wrong, so the correct option is B.", "B", "correct"),
    ("choice", "The answer is A because 2 is even", "A", "correct"),
    ("choice", "The answer is A cat", "A", "no_answer"),
    ("choice", "答案是B", "B", "correct"),
    ("choice", "故选：B", "B", "correct"),
    ("choice", "B选项", "B", "correct"),
    ("choice", "选A或B", "B", "wrong"),
    ("choice", "所以答案为：(B)", "B", "correct"),
    ("choice", "It's B.", "B", "correct"),
    ("choice", "The answer is not B", "B", "no_answer"),
    ("choice", "不选B", "B", "no_answer"),
    ("choice", "I don't think it is B", "B", "no_answer"),
    ("choice", "not option B", "B", "no_answer"),
    ("choice", "Ｂ", "B", "correct"),
    ("choice", "**Answer:** B", "B", "correct"),
    ("choice", "Answer: $B$", "B", "correct"),
    ("choice", "【答案】B", "B", "correct"),
    ("choice", "A. one\nB. two", "A", "wrong"),
    ("choice", "A. one\nB. two", "AB", "correct"),
    ("choice", "A, C", "AC", "correct"),
    ("choice", "(C) and (A)", "AC", "correct"),
    ("choice", "The answer is A and C.", "AC", "correct"),
    ("choice", "A", "AC", "wrong"),
    ("choice", "A, B, C", "AC", "wrong"),
    ("choice", "A or B", "B", "wrong"),
    ("choice", "A/B", "B", "wrong"),
    ("choice", "The answer is A or B.", "B", "wrong"),
    ("choice", "either (A) or (B)", "A", "wrong"),
    ("choice", "Because", "B", "no_answer"),
    ("choice", "I think so", "I", "no_answer"),
    ("choice", "C", "B", "wrong"),
    ("f1", "the Barack Obama", "Barack Obama.", "correct"),
    ("f1", "George Washington", "George Bush", "wrong"),
    ("f1", "3.5", "35", "wrong"),
    ("f1", "1,000 men", "1000 men", "correct"),
    ("f1", "Barack Obama or John McCain", "Barack Obama", "wrong"),
    ("f1", "doctor or nurse", "nurse or doctor", "correct"),
    ("f1", "not in the year 1999 of our Lord", "in the year 1999 of our Lord", "wrong"),
    ("f1", "北京大学", "北京大学。", "correct"),
    ("f1", "南京大学", "北京大学", "wrong"),
    ("list", "b, c and a", '["a", "b", "c"]', "correct"),
    ("list", "- a\n- b\n- c", "a, b, c", "correct"),
    ("list", "1. a\n2. c\n3. b", '["a", "b", "c"]', "correct"),
    ("list", '["c", "b", "a"]', '["a", "b", "c"]', "correct"),
    ("list", "a, b", '["a", "b", "c"]', "wrong"),
    ("list", "a, b, c, d", '["a", "b", "c"]', "wrong"),
    ("list", "a, b or c", '["a", "b", "c"]', "wrong"),
    ("list", "salt and pepper, sugar", '["sugar", "salt and pepper"]', "correct"),
    ("list", "salt, pepper, sugar", '["sugar", "salt and pepper"]', "wrong"),
    ("list", "北京、上海和广州", '["上海", "北京", "广州"]', "correct"),
    ("list", "{1,000; 2,000}", '["2,000", "1,000"]', "correct"),
    ("list", "2, 2, 3", "[2, 3, 2]", "correct"),
    ("list", "2, 3", "[2, 3, 2]", "wrong"),
    ("list", "a, a, b", '["a", "b"]', "correct"),
]
CAPITALS = {"choices": ["Paris", "London", "Rome"]}


@pytest.mark.parametrize(("mode", "answer", "gold", "outcome"), ROWS)
@pytest.mark.parametrize("form", ["<think>B, Paris</think>{}", "<think>x</think> <answer>{}</answer>", r"<think>x</think>So: \boxed{{{}}}"])
def test_the_answer_part_is_matched_as_text(ask, form, mode, answer, gold, outcome):
    score = ask(MatchPart(mode), form.format(answer), answer=gold)
    assert score.outcome == outcome, score.note
    assert (score.value == 1.0) == (outcome == "correct") or mode == "f1"


def judge(mode: str, text: str, answer: str | None, question: str = "?", **extra) -> str:
    prompt = Prompt("p", (Message("user", question),), "general", answer, extra)
    return asyncio.run(MatchConfig(mode=mode).build()(Rollout(prompt, (), Completion((), (), (), 0, "stop"), text))).outcome


@pytest.mark.parametrize("text", ["...", "", "<think>Paris</think>", "\u200b"])
def test_an_answer_of_nothing_is_no_answer(text):
    assert judge("normalized", text, "Paris") == "no_answer"


def test_without_reference_there_is_nothing_to_match():
    assert judge("normalized", "Paris", None) == "error" and judge("choice", "B", "Paris") == "error"


def test_any_of_several_references_will_do():
    assert [judge("normalized", text, '["New York", "NYC"]') for text in ("nyc", "New York.", "Boston")] == ["correct", "correct", "wrong"]
    assert [judge("exact", text, None, answers=["a", "b"]) for text in ("a", "b", "c")] == ["correct", "correct", "wrong"]
    assert [judge("f1", text, "NYC", answers=["New York City"]) for text in ("new york city", "York")] == ["correct", "wrong"]
    assert [judge("list", text, None, answers=[["a", "b"], ["c"]]) for text in ("b, a", "c", "a, c")] == ["correct", "correct", "wrong"]
    assert judge("list", "b, a", None, answers=["a", "b"]) == "correct" and judge("list", "a", None, answers=["a", "b"]) == "wrong"


@pytest.mark.parametrize("mode", ["exact", "normalized", "f1", "list"])
def test_every_reference_is_accepted_as_its_own_gold(mode):
    for answer, extra in (("Paris", {}), ('["a", "b or c"]', {}), (None, {"answers": ["a", "not b"]}), ("5!", {"answers": [7, "x, y"]})):
        prompt = Prompt("p", (Message("user", "?"),), answer=answer, extra=extra)
        assert [judge(mode, text, answer, **extra) for text in MatchPart(mode).gold(prompt)] == ["correct"] * len(
            MatchPart(mode).gold(prompt)
        )
    assert [judge(mode, text, None) for text in MatchPart(mode).gold(Prompt("p", ()))] == ["error", "error"]


def test_a_list_of_numbers_is_one_answer_and_not_several():
    assert judge("normalized", "[1, 2]", "[1, 2]") == "correct" and judge("normalized", "1", "[1, 2]") == "wrong"
    assert references(Prompt("p", (), answer='["a", "b"]')) == ['["a", "b"]', "a", "b"]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("Paris", "correct"),
        ("The answer is Paris.", "correct"),
        ("A. Paris", "correct"),
        ("Paris or London", "wrong"),
        ("A. London", "wrong"),
        ("London", "wrong"),
        ("the city of light", "no_answer"),
    ],
)
def test_an_option_may_be_chosen_by_its_text(answer, outcome):
    assert judge("choice", answer, "A", **CAPITALS) == outcome
    assert judge("choice", answer, "Paris", "Which?\nA. Paris\nB. London\nC. Rome") == outcome


def test_options_are_read_from_columns_and_questions():
    expected = {"A": "red", "B": "blue"}
    for column in (["red", "blue"], ["(A) red", "B. blue"], {"A": "red", "B": "blue"}, {"label": ["A", "B"], "text": ["red", "blue"]}):
        assert options(Prompt("p", (Message("user", "?"),), extra={"choices": column})) == expected
    for question in (
        "Which?\nA) red\nB) blue",
        "Is A. Smith right? (A) red (B) blue",
        "哪个？A．red B．blue",
        "Options:\n(A) red\n(B) blue\n\nThink.",
    ):
        assert listed(question) == expected
    assert listed("Who is B. Gates?") == {} and listed("A. alone") == {}


def test_two_options_of_the_same_text_are_chosen_by_letter_only():
    assert chosen("red", {"A": "red", "B": "red"}) == "" and chosen("B", {"A": "red", "B": "red"}) == "B"


def test_forms_of_an_answer():
    assert normalized("The  Cat.") == "cat" and normalized("a") == "a"
    assert chosen("D") == "D" and chosen("C, A") == "AC" and chosen("No idea") == "" and chosen("A or B") == "A|B"


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    assert f1("Barack Hussein Obama", "Barack Obama") == pytest.approx(0.8)  # 2 of 3 and 2 of 2
    assert f1("东京都", "东京") == pytest.approx(0.8) and f1("x", "y") == 0.0 and f1("", "y") == 0.0


def test_a_list_is_equal_to_itself_in_any_order():
    items = ["alpha", "beta one", "3,5", "d"]
    for seed in range(20):
        random.Random(seed).shuffle(items)
        assert same_items("; ".join(items), '["alpha", "beta one", "3,5", "d"]')


@pytest.mark.timeout(60)
@pytest.mark.parametrize("mode", ["exact", "normalized", "choice", "f1", "list"])
def test_no_text_makes_matching_slow(mode):
    part = MatchPart(mode)
    read = part.reader(Prompt("p", (Message("user", "Which?\nA. Paris\nB. London"),)))
    for unit in ("A or ", "((((", "\u0315\u0327", "\n", "answer is ", "**", "A, ", "[", "\\text{", "é ", "、和", "\x00", " ", "!"):
        text = unit * (300_000 // len(unit))  # minutes for any rule that is quadratic
        assert 0.0 <= part.value(read(text + "B"), read("B")) <= 1.0

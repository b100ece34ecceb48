"""Held-out claims are checked, not believed."""

from afterbase.stages.apart import meetings

ASKED = {"benchmarks": [{"prompts": [{"generator": "chain_sum", "part": "held_out", "hold_out": 0.1}]}]}


def trained(**source):
    return {"base": {"crawl": {"sources": [{"generator": "chain_sum", "part": "train", "hold_out": 0.1, **source}]}}}


def test_the_two_sides_of_one_split_never_meet():
    assert meetings(trained(), ASKED) == []
    assert meetings(trained(hold_out=0.2), ASKED) == []  # training left out more than is asked
    assert meetings(trained(generator="facts", hold_out=0.0), ASKED) == []


def test_a_training_source_that_may_hold_an_asked_question_is_named():
    (sentence,) = meetings(trained(hold_out=0.05), ASKED)
    assert sentence.startswith("base reads the train side of chain_sum with hold_out=0.05, the evaluation asks the held_out side")
    assert len(meetings(trained(part="held_out"), ASKED)) == 1
    assert len(meetings(trained(), [{"generator": "chain_sum", "part": "train", "hold_out": 0.1}])) == 1

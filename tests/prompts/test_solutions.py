import re
from random import Random

import pytest

from afterbase.config import build
from afterbase.errors import ConfigError
from afterbase.prompts.procedural import ProceduralSource
from afterbase.prompts.solutions import can_work_out, guess, work_out
from afterbase.records import Message, Prompt

SOURCES = {
    "chain_sum": {"generator": "chain_sum", "settings": {"max_terms": 5, "max_digits": 3, "allow_negation": True}},
    "leg_counting": {"generator": "leg_counting", "settings": {"max_animals": 4}},
}
CALCULATION = re.compile(r"(?:[a-z ]+: )?(-?\d+) ([-+*]) (-?\d+) = (-?\d+)")
APPLY = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def prompts(generator, count=150):
    opened = build(ProceduralSource, SOURCES[generator], "recipe").open(3)
    return [opened[index] for index in range(count)]


def mistakes(steps) -> int:
    """How many of the calculations are wrong."""
    found = [CALCULATION.fullmatch(step) for step in steps]
    assert all(found), steps
    return sum(APPLY[sign](int(left), int(right)) != int(result) for left, sign, right, result in (match.groups() for match in found))


@pytest.mark.parametrize("generator", SOURCES)
def test_every_step_of_a_worked_solution_is_right_and_so_is_its_answer(generator):
    for prompt in prompts(generator):
        work = work_out(prompt, Random(prompt.id))
        assert mistakes(work.steps) == 0 and work.answer == prompt.answer
        assert work.steps[-1].endswith(f"= {work.answer}")


@pytest.mark.parametrize("generator", SOURCES)
def test_one_slip_is_one_wrong_step_and_a_wrong_answer(generator):
    for prompt in prompts(generator):
        work = work_out(prompt, Random(prompt.id), slips=1)
        assert mistakes(work.steps) == 1 and work.answer != prompt.answer
        assert work.steps[-1].endswith(f"= {work.answer}")


def test_animals_without_legs_can_be_miscounted_as_well():
    prompt = Prompt("p", (Message("user", "?"),), answer="0", extra={"generator": "leg_counting", "metadata": {"animals": {"snake": 3}}})
    assert {work_out(prompt, Random(seed), slips=1).answer for seed in range(40)} == {"1", "2", "10"}


def test_a_sum_of_one_term_has_one_step():
    prompt = Prompt("p", (Message("user", "?"),), answer="7", extra={"generator": "chain_sum", "metadata": {"expression": "7"}})
    assert (work_out(prompt, Random(0)).steps, work_out(prompt, Random(0)).answer) == (("7",), "7")


def test_what_needs_no_steps_has_none():
    prompt = Prompt("p", (Message("user", "?"),), answer="Paris", extra={"generator": "facts"})
    assert not can_work_out("facts") and work_out(prompt, Random(0)).steps == () and guess(prompt, Random(0)) == "Paris"


def test_guesses_are_near_and_seldom_right():
    (prompt,) = prompts("chain_sum", 1)
    off = [int(guess(prompt, Random(seed))) - int(prompt.answer) for seed in range(200)]
    assert max(map(abs, off)) < 10 and 0 < off.count(0) < 40
    letters = Prompt("p", (Message("user", "?"),), answer="x", extra={"generator": "chain_sum"})
    with pytest.raises(ConfigError, match="guesses are made for numbers only"):
        guess(letters, Random(0))

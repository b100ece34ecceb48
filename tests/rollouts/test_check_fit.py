"""A prompt that leaves no room for an answer is told before anything is drawn."""

from types import SimpleNamespace

import pytest

from afterbase.errors import DataError
from afterbase.records import Message, Prompt
from afterbase.rollouts.sample import check_fit

LETTERS = SimpleNamespace(encode=list, bos_id=None, begins_with_bos=False)  # one token a letter


def asked(*lengths: int) -> list[Prompt]:
    return [Prompt(f"row-{number}", (Message("user", "x" * length),)) for number, length in enumerate(lengths)]


def test_prompts_that_leave_room_for_one_token_fit():
    assert check_fit(asked(1, 9, 3), LETTERS, "plain", room=10) == 9
    assert check_fit([], LETTERS, "plain", room=10) == 0


def test_the_first_prompt_that_does_not_fit_is_named_and_the_others_counted():
    with pytest.raises(DataError, match=r"prompt row-1: a prompt of 10 tokens leaves .* of 10, and so do 1 more; shorten"):
        check_fit(asked(9, 10, 3, 50), LETTERS, "plain", room=10)

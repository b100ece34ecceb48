from dataclasses import replace

import pytest

from afterbase.curate.filter import Candidate, FilterConfig, reason_to_drop

GOOD = Candidate("p", "<think>One and one are two.</think> It is \\boxed{2}.", tokens=20, finish="stop", outcome="correct", value=1.1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"outcome": "wrong"}, "wrong"),
        ({"outcome": "error"}, "error"),
        ({"finish": "length"}, "truncated"),
        ({"response": "It is \\boxed{2}."}, "badly formed"),
        ({"response": "<think></think> It is \\boxed{2}."}, "badly formed"),
        ({"response": "<think>One 加 one.</think> It is \\boxed{2}."}, "language mixing"),
        ({"tokens": 31}, "too long"),
        ({"response": f"<think>{'one and one is two and so ' * 9}</think> 2"}, "repetitive"),
    ],
)
def test_each_unfit_candidate_has_its_reason(changes, reason):
    assert reason_to_drop(replace(GOOD, **changes), FilterConfig(max_tokens=30)) == reason


def test_what_is_not_asked_for_is_no_reason():
    loose = FilterConfig(well_formed=False, max_mixing=1.0, max_repetition=1.0)
    assert reason_to_drop(replace(GOOD, response="对 two " * 30, tokens=9000), loose) is None

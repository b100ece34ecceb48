from afterbase.curate.filter import Candidate, FilterConfig
from afterbase.curate.reject import KeepConfig, keep_best


def candidate(words: str, tokens: int, outcome: str = "correct") -> Candidate:
    return Candidate("p", f"<think>{words}</think> 2", tokens, "stop", outcome, 1.0)


GROUP = [candidate("a long way", 9), candidate("short", 3), candidate("short ", 3), candidate("middle", 5), candidate("no", 1, "wrong")]


def test_the_shortest_correct_ones_are_kept():
    kept = keep_best([GROUP], FilterConfig(), KeepConfig(per_problem=2))
    assert [each.tokens for each in kept.candidates] == [3, 5]
    assert kept.dropped == {"wrong": 1, "duplicate": 1, "longer than a kept one": 1}
    assert kept.mean_length_correct == (9 + 3 + 3 + 5) / 4


def test_every_candidate_is_kept_or_dropped_for_one_reason():
    kept = keep_best([GROUP, GROUP[3:], GROUP[4:]], FilterConfig(), KeepConfig())
    assert len(kept.candidates) + kept.dropped.total() == 5 + 2 + 1


def test_problems_that_everybody_solves_may_be_left_out():
    kept = keep_best([GROUP[:2], GROUP], FilterConfig(), KeepConfig(max_pass_rate=0.8))
    assert kept.dropped["problem too easy"] == 2 and len(kept.candidates) == 1


def test_a_failed_verdict_makes_no_problem_harder():
    """Both answers that could be judged are right: the problem is easy, however many verdicts failed."""
    group = [*GROUP[:2], *[candidate("lost", 4, "error")] * 3]
    kept = keep_best([group], FilterConfig(), KeepConfig(max_pass_rate=0.8))
    assert kept.dropped == {"problem too easy": 5} and kept.candidates == ()


def test_nothing_gives_nothing():
    kept = keep_best([[], [GROUP[4]]], FilterConfig(), KeepConfig())
    assert (kept.candidates, kept.mean_length_correct) == ((), 0.0)

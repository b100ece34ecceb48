import asyncio
from dataclasses import replace

import pytest

from afterbase.config import build as build_config
from afterbase.errors import AfterbaseError, ConfigError
from afterbase.records import Completion, Message, Prompt, Score
from afterbase.rewards.base import Judge, RewardsConfig, Weighted, build, check_errors
from afterbase.rewards.gold import check_golds

GOOD = "<think>2 + 2</think>It is \\boxed{4}."


class Fixed:
    """A part that says what it was told to say, one score after the other."""

    def __init__(self, name: str, *scores: Score | Exception, verdict: bool = False):
        self.name, self.verdict, self.scores, self.asked, self.closed = name, verdict, scores, 0, 0

    async def __call__(self, rollout):
        score = self.scores[min(self.asked, len(self.scores) - 1)]
        self.asked += 1
        if isinstance(score, Exception):
            raise score
        return score

    async def close(self):
        self.closed += 1


def fixed(name: str, value: float, outcome="correct", verdict: bool = False) -> Fixed:
    return Fixed(name, Score(value, {name: value}, outcome), verdict=verdict)


FAILED = Score(0.0, {"accuracy": 0.0}, "error", "the verifier died")
RIGHT = Score(1.0, {"accuracy": 1.0}, "correct")


def test_the_reward_is_the_weighted_sum_and_the_outcome_is_the_verdicts(ask):
    judge = Judge({"math": [Weighted(0.5, fixed("format", 0.0, "wrong")), Weighted(2.0, fixed("accuracy", 1.0, verdict=True))]})
    score = ask(judge, GOOD)
    assert (score.value, score.parts, score.outcome) == (2.0, {"format": 0.0, "accuracy": 1.0}, "correct")


def test_a_timeout_is_its_own_outcome_and_only_its_part_is_zero(ask):
    judge = Judge({"math": [Weighted(1.0, fixed("accuracy", 0.0, "timeout", verdict=True)), Weighted(0.1, fixed("format", 1.0))]})
    score = ask(judge, GOOD)
    assert (score.value, score.outcome) == (0.1, "timeout")


def test_an_error_in_any_part_masks_the_sample_and_is_not_counted_as_a_part(ask):
    judge = Judge({"math": [Weighted(1.0, fixed("accuracy", 1.0, verdict=True)), Weighted(0.1, fixed("language", 0.0, "error"))]})
    score = ask(judge, GOOD)
    assert (score.outcome, score.parts) == ("error", {"accuracy": 1.0})


def test_an_error_is_retried_once(ask):
    passing, lasting = Fixed("accuracy", FAILED, RIGHT, verdict=True), Fixed("accuracy", FAILED, FAILED, RIGHT, verdict=True)
    assert ask(Judge({"math": [Weighted(1.0, passing)]}), GOOD).outcome == "correct"
    assert ask(Judge({"math": [Weighted(1.0, lasting)]}), GOOD).outcome == "error"
    assert (passing.asked, lasting.asked) == (2, 2)


def test_a_part_that_raises_is_an_error_not_a_crash(ask):
    score = ask(Judge({"math": [Weighted(1.0, Fixed("accuracy", RuntimeError("boom"), verdict=True))]}), GOOD)
    assert (score.outcome, score.note) == ("error", "accuracy: failed with RuntimeError: boom")


def test_the_note_of_an_error_names_every_part_that_failed_and_why(ask):
    parts = [Fixed("accuracy", FAILED, verdict=True), fixed("format", 1.0), Fixed("code", OSError("full"))]
    assert (
        ask(Judge({"math": [Weighted(1.0, part) for part in parts]}), GOOD).note
        == "accuracy: the verifier died; code: failed with OSError: full"
    )


def test_more_failed_verdicts_than_allowed_are_told_with_the_first_reason():
    check_errors([FAILED, RIGHT, RIGHT, RIGHT], 0.25, "one lot")
    check_errors([], 0.0, "one lot")
    with pytest.raises(AfterbaseError, match=r"2 of 4 verdicts failed in one lot \(the first: the verifier died\).* max_errors=0.25"):
        check_errors([RIGHT, FAILED, FAILED, RIGHT], 0.25, "one lot")


def test_a_rollout_that_the_engine_lost_is_an_error(rollout):
    lost = replace(rollout(""), completion=Completion((), (), (), 0, "failed"))
    assert asyncio.run(build(RewardsConfig())(lost)).outcome == "error"


def test_each_domain_has_its_route_and_the_others_the_default(ask):
    judge = Judge({"math": [Weighted(1.0, fixed("accuracy", 1.0))], "default": [Weighted(1.0, fixed("format", 0.5))]})
    assert ask(judge, GOOD, domain="math").parts == {"accuracy": 1.0}
    assert ask(judge, GOOD, domain="poetry").parts == {"format": 0.5}
    with pytest.raises(ConfigError, match="no reward judges the domain 'poetry'"):
        Judge({"math": [Weighted(1.0, fixed("accuracy", 1.0))]}).route("poetry")


def test_two_verdicts_or_none_at_all_are_refused():
    with pytest.raises(ConfigError, match="two parts called 'accuracy'"):
        build(build_config(RewardsConfig, {"domains": {"math": [{"kind": "math"}, {"kind": "match"}]}}, "a test"))
    with pytest.raises(ConfigError, match="no reward parts"):
        build(build_config(RewardsConfig, {"domains": {"math": []}}, "a test"))


def test_the_parts_run_side_by_side(ask):
    class Slow(Fixed):
        async def __call__(self, rollout):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1
            return await super().__call__(rollout)

    running = most = 0
    one = Score(1.0, {}, "correct")
    assert ask(Judge({"math": [Weighted(1.0, Slow("a", one)), Weighted(1.0, Slow("b", one))]}), GOOD).value == 2.0
    assert most == 2


def test_a_recipe_becomes_a_judge_that_shares_equal_parts(ask):
    math, shape = {"kind": "math", "weight": 1.0}, {"kind": "format", "mode": "house", "weight": 0.1}
    config = build_config(RewardsConfig, {"domains": {"math": [math, shape], "default": [{**math, "weight": 0.5}]}}, "a test")
    judge = build(config)
    assert ask(judge, GOOD).value == pytest.approx(1.1) and ask(judge, GOOD, domain="other").value == 0.5
    assert judge.routes["math"][0].part is judge.routes["default"][0].part
    with pytest.raises(ConfigError, match=r"fallbak.*did you mean 'fallback'"):
        build_config(RewardsConfig, {"domains": {"math": [{**math, "fallbak": "none"}]}}, "a test")


def test_closing_the_judge_closes_each_part_once():
    part = fixed("accuracy", 1.0)
    asyncio.run(Judge({"math": [Weighted(1.0, part)], "default": [Weighted(0.5, part)]}).close())
    assert part.closed == 1


def test_a_thought_that_is_cut_off_leaves_no_answer(ask):
    assert ask(build(RewardsConfig()), r"<think>so \boxed{4}, wait, let me").outcome == "no_answer"
    assert ask(build(RewardsConfig()), r"<think>2 + 2</think>\boxed{4}").value == pytest.approx(1.1)


def test_check_gold_names_the_prompts_whose_reference_is_refused():
    def prompt(id: str, answer: str | None, domain: str = "math") -> Prompt:
        return Prompt(id, (Message("user", "?"),), domain, answer)

    prompts = [prompt("good", "4"), prompt("missing", None), prompt("empty", " "), prompt("style", None, "style"), prompt("cut", "{4")]
    judge = Judge({"math": build(RewardsConfig()).routes["default"], "style": [Weighted(1.0, fixed("format", 1.0))]})
    checks = asyncio.run(check_golds(judge, prompts))
    assert [check.outcome for check in checks] == ["correct", "error", "error", None, "no_answer"]
    assert checks[1].note == "accuracy: prompt missing has no reference answer"
    assert checks[4].response == "<think>As given.</think>\n\\boxed{{4}"


def test_a_part_may_offer_its_own_form_of_the_reference():
    class Tests(Fixed):
        def gold(self, prompt):
            if prompt.id == "odd":
                raise ValueError("no such language")
            return [prompt.extra["solution"]] if "solution" in prompt.extra else None

        async def __call__(self, rollout):
            right = rollout.text == "print(4)"
            return Score(float(right), {self.name: float(right)}, "correct" if right else "wrong", "1 of 2 tests passed")

    extras = {"right": {"solution": "print(4)"}, "wrong": {"solution": "print(5)"}, "none": {}, "odd": {}}
    prompts = [Prompt(id, (Message("user", "?"),), "code", None, extra) for id, extra in extras.items()]
    checks = asyncio.run(check_golds(Judge({"code": [Weighted(1.0, Tests("tests", verdict=True))]}), prompts))
    assert [check.outcome for check in checks] == ["correct", "wrong", None, "error"]
    assert checks[3].note == "tests: failed with ValueError: no such language"
    assert (checks[1].response, checks[1].note) == ("print(5)", "tests: 1 of 2 tests passed")


def test_gold_checks_keep_the_order_of_the_prompts_and_tell_each_once():
    prompts = [Prompt(str(n), (Message("user", "?"),), "math", str(n)) for n in range(130)]
    told = []
    checks = asyncio.run(check_golds(build(RewardsConfig()), prompts, lambda check: told.append(check.prompt.id)))
    assert [check.prompt.id for check in checks] == sorted(told, key=int) == [str(n) for n in range(130)]

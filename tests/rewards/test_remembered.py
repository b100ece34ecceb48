import asyncio
import json
from dataclasses import replace

import pytest

from afterbase.records import Completion, Message, Prompt, Rollout, Score
from afterbase.rewards.base import Judge, Weighted
from afterbase.rewards.cache import remembering
from afterbase.rewards.gold import gold_forms

PROMPT = Prompt("p", (Message("user", "2 + 2?"),), "math", "4", {"unit": "m"})


def rollout(text: str, prompt: Prompt = PROMPT, finish="stop", tokens: int = 3) -> Rollout:
    return Rollout(prompt, (), Completion((7,) * tokens, (), (), 0, finish), text)


class Counting:
    """A verdict whose value is how often it has been asked: never the same twice."""

    name, verdict = "accuracy", True

    def __init__(self, outcome="correct"):
        self.outcome, self.asked, self.closed = outcome, [], False

    async def __call__(self, rollout):
        self.asked.append(rollout.text)
        return Score(float(len(self.asked)), {self.name: float(len(self.asked))}, self.outcome, "a note")

    def gold(self, prompt):
        return ["gold"]

    async def close(self):
        self.closed = True


def judged(judge, *rollouts: Rollout) -> list[Score]:
    found = asyncio.run(judge.group(rollouts))
    judge.metrics()
    return found


def over(part, entries: int = 9):
    return remembering(Judge({"default": [Weighted(2.0, part)]}), entries)


def test_the_same_answer_to_the_same_prompt_is_judged_once():
    part = Counting()
    judge = over(part)
    first = judged(judge, rollout("a"), rollout("b"), rollout("a"))
    assert [score.value for score in first] == [2.0, 4.0, 2.0] and part.asked == ["a", "b"]
    assert judged(judge, rollout("b"), rollout("a"), rollout("c")) == [
        first[1],
        first[0],
        replace(first[0], value=6.0, parts={"accuracy": 3.0}),
    ]
    assert part.asked == ["a", "b", "c"]


@pytest.mark.parametrize(
    "other",
    [
        rollout("b"),
        rollout("a", finish="length"),
        rollout("a", tokens=4),
        *[
            rollout("a", replace(PROMPT, **change))
            for change in ({"id": "q"}, {"answer": "5"}, {"domain": "x"}, {"extra": {"unit": "s"}}, {"messages": (Message("user", "?"),)})
        ],
    ],
    ids=["text", "finish", "tokens", "id", "answer", "domain", "column", "question"],
)
def test_whatever_a_verifier_may_look_at_makes_it_another_answer(other):
    part = Counting()
    judge = over(part)
    judged(judge, rollout("a"))
    assert judged(judge, other)[0].value == 4.0


def test_equal_prompts_that_are_two_objects_are_one_prompt():
    part = Counting()
    judge = over(part)
    judged(judge, rollout("a"))
    judged(judge, rollout("a", replace(PROMPT, extra={"unit": "m"})))
    assert part.asked == ["a"]


@pytest.mark.parametrize(("outcome", "asked"), [("error", 4), ("timeout", 2), ("wrong", 1), ("no_answer", 1)])
def test_errors_and_timeouts_are_asked_again(outcome, asked):
    part = Counting(outcome)
    judge = over(part)
    judged(judge, rollout("a"))
    judged(judge, rollout("a"))
    assert len(part.asked) == asked


def test_a_resumed_memory_gives_the_very_scores_that_it_knew():
    judge = over(Counting())
    expected = judged(judge, rollout("a"), rollout("b"))
    part = Counting("wrong")
    resumed = over(part)
    resumed.restore(json.loads(json.dumps(judge.state())))
    assert judged(resumed, rollout("a"), rollout("b")) == expected and part.asked == []
    assert resumed.state() == judge.state()


def test_the_least_recently_used_is_forgotten_first_and_the_memory_is_bounded():
    part = Counting()
    judge = over(part, entries=2)
    for text in "a", "b", "a", "c":  # one round each: b has not been used for longest
        judged(judge, rollout(text))
    assert len(judge.state()["scores"]) == 2
    judged(judge, rollout("a"), rollout("c"))
    assert part.asked == ["a", "b", "c"]
    judged(judge, rollout("b"))
    assert part.asked == ["a", "b", "c", "b"]


def test_what_is_remembered_does_not_depend_on_which_verifier_was_the_fastest():
    class Racing(Counting):
        def __init__(self, slow):
            super().__init__()
            self.slow = slow

        async def __call__(self, rollout):
            if rollout.text in self.slow:
                await asyncio.sleep(0.005)
            return Score(1.0, {self.name: 1.0}, "correct")

    states = []
    for slow in "ab", "cd":
        judge = over(Racing(slow), entries=3)

        async def main(judge=judge):
            await asyncio.gather(*[judge(rollout(text)) for text in "abcd"])
            return judge.metrics(), judge.state()

        states.append(asyncio.run(main()))
    assert states[0] == states[1]


def test_hits_are_counted_by_the_round():
    judge = over(Counting())
    asyncio.run(judge.group([rollout("a"), rollout("a"), rollout("b")]))
    assert judge.metrics() == {"reward/cache_hits/count": 1.0, "reward/cache_entries/count": 2.0}
    asyncio.run(judge.group([rollout("a"), rollout("c")]))
    assert judge.metrics() == {"reward/cache_hits/count": 1.0, "reward/cache_entries/count": 3.0}
    assert judge.metrics()["reward/cache_hits/count"] == 0.0


def test_cheap_parts_and_functions_of_ones_own_are_always_asked_unless_they_say_that_they_are_pure():
    class Side(Counting):
        name, verdict = "side", False

    class Own(Counting):
        name, cached = "own", False

    side, own, pure = Side(), Own(), Own()
    pure.name, pure.cached = "pure", True
    judge = remembering(Judge({"default": [Weighted(1.0, part) for part in (side, own, pure)]}), 9)
    for _ in range(2):
        judged(judge, rollout("a"))
    assert (len(side.asked), len(own.asked), len(pure.asked)) == (2, 2, 1)


def test_it_is_a_judge_like_the_one_it_wraps():
    part = Counting()
    judge = over(part)
    wrapped = judge.verdict("any").part
    assert (wrapped.name, wrapped.verdict, gold_forms(wrapped, PROMPT)) == ("accuracy", True, ["gold"])
    assert asyncio.run(judge(rollout("a"))).value == 2.0
    asyncio.run(judge.close())
    assert part.closed


def test_no_entries_is_no_memory():
    part = Counting()
    judge = over(part, entries=0)
    judged(judge, rollout("a"), rollout("a"))
    assert len(part.asked) == 2 and judge.metrics() == {} and judge.state()["scores"] == []


def test_columns_that_json_does_not_know_are_told_apart_too():
    part = Counting()
    judge = over(part)
    for value in (b"x", b"y", {1, 2}, (1, 2), float("nan")):
        judged(judge, rollout("a", replace(PROMPT, extra={"column": value})))
    assert len(part.asked) == 5

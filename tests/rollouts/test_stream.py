"""Rounds drawn ahead: in order, within the bound, and exactly resumed."""

import asyncio
from dataclasses import replace

import torch

from afterbase.records import Completion, Message, Prompt, Rollout, Score
from afterbase.rollouts.store import frozen, thawed
from afterbase.rollouts.stream import Stream

ROUNDS, PROMPTS = 5, 3


class World:
    """Prompts that count up, draws that say which weights they came from, and a judge that can be held back."""

    def __init__(self, asked=0):
        self.asked, self.version, self.judged, self.free = asked, 0, [], asyncio.Event()
        self.free.set()

    def prompts(self):
        self.asked += PROMPTS
        return [Prompt(f"q{self.asked - PROMPTS + n}", (Message("user", "?"),)) for n in range(PROMPTS)]

    async def draw(self, step, number, prompt):
        await asyncio.sleep(0)
        return [Rollout(prompt, (1,), Completion((step, number), (-0.1, -0.2), (-0.1, -0.2), self.version, "stop"), "text")]

    async def judge(self, group):
        await self.free.wait()
        self.judged.append(group[0].prompt.id)
        return [rollout.judged(Score(1.0, {}, "correct")) for rollout in group]

    def stream(self, ahead):
        return Stream(ROUNDS, ahead, self.prompts, self.draw, self.judge)


async def rounds(stream, world, steps):
    """What each round learned from: (prompt, version of the weights that drew it)."""
    learned = []
    for step in steps:
        await stream.fill(step)
        learned.append([(group[0].prompt.id, group[0].completion.version) for group in await stream.take()])
        world.version = step + 1
    return learned


def test_each_round_comes_once_and_in_order_from_weights_at_most_so_many_rounds_old():
    for ahead in (0, 1, 3, 9):
        world = World()
        learned = asyncio.run(rounds(world.stream(ahead), world, range(ROUNDS)))
        names = [[f"q{PROMPTS * step + n}" for n in range(PROMPTS)] for step in range(ROUNDS)]
        assert [[name for name, _ in each] for each in learned] == names
        assert [{version for _, version in each} for each in learned] == [{max(0, step - ahead)} for step in range(ROUNDS)]


def test_later_rounds_are_judged_while_an_earlier_one_is_learned_from():
    async def story():
        world = World()
        stream = world.stream(1)
        await stream.fill(0)
        await stream.take()
        for _ in range(9):
            await asyncio.sleep(0)  # what an update in a thread gives the judges
        return world.judged

    assert sorted(asyncio.run(story())) == [f"q{n}" for n in range(2 * PROMPTS)]


def test_groups_are_judged_while_others_of_their_round_are_still_drawn():
    async def story():
        world, slow = World(), asyncio.Event()

        async def draw(step, number, prompt):
            if number == 2:
                await slow.wait()
            return await World.draw(world, step, number, prompt)

        stream = Stream(ROUNDS, 0, world.prompts, draw, world.judge)
        filling = asyncio.create_task(stream.fill(0))
        for _ in range(9):
            await asyncio.sleep(0)
        early = sorted(world.judged)
        slow.set()
        await filling
        return early

    assert asyncio.run(story()) == ["q0", "q1"]


def test_a_resumed_stream_is_one_that_never_stopped_whether_its_rounds_were_judged_or_not():
    async def whole():
        world = World()
        return await rounds(world.stream(2), world, range(ROUNDS))

    async def torn(judged):
        world = World()
        stream = world.stream(2)
        first = await rounds(stream, world, range(2))
        if judged:
            for _ in range(9):
                await asyncio.sleep(0)
        else:
            world.free.clear()
        state, asked = stream.state(), world.asked
        known = [all(each["score"] for each in group) for waiting in state["waiting"] for group in waiting]
        again = World(asked)
        again.version = world.version
        stream = again.stream(2)
        stream.restore(state)
        rest = await rounds(stream, again, range(2, ROUNDS))
        return first + rest, known, again.judged

    for judged in (True, False):
        learned, known, asked_again = asyncio.run(torn(judged))
        assert learned == asyncio.run(whole()) and len(known) == 2 * PROMPTS and (all(known) or not judged)
        assert not set(asked_again) & {f"q{2 * PROMPTS + n}" for n, done in enumerate(known) if done}


def test_a_rollout_survives_a_snapshot_to_the_last_digit(tmp_path):
    prompt = Prompt("p", (Message("system", "Be brief."), Message("user", "?")), "code", None, {"tests": ["a", 1, None], "x": {"y": 0.1}})
    completion = Completion((5, 6), (-0.1, -1e-30), (0.0, -2.5), 7, "length", (True, False))
    for rollout in (
        Rollout(prompt, (1, 2), completion, "text é", None, 1 << 60),
        Rollout(prompt, (1, 2), replace(completion, own=()), "", Score(1 / 3, {"a": 0.1}, "wrong", "why"), 3),
    ):
        torch.save(frozen(rollout), tmp_path / "state.pt")
        assert thawed(torch.load(tmp_path / "state.pt", weights_only=True)) == rollout

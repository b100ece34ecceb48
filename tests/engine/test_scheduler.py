"""Who runs and who waits: a memory budget, requests that make way and go on, a queue with an end, and faults that stay their owner's."""

import asyncio

import pytest

from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.engine.slots import GIB, token_bytes
from afterbase.errors import Busy, EngineError
from afterbase.model.checkpoint import hf_weights
from afterbase.records import Sampling


@pytest.fixture(scope="module", params=["qwen2", "deepseek_v3"])
def model(request, tiny):
    return tiny(request.param, max_position_embeddings=512)


def budget(model, tokens: int) -> float:
    """GiB that hold that many tokens."""
    return (tokens + 0.5) * token_bytes(model.config, 4) / GIB


def asked_of(random_tokens) -> list:
    """Twelve groups of 1 to 3: hot, greedy, truncated and penalized, up to 200 tokens long."""
    return [
        (
            random_tokens(1 + 5 * seed % 17, seed),
            Sampling(
                (1.0, 0.0, 0.7)[seed % 3],
                (1.0, 0.9)[seed % 2],
                max_tokens=20 + 37 * seed % 180,
                seed=seed,
                repetition_penalty=1 + seed % 2 / 5,
            ),
            1 + seed % 3,
        )
        for seed in range(12)
    ]


@pytest.mark.parametrize("tokens", [256, 600])
def test_requests_that_make_way_go_on_with_the_same_result(model, random_tokens, tokens, outcomes, same):
    """Of 8 rows of up to 217 tokens a budget of 256 holds one or two to the end: everyone gets what a roomy engine gives."""
    requests, heard = asked_of(random_tokens), []
    roomy = outcomes(LocalEngine(model, EngineConfig(rows=8)), *requests)
    engine = LocalEngine(model, EngineConfig(rows=8, memory=budget(model, tokens)))
    told = [(*request, lambda *news, place=place: heard.append((place, *news))) for place, request in enumerate(requests)]
    scarce = outcomes(engine, *told)
    assert engine.scheduler.preempted > 0
    for place, (one, other) in enumerate(zip(roomy, scarce, strict=True)):
        assert same(one, other)
        for sample, answer in enumerate(other):  # nothing is told twice, or left out
            assert [token for where, which, token, _ in heard if (where, which) == (place, sample)] == list(answer.tokens)


def test_the_cache_never_takes_more_than_its_budget(model, random_tokens, outcomes):
    engine = LocalEngine(model, EngineConfig(rows=8, memory=budget(model, 300)))
    seen, go_on = [], engine._go_on
    engine._go_on = lambda: (seen.append((engine.rows.running, engine.cache.room, engine.rows.filled())), go_on())
    outcomes(engine, *asked_of(random_tokens))
    assert all(running * room <= 300 and filled <= room for running, room, filled in seen)
    assert sum(memory.nbytes for memory in engine.slots.memories) <= engine.config.memory * GIB
    assert len({room for _, room, _ in seen}) > 2 and max(running for running, *_ in seen) > 2


def test_a_request_that_the_budget_can_never_hold_is_refused_alone(model, outcomes):
    engine = LocalEngine(model, EngineConfig(memory=budget(model, 100)))
    refused, served = outcomes(engine, ((1, 2), Sampling(max_tokens=99)), ((1, 2), Sampling(max_tokens=98)))
    assert "a prompt of 2 tokens and up to 99 new ones take 101 tokens of cache, engine.memory=" in str(refused)
    assert "GiB holds 100; ask for fewer, or raise it" in str(refused) and len(served[0].tokens) == 98


def test_the_oldest_never_make_way(model):
    """Three requests of 200 in room for 256: the first is through before the others have got as far as it."""
    engine, order = LocalEngine(model, EngineConfig(rows=8, memory=budget(model, 256))), []

    async def ask(number):
        await engine.generate((1, 2), Sampling(max_tokens=200, seed=number))
        order.append(number)

    async def all_of_them():
        await asyncio.gather(*(ask(number) for number in range(3)))

    asyncio.run(all_of_them())
    assert order == [0, 1, 2] and engine.scheduler.preempted > 0


def test_slots_become_short_again_when_the_long_have_ended(model, outcomes):
    """A budget of 512 tokens: a request of 200 alone in it, then eight of 12 side by side."""
    engine = LocalEngine(model, EngineConfig(rows=8, memory=budget(model, 512)))
    outcomes(engine, ((1, 2), Sampling(max_tokens=200)))
    long, most, go_on = engine.cache.room, [], engine._go_on
    engine._go_on = lambda: (most.append(engine.rows.running), go_on())
    outcomes(engine, *[((1, 2), Sampling(max_tokens=10))] * 8)
    assert long >= 200 and engine.cache.room == 64 and most[0] == 8


def test_a_prompt_is_read_once_for_its_group(model, outcomes):
    engine, read = LocalEngine(model, EngineConfig(rows=8)), []
    prefill = engine.runner.prefill
    engine.runner.prefill = lambda tokens, *rest: (read.append(len(tokens)), prefill(tokens, *rest))[1]
    outcomes(engine, ((1, 2, 3), Sampling(max_tokens=4), 8), ((4, 5), Sampling(max_tokens=4), 2))
    assert read == [3, 2]


def test_a_queue_has_an_end(model, outcomes):
    """One row and two places to wait: of five answers at once the last two are refused, in words, and later ones are not."""
    engine = LocalEngine(model, EngineConfig(rows=1, queue=2))
    answers = outcomes(engine, *[((1, 2), Sampling(max_tokens=3))] * 5)
    assert [isinstance(answer, EngineError) for answer in answers] == [False] * 3 + [True] * 2
    assert str(answers[-1]).startswith("3 answers run or wait and 1 more were asked for; at most 3 may (engine.rows + engine.queue)")
    assert len(outcomes(engine, ((1, 2), Sampling(max_tokens=3)))[0]) == 1
    never = outcomes(engine, ((1, 2), Sampling(max_tokens=3), 4))[0]
    assert str(never).startswith("4 answers were asked for at once; at most 3 may run or wait (engine.rows + engine.queue)")
    assert isinstance(answers[-1], Busy) and not isinstance(never, Busy)


def test_cancelling_frees_rows_and_places_at_once(model, outcomes, same):
    """Two endless groups hold both rows and the queue; when they are cancelled a third is served, and nobody else is disturbed."""
    engine = LocalEngine(model, EngineConfig(rows=3, queue=2))

    async def run():
        lasting = asyncio.create_task(engine.generate((3, 4), Sampling(max_tokens=300, seed=1)))
        endless = [asyncio.create_task(engine.generate((1, 2), Sampling(max_tokens=500), 2)) for _ in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(EngineError, match="5 answers run or wait"):
            await engine.generate((5, 6), Sampling(max_tokens=3))
        for task in endless:
            task.cancel()
        short = await engine.generate((5, 6), Sampling(max_tokens=3), 4)
        assert engine.rows.running == 1 and not engine.waiting and not lasting.done()
        return short, await lasting

    short, lasting = asyncio.run(run())
    assert len(short) == 4
    assert same(lasting, outcomes(LocalEngine(model, EngineConfig()), ((3, 4), Sampling(max_tokens=300, seed=1)))[0])


def test_weights_are_loaded_as_soon_as_what_ran_is_cancelled(model):
    engine = LocalEngine(model, EngineConfig())

    async def run():
        task = asyncio.create_task(engine.generate((1, 2), Sampling(max_tokens=500)))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await engine.load(hf_weights(model), 1)

    asyncio.run(run())
    assert engine.version == 1


def test_a_fault_in_a_prompts_pass_is_its_groups_alone(model, outcomes, same):
    """Three groups are read together and one of them breaks the pass: the other two, and one that runs already, get their answers."""
    engine = LocalEngine(model, EngineConfig(rows=8))
    prefill = engine.runner.prefill

    def allergic(tokens, *rest):
        if 13 in tokens.tolist():
            raise RuntimeError("13 came")
        return prefill(tokens, *rest)

    engine.runner.prefill = allergic

    async def run():
        early = asyncio.create_task(engine.generate((9,), Sampling(max_tokens=100)))
        await asyncio.sleep(0.005)
        late = [engine.generate((1, token), Sampling(max_tokens=5), 2) for token in (12, 14, 13)]
        return await asyncio.gather(early, *late, return_exceptions=True)

    early, first, last, broken = asyncio.run(run())
    assert str(broken) == "13 came"
    wanted = outcomes(LocalEngine(model, EngineConfig()), ((9,), Sampling(max_tokens=100)), ((1, 12), Sampling(max_tokens=5), 2))
    assert same(early, wanted[0]) and same(first, wanted[1]) and len(last) == 2


def test_a_fault_in_a_step_ends_what_runs_and_not_what_waits(model, outcomes):
    engine = LocalEngine(model, EngineConfig(rows=2))
    decode = engine._decode

    def once():
        engine._decode = decode
        raise RuntimeError("one step broke")

    engine._decode = once
    answers = outcomes(engine, *[((1, 2), Sampling(max_tokens=5, seed=seed)) for seed in range(4)])
    assert [str(answer) == "one step broke" for answer in answers] == [True, True, False, False]
    assert [len(answer[0].tokens) for answer in answers[2:]] == [5, 5]


@pytest.mark.parametrize("memory", [None, 100])
def test_a_cache_that_memory_does_not_hold_is_said_to_who_asked_for_it(model, memory, outcomes):
    """Without a budget the longest request is to blame, and the others are served."""
    engine = LocalEngine(model, EngineConfig(rows=2, memory=memory and budget(model, memory)))
    make, most = engine.slots.make, 128 if memory is None else 50

    def small(rows, room):
        if room > most:
            raise RuntimeError("no memory\nand many lines")
        return make(rows, room)

    engine.slots.make = small
    long, short = outcomes(engine, ((1, 2), Sampling(max_tokens=150 if memory is None else 98)), ((1, 2), Sampling(max_tokens=9)))
    assert isinstance(long, EngineError) and "does not fit into memory (no memory); lower engine.rows or engine.memory" in str(long)
    assert isinstance(short, EngineError) if memory else len(short[0].tokens) == 9


@pytest.mark.parametrize("n", [0, -1])
def test_no_completions_cannot_be_asked_for(model, n, outcomes):
    (refused,) = outcomes(LocalEngine(model, EngineConfig()), ((1, 2), Sampling(), n))
    assert str(refused) == f"{n} completions were asked for; ask for at least one"


@pytest.mark.parametrize(("prompt", "wrong"), [((1, 99), 99), ((5, -1), -1)])
def test_an_id_outside_the_vocabulary_is_named_and_disturbs_nobody(model, prompt, wrong, outcomes):
    refused, served = outcomes(LocalEngine(model, EngineConfig()), (prompt, Sampling()), ((1, 2), Sampling(max_tokens=3)))
    assert f"a prompt holds token {wrong}, the model knows 0 to" in str(refused) and len(served[0].tokens) == 3


def test_a_group_larger_than_the_budget_runs_in_parts(model, outcomes, same):
    request = ((1, 2, 3), Sampling(max_tokens=40, seed=5), 10)
    whole = outcomes(LocalEngine(model, EngineConfig(rows=16)), request)[0]
    parts = outcomes(LocalEngine(model, EngineConfig(rows=16, memory=budget(model, 150))), request)[0]
    assert same(whole, parts)


def test_a_device_need_not_be_asked_for_rows_without_a_budget(model, monkeypatch, outcomes):
    engine = LocalEngine(model, EngineConfig())
    monkeypatch.setattr(engine.rows, "filled", lambda: [][1])
    assert len(outcomes(engine, ((1, 2), Sampling(max_tokens=20)))[0][0].tokens) == 20

"""A device that is given its next steps before the host has looked at the last ones: nothing is lost, told twice or drawn otherwise."""

import asyncio

import pytest
import torch

from afterbase.engine import local
from afterbase.engine.draw import draw, plain_knobs
from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.engine.rows import FULL, STOPPED
from afterbase.engine.runner import PlainRunner
from afterbase.engine.slots import GIB, token_bytes
from afterbase.records import Sampling
from afterbase.segments import Segments


class Ahead(PlainRunner):
    """Takes steps as a device does: alone, without a word to the host, and past the rows that are done."""

    alone = True

    def __init__(self, model):
        super().__init__(model)
        self.bursts = []

    def burst(self, rows, cache, steps):
        self.bursts.append(steps)
        for _ in range(steps):
            self.step(rows, cache, rows.running)

    def step(self, rows, cache, running):
        lengths, counts = rows.lengths[:running].clone(), rows.counts[:running].clone()
        segments = Segments.decoding(lengths)
        logits = self.decode(rows.latest[:running], segments, cache.decoding(segments, int(lengths.max()) + 1))
        heats = rows.temperature[:running]
        drawn = draw(logits, plain_knobs(heats, set(heats.tolist())), rows.keys[:running], counts)
        live = (rows.done[:running] == 0).nonzero().squeeze(1)
        for kept, values in ((rows.tokens, drawn.tokens), (rows.logprobs, drawn.logprobs), (rows.sampled, drawn.sampled_logprobs)):
            kept[live, counts[live]] = values[live]
        rows.latest[live] = drawn.tokens[live]
        rows.counts[live] += 1
        rows.lengths[live] += 1
        stopped = (drawn.tokens[:, None] == rows.stop_ids[:running]).any(1)[live]
        full = (rows.counts >= rows.limits)[live]
        rows.done[live] = torch.where(stopped, STOPPED, torch.where(full, FULL, 0)).to(torch.int8)


def engine_of(model, ahead=True, tokens=None, **config) -> LocalEngine:
    """An engine whose device goes ahead, or whose every draw the host sees; `tokens` of cache at most."""
    memory = tokens and (tokens + 0.5) * token_bytes(model.config, 4) / GIB
    engine = LocalEngine(model, EngineConfig(memory=memory, **config), decode=letters)
    engine.runner = Ahead(model) if ahead else PlainRunner(model)
    return engine


def letters(tokens) -> str:
    return "".join(chr(97 + token) for token in tokens)


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("qwen2", num_hidden_layers=1, max_position_embeddings=512)


@pytest.fixture(params=[1, 3, 16])
def burst(request, monkeypatch):
    """Steps between two looks."""
    monkeypatch.setattr(local, "BURST", request.param)
    return request.param


def mixed(random_tokens, number=16) -> list:
    """Groups of 1 to 3, hot and greedy, of 1 to 61 tokens, with stop ids, and one in four with a stop string."""
    return [
        (
            random_tokens(1 + 5 * seed % 17, seed),
            Sampling(
                (1.0, 0.0, 0.7)[seed % 3],
                max_tokens=1 + 13 * seed % 61,
                seed=seed,
                stop_ids=(seed,),
                stop=(letters((seed,)), "zz") if seed % 4 == 3 else (),
                min_tokens=seed % 8,
            )
            if seed % 4 == 3
            else Sampling((1.0, 0.0, 0.7)[seed % 3], max_tokens=1 + 13 * seed % 61, seed=seed, stop_ids=(seed,)),
            1 + seed % 3,
        )
        for seed in range(number)
    ]


@pytest.mark.parametrize("rows", [3, 8, 64])
def test_looking_late_changes_no_answer(model, random_tokens, burst, rows, outcomes, same):
    """Rows end, and others take their places, while steps are under way; whoever follows hears each token once."""
    requests, heard = mixed(random_tokens), []
    told = [(*request, lambda *news, place=place: heard.append((place, *news))) for place, request in enumerate(requests)]
    engine = engine_of(model, rows=rows)
    late, prompt = outcomes(engine, *told), outcomes(engine_of(model, ahead=False, rows=rows), *requests)
    assert max(engine.runner.bursts) == burst
    for place, (one, other) in enumerate(zip(late, prompt, strict=True)):
        assert same(one, other)
        for sample, answer in enumerate(one):
            assert [token for where, which, token, _ in heard if (where, which) == (place, sample)] == list(answer.tokens)


def test_an_answer_of_one_token_frees_its_row_too(model, burst, outcomes):
    engine = engine_of(model, rows=2)
    answers = outcomes(engine, *[((1, 2), Sampling(max_tokens=1, seed=seed)) for seed in range(5)])
    assert [len(answer[0].tokens) for answer in answers] == [1] * 5 and engine.runner.bursts == []


def test_no_step_is_taken_that_the_host_knows_to_be_idle(model, monkeypatch, outcomes):
    """Nine tokens are one from the prompt and eight steps: a burst of five and one of three."""
    monkeypatch.setattr(local, "BURST", 5)
    engine = engine_of(model)
    outcomes(engine, ((1, 2), Sampling(max_tokens=9)), ((3,), Sampling(max_tokens=4)))
    assert engine.runner.bursts == [5, 3]


def test_draws_that_need_the_host_may_come_and_go(model, random_tokens, burst, outcomes, same):
    """Truncated requests among others: bursts before, between and after."""
    requests = [
        (random_tokens(4, seed), Sampling(top_p=0.8 if seed % 4 == 2 else 1.0, max_tokens=3 + 7 * seed % 40, seed=seed))
        for seed in range(10)
    ]
    engine = engine_of(model, rows=3)
    answers = outcomes(engine, *requests)
    assert engine.runner.bursts
    assert all(map(same, answers, outcomes(engine_of(model, ahead=False, rows=3), *requests)))


@pytest.mark.parametrize("tokens", [256, 400])
def test_rows_that_make_way_while_steps_are_under_way_go_on_with_the_same_result(model, random_tokens, burst, tokens, outcomes, same):
    """A budget of 256 tokens holds one or two of them to the end."""
    requests, heard = mixed(random_tokens), []
    requests += [((1, 2), Sampling(max_tokens=200, seed=seed, stop_ids=(39 - seed,)), 1) for seed in range(6)]
    told = [(*request, lambda *news, place=place: heard.append((place, *news))) for place, request in enumerate(requests)]
    roomy, scarce = engine_of(model, ahead=False, rows=8), engine_of(model, tokens=tokens, rows=8)
    for place, (one, other) in enumerate(zip(outcomes(roomy, *requests), outcomes(scarce, *told), strict=True)):
        assert same(one, other)
        for sample, answer in enumerate(other):
            assert [token for where, which, token, _ in heard if (where, which) == (place, sample)] == list(answer.tokens)
    assert scarce.scheduler.preempted > 0


def test_slots_hold_what_the_host_has_not_seen_yet(model, random_tokens, burst, outcomes):
    """Before every burst each running row has room for all that it will hold after it."""
    engine = engine_of(model, tokens=500, rows=8)
    take, seen = engine.runner.burst, []

    def checked(rows, cache, steps):
        lengths, limits = rows.lengths[: rows.running], (rows.limits - rows.counts)[: rows.running]
        live = rows.done[: rows.running] == 0
        seen.append(int((lengths + limits.clamp_max(steps))[live].max()) <= cache.room and bool((lengths <= rows.filled()).all()))
        take(rows, cache, steps)

    engine.runner.burst = checked
    outcomes(engine, *mixed(random_tokens))
    assert seen and all(seen)


@pytest.mark.parametrize("memory", [None, 400])
def test_cancelling_while_steps_are_under_way_disturbs_nobody(model, random_tokens, burst, memory, outcomes, same):
    engine, requests = engine_of(model, rows=6, tokens=memory), mixed(random_tokens)

    async def run():
        endless = [asyncio.create_task(engine.generate((1, 2), Sampling(max_tokens=300, seed=seed), 1)) for seed in range(4)]
        others = [asyncio.create_task(engine.generate(*request)) for request in requests]
        for task in endless:
            for _ in range(3):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*endless, return_exceptions=True)
        return await asyncio.gather(*others)

    assert all(map(same, asyncio.run(run()), outcomes(engine_of(model, ahead=False), *requests)))
    assert engine.rows.running == 0 and engine.rows.owners == [] and not any(engine.rows.led)


def test_a_burst_that_fails_ends_what_runs_and_not_what_waits(model, burst, outcomes, same):
    """The second burst breaks, while nobody has looked at the first."""
    engine = engine_of(model, rows=2)
    take = engine.runner.burst

    def broken(rows, cache, steps):
        if len(engine.runner.bursts) == 1:
            engine.runner.burst = take
            raise RuntimeError("the device broke")
        take(rows, cache, steps)

    engine.runner.burst = broken
    requests = [((1, 2), Sampling(max_tokens=40, seed=seed)) for seed in range(4)]
    answers = outcomes(engine, *requests)
    assert [str(answer) == "the device broke" for answer in answers] == [True, True, False, False]
    assert all(map(same, answers[2:], outcomes(engine_of(model, ahead=False), *requests[2:])))


def test_a_prompt_that_fails_beside_running_steps_is_its_groups_alone(model, burst, outcomes, same):
    engine = engine_of(model, rows=8)
    read = engine.runner.prefill

    def allergic(tokens, *rest):
        if 13 in tokens.tolist():
            raise RuntimeError("13 came")
        return read(tokens, *rest)

    engine.runner.prefill = allergic
    requests = [((9,), Sampling(max_tokens=100)), *[((1, token), Sampling(max_tokens=5), 2) for token in (12, 14, 13)]]

    async def run():
        early = asyncio.create_task(engine.generate(*requests[0]))
        for _ in range(3):
            await asyncio.sleep(0)
        return await asyncio.gather(early, *(engine.generate(*request) for request in requests[1:]), return_exceptions=True)

    *served, broken = asyncio.run(run())
    assert str(broken) == "13 came"
    assert all(map(same, served, outcomes(engine_of(model, ahead=False), *requests[:3])))


def test_a_decoder_that_fails_ends_what_runs_and_the_engine_goes_on(model, outcomes):
    engine = engine_of(model, rows=2)
    engine.rows.decode = lambda tokens: [][1]
    assert isinstance(outcomes(engine, ((1,), Sampling(stop=("a",))))[0], IndexError)
    assert len(outcomes(engine, ((1, 2), Sampling(max_tokens=5)))[0][0].tokens) == 5


def test_a_decoder_that_fails_when_rows_make_way_ends_what_runs_and_not_what_waits(model, outcomes, same):
    """A budget of one long answer or two short ones; the first look at a device that has nothing more to do breaks."""
    engine, broken = engine_of(model, tokens=256, rows=8), []
    look = engine.rows.look

    def once(version, seen=None):
        if seen is None and not broken:
            broken.append(engine.rows.running)
            raise IndexError("no text")
        return look(version, seen)

    engine.rows.look = once
    requests = [((1, 2), Sampling(max_tokens=200, seed=seed)) for seed in range(12)]
    answers = outcomes(engine, *requests)
    assert [str(answer) for answer in answers[: broken[0]]] == ["no text"] * broken[0] and 0 < broken[0] < 12
    assert all(map(same, answers[broken[0] :], outcomes(engine_of(model, ahead=False), *requests[broken[0] :])))


def test_a_stop_string_ends_where_it_is_complete_however_much_was_drawn_behind_it(model, burst, outcomes):
    """At every place of what is said anyway; it may span two looks."""
    engine, request = engine_of(model), ((1, 2, 3), 12)
    ((free,),) = outcomes(engine, (request[0], Sampling(max_tokens=12, seed=2)))
    text, heard = letters(free.tokens), []
    for width in (1, 3):
        for first in range(len(text) - width + 1):
            stop = text[first : first + width]
            sampling = Sampling(max_tokens=12, seed=2, stop=(stop, "?"))
            ((done,),) = outcomes(engine, (request[0], sampling, 1, lambda *news: heard.append(news[1])))
            assert letters(done.tokens) == text[: text.index(stop) + width] and done.finish == "stop"
            assert heard == list(done.tokens)
            heard.clear()


def test_a_stop_string_waits_for_min_tokens(model, burst, outcomes):
    """One that is complete too early is passed over; the next one counts."""
    engine = engine_of(model)
    engine.rows.decode = lambda tokens: "." * len(tokens)
    ((done,),) = outcomes(engine, ((1,), Sampling(max_tokens=20, stop=(".",), min_tokens=6)))
    assert len(done.tokens) == 7


def test_who_asks_while_steps_are_under_way_is_read_before_the_next_ones(model, burst):
    """A burst is under way; the next thing that the device is given is the newcomer's prompt, and the first token comes one look later."""
    engine, did, heard = engine_of(model), [], asyncio.Event()
    read, take = engine.runner.prefill, engine.runner.burst
    engine.runner.prefill = lambda tokens, *rest: (did.append(len(tokens)), read(tokens, *rest))[1]
    engine.runner.burst = lambda *asked: (did.append("burst"), take(*asked))[1]

    async def run():
        early = asyncio.create_task(engine.generate((1, 2), Sampling(max_tokens=100)))
        while did.count("burst") < 2:
            await asyncio.sleep(0)
        late = asyncio.create_task(engine.generate((5, 6, 7), Sampling(max_tokens=100), 1, lambda *news: heard.set()))
        await asyncio.sleep(0)
        before = len(did)
        await heard.wait()
        return did[before:], await asyncio.gather(early, late)

    between, _ = asyncio.run(run())
    assert between[0] == 3 and between.count("burst") <= 2


def test_weights_may_be_loaded_while_idle_steps_are_under_way(model, outcomes):
    """The only row ended in the burst before the one that runs."""
    from afterbase.model.checkpoint import hf_weights

    engine = engine_of(model)
    ((done,),) = outcomes(engine, ((1, 2), Sampling(max_tokens=500, stop_ids=tuple(range(39)))))
    asyncio.run(engine.load(hf_weights(model), 3))
    assert done.finish == "stop" and outcomes(engine, ((1, 2), Sampling(max_tokens=3)))[0][0].version == 3

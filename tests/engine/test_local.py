"""Continuous batching over a tiny model: what a request gets depends on the request alone."""

import asyncio
import gc
import random

import pytest
import torch

from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.errors import EngineError
from afterbase.model.checkpoint import hf_weights
from afterbase.objective.likelihood import Likelihood
from afterbase.records import Sample, Sampling
from afterbase.segments import Segments
from afterbase.train.optim import OptimConfig
from afterbase.train.packing import pack
from afterbase.train.schedule import ScheduleConfig
from afterbase.train.trainer import LocalTrainer, TrainerConfig


@pytest.fixture(scope="module", params=["qwen3", "deepseek_v3"])
def model(request, tiny):
    return tiny(request.param)


@pytest.fixture
def small(tiny):
    """A model of the test's own, to be changed."""
    return tiny("qwen2")


def generate(engine, *requests):
    """Ask for everything at once; each request is (prompt, sampling) or (prompt, sampling, n)."""

    async def all_of_them():
        return await asyncio.gather(*(engine.generate(*request) for request in requests))

    return asyncio.run(all_of_them())


def tokens_of(completions):
    return [one.tokens for one in completions]


def mixed_requests(random_tokens):
    """Fourteen requests of every kind: long and short, greedy and hot, alone and in groups, truncated or not."""
    return [
        (
            random_tokens(1 + 5 * seed % 17, seed),
            Sampling((1.0, 0.0, 0.7)[seed % 3], (1.0, 0.9)[seed % 2], (0, 0, 5)[seed % 3], 1 + 7 * seed % 23, seed=seed, stop_ids=(seed,)),
            1 + seed % 3,
        )
        for seed in range(14)
    ]


def test_greedy_is_a_naive_loop_without_a_cache(model, random_tokens):
    prompt = random_tokens(6)
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(20):
            tokens.append(int(model.logits(model(torch.tensor(tokens), Segments.of([len(tokens)])))[-1].argmax()))
    ((done,),) = generate(LocalEngine(model, EngineConfig()), (prompt, Sampling(0.0, max_tokens=20)))
    assert list(done.tokens) == tokens[6:] and done.finish == "length"


@pytest.mark.parametrize("config", [EngineConfig(rows=3), EngineConfig(rows=7, prefill_tokens=9), EngineConfig(rows=64)], ids=str)
def test_a_request_gets_the_same_tokens_whatever_shares_its_batch(model, random_tokens, config):
    """Fourteen requests at once, in any order, on few rows or many, are the fourteen asked one after the other."""
    requests = mixed_requests(random_tokens)
    quiet = LocalEngine(model, EngineConfig(rows=3))
    alone = [generate(quiet, request)[0] for request in requests]
    for seed in (0, 1):
        order = list(range(14))
        random.Random(seed).shuffle(order)
        crowd = generate(LocalEngine(model, config), *(requests[place] for place in order))
        for place, completions in zip(order, crowd, strict=True):
            assert tokens_of(completions) == tokens_of(alone[place])
            for one, other in zip(completions, alone[place], strict=True):
                assert one.finish == other.finish and one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
                assert one.sampled_logprobs == pytest.approx(other.sampled_logprobs, abs=1e-5)


def test_requests_may_come_while_others_run(model, random_tokens):
    engine, prompt = LocalEngine(model, EngineConfig(rows=4)), random_tokens(4)

    async def one_after_another():
        first = asyncio.create_task(engine.generate(prompt, Sampling(max_tokens=50, seed=1)))
        await asyncio.sleep(0.001)
        return await engine.generate(prompt, Sampling(max_tokens=5, seed=2)), await first

    late, early = asyncio.run(one_after_another())
    assert [tokens_of(late), tokens_of(early)] == [
        tokens_of(generate(engine, (prompt, Sampling(max_tokens=most, seed=seed)))[0]) for most, seed in ((5, 2), (50, 1))
    ]


def test_the_n_answers_differ_and_come_back_with_their_seed(model, random_tokens):
    engine = LocalEngine(model, EngineConfig(rows=16))
    request = (random_tokens(4), Sampling(max_tokens=12, seed=5), 8)
    first, again, other = generate(engine, request, request, (request[0], Sampling(max_tokens=12, seed=6), 8))
    assert len(set(tokens_of(first))) == 8
    assert tokens_of(first) == tokens_of(again) and not set(tokens_of(first)) & set(tokens_of(other))


def test_a_group_may_be_larger_than_the_cache(model, random_tokens):
    """Ten answers on three rows are the ten on sixteen."""
    request = (random_tokens(4), Sampling(max_tokens=6, seed=5), 10)
    ((few,), (many,)) = (generate(LocalEngine(model, EngineConfig(rows=rows)), request) for rows in (3, 16))
    assert tokens_of(few) == tokens_of(many) and len(few) == 10


def test_the_first_of_n_is_the_one_asked_alone(model, random_tokens):
    engine, prompt = LocalEngine(model, EngineConfig()), random_tokens(4)
    ((one,), many) = generate(engine, (prompt, Sampling(seed=3, max_tokens=8)), (prompt, Sampling(seed=3, max_tokens=8), 3))
    assert one.tokens == many[0].tokens


def test_the_global_random_state_has_no_say(model, random_tokens):
    engine, request = LocalEngine(model, EngineConfig()), (random_tokens(4), Sampling(max_tokens=8))
    torch.manual_seed(1)
    (first,) = generate(engine, request)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    (second,) = generate(engine, request)
    assert tokens_of(first) == tokens_of(second) and torch.equal(state, torch.get_rng_state())


def test_the_context_ends_a_completion(model, random_tokens):
    """A prompt of 13 leaves 3 tokens of 16; the last one needs no room in the cache behind it."""
    engine = LocalEngine(model, EngineConfig(context=16))
    ((done,), (last,)) = generate(engine, (random_tokens(13), Sampling(max_tokens=50)), (random_tokens(15), Sampling(max_tokens=50)))
    assert (len(done.tokens), done.finish) == (3, "length") and (len(last.tokens), last.finish) == (1, "length")


def test_the_context_is_never_longer_than_the_models(model):
    assert LocalEngine(model, EngineConfig(context=1000)).room == LocalEngine(model, EngineConfig()).room == 64


def test_a_stop_string_ends_where_its_last_token_does(model, random_tokens):
    """Tokens read as letters: stop at the third and fourth letter of what is said anyway."""
    letters = "".join(chr(192 + token) for token in range(40))
    engine = LocalEngine(model, EngineConfig(), decode=lambda tokens: "".join(letters[token] for token in tokens))
    prompt = random_tokens(5)
    ((free,),) = generate(engine, (prompt, Sampling(max_tokens=20, seed=2)))
    said = engine.rows.decode(free.tokens)
    ((done,),) = generate(engine, (prompt, Sampling(max_tokens=20, seed=2, stop=(said[2:4],))))
    assert done.tokens == free.tokens[: said.index(said[2:4]) + 2] and done.finish == "stop"


@pytest.mark.parametrize(
    ("prompt", "sampling", "said"),
    [
        ((), Sampling(), "an empty prompt cannot be continued"),
        ((1,) * 16, Sampling(), "a prompt of 16 tokens leaves no room in the context of 16; shorten it or raise engine.context"),
        ((1,), Sampling(stop=("END",)), "stop strings such as 'END' need an engine that was given a decoder"),
    ],
)
def test_what_cannot_be_served_is_refused_in_words(model, prompt, sampling, said):
    engine = LocalEngine(model, EngineConfig(context=16))
    with pytest.raises(EngineError, match=said):
        generate(engine, (prompt, sampling))
    assert len(generate(engine, ((1, 2), Sampling(max_tokens=2)))[0]) == 1


@pytest.mark.parametrize("length", [0, 17])
def test_what_cannot_be_scored_is_refused_in_words(model, length):
    with pytest.raises(EngineError, match=f"a sequence of {length} tokens cannot be scored; give 1 to 16"):
        asyncio.run(LocalEngine(model, EngineConfig(context=16)).score((1,) * length))


def test_a_single_token_has_no_score(model):
    assert asyncio.run(LocalEngine(model, EngineConfig()).score((1,))) == []


def change_by_hand(model, steps):
    with torch.no_grad():
        model.model.norm.weight.mul_(1.1)


def change_by_training(model, steps):
    """The fused optimizer writes without telling autograd; the trainer tells it."""
    trainer = LocalTrainer(model, TrainerConfig(optim=OptimConfig(schedule=ScheduleConfig(peak=1e-3))), steps)
    (batch,) = pack([Sample((1, 2, 3), (True,) * 3)], 10)
    trainer.forward_backward(batch, Likelihood())
    trainer.step()


@pytest.mark.parametrize("change", [change_by_hand, change_by_training])
def test_weights_that_changed_unannounced_are_not_sampled_from(small, change):
    engine, request = LocalEngine(small, EngineConfig()), ((1, 2), Sampling(max_tokens=4))
    ((before,),) = generate(engine, request)
    change(small, 3)
    with pytest.raises(EngineError, match="the weights changed after version 0 was loaded; call load"):
        generate(engine, request)
    asyncio.run(engine.load(hf_weights(small), 7))
    ((after,),) = generate(engine, request)
    assert (before.version, after.version) == (0, 7) and before.logprobs != after.logprobs


def test_a_moved_routing_bias_is_a_change_of_weights(tiny):
    model = tiny("deepseek_v3")
    engine = LocalEngine(model, EngineConfig())
    model.model.layers[1].mlp.gate.e_score_correction_bias += 0.001
    with pytest.raises(EngineError, match="the weights changed"):
        generate(engine, ((1, 2), Sampling(max_tokens=4)))


@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_foreign_weights_are_copied_in(tiny, random_tokens, family):
    """After loading another model's weights the engine is that model, and the other keeps its own."""
    mine, other = (tiny(family, seed=seed, num_nextn_predict_layers=1 if family == "deepseek_v3" else 0) for seed in (0, 1))
    engine, request = LocalEngine(mine, EngineConfig()), (random_tokens(5), Sampling(max_tokens=10), 2)
    (before,) = generate(engine, request)
    asyncio.run(engine.load(hf_weights(other), 1))
    (after,) = generate(engine, request)
    (wanted,) = generate(LocalEngine(other, EngineConfig()), request)
    assert tokens_of(after) == tokens_of(wanted) != tokens_of(before)
    assert mine.lm_head.weight.data_ptr() != other.lm_head.weight.data_ptr()


def test_the_trainers_own_tensors_are_taken_as_they_are(small):
    addresses = [parameter.data_ptr() for parameter in small.parameters()]
    engine = LocalEngine(small, EngineConfig())
    stamp = engine.stamp
    asyncio.run(engine.load(hf_weights(small), 1))
    assert [parameter.data_ptr() for parameter in small.parameters()] == addresses and engine.stamp == stamp


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [("model.norm.bias", (16,), "the model has no such tensor"), ("model.norm.weight", (1,), r"the model has it as \[16\]")],
)
def test_weights_of_another_shape_are_refused_by_name(small, name, shape, said):
    with pytest.raises(EngineError, match=rf"weights 1 hold {name} .*{said}"):
        asyncio.run(LocalEngine(small, EngineConfig()).load([(name, torch.ones(shape))], 1))


def test_weights_are_not_loaded_under_running_requests(model):
    engine = LocalEngine(model, EngineConfig())

    async def load_too_early():
        running = asyncio.create_task(engine.generate((1, 2), Sampling(max_tokens=50)))
        await asyncio.sleep(0)
        with pytest.raises(EngineError, match="weights 1 came while requests of weights 0 run"):
            await engine.load(hf_weights(model), 1)
        return await running

    assert len(asyncio.run(load_too_early())[0].tokens) == 50


def test_closing_ends_what_runs_in_words_and_the_engine_can_be_used_again(model):
    engine = LocalEngine(model, EngineConfig(rows=2))

    async def close_early():
        requests = [asyncio.create_task(engine.generate((1, 2), Sampling(max_tokens=60, seed=seed))) for seed in range(5)]
        await asyncio.sleep(0.001)
        await engine.close()
        return await asyncio.gather(*requests, return_exceptions=True)

    ends = asyncio.run(close_early())
    assert {str(end) for end in ends} == {"the engine was closed while requests were running"}
    assert all(isinstance(end, EngineError) for end in ends)
    assert len(generate(engine, ((1, 2), Sampling(max_tokens=4)))[0][0].tokens) == 4


def test_who_asks_a_closed_engine_before_anything_else_happens_is_served(model):
    engine = LocalEngine(model, EngineConfig(rows=2))

    async def close_and_ask():
        running = asyncio.create_task(engine.generate((1, 2), Sampling(max_tokens=60)))
        await asyncio.sleep(0)
        await engine.close()
        async with asyncio.timeout(20):
            answers = await engine.generate((1, 2), Sampling(max_tokens=4))
        return answers, await asyncio.gather(running, return_exceptions=True)

    (answer,), (closed,) = asyncio.run(close_and_ask())
    assert len(answer.tokens) == 4 and isinstance(closed, EngineError)


def test_a_failure_reaches_everyone_who_waits_and_nobody_else(model, caplog):
    """What breaks a pass reaches every request in it; the next request is served, and nothing is said twice."""
    engine = LocalEngine(model, EngineConfig())
    whole = engine._decode

    async def broken():
        engine._decode = lambda: [][1]
        return await asyncio.gather(*(engine.generate((1, 2), Sampling()) for _ in range(2)), return_exceptions=True)

    assert all(isinstance(end, IndexError) for end in asyncio.run(broken()))
    engine._decode = whole
    assert len(generate(engine, ((1, 2), Sampling(max_tokens=4)))[0]) == 1
    gc.collect()
    assert caplog.records == []


def test_a_token_outside_the_vocabulary_is_refused_before_it_can_break_a_pass(model):
    engine = LocalEngine(model, EngineConfig())
    with pytest.raises(EngineError, match="a prompt holds token 99, the model knows 0 to"):
        generate(engine, ((1, 99), Sampling()))


def test_streaming_tells_every_answers_tokens_as_they_come(model):
    engine, heard = LocalEngine(model, EngineConfig()), []
    (answers,) = generate(engine, ((1, 2), Sampling(max_tokens=6), 3, lambda *news: heard.append(news)))
    for sample, answer in enumerate(answers):
        assert [news[1:] for news in heard if news[0] == sample] == list(zip(answer.tokens, answer.logprobs, strict=True))
    assert [news[0] for news in heard[:6]] == [0, 1, 2, 0, 1, 2]


def test_a_reader_that_fails_loses_its_own_request_only(model):
    engine = LocalEngine(model, EngineConfig())

    async def read_badly():
        bad = engine.generate((1, 2), Sampling(max_tokens=30), 1, lambda *news: [][1])
        return await asyncio.gather(bad, engine.generate((1, 2), Sampling(max_tokens=30)), return_exceptions=True)

    failed, fine = asyncio.run(read_badly())
    assert isinstance(failed, IndexError) and len(fine[0].tokens) == 30


def test_a_cancelled_run_leaves_the_engine_usable(model):
    """asyncio.run that ends early cancels the driver; what ran then must neither block nor colour the next run."""
    engine = LocalEngine(model, EngineConfig(rows=2))

    async def give_up():
        task = asyncio.create_task(engine.generate((1, 2), Sampling(max_tokens=60), 2))
        await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(give_up())
    request = ((3, 4), Sampling(max_tokens=5, seed=9))
    assert tokens_of(generate(engine, request)[0]) == tokens_of(generate(LocalEngine(model, EngineConfig()), request)[0])
    asyncio.run(engine.load(hf_weights(model), 1))

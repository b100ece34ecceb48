"""Drafting changes when a token comes, never which token."""

import asyncio
from collections import Counter

import pytest
import torch

from afterbase.engine.drafts import NONE
from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.engine.slots import GIB, token_bytes
from afterbase.engine.speculative import MTPDrafting, NgramDrafting
from afterbase.errors import EngineError
from afterbase.records import Sampling
from afterbase.segments import Segments

MTP_MODEL = {"num_nextn_predict_layers": 1}
WAYS = {
    "mtp": ("deepseek_v3", MTP_MODEL, MTPDrafting(always=True)),
    "mtp thrice by one module": ("deepseek_v3", MTP_MODEL, MTPDrafting(tokens=3, always=True)),
    "two modules": ("deepseek_v3", {"num_nextn_predict_layers": 2}, MTPDrafting(tokens=3, always=True)),
    "mtp, dense": ("qwen3", MTP_MODEL, MTPDrafting(tokens=2, always=True)),
    "ngram": ("qwen3", {}, NgramDrafting(length=1, always=True)),
    "ngram, latent": ("deepseek_v3", {}, NgramDrafting(length=2, tokens=3, always=True)),
}


@pytest.fixture(params=WAYS, scope="module")
def way(request, tiny):
    """A model and how it drafts."""
    family, changes, drafting = WAYS[request.param]
    return tiny(family, **changes), drafting


def generate(engine, *requests):
    async def all_of_them():
        return await asyncio.gather(*(engine.generate(*request) for request in requests))

    return asyncio.run(all_of_them())


def engine_of(model, drafting, rows=8, **settings):
    return LocalEngine(model, EngineConfig(rows=rows, speculative=drafting, **settings), decode=lambda tokens: "".join(map(chr, tokens)))


def requests_of_every_kind(random_tokens):
    """Greedy and hot, short and long, cut and steered, alone and in groups, prompts that repeat themselves."""
    samplings = [
        Sampling(0.0, max_tokens=30),
        Sampling(1.0, max_tokens=25, seed=1),
        Sampling(0.3, max_tokens=40, seed=2, stop_ids=(3, 11)),
        Sampling(0.7, top_p=0.9, top_k=5, max_tokens=17, seed=3),
        Sampling(0.3, max_tokens=30, seed=4, stop=(chr(7), chr(21))),
        Sampling(0.5, max_tokens=30, seed=5, presence_penalty=0.5, repetition_penalty=1.3),
        Sampling(1.0, max_tokens=1, seed=6),
        Sampling(0.2, max_tokens=64, seed=7),
    ]
    return [(random_tokens(1 + 3 * place, place) * 2, sampling, 1 + place % 3) for place, sampling in enumerate(samplings)]


def test_every_request_gets_the_tokens_that_it_gets_without_drafts(way, random_tokens):
    model, drafting = way
    requests = requests_of_every_kind(random_tokens)
    plain = generate(LocalEngine(model, EngineConfig(rows=8), engine_of(model, drafting).rows.decode), *requests)
    engine = engine_of(model, drafting)
    for answers, others in zip(generate(engine, *requests), plain, strict=True):
        for one, other in zip(answers, others, strict=True):
            assert (one.tokens, one.finish) == (other.tokens, other.finish)
            # Rounding of the logits, divided by temperatures down to 0.2.
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
            assert one.sampled_logprobs == pytest.approx(other.sampled_logprobs, abs=1e-5)
    assert engine.speculation().steps > 20
    shares = ", ".join(f"{share:.0%}" for share in engine.speculation().whole.fractions)
    assert str(engine.speculation()).startswith(f"drafts kept, by place: {shares} ({engine.speculation().steps} of ")
    assert sum(engine.speculation().whole.accepted) > (5 if drafting.kind == "mtp" else 20), "a test of rejections alone"


def test_the_reported_logprobs_are_those_of_the_model(way, random_tokens):
    model, drafting = way
    prompt = random_tokens(5) * 2
    ((done,),) = generate(engine_of(model, drafting), (prompt, Sampling(1.0, max_tokens=30, seed=3)))
    tokens = torch.tensor([*prompt, *done.tokens])
    with torch.no_grad():
        logits = model.logits(model(tokens, Segments.of([len(tokens)]))).log_softmax(-1)
    expected = logits[len(prompt) - 1 : -1].gather(1, tokens[len(prompt) :, None]).squeeze(1)
    assert torch.tensor(done.logprobs).sub(expected).abs().max() < 2e-6


@pytest.mark.parametrize("way", ["mtp", "two modules", "ngram, latent"], indirect=True)
def test_drafting_may_begin_and_stop_at_any_step(way, random_tokens):
    """What the modules missed meanwhile is read again, and no token changes."""
    model, drafting = way
    requests = requests_of_every_kind(random_tokens)
    engine, turn = engine_of(model, drafting), iter(range(10_000))
    engine.speculator._drafting = lambda count, pace: next(turn) % 5 < 3
    plain = generate(LocalEngine(model, EngineConfig(rows=8), engine.rows.decode), *requests)
    for answers, others in zip(generate(engine, *requests), plain, strict=True):
        assert [one.tokens for one in answers] == [other.tokens for other in others]
    assert min(engine.speculation().steps, engine.speculation().plain_steps) > 10


def guesses_of(engine, requests):
    """What was guessed for each request, sample and number of tokens drawn."""
    rows, draft, seen = engine.rows, engine.speculator.drafter.draft, {}

    def spy(cache):
        guesses = draft(cache)
        for (group, sample), count, guess in zip(rows.owners, rows.counts.tolist(), guesses.tolist(), strict=False):
            if guess[0] != NONE:
                seen[group.tag, sample, count] = guess
        return guesses

    engine.speculator.drafter.draft = spy
    generate(engine, *[(*request, None, str(place)) for place, request in enumerate(requests)])
    return seen


@pytest.mark.parametrize("way", ["mtp thrice by one module", "ngram"], indirect=True)
def test_what_is_drafted_for_a_request_depends_on_it_alone(way, random_tokens):
    """The same drafts on four rows, where rows move and requests wait, as on one."""
    model, drafting = way
    requests = requests_of_every_kind(random_tokens)[2:5]
    crowd, alone = (engine_of(model, drafting, rows) for rows in (4, 1))
    assert guesses_of(crowd, requests) == guesses_of(alone, requests)
    assert crowd.speculation().by_tag == alone.speculation().by_tag or drafting.kind == "ngram"  # tags that nothing was drafted for


@pytest.mark.parametrize("seed", range(4))
def test_the_second_of_two_modules_goes_on_where_the_first_ended(tiny, random_tokens, seed):
    """The first guesses after a prompt, from whole texts; the second module knows nothing yet of the token between prompt and guess."""
    model, prompt = tiny("deepseek_v3", num_nextn_predict_layers=2), random_tokens(6, seed)
    one, two = model.mtp
    embed, segments, rotation = model.model.embed_tokens, Segments.of([6]), model.rotary(torch.arange(6))
    engine = engine_of(model, MTPDrafting(tokens=2, always=True), rows=1)
    guesses = guesses_of(engine, [(prompt, Sampling(0.0, max_tokens=3), 1)])["0", 0, 1]
    with torch.no_grad():
        hidden = model(torch.tensor(prompt), segments)
        drawn = int(model.logits(hidden)[-1].argmax())
        states = one(hidden, embed(torch.tensor([*prompt[1:], drawn])), segments, rotation)
        first = int(model.logits(one.norm(states))[-1].argmax())
        states = two(states, embed(torch.tensor([*prompt[2:], prompt[-1], first])), segments, rotation)
        assert guesses == [first, int(model.logits(two.norm(states))[-1].argmax())]


@pytest.mark.parametrize("kind", ["mtp", "ngram"])
def test_requests_that_lose_their_rows_go_on_with_the_same_tokens(tiny, random_tokens, kind):
    """A cache of 330 tokens for three requests that want 450: the youngest makes way and is read again."""
    family, changes, drafting = WAYS[kind]
    model, layers = tiny(family, max_position_embeddings=256, **changes), len(changes)
    requests = [(random_tokens(10, place), Sampling(0.7, max_tokens=140, seed=place)) for place in range(3)]
    engine = engine_of(model, drafting, memory=330.5 * token_bytes(model.config, 4, layers) / GIB)
    plain, preempt, taken = generate(LocalEngine(model, EngineConfig()), *requests), engine.rows.preempt, []
    engine.rows.preempt = lambda many: taken.append(many) or preempt(many)
    assert [one.tokens for (one,) in generate(engine, *requests)] == [one.tokens for (one,) in plain]
    assert taken and engine.speculation().steps > 20


@pytest.mark.parametrize("pauses", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_module_guesses_what_it_would_guess_without_a_cache(tiny, random_tokens, temperature, pauses):
    """Each guess, whatever was accepted and rejected before it, from the whole text read at once; the second by the module's own state."""
    model, prompt = tiny("deepseek_v3", **MTP_MODEL), random_tokens(7)
    engine, seen, turn = engine_of(model, MTPDrafting(tokens=2, always=True), rows=1), [], iter(range(1000))
    rows, owners, drafter, draft = engine.rows, [], engine.speculator.drafter, engine.speculator.drafter.draft

    def spy(cache):
        guesses = draft(cache)
        seen.append((int(rows.lengths[0]), int(rows.counts[0]), guesses[0].tolist()))
        owners[:] = rows.owners
        return guesses

    drafter.draft = spy
    if pauses:
        engine.speculator._drafting = lambda count, pace: next(turn) % 4 > 1
    ((done,),) = generate(engine, (prompt, Sampling(temperature, max_tokens=40, seed=3)))
    text = [*prompt, *done.tokens]
    rows.running, rows.owners = 1, owners
    rows.temperature[0], rows.knobs = temperature, None
    module, embed = model.mtp[0], model.model.embed_tokens
    with torch.no_grad():
        for length, count, guesses in seen:
            rows.counts[0] = count
            tokens = torch.tensor(text[: length + 1])
            segments = Segments.of([length])
            states = module(model(tokens[:-1], segments), embed(tokens[1:]), segments, model.rotary(segments.positions))
            first = rows.drawn(model.logits(module.norm(states))[-1:], 0).tokens
            assert first.tolist() == guesses[:1]
            longer = Segments.of([length + 1])
            before = torch.cat((model(tokens[:-1], segments), states[-1:]))
            states = module(before, embed(torch.cat((tokens[1:], first))), longer, model.rotary(longer.positions))
            assert rows.drawn(model.logits(module.norm(states))[-1:], 1).tokens.tolist() == guesses[1:]
    assert len(seen) > 15


def test_what_followed_the_newest_tokens_last_time_is_drafted(tiny):
    """In 1 2 3 9 1 2 4 8 the pair 1 2 was followed by 4 8 last; and a text that loops goes on in its loop."""
    engine = engine_of(tiny("qwen3"), NgramDrafting(tokens=4, length=2, always=True), rows=3)
    seen, draft = [], engine.speculator.drafter.draft

    def spy(cache):
        seen.append(draft(cache).tolist())
        return seen[-1] and torch.full((3, 4), -1)

    engine.speculator.drafter.draft = spy

    class Fixed(type(engine.rows)):
        def advance(self, logits, version):
            wanted = torch.tensor([2, 6, 5])  # the first draw of each row
            return super().advance(torch.full_like(logits, -50.0).scatter(1, wanted[-len(logits) :, None], 50.0), version)

    engine.rows.__class__ = Fixed
    prompts = [1, 2, 3, 9, 1, 2, 4, 8, 1], [5, 6, 5, 6, 5], [1, 2, 3, 4]
    generate(engine, *[(prompt, Sampling(0.0, max_tokens=2)) for prompt in prompts])
    assert seen[0] == [[4, 8, 1, 2], [5, 6, 5, 6], [-1, -1, -1, -1]]


def test_hot_drafts_leave_the_distribution_as_it_is(tiny, random_tokens):
    """Chi-square of 6,000 second tokens, each verified as a draft, against the model's own distribution: five deviations at most."""
    model, prompt = tiny("deepseek_v3", vocab_size=10, **MTP_MODEL), [1, 2, 3]
    engine, draws = engine_of(model, MTPDrafting(most_rows=1000, tokens=2, always=True), rows=1000), 6000
    (answers,) = generate(engine, (prompt, Sampling(1.0, max_tokens=2, seed=1), draws))
    first, second = ([one.tokens[place] for one in answers] for place in (0, 1))
    with torch.no_grad():
        heads = model.logits(model(torch.tensor(prompt), Segments.of([3])))[-1].softmax(-1)
        both = torch.stack([model.logits(model(torch.tensor([*prompt, t]), Segments.of([4])))[-1].softmax(-1) for t in range(10)])
    for counts, chances in ((Counter(first), heads), (Counter(second), heads @ both)):
        chi = sum((counts[token] - draws * p) ** 2 / (draws * p) for token, p in enumerate(chances.tolist()))
        assert chi < 9 + 5 * 18**0.5
    assert engine.speculation().whole.accepted[0] > draws / 20


@pytest.mark.parametrize("way", ["mtp thrice by one module", "ngram"], indirect=True)
def test_a_reader_is_told_every_token_once_and_in_order(way, random_tokens):
    model, drafting = way
    told = []
    prompt = random_tokens(4) * 3
    ((done,),) = generate(engine_of(model, drafting), (prompt, Sampling(0.3, max_tokens=30, seed=2), 1, lambda *heard: told.append(heard)))
    assert told == [(0, token, logprob) for token, logprob in zip(done.tokens, done.logprobs, strict=True)]


def test_drafts_are_counted_by_place_and_by_tag(tiny):
    """A copy is what n-grams guess: greedy decoding that loops is accepted whole, at every place."""
    engine = engine_of(tiny("qwen3"), NgramDrafting(tokens=2, length=1, always=True))
    for tag in ("math", "code", "math"):
        asyncio.run(engine.generate([1, 2, 3, 1, 2, 3], Sampling(0.0, max_tokens=40), tag=tag))
    counts = engine.speculation()
    assert set(counts.by_tag) == {"math", "code"}
    math, code = counts.by_tag["math"], counts.by_tag["code"]
    assert math.drafted == [2 * one for one in code.drafted] and math.accepted == [2 * one for one in code.accepted]
    assert counts.whole.accepted == [3 * one for one in code.accepted] and code.accepted[0] >= code.accepted[1] > 0
    assert code.fractions == [kept / asked for kept, asked in zip(code.accepted, code.drafted, strict=True)]


def test_drafts_past_the_end_of_a_request_are_not_judged(tiny):
    """Greedy decoding has come to repeat itself. Of three tokens the prompt gives one; two drafts of four can be taken."""
    model = tiny("qwen3")
    ((done,),) = generate(LocalEngine(model, EngineConfig()), ([1, 2, 3], Sampling(0.0, max_tokens=40)))
    engine = engine_of(model, NgramDrafting(tokens=4, always=True))
    generate(engine, ([1, 2, 3, *done.tokens], Sampling(0.0, max_tokens=3)))
    assert engine.speculation().whole.drafted == engine.speculation().whole.accepted == [1, 1, 0, 0]


@pytest.mark.parametrize("how", ["id", "string"])
def test_a_stop_among_accepted_drafts_ends_the_answer_there(tiny, how):
    """A drafter that knows the answer; nothing of it is kept past the stop."""
    model, prompt = tiny("qwen3", seed=3), [1, 2, 3]
    answer = generate(LocalEngine(model, EngineConfig()), (prompt, Sampling(0.0, max_tokens=12)))[0][0].tokens
    assert len(set(answer)) > 6
    for token in set(answer):
        stop = {"stop_ids": (token,)} if how == "id" else {"stop": (chr(token),)}
        engine = engine_of(model, NgramDrafting(tokens=11, always=True))
        engine.speculator.drafter.draft = lambda cache: torch.tensor([answer[1:]])
        ((done,),) = generate(engine, (prompt, Sampling(0.0, max_tokens=12, **stop)))
        assert (done.tokens, done.finish) == (answer[: answer.index(token) + 1], "stop")


def test_mtp_drafts_need_an_mtp_module(tiny):
    with pytest.raises(EngineError, match="the model has no MTP module to draft with"):
        engine_of(tiny("qwen3"), MTPDrafting())

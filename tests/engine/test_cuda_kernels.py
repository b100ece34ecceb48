"""The kernels of decoding on CUDA against torch: natively where there is a GPU, in Triton's interpreter elsewhere."""

import asyncio

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("triton", reason="Triton is not installed here, so its kernels cannot run, not even interpreted")

from afterbase.engine import local
from afterbase.engine.cuda.attention import Heads, decode_attention, parts_of
from afterbase.engine.cuda.draw import CHUNK, drawn, record
from afterbase.engine.cuda.runner import GraphRunner, rung
from afterbase.engine.draw import Knobs, inverted, row_key, uniforms
from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.engine.rows import IDLE, Group, Rows
from afterbase.engine.runner import PlainRunner
from afterbase.model.cache import Cache
from afterbase.records import Sampling
from afterbase.segments import Segments

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BF16 = torch.bfloat16
pytestmark = pytest.mark.usefixtures("on_a_cpu")


def normal(*shape, seed=0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def slow_attention(qkv, norms, heads, lengths, keys, values):
    """Row by row in float64; the memories are changed in place."""
    group, out = heads.queries // heads.keys, []
    for row, length in enumerate(lengths.tolist()):
        q, k, v = qkv[row].double().view(-1, heads.width).split([heads.queries, heads.keys, heads.keys])
        if norms:
            q, k = (F.rms_norm(x, (heads.width,), w.double(), heads.eps) for x, w in zip((q, k), norms, strict=True))
        cos, sin = heads.cos[length].double(), heads.sin[length].double()
        q, k = (
            torch.cat((x[:, : len(cos)] * cos - x[:, len(cos) :] * sin, x[:, len(cos) :] * cos + x[:, : len(cos)] * sin), 1) for x in (q, k)
        )
        keys[row, :, length], values[row, :, length] = k.to(keys.dtype), v.to(values.dtype)
        past_keys, past_values = (m[row, :, : length + 1].double().repeat_interleave(group, 0) for m in (keys, values))
        shares = (past_keys @ q[:, :, None]).squeeze(2).mul(heads.width**-0.5).softmax(1)
        out.append((shares[:, None] @ past_values).flatten())
    return torch.stack(out)


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_attention_reads_each_row_up_to_its_own_length(dtype, normed, splits):
    """Seven heads on each of two keys; rows of 0, 1, 64, 65 and 299 tokens, beyond which the memory is poisoned."""
    lengths, room, width = torch.tensor([0, 1, 64, 65, 299], device=DEVICE), 300, 16
    angles = normal(room, width // 2, seed=9)
    heads = Heads(14, 2, width, 1e-6, angles.cos(), angles.sin())
    norms = (normal(width, seed=3), normal(width, seed=4)) if normed else None
    qkv, memories = normal(5, 18 * width, dtype=dtype), [normal(6, 2, room, width, seed=seed, dtype=dtype) for seed in (1, 2)]
    for row, length in enumerate(lengths.tolist()):
        for memory in memories:
            memory[row, :, length:] = torch.nan
    expected = [memory.clone() for memory in memories]
    wanted = slow_attention(qkv, norms, heads, lengths, *expected)
    found = decode_attention(qkv, norms, heads, lengths, torch.zeros(5, dtype=torch.int8, device=DEVICE), tuple(memories), splits)
    slack = 1e-5 if dtype == torch.float32 and DEVICE.type == "cpu" else 3e-2
    torch.testing.assert_close(found.double(), wanted, atol=slack, rtol=slack)
    for memory, other in zip(memories, expected, strict=True):
        torch.testing.assert_close(memory, other, atol=slack, rtol=slack, equal_nan=True)


def test_a_row_that_is_done_reads_and_writes_nothing_and_disturbs_nobody():
    """Row 1 runs, then is done; its memory holds no numbers the second time."""
    width, room = 16, 40
    heads = Heads(4, 2, width, 1e-6, torch.ones(room, 8, device=DEVICE), torch.zeros(room, 8, device=DEVICE))
    qkv, lengths = normal(2, 8 * width), torch.tensor([5, 9], device=DEVICE)
    one, two = ([normal(2, 2, room, width, seed=seed) for seed in (1, 2)] for _ in range(2))
    for memory in two:
        memory[1] = torch.nan
    both = decode_attention(qkv, None, heads, lengths, torch.tensor([0, 0], dtype=torch.int8, device=DEVICE), tuple(one))
    alone = decode_attention(qkv, None, heads, lengths, torch.tensor([0, IDLE], dtype=torch.int8, device=DEVICE), tuple(two))
    assert torch.equal(both[0], alone[0]) and alone[1].isfinite().all()
    for first, second in zip(one, two, strict=True):
        assert torch.equal(first[0], second[0]) and second[1].isnan().all()


@pytest.mark.parametrize(("programs", "parts"), [(2, 16), (16, 16), (64, 4), (128, 2), (264, 1), (512, 1)])
def test_few_rows_are_split_among_many_programs(programs, parts):
    assert parts_of(programs) == parts


KEYS = [row_key(seed, 1) for seed in range(12)]


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("vocabulary", [7, CHUNK, 2 * CHUNK + 5])
def test_a_draw_is_the_one_that_torch_makes(vocabulary, dtype):
    """The same random numbers, the same tokens, log-probabilities within rounding; hot, cold and greedy rows side by side."""
    logits = 3 * normal(12, vocabulary, dtype=dtype)
    logits[3, :-1] = -torch.inf  # a single token may be drawn
    temperature = torch.tensor([1.0, 0.7, 0.0, 1.0] * 3, device=DEVICE)
    keys, counts = torch.tensor(KEYS, device=DEVICE), torch.arange(12, device=DEVICE) * 1000
    nothing = torch.ones(12, device=DEVICE), torch.zeros(12, dtype=torch.long, device=DEVICE)
    wanted = inverted(logits.float(), Knobs(temperature, *nothing, False, True, False), uniforms(keys, counts))
    tokens, logprobs = drawn(logits, temperature, keys, counts)
    assert tokens.tolist() == wanted.tokens.tolist() and tokens[3] == vocabulary - 1
    torch.testing.assert_close(logprobs, wanted.logprobs, atol=2e-6, rtol=2e-6)


def test_logits_that_are_no_numbers_draw_some_token_and_show():
    logits = torch.full((1, 5000), torch.nan, device=DEVICE)
    tokens, logprobs = drawn(
        logits, torch.ones(1, device=DEVICE), torch.tensor(KEYS[:1], device=DEVICE), torch.zeros_like(torch.tensor(KEYS[:1], device=DEVICE))
    )
    assert 0 <= tokens.item() < 5000 and logprobs.isnan().all()


def asked(rows, prompt, samples=1, **sampling) -> Group:
    """A group placed on rows."""
    group = Group(tuple(prompt), Sampling(**sampling), range(samples), asyncio.Future(loop=asyncio.new_event_loop()))
    rows.place([group])
    return group


def test_a_row_keeps_nothing_past_its_end():
    """Stop id, limit, and a neighbour that goes on: after three records the first two stand where they ended."""
    rows = Rows(4, 50, DEVICE, None)
    asked(rows, [1, 2], max_tokens=9, stop_ids=(8, 7))
    asked(rows, [1, 2, 3], max_tokens=2, temperature=0.0)
    asked(rows, [1], max_tokens=9)
    rows.sampled.fill_(5.0)
    for step, line in enumerate([(5, 6, 7), (7, 6, 5), (4, 4, 4)]):
        record(rows, 4, torch.tensor((*line, 9), device=DEVICE), torch.full((4,), -0.5 - step, device=DEVICE))
    assert rows.counts.tolist() == [2, 2, 3, 0] and rows.done.tolist() == [1, 2, 0, IDLE]
    assert rows.lengths.tolist() == [4, 5, 4, 0] and rows.latest.tolist() == [7, 6, 4, 0]
    assert [rows.tokens[row, :3].tolist() for row in range(4)] == [[5, 7, 0], [6, 6, 0], [7, 5, 4], [0, 0, 0]]
    assert rows.logprobs[:, :3].tolist() == [[-0.5, -1.5, 0], [-0.5, -1.5, 0], [-0.5, -1.5, -2.5], [0, 0, 0]]
    assert rows.sampled[1, :2].tolist() == [0, 0] and rows.sampled[2, 0].item() == -0.5
    groups = [rows.owners[row][0] for row in range(3)]
    rows.look(version=4)
    assert [group.finished[0].finish for group in groups[:2]] == ["stop", "length"] and not groups[2].finished
    assert groups[0].finished[0].tokens == (5, 7) and rows.running == 1 and rows.tokens[0, :3].tolist() == [7, 5, 4]
    assert rows.done.tolist() == [0, IDLE, IDLE, IDLE]


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 8), (8, 8), (33, 64), (65, 128), (129, 192), (256, 256)])
def test_the_ladder(rows, size):
    assert rung(rows) == size


@pytest.mark.parametrize(("family", "changes"), [("llama", {}), ("qwen2", {}), ("qwen3", {})])
def test_a_step_is_the_models_own_forward_pass(tiny, unsplit, random_tokens, family, changes):
    """Three prompts and two steps after them, in bfloat16: logits within its rounding of the plain runner's; then fresh weights."""
    model = tiny(family, hidden_size=64, head_dim=16).to(DEVICE)
    runner, plain = GraphRunner(model, BF16), PlainRunner(model)
    with torch.inference_mode():
        for fresh in range(2):
            if fresh:
                for parameter in model.parameters():
                    parameter.mul_(1.1)
                runner.refresh()
            caches = [Cache(model.config, 4, 32, BF16, DEVICE) for _ in range(2)]
            lengths = torch.tensor([4, 9, 1], device=DEVICE)
            prompts = [random_tokens(length, seed) for seed, length in enumerate(lengths.tolist())]
            stream = torch.tensor([token for prompt in prompts for token in prompt], device=DEVICE)
            segments = Segments.of([len(prompt) for prompt in prompts], DEVICE)
            with torch.autocast(DEVICE.type, BF16):
                places = torch.arange(3, device=DEVICE)
                found, wanted = (
                    one.prefill(stream, segments, cache.filling(segments, places))
                    for one, cache in zip((runner, plain), caches, strict=True)
                )
                assert (found - wanted).abs().max() < 0.03 * wanted.abs().max()
                for step in range(2):
                    tokens = torch.tensor(random_tokens(3, 10 + step), device=DEVICE)
                    decoding = Segments.decoding(lengths + step)
                    found = runner.decode(tokens, decoding, caches[0].decoding(decoding, 10 + step)).float()
                    wanted = plain.decode(tokens, decoding, caches[1].decoding(decoding, 10 + step))
                    assert (found - wanted).abs().max() < 0.03 * wanted.abs().max()


def test_steps_on_the_device_are_steps_seen_by_the_host(tiny, unsplit, random_tokens):
    """The same tokens and log-probabilities whether the host looks after every step or after three; ends are kept to the token."""
    model = tiny("qwen2", hidden_size=64, num_hidden_layers=1).to(DEVICE)
    runner, heard = GraphRunner(model, BF16), []
    for burst in (1, 3):
        rows, cache = Rows(4, 60, DEVICE, None), Cache(model.config, 4, 64, BF16, DEVICE)
        with torch.inference_mode(), torch.autocast(DEVICE.type, BF16):
            groups = [asked(rows, random_tokens(5, seed), max_tokens=2 + 2 * seed, stop_ids=(seed,), seed=seed) for seed in range(3)]
            firsts = torch.zeros(3, 40, device=DEVICE)
            rows.fresh = 3
            rows.advance(firsts, 0)
            while rows.running:
                for _ in range(burst):
                    runner.step(rows, cache, 4)
                for target, source, length in rows.look(0):
                    cache.move(source, target, length)
        heard.append([group.finished[0] for group in groups])
    for one, other in zip(*heard, strict=True):
        assert one.tokens == other.tokens and one.finish == other.finish and one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert max(len(one.tokens) for one in heard[0]) > 3


class Alone(GraphRunner):
    """A graph runner whose bursts are its steps one by one, where there are no graphs."""

    bursts = 0

    def burst(self, rows, cache, steps):
        self.bursts += 1
        for _ in range(steps):
            self.step(rows, cache, rows.running)


class Followed(Alone):
    """The same, of which the host sees every draw."""

    alone = False


def test_the_engine_answers_the_same_whoever_takes_the_steps(tiny, random_tokens, unsplit, monkeypatch):
    """Requests that wait for a row, stop early, are read along or listened to: on the device alone, and followed by the host."""
    monkeypatch.setattr(local, "BURST", 2)
    model, answers, heard = tiny("qwen2", hidden_size=64, num_hidden_layers=1).to(DEVICE), [], []
    for kind in (Alone, Followed):
        engine = LocalEngine(model, EngineConfig(rows=2, precision="bfloat16"), decode=lambda tokens: "".join(map(chr, tokens)))
        engine.runner, engine.dtype = kind(model, BF16), BF16
        said = []

        async def ask(engine=engine, said=said):
            quiet = [engine.generate(random_tokens(5, n), Sampling(max_tokens=2 + 4 * n, seed=n, stop_ids=(n,))) for n in range(3)]
            first = await asyncio.gather(*quiet)
            followed = await engine.generate(random_tokens(3), Sampling(max_tokens=4, seed=8), 1, lambda *news: said.append(news[1]))
            return [
                *first,
                followed,
                await engine.generate(random_tokens(3), Sampling(max_tokens=4, seed=8, stop=(chr(followed[0].tokens[1]),))),
            ]

        answers.append([one for group in asyncio.run(ask()) for one in group])
        heard.append(said)
        assert (engine.runner.bursts > 0) == kind.alone
    for one, other in zip(*answers, strict=True):
        assert (one.tokens, one.finish) == (other.tokens, other.finish) and one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert heard[0] == heard[1] == list(answers[0][3].tokens) and len(answers[0][4].tokens) <= 2

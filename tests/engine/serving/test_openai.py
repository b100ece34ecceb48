"""The server through the real openai client: whole answers, streams, groups, token ids and log-probabilities."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import torch

from afterbase.engine.local import LocalEngine
from afterbase.records import Completion, Sampling

QUESTION = [{"role": "user", "content": "What is 12 + 30?"}]


def client_of(running, **options):
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="secret", max_retries=0, timeout=20, **options)


@pytest.fixture(scope="module")
def client(running):
    return client_of(running)


class Scripted(LocalEngine):
    """Says what it is told to, whatever it is asked."""

    said = ""
    heard = None

    async def generate(self, prompt, sampling, n=1, watch=None):
        tokens = self.tokenizer.encode(self.said)
        for token in tokens if watch else ():
            watch(0, token, -0.5)
            while self.heard and not self.heard.is_set():
                await asyncio.sleep(0.001)
        return [Completion(tuple(tokens), (-0.5,) * len(tokens), (-0.5,) * len(tokens), 0, "stop")] * n


@pytest.fixture(scope="module")
def scripted(serving, letters):
    with serving(engine=Scripted) as server:
        server.engine.tokenizer = letters
        yield server


def joined(stream):
    """A stream's texts, thoughts, token ids and finish reasons, by index."""
    answers = {}
    for chunk in stream:
        for choice in chunk.choices:
            one = answers.setdefault(choice.index, {"text": "", "thought": "", "ids": [], "finish": None})
            delta = getattr(choice, "delta", None)
            one["text"] += (choice.text if delta is None else delta.content) or ""
            one["thought"] += getattr(delta, "reasoning_content", None) or ""
            one["ids"] += getattr(choice, "token_ids", None) or []
            one["finish"] = choice.finish_reason or one["finish"]
    return answers


def until(true):
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it never happens"
        time.sleep(0.005)


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"] and client.models.retrieve("tiny").max_model_len == 256


def test_a_name_may_hold_a_slash(serving):
    with serving(name="house/tiny model") as server:
        client = client_of(server)
        assert client.models.retrieve("house/tiny model").id == "house/tiny model"
        assert client.completions.create(model="house/tiny model", prompt="x", max_tokens=1).model == "house/tiny model"


def test_an_answer_is_what_the_engine_draws(client, running, letters):
    body = {"model": "tiny", "prompt": "What is", "max_tokens": 12, "seed": 7, "n": 3, "temperature": 0.8, "logprobs": 0}
    answer = client.completions.create(**body, extra_body={"return_token_ids": True, "top_k": 9})
    prompt = [letters.bos_id, *letters.encode("What is")]
    engine = LocalEngine(running.engine.model, running.engine.config, letters.decode)
    sampling = Sampling(0.8, 1.0, 9, 12, stop_ids=letters.stop_ids, seed=7)
    drawn = asyncio.run(engine.generate(prompt, sampling, 3))
    assert [tuple(choice.token_ids) for choice in answer.choices] == [one.tokens for one in drawn]
    assert [choice.prompt_token_ids for choice in answer.choices] == [prompt] * 3
    assert [choice.text for choice in answer.choices] == [letters.decode(one.tokens) for one in drawn]
    assert [choice.logprobs.token_logprobs for choice in answer.choices] == [pytest.approx(one.logprobs) for one in drawn]
    assert [choice.finish_reason for choice in answer.choices] == [one.finish for one in drawn]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), sum(len(one.tokens) for one in drawn))
    offsets = answer.choices[0].logprobs.text_offset
    assert offsets[0] == 0 and len(offsets) == len(drawn[0].tokens) and offsets == sorted(offsets)


def test_what_steers_a_request_reaches_the_engine(client, running, letters):
    body = {"model": "tiny", "prompt": "What is", "max_tokens": 12, "seed": 7, "logprobs": 0}
    body |= {"presence_penalty": 0.5, "frequency_penalty": 1.5, "logit_bias": {"9": 4, "11": -100}}
    extra = {"return_token_ids": True, "min_p": 0.01, "repetition_penalty": 1.4, "min_tokens": 3}
    (choice,) = client.completions.create(**body, extra_body=extra).choices
    sampling = Sampling(
        max_tokens=12, stop_ids=letters.stop_ids, seed=7, min_p=0.01, repetition_penalty=1.4, presence_penalty=0.5, frequency_penalty=1.5,
        logit_bias=((9, 4.0), (11, -100.0)), min_tokens=3,
    )  # fmt: skip
    engine = LocalEngine(running.engine.model, running.engine.config, letters.decode)
    (drawn,) = asyncio.run(engine.generate([letters.bos_id, *letters.encode("What is")], sampling))
    assert tuple(choice.token_ids) == drawn.tokens and choice.logprobs.token_logprobs == pytest.approx(drawn.logprobs)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_before_min_tokens_stays_in_the_text(client, letters, stream):
    """Nothing but the letter x is drawn, and x ends: at the seventh token, and in the text before it."""
    (x,) = letters.encode("x")
    answer = client.completions.create(
        model="tiny",
        prompt="What",
        stop="x",
        stream=stream,
        logit_bias={str(x): 100},
        extra_body={"return_token_ids": True, "min_tokens": 6},
    )
    told = joined(answer if stream else [answer])[0]
    assert (told["text"], told["ids"], told["finish"]) == ("x" * 6, [x] * 7, "stop")


def test_prompts_come_as_texts_as_ids_and_as_lists_of_either(client, letters):
    ids = [letters.bos_id, *letters.encode("How many")]
    settings = {"model": "tiny", "max_tokens": 5, "seed": 3, "extra_body": {"return_token_ids": True}}
    drawn = [
        [choice.token_ids for choice in client.completions.create(prompt=prompt, **settings).choices]
        for prompt in ("How many", ids, ["How many", "How many"], [ids, ids])
    ]
    assert drawn[0] == drawn[1] and drawn[2] == drawn[3] == drawn[0] * 2


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("logprobs", [False, True])
def test_a_stream_joined_is_the_whole_answer(client, n, logprobs):
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 40, "seed": 5, "n": n, "logprobs": logprobs}
    body["extra_body"] = {"return_token_ids": True}
    whole = client.chat.completions.create(**body)
    chunks = list(client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}))
    answers = joined(chunks)
    assert [answers[i]["ids"] for i in range(n)] == [choice.token_ids for choice in whole.choices]
    assert [answers[i]["text"] for i in range(n)] == [choice.message.content for choice in whole.choices]
    assert [answers[i]["finish"] for i in range(n)] == [choice.finish_reason for choice in whole.choices]
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].prompt_token_ids == whole.prompt_token_ids
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage and all(chunk.usage is None for chunk in chunks[:-1])
    if logprobs:
        heard = [choice for chunk in chunks for choice in chunk.choices if choice.logprobs]
        said = [[token for choice in heard if choice.index == i for token in choice.logprobs.content] for i in range(n)]
        assert said == [choice.logprobs.content for choice in whole.choices] and min(map(len, said)) > 5


def test_without_a_seed_answers_differ_and_with_one_they_do_not(client):
    body = {"model": "tiny", "prompt": "The", "max_tokens": 20}
    free = {client.completions.create(**body).choices[0].text for _ in range(3)}
    assert len(free) == 3 and len({client.completions.create(**body, seed=1).choices[0].text for _ in range(3)}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_ends_before_a_stop_string_and_the_ids_after_it(scripted, letters, stream):
    scripted.engine.said = "The answer is 42. So"
    answer = client_of(scripted).completions.create(
        model="tiny", prompt="x", stop=["swer", "42"], stream=stream, extra_body={"return_token_ids": True}
    )
    told = joined(answer if stream else [answer])[0]
    assert (told["text"], told["ids"]) == ("The an", letters.encode("The answer is 42. So"))


def test_a_stop_string_ends_the_drawing(client, letters):
    body = {"model": "tiny", "prompt": "The", "max_tokens": 60, "seed": 2, "extra_body": {"return_token_ids": True}}
    free = client.completions.create(**body).choices[0]
    stop = free.text[8:11]
    held = client.completions.create(**body, stop=stop).choices[0]
    assert held.text == free.text[: free.text.index(stop)] and held.finish_reason == "stop"
    assert held.token_ids == free.token_ids[: len(held.token_ids)] and len(held.token_ids) < len(free.token_ids)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("said", "thought", "text"),
    [
        ("<think>12 + 30\n</think>\n\n<answer> 42 </answer>", "12 + 30", "42"),
        ("<think>小明 🍎</think>It is 42.", "小明 🍎", "It is 42."),
        ("It is\n 42.", "", "It is\n 42."),
        ("<think>12 + 30, and then", "12 + 30, and then", ""),
    ],
)
def test_a_thought_comes_apart_from_the_answer(scripted, stream, said, thought, text):
    scripted.engine.said = said
    chat = client_of(scripted).chat.completions
    for include, seen in ((True, thought), (False, "")):
        answer = chat.create(model="tiny", messages=QUESTION, stream=stream, extra_body={"include_reasoning": include})
        if stream:
            told = joined(answer)[0]
            assert (told["thought"], told["text"]) == (seen, text)
        else:
            message = answer.choices[0].message
            assert (getattr(message, "reasoning_content", ""), message.content) == (seen, text)


def test_thoughts_can_be_kept_from_everyone(serving, letters):
    with serving(engine=Scripted, hide_thought=True) as server:
        server.engine.tokenizer, server.engine.said = letters, "<think>30</think>42"
        message = client_of(server).chat.completions.create(model="tiny", messages=QUESTION).choices[0].message
        assert message.content == "42" and not hasattr(message, "reasoning_content")


def test_what_is_drawn_is_sent_while_the_rest_is_not_drawn_yet(scripted):
    scripted.engine.said, scripted.engine.heard = "42 apples", threading.Event()
    stream = iter(client_of(scripted).completions.create(model="tiny", prompt="x", stream=True))
    first = next(stream).choices[0].text
    scripted.engine.heard.set()
    assert 0 < len(first) < 9 and first + "".join(chunk.choices[0].text for chunk in stream) == "42 apples"


def test_every_answer_is_streamed_while_it_is_drawn(client):
    """Of three answers of 40 tokens each comes in many chunks, log-probabilities and all, and none waits for another to end."""
    body = {"model": "tiny", "prompt": "The", "max_tokens": 40, "n": 3, "seed": 4, "logprobs": 0, "extra_body": {"ignore_eos": True}}
    order = [choice.index for chunk in client.completions.create(**body, stream=True) for choice in chunk.choices]
    assert min(order.count(index) for index in range(3)) > 1
    assert order[: len(order) // 2].count(2) and order[len(order) // 2 :].count(0)


def test_half_a_character_is_never_sent(scripted):
    scripted.engine.said, scripted.engine.heard = "苹果 🍎🍎 苹", None
    stream = client_of(scripted).completions.create(model="tiny", prompt="x", stream=True)
    texts = [choice.text for chunk in stream for choice in chunk.choices]
    assert "".join(texts) == "苹果 🍎🍎 苹" and not any("\ufffd" in text for text in texts)


def test_requests_of_many_clients_share_steps(serving):
    with serving() as server, ThreadPoolExecutor(8) as clients:
        decode, everyone = server.engine.runner.decode, threading.Event()

        def patient(*arguments):
            everyone.wait(20)
            return decode(*arguments)

        def ask(seed):
            body = {"model": "tiny", "prompt": "The", "max_tokens": 200, "seed": seed, "extra_body": {"ignore_eos": True}}
            return client_of(server).completions.create(**body).usage.completion_tokens

        server.engine.runner.decode = patient
        answers = clients.map(ask, range(8))
        until(lambda: server.desk.held == 8)
        everyone.set()
        assert list(answers) == [200] * 8 and server.steps < 300


def test_a_client_that_leaves_frees_its_rows_and_the_others_go_on(serving):
    with serving(rows=2, context=4096) as server:
        client = client_of(server)
        endless = {"model": "tiny", "prompt": "The", "max_tokens": 4000, "extra_body": {"ignore_eos": True}}
        streams = [client.completions.create(**endless, stream=True) for _ in range(2)]
        for stream in streams:
            next(iter(stream))
        streams[0].close()
        answer = client.completions.create(model="tiny", prompt="How", max_tokens=3, seed=1, extra_body={"ignore_eos": True})
        assert answer.usage.completion_tokens == 3 and server.desk.held == 1
        streams[1].close()
        until(lambda: not (server.engine.rows.running or server.desk.held))
        assert server.steps < 4000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_streams_flow_and_leaving_frees_rows(serving):
    with serving(rows=4, context=4096, device="cuda", precision="bfloat16") as server:
        client = client_of(server)
        body = {"model": "tiny", "prompt": "The", "max_tokens": 4000, "extra_body": {"ignore_eos": True}}
        stream = client.completions.create(**body, stream=True)
        next(iter(stream))
        answer = client.completions.create(**body | {"max_tokens": 50}, n=3)
        assert answer.usage.completion_tokens == 150
        stream.close()
        until(lambda: not (server.engine.rows.running or server.desk.held))


def test_a_full_queue_refuses_with_429_and_takes_requests_again_later(serving):
    with serving(rows=1, queue=1, context=4096) as server:
        client = client_of(server)
        endless = {"model": "tiny", "prompt": "The", "max_tokens": 4000, "stream": True, "extra_body": {"ignore_eos": True}}
        streams = [client.completions.create(**endless) for _ in range(2)]
        next(iter(streams[0]))
        with pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(model="tiny", prompt="x")
        assert refused.value.code == "queue_full" and refused.value.response.headers["retry-after"] == "1"
        assert client.models.list().data[0].id == "tiny"
        for stream in streams:
            stream.close()
        until(lambda: not (server.desk.held or server.engine.waiting or server.engine.rows.running))
        assert server.steps < 4000
        assert client.completions.create(model="tiny", prompt="x", max_tokens=2).choices


def test_a_failing_engine_is_an_error_of_its_requests_only(serving):
    with serving() as server:
        client, decode = client_of(server), server.engine.runner.decode

        def fail(*arguments):
            server.engine.runner.decode = decode
            raise RuntimeError("a secret of the machine")

        server.engine.runner.decode = fail
        with pytest.raises(openai.InternalServerError) as failed:
            client.completions.create(model="tiny", prompt="x", max_tokens=5)
        assert "secret" not in str(failed.value) and "Traceback" not in str(failed.value)
        assert "a secret of the machine" in str(server.failures.pop())
        server.engine.runner.decode = fail
        with pytest.raises(openai.APIError, match="the server failed at this request"):
            list(client.completions.create(model="tiny", prompt="x", max_tokens=5, stream=True))
        server.failures.clear()
        assert client.completions.create(model="tiny", prompt="x", max_tokens=5).choices[0].text

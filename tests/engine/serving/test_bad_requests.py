"""What a server must bear: wrong requests, hostile bodies, strangers, and clients that dawdle or vanish."""

import http.client
import json
import socket
import time

import pytest

from afterbase.engine.local import LocalEngine
from afterbase.engine.serving.wire import Limits
from afterbase.engine.speculative import NgramDrafting

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
TEXT = {"model": "tiny", "prompt": "Hi", "max_tokens": 2}
KEY = {"Authorization": "Bearer secret", "Content-Type": "application/json"}


def send(running, body=None, path="/v1/completions", method="POST", headers=KEY):
    """(status, JSON) of one request."""
    line = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    line.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body), headers)
    reply = line.getresponse()
    said = reply.read()
    line.close()
    return reply.status, json.loads(said) if said else None


def raw(running, data: bytes, shut=False) -> bytes:
    """All that the server answers to some bytes."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as line:
        line.sendall(data)
        if shut:
            line.shutdown(socket.SHUT_WR)
        said = b""
        while piece := line.recv(65536):
            said += piece
        return said


@pytest.fixture(scope="module", autouse=True)
def others_go_on(running):
    yield
    assert send(running, CHAT, "/v1/chat/completions")[0] == 200 and running.desk.held == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "How many apples? " * 100}, "do not fit into the context of 256"),
        ({"prompt": "x" * 5_000_000}, "a text of 5000000 letters does not fit"),
        ({"prompt": [[1]] * 73}, "at most 72 may run or wait"),
        ({"prompt": [1] * 256}, "do not fit into the context of 256"),
        ({"max_tokens": 255}, "do not fit into the context of 256"),
        ({"max_tokens": 10**30}, "do not fit into the context of 256"),
        ({"prompt": [1, 100000]}, "a prompt holds token 100000, the model knows 0 to"),
        ({"prompt": [1, -1]}, "a prompt holds token -1"),
        ({"prompt": []}, "prompt is a string, a list of token ids, or a list of either"),
        ({"prompt": [[1], [True]]}, "prompt is a string"),
        ({"prompt": [1, "a"]}, "prompt is a string"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "\ud800"}, "half a character"),
        ({"temperture": 0.5}, "there is no field 'temperture'; did you mean 'temperature'?"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 2**40}, "top_k"),
        ({"seed": 2**64}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "at most 72 may run or wait"),
        ({"stop": ["a"] * 17}, "stop is a string or a list"),
        ({"stop": [""]}, "stop is a string or a list"),
        ({"stop": {"a": 1}}, "stop is a string or a list"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids is a list"),
        ({"stop_token_ids": 3}, "stop_token_ids is a list"),
        ({"logprobs": 5}, "logprobs above 0 are not known here"),
        ({"echo": True}, "echo is not supported here"),
        ({"tools": [{}]}, "tools is not supported here"),
        ({"min_p": 1}, "min_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens=9 cannot be sampled with; give a whole number from 0 to max_tokens=8"),
        ({"logit_bias": [5]}, "logit_bias is an object"),
        ({"logit_bias": {"five": 1}}, "logit_bias is an object"),
        ({"logit_bias": {"05": 1}}, "logit_bias is an object"),
        ({"logit_bias": {"123456789": 1}}, "logit_bias is an object"),
        ({"logit_bias": {"5": 101}}, "logit_bias is an object"),
        ({"logit_bias": {"5": True}}, "logit_bias is an object"),
        ({"stream_options": {"include_usage": True}}, "needs stream: true"),
        ({"stream": True, "stream_options": [1]}, "stream_options is an object"),
    ],
)
def test_a_wrong_field_is_told_in_one_sentence(running, changes, said):
    status, reply = send(running, {**TEXT, **changes})
    assert status == 400 and said in reply["error"]["message"] and reply["error"]["type"] == "invalid_request_error"
    assert len(reply["error"]["message"]) < 1001 and "\n" not in reply["error"]["message"]


@pytest.mark.parametrize(
    "messages",
    [[], "Hi", [1], [{"role": "user"}], [{"role": "wizard", "content": "x"}], [{"role": "user", "content": [{"type": "image_url"}]}]],
)
def test_a_wrong_conversation_is_told(running, messages):
    status, reply = send(running, {**CHAT, "messages": messages}, "/v1/chat/completions")
    assert status == 400 and reply["error"]["param"] == "messages"


def test_what_clients_send_beside_the_conversation_is_taken(running):
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    turns = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts, "name": "Ann"}]
    told = {"role": "assistant", "content": "Hello", "tool_calls": None, "refusal": None, "reasoning_content": "..."}
    body = {**CHAT, "messages": [*turns, told, turns[1]], "user": "ann", "top_p": None, "presence_penalty": 0, "n": 1}
    assert send(running, body, "/v1/chat/completions")[0] == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "is list in JSON"),
        (b'{"prompt": "x", "temperature": NaN}', "NaN is no number"),
        (b'{"prompt": "x", "temperature": 1e999}', "temperature"),
        (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}", "prompt is a string"),
        (b"{" + b",".join(b'"a%d": 1' % i for i in range(100_000)) + b"}", "there is no field"),
        (b'{"prompt": "x", "stop": [' + b",".join([b"1"] * 1_000_000) + b"]}", "stop is a string"),
        (b'{"prompt": "x", "' + b"y" * 1_000_000 + b'": 1}', "there is no field 'yyy"),
    ],
)
def test_a_hostile_body_is_refused_at_once(running, body, said):
    start = time.monotonic()
    status, reply = send(running, body)
    assert status == 400 and said in reply["error"]["message"] and len(json.dumps(reply)) < 2000
    assert time.monotonic() - start < 5


def test_a_body_that_is_too_large_is_refused_before_it_is_read(running):
    assert send(running, b"x" * (8 << 20 | 1))[0] == 413
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Type: application/json\r\n"
    assert b" 413 " in raw(running, head + b"Content-Length: 999999999999\r\n\r\n", shut=True)


def test_what_was_drafted_is_told_to_those_who_have_the_key(serving):
    def drafting(model, config, decode):
        return LocalEngine(model, config.model_copy(update={"speculative": NgramDrafting(tokens=2, length=1, always=True)}), decode)

    with serving(engine=drafting) as server:
        assert send(server, {**TEXT, "max_tokens": 60, "temperature": 0})[0] == 200
        health = send(server, None, "/health", "GET")[1]
        assert health["accepted_drafts"] == server.engine.speculation().whole.fractions and len(health["accepted_drafts"]) == 2
        assert health["drafts"].startswith("drafts kept, by place: ")
        assert send(server, None, "/health", "GET", {}) == (200, {"status": "ok"})


def test_what_the_engine_finds_only_when_it_is_asked_has_the_same_status(serving, monkeypatch):
    """A place that was free at the desk and is not in the engine, and a cache that is too small for one answer."""
    with serving(rows=1, queue=0) as server:
        monkeypatch.setattr(type(server.engine.scheduler), "held", 1)
        status, reply = send(server, TEXT)
        assert (status, reply["error"]["code"]) == (429, "queue_full") and "1 answers run or wait" in reply["error"]["message"]
    monkeypatch.undo()
    small = lambda model, config, decode: LocalEngine(model, config.model_copy(update={"memory": 3e-5}), decode)  # noqa: E731
    with serving(engine=small) as server:
        status, reply = send(server, {**TEXT, "max_tokens": 200})
        assert (status, reply["error"]["code"]) == (400, "context_length_exceeded") and "engine.memory=3e-05 GiB" in reply["error"][
            "message"
        ]
        assert send(server, TEXT)[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/v1/models", {}, 401, "invalid_api_key"),
        ("GET", "/v1/models", {"Authorization": "Bearer secreT"}, 401, "invalid_api_key"),
        ("GET", "/v1/models", {"Authorization": "secret"}, 401, "invalid_api_key"),
        ("GET", "/v1/models", {"Authorization": "Bearer s\xe9cret"}, 401, "invalid_api_key"),
        ("GET", "/v1/nothing", {}, 401, "invalid_api_key"),
        ("GET", "/v1/nothing", KEY, 404, "not_found"),
        ("GET", "/v1/completions", KEY, 405, "method_not_allowed"),
        ("HEAD", "/v1/models", KEY, 405, None),
        ("POST", "/v1/completions", {**KEY, "Content-Type": "text/plain"}, 415, None),
        ("GET", "/health", {}, 200, None),
    ],
)
def test_who_may_ask_what(running, method, path, headers, status, code):
    came, reply = send(running, None, path, method, headers)
    assert came == status and (code is None or reply["error"]["code"] == code)


def test_an_unknown_model_is_not_found(running):
    status, reply = send(running, {**TEXT, "model": "gpt-5"})
    assert status == 404 and reply["error"]["code"] == "model_not_found" and "it is 'tiny'" in reply["error"]["message"]


def test_without_a_key_only_names_of_this_machine_are_answered(serving):
    with serving(key=None) as server:
        for host, status in (("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 403), ("", 403)):
            assert send(server, None, "/v1/models", "GET", {"Host": host})[0] == status


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello over TLS\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n", 431),
        (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"GET /v1/models HTTP/1.0\r\nAuthorization: Bearer secret\r\n\r\n", 200),
    ],
)
def test_what_is_no_http_is_told_so_and_hung_up_on(running, data, status):
    assert raw(running, data).startswith(b"HTTP/1.1 %d " % status)


def test_a_line_serves_requests_one_after_the_other(running):
    head = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
    said = raw(running, (head + b"\r\n") * 2 + head + b"Connection: close\r\n\r\n")
    assert said.count(b"HTTP/1.1 200") == 3


def test_a_client_may_ask_whether_to_go_on(running):
    body = json.dumps(TEXT).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Type: application/json\r\n"
    head += b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as line:
        line.sendall(head)
        assert b"100" in line.recv(100)
        line.sendall(body)
        assert b"HTTP/1.1 200" in line.recv(65536)


def test_those_who_dawdle_are_hung_up_on(serving):
    limits = Limits(head_seconds=0.1, idle_seconds=0.1, body_seconds=0.1)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Type: application/json\r\n"
    with serving(limits=limits) as server:
        assert raw(server, b"") == raw(server, b"GET /v1/mod") == raw(server, head + b"Content-Length: 9\r\n\r\n{") == b""


def test_a_body_in_chunks_is_read_and_has_the_same_limit(serving):
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Type: application/json\r\n"
    head += b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving(limits=Limits(body=100)) as server:
        for size, status in ((40, 200), (101, 413)):
            body = json.dumps(TEXT).encode().ljust(size)
            assert b" %d " % status in raw(server, head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))


def test_there_are_only_so_many_lines(serving):
    with serving(limits=Limits(connections=2)) as server:
        lines = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(2)]
        time.sleep(0.05)
        assert raw(server, b"") == b""
        for line in lines:
            line.close()
        time.sleep(0.05)
        assert send(server, None, "/v1/models", "GET")[0] == 200

"""Serving from the command line: what is refused before anything is served, and leaving in good order."""

import json
import signal
import subprocess
import sys
import urllib.request

import pytest

from afterbase.stages import serve

DENSE = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "would serve everyone who can reach it; give an API key"),
        (("--template", "chta"), "template 'chta' is unknown"),
        (("--key-file", "nowhere"), "nowhere cannot be read"),
    ],
)
def test_what_would_be_unsafe_or_unknown_is_refused(dense, command, arguments, said):
    code, _, err = command("serve", dense, *arguments)
    assert code == 2 and said in err


def test_an_empty_key_is_no_key(dense, command, tmp_path):
    (tmp_path / "key").write_text("\n")
    assert "the API key is empty" in command("serve", dense, "--key-file", tmp_path / "key", "--host", "0.0.0.0")[2]


def test_a_missing_extra_is_told(dense, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "h11", None)
    assert serve.MISSING in command("serve", dense)[2]


def test_a_cache_that_does_not_fit_is_told_at_the_start(make_checkpoint, command):
    endless = make_checkpoint(DENSE, max_position_embeddings=2**30)
    code, _, err = command("serve", endless, "--port", "0")
    assert code == 2 and "does not fit into memory" in err and "--rows and --context" in err


def test_asked_to_stop_it_ends_what_is_running_and_leaves_with_0(dense):
    command = [sys.executable, "-m", "afterbase", "serve", str(dense), "--port", "0", "--draft", "ngram"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        line = server.stderr.readline()
        address = line.removeprefix("serving at ").strip()
        assert address.startswith("http://127.0.0.1:"), line
        body = json.dumps({"prompt": "Hi", "max_tokens": 200, "ignore_eos": True, "stream": True}).encode()
        request = urllib.request.Request(f"{address}/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as reply:
            assert reply.readline().startswith(b"data: {")
            server.send_signal(signal.SIGTERM)
            assert reply.read().endswith(b"data: [DONE]\n\n")
        said = server.stderr.read()
        assert server.wait(20) == 0 and "Traceback" not in said and "drafted" in said.splitlines()[-1]

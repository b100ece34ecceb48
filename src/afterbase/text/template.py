"""Chat templates: Jinja programs that lay a conversation out as one text, rendered under limits that a hostile one cannot pass."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from afterbase.errors import CheckpointError, DataError
from afterbase.text.template_worker import answer

HOUSE_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}"
    "{% else %}{{ '<｜Assistant｜>' + message['content'] + eos_token }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
"""Our own layout, after DeepSeek's; what an assistant says, thinking included, stands in it exactly as given."""

SCRIPT = Path(__file__).with_name("template_worker.py")
# -I and the path handed over: neither this directory nor the user's environment can slip another jinja2 in.
START = "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]); runpy.run_path(sys.argv[2], run_name='__main__')"
SECONDS = 5.0
"""Processor time for one conversation; ordinary templates need a thousandth."""
MEMORY = 512 << 20
"""Bytes that the rendering process may use."""


def layout(template: str, messages: Sequence[Mapping[str, str]], answering: bool, tokens: Mapping[str, str]) -> str:
    """The conversation as one text; `answering` ends it where the assistant would begin to speak.

    `tokens` are the special tokens by name (bos_token, eos_token, ...). A template that refuses the conversation, or fails at it in
    whatever way, raises DataError; one that is no Jinja, CheckpointError.
    """
    request = {"template": template, "messages": list(messages), "answering": answering, "tokens": dict(tokens)}
    reply = answer(request) if template == HOUSE_TEMPLATE else _renderer().ask(request)
    if "text" in reply:
        return reply["text"]
    said = " ".join(reply["said"].split())
    if reply["failed"] == "syntax":
        raise CheckpointError(f"the chat template is not valid Jinja ({said}); correct it")
    roles = ", ".join(message["role"] for message in messages)
    if reply["failed"] == "refused":
        raise DataError(f"the chat template refuses the conversation ({roles}): {said}")
    raise DataError(f"the chat template fails on the conversation ({roles}): {said}; correct the template, or use another")


class Renderer:
    """The process that renders templates which are not ours: started when first needed, replaced when a template was its end."""

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY):
        self.limits = {"seconds": seconds, "memory": memory}
        self._process: subprocess.Popen[str] | None = None
        self._turn = Lock()

    def ask(self, request: Mapping[str, Any]) -> dict[str, str]:
        """The reply to one request; a process that died of it is a reply as well."""
        with self._turn:
            process = self._process or self._start()
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                reply = process.stdout.readline()
            except OSError:  # it died before it had read everything
                reply = ""
            except BaseException:
                self._stop()  # an interrupt between question and answer: the next question must not get this one's
                raise
            return json.loads(reply) if reply.endswith("\n") else {"failed": "error", "said": self._obituary()}

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", "-c", START, json.dumps(sys.path), str(SCRIPT)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self._process = subprocess.Popen(command, **pipes)
        weakref.finalize(self, _end, self._process)
        self._process.stdin.write(json.dumps(self.limits) + "\n")
        return self._process

    def _stop(self) -> int:
        process, self._process = self._process, None
        return _end(process)

    def _obituary(self) -> str:
        """Why the process is gone."""
        process = self._process
        process.wait()
        code = self._stop()
        if code == -signal.SIGPROF:
            return f"it does not end within {self.limits['seconds']:g} s of processor time"
        return f"the process that renders it ended with {code}"


@cache
def _renderer() -> Renderer:
    """One for all templates: they are data of its requests."""
    return Renderer()


def _end(process: subprocess.Popen[str]) -> int:
    """Kill the process and wait for it, so that no zombie stays; its exit code, which is its own if it had ended before."""
    process.kill()
    code = process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what was never written has nobody to read it
            pipe.close()
    return code

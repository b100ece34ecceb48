"""Renders chat templates: ours in this process, all others in one of its own, where this file runs as a script and answers requests.

A template is a program out of a downloaded checkpoint. The sandbox keeps it from reaching out, but not from a billion turns of a loop or
a terabyte of spaces, and no list of forbidden filters would be whole. So the system itself holds the limits: a processor clock that
kills the process, and a ceiling on its memory. Nothing of afterbase is imported here, so that the process starts quickly.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

LONGEST = 1 << 24
"""Characters that a rendered conversation may have: four times what a context of a million tokens holds."""


class Generation(Extension):
    """`{% generation %} .. {% endgeneration %}` marks assistant text for other libraries; here its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012  jinja2 reads it from the class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def answer(request: dict[str, Any]) -> dict[str, str]:
    """`{"text": ..}`, or `{"failed": .., "said": ..}` where the template is no Jinja, refuses the conversation, or fails at it."""
    try:
        template = _compile(request["template"])
    except jinja2.TemplateSyntaxError as error:
        return _failed("syntax", f"line {error.lineno}: {error.message}")
    except Exception as error:  # nested too deeply, a number too long to read: whatever a parser stumbles over
        return _failed("syntax", _named(error))
    known = {"messages": request["messages"], "add_generation_prompt": request["answering"], "tools": None, "documents": None}
    try:
        text = template.render(**known, **request["tokens"])
    except jinja2.TemplateError as error:
        return _failed("refused", str(error))
    except Exception as error:
        return _failed("error", _named(error))
    return {"text": text} if len(text) <= LONGEST else _failed("error", f"it writes {len(text):,} characters, at most {LONGEST:,} may be")


def serve(lines: Iterable[str]) -> None:
    """Answer one request a line; the first line says how much memory there is and how many seconds of processor time each request has."""
    lines = iter(lines)
    limits = json.loads(next(lines))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks, which closes our input
    with suppress(OSError, ValueError):  # a system without this limit still has the clock
        resource.setrlimit(resource.RLIMIT_AS, (limits["memory"], limits["memory"]))
    for line in lines:
        # Processor time, not wall time: a busy machine must not fail a good template. The signal's default kills the process.
        signal.setitimer(signal.ITIMER_PROF, limits["seconds"])
        reply = json.dumps(answer(json.loads(line)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(reply, flush=True)


@lru_cache(maxsize=32)
def _compile(template: str) -> jinja2.Template:
    """A template in the sandbox, with what Hugging Face templates expect to find there.

    `strftime_now` and whatever draws at random are left out on purpose: a prompt that changes by itself cannot be reproduced. Templates
    that use the date test for it.
    """
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    del environment.filters["random"], environment.globals["lipsum"]
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(template)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    # Jinja's own filter escapes < and > for web pages, which would spell tags that the model has never seen.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _failed(how: str, said: str) -> dict[str, str]:
    return {"failed": how, "said": said[:SAID]}


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


SAID = 500  # characters of a template's own complaint that are passed on


if __name__ == "__main__":
    serve(sys.stdin)

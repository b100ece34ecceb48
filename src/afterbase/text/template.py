"""Chat templates: Jinja in a sandbox, with what Hugging Face templates expect to find there.

`strftime_now` is left out on purpose: a prompt that changes with the date cannot be reproduced, and templates that use it test for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from afterbase.errors import CheckpointError, DataError

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


class _Generation(Extension):
    """`{% generation %} .. {% endgeneration %}` marks assistant text for other libraries; here its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012  jinja2 reads it from the class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def layout(template: str, messages: Sequence[Mapping[str, str]], answering: bool, tokens: Mapping[str, str]) -> str:
    """The conversation as one text; `answering` ends it where the assistant would begin to speak.

    `tokens` are the special tokens by name (bos_token, eos_token, ...). A template that refuses the conversation raises DataError.
    """
    compiled = _compile(template)
    try:
        return compiled.render(messages=list(messages), add_generation_prompt=answering, tools=None, documents=None, **tokens)
    except jinja2.TemplateError as error:
        raise DataError(f"the chat template refuses the conversation {_roles(messages)}: {error}") from None
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise DataError(f"the chat template fails on the conversation {_roles(messages)} ({type(error).__name__}: {error})") from None


@lru_cache(maxsize=32)
def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(f"the chat template is not valid Jinja (line {error.lineno}: {error.message}); correct it") from None


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    # Jinja's own filter escapes < and > for web pages, which would spell tags that the model has never seen.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _roles(messages: Sequence[Mapping[str, str]]) -> str:
    return "(" + ", ".join(message["role"] for message in messages) + ")"

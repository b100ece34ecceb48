"""Environments that a recipe can name: the Python tool, and classes of your own.

The Python tool is the tool-integrated reasoning of DeepSeekMath [Series]: the model writes a program in the midst of its answer, is
stopped there, the sandbox runs it, and the output is appended inside the same turn:

    ```python
    print(6 * 7)
    ```
    ```output
    42
    ```
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from afterbase.config import Config
from afterbase.errors import ConfigError
from afterbase.named import imported, is_path, parted
from afterbase.rollouts.turns import Env, Reply, Turn
from afterbase.sandbox.base import Execution, Job, Limits, Sandbox
from afterbase.sandbox.open import SandboxConfig

SCRIPT = Path(__file__).with_name("python_blocks.py")
DONE = ".afterbase_done"
TRACEBACK = 8
"""Last lines of a traceback that the model is shown."""
OPENING = re.compile(r"```([\w+-]*)$")
ADDRESS = re.compile("at 0x[0-9a-fA-F]+")
"""Where an object lies, as its description tells it: different in every run, and a resumed run must read the same."""
TAGGED = ("python", "py", "python3")
ENDED = {
    "failed": "the program ended itself",
    "timeout": "stopped: more than {limits.wall_seconds:g} s, with the blocks before it, or {limits.cpu_seconds:g} s of processor time",
    "memory": "stopped: more than {limits.memory_mb} MiB of memory",
    "output": "stopped: more than {limits.output_bytes} bytes of output",
}


class PythonToolConfig(Config):
    """The model may run Python in the midst of its answer; its blocks share their variables."""

    kind: Literal["python"] = "python"
    call: Literal["fence", "tag"] = "fence"
    """How a program is marked: ```python .. ```, or <tool> .. </tool>."""
    form: Literal["inline", "tool", "user"] = "inline"
    """Where the output goes: inside the model's own turn, which every template can; or as a turn of its own in the chat template."""
    instruction: str | None = None
    """Stands after the question; unset: a sentence that says how a program is marked. Empty where the prompts say so themselves."""
    max_turns: int = Field(8, ge=1)
    """How often the model may speak in one rollout: one more than the programs it may run."""
    output_characters: int = Field(1000, ge=40)
    """Of a program's output, beginning and end together; the rest is left out and counted."""
    sandbox: SandboxConfig = SandboxConfig()
    """Where programs run and what one may use, the time of the blocks before it included."""

    def build(self) -> Env:
        """The tool; ConfigError in words where this machine cannot isolate programs."""
        tool = PythonTool(self.sandbox.build(), self.sandbox.limits, self.call, self.form, self.output_characters)
        tool.max_turns = self.max_turns
        tool.instruction = tool.call.instruction if self.instruction is None else self.instruction
        return tool


class CustomEnvConfig(Config):
    """An environment of your own: a subclass of afterbase.rollouts.turns.Env."""

    kind: Literal["custom"] = "custom"
    path: str
    """Where its class stands, as module:Class; the current directory is looked into as well."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Passed to the class by name."""
    max_turns: int | None = Field(None, ge=1)
    """How often the model may speak in one rollout; unset: as the class says."""

    def build(self) -> Env:
        """An object of the class; ConfigError in words where there is none."""
        kind = find_env(self.path)
        try:
            env = kind(**self.settings)
        except ConfigError:
            raise
        except Exception as error:
            given = ", ".join(sorted(self.settings)) or "none"
            why = f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"{self.path} cannot be made with the settings {given} ({why}); correct its settings, or mend the class"
            ) from None
        env.max_turns = self.max_turns or env.max_turns
        return env


EnvironmentConfig = Annotated[PythonToolConfig | CustomEnvConfig, Field(discriminator="kind")]
"""What replies to the model in rollouts of several turns."""


def find_env(path: str) -> type[Env]:
    """The class at module:Class; ConfigError says what is there instead."""
    if not is_path(path):
        raise ConfigError(f"the environment {path!r} is no path of a class; write module:Class, for example my_module:MyEnv")
    module, name = imported(path, "environment"), parted(path)[1]
    kind = getattr(module, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Env)):
        what = "no such class" if kind is None else f"a {name} that is no subclass of afterbase.rollouts.turns.Env"
        raise ConfigError(f"the environment {path!r}: {module.__file__} has {what}; write class {name}(Env)")
    return kind


class PythonTool(Env):
    """Runs the program with which the model ended its turn, after all those before it, whose output is dropped.

    Blocks share variables because earlier ones are run again, in a process of this turn alone: nothing is held while the model thinks,
    hundreds of rollouts need no more places in the sandbox than run at one time, and a block does the same in every run. A block that
    was killed is not run again.
    """

    seconds = None  # the sandbox keeps the time; waiting for a place in it is nobody's fault

    def __init__(self, sandbox: Sandbox, limits: Limits, call: str = "fence", form: str = "inline", characters: int = 1000) -> None:
        self.sandbox, self.limits, self.form, self.characters = sandbox, limits, form, characters
        self.call = Tag() if call == "tag" else Fence()
        # In a turn of its own the output comes when the model ends its turn, which it has to learn.
        self.stop = self.call.stop if form == "inline" else ()

    async def reply(self, turn: Turn) -> Reply | None:
        """The output of the turn's program; None where the turn ends without one."""
        if self.form == "inline" and turn.ended:
            return None
        program = self.call.program(turn.text)
        if program is None:  # stopped at the end of something else: go on
            return Reply("", "inline") if self.form == "inline" else None
        kept = turn.memory.get("blocks", [])
        execution = await self.sandbox.run(job([*kept, program]), self.limits)
        if execution.status == "error":
            return Reply(f"the sandbox failed: {execution.note}", failed=True)
        lived = execution.status == "ok" and DONE in execution.kept
        if lived:
            turn.memory["blocks"] = [*kept, program]
        output = shorten(printed(execution, lived, self.limits), self.characters)
        return Reply(self.call.within(turn.text, output) if self.form == "inline" else output, self.form)

    async def close(self) -> None:
        """End the sandbox and what runs in it."""
        await self.sandbox.close()


class Fence:
    """Programs between ```python and ```."""

    instruction = "Reason in words and with Python programs: each ```python block is run, and you are shown what it prints."
    stop = ("\n```\n", "```output")  # a model that has seen such transcripts goes on with the second by itself

    def program(self, text: str) -> str | None:
        """The block with which the text ends, if that is Python."""
        tag, body, found = "", None, None
        for line in text.split("\n"):
            mark = line.strip()
            opening = OPENING.search(mark) if mark.count("```") == 1 else None
            if body is not None and mark in ("```", "```output"):
                body, found = None, "\n".join(body) + "\n" if tag in TAGGED else None
            elif body is not None:
                body.append(line)
            elif opening and not (found is not None and mark == "```output"):
                tag, body, found = opening[1].lower(), [], None
            elif mark and not opening:
                found = None
        return found if body is None else None

    def within(self, text: str, output: str) -> str:
        """The output as it goes on after the text; it cannot close its own fence."""
        begun = text.rstrip().endswith("```output")
        lead = "" if text.endswith("\n") else "\n"
        return f"{lead}{'' if begun else '```output' + chr(10)}{output.replace('```', chr(39) * 3)}\n```\n"


class Tag:
    """Programs between <tool> and </tool>."""

    instruction = (
        "Reason in words and with Python programs: what stands between <tool> and </tool> is run, and you are shown what it prints."
    )
    stop = ("</tool>",)

    def program(self, text: str) -> str | None:
        """What the last pair of tags holds, where the text ends with it."""
        head, closed, _ = text.rstrip().rpartition("</tool>")
        _, opened, body = head.rpartition("<tool>")
        return body.strip("\n") + "\n" if closed and opened and text.rstrip().endswith("</tool>") and "</tool>" not in body else None

    def within(self, text: str, output: str) -> str:
        """The output as it goes on after the text; it cannot close its own tag."""
        return f"\n<output>\n{output.replace('</output>', '&lt;/output>')}\n</output>\n"


def job(blocks: list[str]) -> Job:
    """The blocks as one program."""
    order = json.dumps([blocks, TRACEBACK, DONE])
    return Job(("python3", "main.py"), {"main.py": SCRIPT.read_bytes(), "blocks.json": order.encode()}, keep=(DONE,))


def printed(execution: Execution, lived: bool, limits: Limits) -> str:
    """What the model is shown of a run."""
    said = ADDRESS.sub("at 0x0", execution.stdout.decode("utf-8", "replace").strip("\n"))
    if lived:
        return said or "[no output]"
    why = ENDED["failed" if execution.status == "ok" else execution.status].format(limits=limits)
    return f"{said}\n[{why}; its variables are lost]".lstrip("\n")


def shorten(text: str, characters: int) -> str:
    """The text's beginning and end, where it is longer."""
    if len(text) <= characters:
        return text
    head, tail = text[: characters - characters // 2], text[len(text) - characters // 2 :]
    return f"{head}\n[.. {len(text) - characters} characters left out ..]\n{tail}"

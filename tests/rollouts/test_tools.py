"""The Python tool: programs out of the model's words, run apart, shown as data; and environments by their path."""

import asyncio
import importlib.util
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from afterbase.config import Config, build
from afterbase.errors import ConfigError
from afterbase.records import Completion, Message, Prompt, Sampling
from afterbase.rollouts.tools import CustomEnvConfig, EnvironmentConfig, Fence, PythonTool, PythonToolConfig, Tag, find_env, shorten
from afterbase.rollouts.turns import Env, Turn, converse
from afterbase.sandbox.base import Execution, Limits
from afterbase.sandbox.open import SandboxConfig
from afterbase.text.tokenizer import SPECIAL, train_bpe

PROMPT = Prompt("sum-7", (Message("user", "What is 2 + 2?"),), answer="4")
FAST = {"wall_seconds": 20, "cpu_seconds": 1, "memory_mb": 256, "processes": 8, "output_bytes": 20_000, "workers": 2}


@pytest.fixture(scope="module")
def tool():
    try:
        made = PythonToolConfig(sandbox=SandboxConfig(**FAST), output_characters=300).build()
    except ConfigError as error:
        pytest.skip(str(error))
    yield made
    asyncio.run(made.close())


def turn(text: str, memory: dict | None = None, ended: bool = False) -> Turn:
    return Turn(PROMPT, text, (Message("assistant", text),), 1, ended, 0, {} if memory is None else memory)


def fenced(program: str) -> str:
    return f"Let me see.\n```python\n{program}\n```\n"


def outputs(tool: PythonTool, *programs: str) -> list[str]:
    """What the model is shown for each of the programs of one rollout."""
    memory: dict = {}
    replies = [asyncio.run(tool.reply(turn(fenced(program), memory))) for program in programs]
    assert not any(reply.failed for reply in replies) and all(reply.role == "inline" for reply in replies)
    return [reply.text.removeprefix("```output\n").removesuffix("\n```\n") for reply in replies]


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("so\n```python\nx = 1\nx\n```\n", "x = 1\nx\n"),
        ("so: ```py\nx\n``` \n\n", "x\n"),
        ("```python\nx\n```output", "x\n"),
        ("```python\nx\n``` \n```output", "x\n"),
        ("```python\nx\n```\n```output\n1\n```\n", None),
        ("```python\nx\n```\nthat is all", None),
        ("```python\nx\n", None),
        ("```\nx\n```\n", None),
        ("```json\nx\n```\n", None),
        ("```\n", None),
        ("", None),
        ("```text\n```python\n```\n", None),
        ("use ```x``` and\n```python\ny\n```\n", "y\n"),
        ('```python\nprint("```")\n```\n', 'print("```")\n'),
        ("```output\n1\n```\n", None),
        ("```python\n1\n```\n```python\n2\n```\n", "2\n"),
    ],
)
def test_the_program_is_the_python_block_that_ends_the_text(text, program):
    assert Fence().program(text) == program


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("<tool>\nx\n</tool>", "x\n"),
        ("<tool>1</tool> <tool>2</tool>\n", "2\n"),
        ("</tool>", None),
        ("<tool>1</tool> 2", None),
        ("<tool>1</tool></tool>", None),
    ],
)
def test_the_program_is_what_the_tags_at_the_end_hold(text, program):
    assert Tag().program(text) == program


def test_thousands_of_fences_are_read_in_one_pass():
    assert Fence().program("```a\n" * 200_000) is None and Tag().program("<tool>" * 200_000) is None


def test_blocks_share_variables_and_only_the_last_is_heard(tool):
    """Also after an exception, whose assignments before it stand; and random numbers are the same when a block is run again."""
    first = "import random, subprocess\nprint('loud', flush=True)\nsubprocess.run(['echo', 'louder'])\nr = random.random()\nr"
    said, failed, again = outputs(tool, first, "y = 5\n1 / 0", "print(y)\nr")
    assert said.startswith("loud\nlouder\n0.") and again == "5\n" + said.splitlines()[-1]
    assert failed.splitlines()[1:3] == ['  File "block 2", line 2, in <module>', "    1 / 0"]
    assert failed.endswith("ZeroDivisionError: division by zero")


def test_errors_are_shown_by_their_last_lines(tool):
    deep, wrong, silent, left = outputs(
        tool, "def f(n):\n    return f(n - 1) if n else 1 / 0\nf(50)", "def f(:", "x = 1", "import sys\nsys.exit(3)"
    )
    assert deep.endswith("ZeroDivisionError: division by zero") and len(deep.splitlines()) <= 8
    assert wrong.splitlines()[0] == '  File "block 2", line 1' and wrong.endswith("SyntaxError: invalid syntax")
    assert silent == left == "[no output]"


def test_a_killed_block_says_why_and_is_forgotten(tool):
    endless, huge, gone, kept = outputs(
        tool, "x = 1\nwhile True: pass", "while True: print('a' * 99)", "x = 2\nimport os\nos._exit(0)", "'x' in globals()"
    )
    assert endless.startswith("[stopped: more than 20 s, with the blocks before it, or 1 s of processor time; its variables are lost]")
    assert huge.startswith("aaa") and huge.endswith("aaa\n[stopped: more than 20000 bytes of output; its variables are lost]")
    assert len(huge) < 400 and "characters left out" in huge
    assert gone == "[the program ended itself; its variables are lost]" and kept == "False"


def test_hogs_forks_and_strays_do_no_harm(tool):
    [hog] = outputs(tool, "x = bytearray(1 << 34)")
    assert "MemoryError" in hog or "MiB of memory" in hog
    [bomb] = outputs(tool, "import os\nwhile True: os.fork()")
    assert "BlockingIOError" in bomb or "lost" in bomb
    assert outputs(tool, "import os\npid = os.fork()\nprint('once') if pid else None", "3") == ["once", "3"]


def test_nothing_of_ours_is_reached(tool):
    secret = Path(__file__)
    [seen] = outputs(tool, f"import os\nos.path.exists({str(secret)!r})")
    assert seen == "False"


def test_addresses_are_left_out_so_that_runs_can_be_compared(tool):
    assert outputs(tool, "object()") == ["<object object at 0x0>"]


def test_the_output_cannot_close_its_own_fence_or_tag(tool):
    assert outputs(tool, "print('`' * 3)\nprint('<think>')") == ["'''\n<think>"]
    assert "</output>" not in Tag().within("", "</output>").removesuffix("\n</output>\n")


def test_the_fence_that_the_model_opened_is_not_opened_again():
    assert Fence().within("```python\nx\n```output", "1") == "\n1\n```\n"
    assert Fence().within("```python\nx\n```", "1") == "\n```output\n1\n```\n"


def test_shortened_text_keeps_both_ends_and_says_how_much_is_gone():
    assert shorten("abcdefgh", 8) == "abcdefgh" and shorten("a" * 5 + "b" * 5, 5) == "aaa\n[.. 5 characters left out ..]\nbb"


def test_the_tool_lets_the_model_end_and_go_on(tool):
    assert asyncio.run(tool.reply(turn(fenced("1"), ended=True))) is None
    assert asyncio.run(tool.reply(turn("```\nnot Python\n```\n"))).text == ""


@dataclass
class Says:
    """A sandbox whose every job ends so."""

    execution: Execution

    async def run(self, job, limits):
        return self.execution

    async def close(self):
        self.closed = True


def test_a_sandbox_that_fails_masks_and_a_program_that_fails_does_not():
    for status, failed in (("error", True), ("failed", False), ("timeout", False), ("memory", False), ("output", False), ("ok", False)):
        reply = asyncio.run(PythonTool(Says(Execution(status, 1, b"\xff", note="no disk")), Limits()).reply(turn(fenced("1"))))
        assert reply.failed == failed and ("no disk" in reply.text) == failed, status


def test_in_the_chat_form_the_model_ends_its_turn_itself(tool):
    chat = PythonTool(tool.sandbox, tool.limits, "fence", "tool", 100)
    reply = asyncio.run(chat.reply(turn(fenced("6 * 7"), ended=True)))
    assert (reply.text, reply.role, chat.stop) == ("42", "tool", ()) and asyncio.run(chat.reply(turn("done", ended=True))) is None


class Scripted:
    """An engine that says the lines one after the other."""

    room = 999

    def __init__(self, tokenizer, *lines):
        self.lines = [tuple(tokenizer.encode(line)) for line in lines]

    async def generate(self, prompt, sampling, n=1, tag=""):
        line = self.lines.pop(0)
        return [Completion(line, (-1.0,) * len(line), (-1.0,) * len(line), 0, "stop")]


def test_a_rollout_with_the_tool_reads_as_one_answer(tool):
    tokenizer = train_bpe(iter(["What is 2 + 2? ```python ```output"] * 3), 330, list(SPECIAL), "")
    engine = Scripted(tokenizer, fenced("x = 40"), fenced("x + 2"), f"It is 42.{SPECIAL[1]}")
    [rollout] = asyncio.run(converse(engine, tokenizer, PROMPT, "plain", Sampling(max_tokens=500), 1, tool))
    assert tool.instruction in tokenizer.decode(rollout.prompt_tokens)
    shown = [f"```output\n{output}\n```\n" for output in ("[no output]", "42")]
    assert rollout.text == fenced("x = 40") + shown[0] + fenced("x + 2") + shown[1] + "It is 42."
    assert rollout.completion.turns == 3 and rollout.completion.finish == "stop"


def test_the_model_is_told_how_a_program_is_marked_unless_the_recipe_says_it():
    plain = SandboxConfig(isolation="none", workers=1)
    told = [PythonToolConfig(sandbox=plain, **page).build() for page in ({}, {"call": "tag"}, {"instruction": ""}, {"max_turns": 2})]
    assert "```python" in told[0].instruction and "<tool>" in told[1].instruction and told[2].instruction == ""
    assert [each.max_turns for each in told] == [8, 8, 8, 2] and told[1].stop == ("</tool>",)


class Recipe(Config):
    """A recipe with an environment."""

    environment: EnvironmentConfig
    """What replies."""


def test_recipes_choose_by_kind():
    assert build(Recipe, {"environment": {"kind": "python", "max_turns": 3}}, "r").environment.max_turns == 3
    with pytest.raises(ConfigError, match="'pyton' is none of its kinds; did you mean 'python'"):
        build(Recipe, {"environment": {"kind": "pyton"}}, "r")


GAME = "from afterbase.rollouts.turns import Env\nSMALL = 3\nclass Game(Env):\n    def __init__(self, size=9):\n        self.size = size\n"


def test_an_environment_of_a_file_in_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "a_game_for_tests.py").write_text(GAME)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", os.getcwd())])
    made = CustomEnvConfig(path="a_game_for_tests:Game", settings={"size": 5}).build()
    assert isinstance(made, Env) and (made.size, made.max_turns) == (5, Env.max_turns)
    assert CustomEnvConfig(path="a_game_for_tests:Game", max_turns=2).build().max_turns == 2
    for path, why in {
        "a_game_for_tests": "write module:Class",
        "a_game_for_tests:Chess": r"a_game_for_tests\.py has no such class",
        "a_game_for_tests:SMALL": "has a SMALL that is no subclass",
        "no_such_game:Game": r"start where no_such_game\.py lies, or install it",
    }.items():
        with pytest.raises(ConfigError, match=why):
            find_env(path)
    with pytest.raises(ConfigError, match=r"cannot be made with the settings sise .TypeError"):
        CustomEnvConfig(path="a_game_for_tests:Game", settings={"sise": 5}).build()


def test_the_example_environment_plays():
    spec = importlib.util.spec_from_file_location("guessing_game", Path(__file__).parents[2] / "examples" / "guessing_game.py")
    game = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(game)
    memory = asyncio.run(game.play(game.GuessingGame(100), Prompt("g", (Message("user", "Guess."),), answer="37")))
    assert memory == {"number": 37, "guesses": [50, 25, 37]}
    drawn = [asyncio.run(game.play(game.GuessingGame(100), replace(PROMPT, answer=None)))["number"] for _ in range(2)]
    assert drawn[0] == drawn[1]

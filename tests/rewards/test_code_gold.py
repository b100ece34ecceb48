"""Law 9 for code: the programs that data sets bring along pass their own tests."""

import asyncio
import gzip
import json
import lzma
from pathlib import Path

import pytest

from afterbase.errors import ConfigError
from afterbase.records import Completion, Message, Prompt, Rollout
from afterbase.rewards.code import CodeConfig
from afterbase.sandbox.open import SandboxConfig

DATA = Path(__file__).parents[3] / "shared/data/code"
SHARE = {"mbpp.jsonl.xz": 30, "HumanEval.jsonl.gz": 12, "humaneval-python.jsonl.xz": 20}  # one row in so many, to be quick


def rows(name: str) -> list[dict]:
    if not (DATA / name).exists():
        pytest.skip(f"no {name} in ../shared/data/code")
    with (gzip if name.endswith("gz") else lzma).open(DATA / name, "rt") as lines:
        return [json.loads(line) for line in lines][:: SHARE[name]]


@pytest.fixture(scope="module")
def part():
    try:
        made = CodeConfig(sandbox=SandboxConfig(workers=2)).build()
    except ConfigError:
        made = CodeConfig(sandbox=SandboxConfig(workers=2, isolation="none")).build()
    yield made
    asyncio.run(made.close())


def outcomes(part, prompts: list[Prompt], programs: list[str]) -> dict[str, str]:
    async def all_of_them():
        rollouts = [Rollout(prompt, (), Completion((), (), (), 0, "stop"), text) for prompt, text in zip(prompts, programs, strict=True)]
        return await asyncio.gather(*map(part, rollouts))

    return {prompt.id: score.note for prompt, score in zip(prompts, asyncio.run(all_of_them()), strict=True) if score.outcome != "correct"}


@pytest.mark.parametrize("name", SHARE)
def test_reference_programs_pass(name: str, part):
    prompts = [Prompt(str(row["task_id"]), (Message("user", "?"),), "code", None, row) for row in rows(name)]
    assert outcomes(part, prompts, [part.gold(prompt)[0] for prompt in prompts]) == {}


def test_whole_functions_pass_as_well_as_bodies_and_empty_ones_do_not(part):
    prompts = [Prompt(row["task_id"], (Message("user", "?"),), "code", None, row) for row in rows("HumanEval.jsonl.gz")]
    whole = [f"```python\n{prompt.extra['prompt']}{prompt.extra['canonical_solution']}\n```" for prompt in prompts]
    assert outcomes(part, prompts, whole) == {}
    hollow = [f"```python\n{prompt.extra['prompt']}    return None\n```" for prompt in prompts]
    assert len(outcomes(part, prompts, hollow)) == len(prompts)

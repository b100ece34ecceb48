"""A Python program cannot tell a forked interpreter from a fresh one, but for the time it takes."""

import asyncio

import pytest

from afterbase.sandbox.base import Execution, Job, Limits
from afterbase.sandbox.inside.warm import suits

LIMITS = Limits(wall_seconds=20)
FRESH = ("python3", "-X", "utf8", "main.py", "argument")
WARM = ("python3", "main.py", "argument")

PROGRAMS = {
    "arguments": "import sys; print(sys.argv, sys.path[0], __name__, __file__, __spec__ if '__spec__' in dir() else None)",
    "imports_its_own_files": "import helper, pickle; print(helper.value, helper.__file__, pickle.loads(pickle.dumps(helper.Kind())).value)",
    "an_exception": "def f(n):\n    return f(n - 1) if n else 1 / 0\nf(2)",
    "an_exception_of_an_exception": "try:\n    1 / 0\nexcept Exception as error:\n    raise ValueError('x') from error",
    "bad_syntax": "x = (\nprint(1)",
    "exit_with_words": "import sys; print('out'); sys.exit('words')",
    "exit_with_a_large_number": "raise SystemExit(259)",
    "exit_with_nothing": "exit()",
    "its_own_hook": "import sys\nsys.excepthook = lambda *given: print('hook', given[0].__name__)\nraise KeyError(1)",
    "a_file_left_open": "f = open('kept', 'w'); f.write('text')",
    "farewells": "import atexit, sys\natexit.register(print, 'bye'); print('hello'); sys.exit(4)",
    "a_thread_outlives_the_main_one": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()",
    "deleted_at_the_end": "class A:\n    def __del__(self): print('deleted')\na = A()",
    "children": "import os, sys\nif os.fork() == 0: sys.exit(7)\nprint(os.waitstatus_to_exitcode(os.wait()[1]))",
    "processes": "from multiprocessing import Pool\nif __name__ == '__main__':\n    with Pool(2) as pool: print(pool.map(abs, [-1, -2]))",
    "interrupted": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time; time.sleep(5)",
    "hashes": "print(hash('a'), list({'x', 'y', 'z'}))",
    "deep": "def f(n): return n and 1 + f(n - 1)\nprint(f(900))",
    "its_output_closed": "import os; print('x', flush=True); os.close(1)",
    "evaluates": "exec('x = 1'); print(x, eval('x + 1'), globals()['x'])",
    "annotated": "x: int = 1\nprint(__annotations__)",
    "main_again": "import __main__; y = 5; print(__main__.y)",
}  # fmt: skip


def outcome(sandbox, argv: tuple[str, ...], program: str) -> tuple:
    files = {"main.py": program.encode(), "helper.py": b"value = 3\nclass Kind: value = 4\n"}
    found: Execution = asyncio.run(sandbox.run(Job(argv, files, keep=("kept",)), LIMITS))
    return found.status, found.exit_code, found.stdout, found.stderr, dict(found.kept)


@pytest.mark.parametrize("name", PROGRAMS)
def test_warm_and_fresh_do_the_same(namespaces, name):
    assert outcome(namespaces, WARM, PROGRAMS[name]) == outcome(namespaces, FRESH, PROGRAMS[name])


def test_a_missing_script_is_complained_of_as_python_does(namespaces):
    warm, fresh = (outcome(namespaces, (*options, "none.py"), "") for options in (("python3",), ("python3", "-X", "utf8")))
    assert warm[:3] == fresh[:3] == ("failed", 2, b"")
    assert b"can't open file '/tmp/work/none.py'" in warm[3] and b"can't open file '/tmp/work/none.py'" in fresh[3]


@pytest.mark.parametrize(
    ("argv", "environment", "warm"),
    [
        (("python3", "main.py"), {}, True),
        (("python3", "main.py", "-x"), {"A": "1", "PYTHONHASHSEED": "0"}, True),
        (("python3", "main.py"), {"PYTHONPATH": "x"}, False),
        (("python3", "-c", "1"), {}, False),
        (("python3",), {}, False),
        (("bash", "main.py"), {}, False),
    ],
)
def test_only_what_needs_no_interpreter_of_its_own_is_warm(argv, environment, warm):
    assert suits(argv, environment) is warm

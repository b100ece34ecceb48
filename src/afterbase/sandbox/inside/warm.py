"""A Python program run by an interpreter that has started already, as if it had been started for it."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import gc
import importlib
import os
import signal
import site
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from importlib.machinery import SourceFileLoader

# What programs that solve problems import; all of it together is a few MiB, which their copies share.
MODULES = (
    "abc", "array", "ast", "bisect", "collections", "contextlib", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "functools", "heapq", "io", "itertools", "json", "math", "numbers", "operator", "os", "pathlib", "queue", "random", "re", "signal",
    "statistics", "string", "struct", "subprocess", "sys", "textwrap", "threading", "time", "traceback", "types", "typing", "warnings",
)  # fmt: skip
FIXED = ("PYTHONHASHSEED",)
"""Variables for the interpreter that the launcher has too."""
FLUSH_FAILED = 120
"""Python's own exit code when its last output could not be written."""


class Script(SourceFileLoader):
    """Loads a program without looking for, or leaving, compiled bytecode."""

    def get_code(self, fullname: str) -> types.CodeType:
        """The program compiled afresh."""
        return self.source_to_code(self.get_data(self.path), self.path)


def prepare() -> None:
    """Import what programs import, and make sure that looking for garbage touches none of it: it stays shared."""
    for name in MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def suits(argv: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a command is a Python script without options for the interpreter, which only a new interpreter could heed."""
    scripted = len(argv) > 1 and argv[0] == "python3" and argv[1] and not argv[1].startswith("-")
    return bool(scripted) and not any(name.startswith("PYTHON") and name not in FIXED for name in environment)


def run(argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """Be `python3 SCRIPT ...` with the descriptors, directory and rights that this process has now; does not return."""
    script = os.path.abspath(argv[1])
    for name in [name for name in sys.modules if name.partition(".")[0] == "afterbase"]:
        del sys.modules[name]
    warm = set(sys.modules)
    for name, value in environment.items():  # those of the launcher are among them
        os.environ[name] = value
    if sys.flags.no_site:
        for words in (site.setquit, site.setcopyright, site.sethelper):  # exit, quit, help and the like
            words()
    sys.argv, sys.orig_argv = list(argv[1:]), list(argv)
    sys.path[0] = os.path.dirname(script)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    loader = Script("__main__", script)
    vars(main).update(__builtins__=builtins, __annotations__={}, __file__=script, __loader__=loader)
    code = _finish(_execute(loader, main, script), warm)  # the children of a program that forks come here too
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _execute(loader: Script, main: types.ModuleType, script: str) -> int:
    """Run the program; its exit code (or minus a signal), after complaining in Python's way about what it raised."""
    try:
        loader.exec_module(main)
    except SystemExit as wish:
        return _exit_code(wish.code)
    except OSError as error:
        if error.__traceback__ and _own(error.__traceback__, script) is None:
            _complain(f"python3: can't open file '{script}': [Errno {error.errno}] {error.strerror}\n")
            return 2
        _report(error, script)
    except BaseException as error:
        _report(error, script)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    else:
        return 0
    return 1


def _report(error: BaseException, script: str) -> None:
    error.__traceback__ = _own(error.__traceback__, script)
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException:
        sys.__excepthook__(type(error), error, error.__traceback__)


def _own(trace: types.TracebackType | None, script: str) -> types.TracebackType | None:
    """The part of a traceback from the program's first frame on."""
    while trace and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    return trace


def _exit_code(wish: object) -> int:
    if wish is None:
        return 0
    if isinstance(wish, int):
        return wish & 0xFF
    _complain(f"{wish}\n")
    return 1


def _complain(words: str) -> None:
    with contextlib.suppress(Exception):
        sys.stderr.write(words)


def _finish(code: int, warm: set[str]) -> int:
    """End as the interpreter does, but leave what was there before the program: to take that apart takes longer than most programs."""
    for step in (threading._shutdown, atexit._run_exitfuncs):
        with contextlib.suppress(BaseException):
            step()
    for name, module in list(sys.modules.items()):
        if name not in warm or name == "__main__":
            with contextlib.suppress(Exception):
                vars(module).clear()  # closes, and so writes out, the files that it left open
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):
            pass  # closed by the program
        except Exception:
            code = FLUSH_FAILED
    return code

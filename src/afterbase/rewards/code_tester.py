"""The tests' side of a talk: it runs assert tests on stand-ins for what the program defines, and says which of them hold.

Runs inside a sandbox of its own, where the program is not. Usage: python3 code_tester.py COUNT ENTRY, next to setup.py (may be empty)
and test_0.py to test_<COUNT - 1>.py; ENTRY names the function under test, "" when the tests' own text must tell. Requests to the program
go out as JSON lines {"id", "do", ...} whose answers come in; verdicts as {"test", "status", "note"}, then {"end"}; {"broken"} says
that the tests themselves cannot run. Built-in names and modules are always the tests' own: the program cannot put its own in their place.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from code_plain import decode, encode
from code_server import MUTABLE, run_file

# What a program may raise in a test; not StopIteration, which would end `all(map(f, cases))` early and as a success.
RAISED = ("ArithmeticError", "AssertionError", "AttributeError", "EOFError", "IndexError", "KeyError", "LookupError", "NameError",
          "NotImplementedError", "OSError", "OverflowError", "RecursionError", "RuntimeError", "TypeError", "UnicodeError", "ValueError",
          "ZeroDivisionError")  # fmt: skip


class ProgramError(Exception):
    """Something that the program raised, or an answer that makes no sense."""


class Unsupported(Exception):
    """The tests want to hand over what cannot be sent."""


class Talk:
    """Asks the program's side, one question at a time."""

    def __init__(self) -> None:
        self.answers, self.questions = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0), os.dup2(nothing, 1)
        self.number = 0
        self.last: Any = None
        """What the program last answered a call with, for the note."""

    def say(self, **message: Any) -> None:
        """Send one line."""
        self.questions.write(json.dumps(message).encode() + b"\n")
        self.questions.flush()

    def ask(self, do: str, where: dict[str, Any], /, *given: Any, **named: Any) -> Any:
        """Have the program's side do something and decode what came of it; raises what it raised."""
        self.number += 1
        self.say(id=self.number, do=do, **where, args=[encode(item, number_of) for item in given], kwargs=encode(named, number_of))
        try:
            answer = json.loads(self.answers.readline())
            if answer["id"] != self.number:
                raise ProgramError("the program answered out of turn")
            if "error" in answer:
                raise raised(str(answer["error"]), str(answer.get("message", "")))
            value = self.decoded(answer["value"])
            for index, item in answer.get("changed", {}).items():
                replace_content(given[int(index)], self.decoded(item))
        except (ValueError, TypeError, KeyError, IndexError, RecursionError, MemoryError) as error:
            if isinstance(error, Raised):
                raise
            raise ProgramError(f"the program sent no answer that can be read: {type(error).__name__}") from None
        self.last = value
        return value

    def decoded(self, data: Any) -> Any:
        """Plain data, with a stand-in wherever the program keeps the object."""
        return decode(data, lambda data: Remote(self, int(data["handle"]), str(data.get("type", "")), {"handle": int(data["handle"])}))


class Raised:
    """Marks the exceptions that the program raised, as against those that a malformed answer causes here."""


class Remote:
    """Stands in for an object that stays with the program: it can be called, indexed, iterated and asked for its attributes.

    It equals itself and nothing else, and is no number: what it answers when compared is not the program's to say.
    """

    __slots__ = ("_number", "_talk", "_type", "_where")

    def __init__(self, talk: Talk, number: int, type: str, where: dict[str, Any]):
        for slot, value in (("_talk", talk), ("_number", number), ("_type", type), ("_where", where)):
            object.__setattr__(self, slot, value)

    def _ask(self, do: str, /, *given: Any, **named: Any) -> Any:
        return self._talk.ask(do, self._where, *given, **named)

    def __call__(self, /, *given: Any, **named: Any) -> Any:
        """Call it with plain data and other stand-ins."""
        return self._ask("call", *given, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__name__", "__doc__"):
            raise AttributeError(name)
        return self._ask("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("set_item", key, value)

    def __len__(self) -> int:
        return self._ask("len")

    def __iter__(self) -> Iterator[Any]:
        return iter(self._ask("iter"))

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and object.__getattribute__(other, "_number") == self._number

    def __hash__(self) -> int:
        return hash(self._number)

    def __repr__(self) -> str:
        return f"<{self._type} of the program>"


def number_of(value: Any) -> int:
    """The number of a stand-in; anything else that is no plain data belongs to the tests and cannot leave."""
    if isinstance(value, Remote):
        return object.__getattribute__(value, "_number")
    raise Unsupported(f"the tests hand the program a {type(value).__name__}, which cannot be sent")


def raised(name: str, message: str) -> Exception:
    """The program's exception, as the built-in one of that name where tests may wait for it."""
    if name not in RAISED:
        return ProgramError(f"{name}: {message}")
    return type(name, (Raised, getattr(builtins, name)), {})(message)


def replace_content(target: Any, content: Any) -> None:
    """Make a list, dict, set or bytearray hold what the program has left in its copy."""
    if not isinstance(target, MUTABLE) or type(target) is not type(content):
        raise ProgramError("the program changed an argument to another type")
    if isinstance(target, list | bytearray):
        target[:] = content
    else:
        target.clear()
        target.update(content)


def wanted(trees: list[ast.Module], entry: str) -> list[str]:
    """The names that the tests expect of the program: those that they use and do not define; never a built-in one, unless no other is
    called (a task may well be called `sum`)."""
    used, called, bound = set(), set(), set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called.add(node.func.id)
    own = {name for name in used - bound if not hasattr(builtins, name) and name not in sys.stdlib_module_names}
    if not own and not entry:
        own = {name for name in called - bound if hasattr(builtins, name)}
    return sorted(own | {entry} - {""})


def found(talk: Talk, names: list[str]) -> dict[str, Any]:
    """What the program calls by these names; those that it does not define are left out."""
    given = {}
    for name in names:
        where = {"name": name}
        try:
            value = talk.ask("find", where)
        except Exception:  # whatever it is, using the name will fail, and that is the test's business
            continue
        if isinstance(value, Remote):  # asked for by name: a program that is started again gives other numbers
            object.__setattr__(value, "_where", where)
        given[name] = value
    return given


def reads_data(trees: list[ast.Module], given: dict[str, Any]) -> bool:
    """Whether the tests read a constant of the program, which takes no question: a name that stands outside of functions and is no call."""
    called = {node.func.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    data = {name for name, value in given.items() if not isinstance(value, Remote)} - called
    defining = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    done = [statement for tree in trees for statement in tree.body if not isinstance(statement, defining)]
    return any(isinstance(node, ast.Name) and node.id in data for statement in done for node in ast.walk(statement))


def modules(trees: list[ast.Module]) -> dict[str, Any]:
    """The standard modules that the tests use without importing them."""
    used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return {name: importlib.import_module(name) for name in used & set(sys.stdlib_module_names) if not name.startswith("_")}


def why(error: BaseException, file: str, tree: ast.Module, talk: Talk) -> str:
    """What failed, in one line: the assertion and what the program last answered, or the exception."""
    if isinstance(error, AssertionError) and not isinstance(error, Raised):
        lines = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(file)]
        asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
        text = next((ast.unparse(node) for node in asserts if lines and node.lineno <= lines[-1] <= (node.end_lineno or 0)), "an assertion")
        return f"{text[:200]} does not hold, the last answer was {shown(talk.last)}"
    return f"{type(error).__name__}: {str(error)[:300]}"


def shown(value: Any) -> str:
    """A value in a few words; what cannot be shown, such as a number of a million digits, by its type."""
    try:
        return repr(value)[:100]
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"


def run_tests(talk: Talk, count: int, entry: str) -> None:
    """Run each test and say what became of it."""
    files = [f"test_{index}" for index in range(count)]
    trees = {name: ast.parse(Path(f"{name}.py").read_text(encoding="utf-8")) for name in ("setup", *files)}
    given = found(talk, wanted(list(trees.values()), entry))
    names = modules(list(trees.values())) | given
    program = names.get(entry)
    names |= vars(run_file("setup", names))
    if entry in names and program is not None:
        names[entry] = program  # a task's setup may hold the bare head of the function that the program was to write
    asked, passed = 0 if reads_data(list(trees.values()), given) else talk.number, 0
    for index, file in enumerate(files):
        talk.last = None
        try:
            names |= vars(run_file(file, names))
            talk.say(test=index, status="passed", note="")
            passed += 1
        except Unsupported as error:
            talk.say(test=index, status="error", note=str(error))
        except BaseException as error:
            talk.say(test=index, status="wrong", note=why(error, f"{file}.py", trees[file], talk))
    if passed == count and talk.number == asked:
        talk.say(broken="every program passes these tests, which ask it nothing; let them call the test functions that they define")


def main() -> None:
    """Run the tests and end."""
    sys.dont_write_bytecode = True
    talk = Talk()
    try:
        run_tests(talk, int(sys.argv[1]), sys.argv[2])
        talk.say(end=True)
    except SyntaxError as error:
        talk.say(broken=f"the tests are no Python: {error}")
    except Unsupported as error:
        talk.say(broken=str(error))
    except BaseException as error:
        talk.say(failed=f"the tests' setup failed: {type(error).__name__}: {str(error)[:300]}")


if __name__ == "__main__":
    main()

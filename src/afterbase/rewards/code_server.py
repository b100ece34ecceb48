"""The program's side of a talk: it loads the program and does with it what each line of input asks.

Runs inside the sandbox, next to the program and at its mercy; it holds no test and no expected value, so nothing here needs protection.
Usage: python3 code_server.py NAMES, where NAMES is "leetcode" (what LeetCode imports for its programs), "preamble" (what preamble.py
defines) or "none". Requests are JSON lines {"id", "do", ...}, answers {"id", "value"} or {"id", "error", "message"}; the first line
that goes out, {"id": 0}, says whether the program loaded. Its own prints go nowhere, its own input is empty.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import Any

from code_plain import decode, encode

MUTABLE = (list, dict, set, bytearray)


class Server:
    """Holds the program's module and the objects that the other side has handles of."""

    def __init__(self) -> None:
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.module: Any = None

    def load(self, names: str) -> None:
        """Run the program, which may end itself: what it has defined until then is there."""
        given = leetcode_names() if names == "leetcode" else vars(run_file("preamble")) if names == "preamble" else {}
        try:
            self.module = run_file("solution", given)
        except SystemExit as end:
            self.module = sys.modules["solution"]
            if end.code not in (None, 0):
                raise

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one request asks."""
        given = decode(request.get("args", []), self.local)
        named = decode(request.get("kwargs", {"dict": []}), self.local)
        target = self.find(request["name"]) if "name" in request else self.objects[request["handle"]]
        value = encode(DOING[request["do"]](target, *given, **named), self.handle)
        changed = {index: encode(item, self.handle) for index, item in enumerate(given) if isinstance(item, MUTABLE)}
        return {"value": value, "changed": {index: item for index, item in changed.items() if item != request["args"][index]}}

    def find(self, name: str) -> Any:
        """A thing that the program defines: `f`, `Class`, or a method of its `class Solution`, also written `Solution.f`."""
        name = name.replace("()", "").removeprefix("Solution.")
        if hasattr(self.module, name):
            return getattr(self.module, name)
        if hasattr(self.module, "Solution"):
            return getattr(self.module.Solution(), name)
        raise NameError(f"the program does not define {name}")

    def handle(self, value: Any) -> int:
        """The number of an object that stays here."""
        if id(value) not in self.numbers:  # `objects` keeps it alive, so its id stays its own
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return self.numbers[id(value)]

    def local(self, data: dict[str, Any]) -> Any:
        """The object of a number."""
        return self.objects[data["handle"]]


DOING = {
    "find": lambda target: target,
    "call": lambda target, /, *given, **named: target(*given, **named),
    "get": getattr,
    "set": setattr,
    "item": lambda target, key: target[key],
    "set_item": lambda target, key, value: target.__setitem__(key, value),
    "len": len,
    "iter": iter,
}


def run_file(name: str, given: dict[str, Any] | None = None) -> Any:
    """Run name.py as a module in which `given` is already defined."""
    spec = importlib.util.spec_from_file_location(name, f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    module.__dict__.update({name: value for name, value in (given or {}).items() if not name.startswith("__")})
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def leetcode_names() -> dict[str, Any]:
    """What programs for LeetCode use without importing it."""
    names: dict[str, Any] = {}
    for module in ("bisect", "collections", "functools", "heapq", "itertools", "math", "operator", "random", "re", "string", "typing"):
        names[module] = importlib.import_module(module)
    for module in ("bisect", "collections", "functools", "heapq", "itertools", "math", "typing"):
        names |= {name: getattr(names[module], name) for name in getattr(names[module], "__all__", dir(names[module])) if name[0] != "_"}
    return {**names, "pow": pow}  # the built-in one, as there


def main() -> None:
    """Load, then answer line by line until the input ends."""
    sys.dont_write_bytecode = True
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0), os.dup2(nothing, 1)
    sys.setrecursionlimit(20_000)
    server = Server()
    number, work = 0, lambda: server.load(sys.argv[1])
    while True:
        try:
            answer = work() or {}
        except BaseException as error:  # also SystemExit: a program that ends itself has failed the request, nothing more
            answer = {"error": type(error).__name__, "message": str(error)[:500]}
        answers.write(json.dumps({"id": number, **answer}).encode() + b"\n")
        answers.flush()
        line = requests.readline()
        if not line:
            return
        request = json.loads(line)
        number, work = request["id"], lambda request=request: server.answer(request)


if __name__ == "__main__":
    main()

"""A program and the tests that follow it in the same file, as in MultiPL-E: joined so that passing prints a secret word at the very end.

Exit code 0 alone would be earned by `exit(0)`, and no fixed last word would stay unknown to a learner. What this does NOT protect against:
program and tests share one process, so a program may read its own file or memory and print the word, or put its own functions in the
place of those that the tests call. It is meant for evaluation; learn from tests of input and output, or of calls, which are kept apart.
"""

from __future__ import annotations

import re

from afterbase.errors import DataError
from afterbase.rewards.code_tests import Following

_TEXT = r'/\*(?:.*?\*/|.*)|//[^\n]*|"(?:\\.|[^"\\\n])*"?|\'(?:\\.|[^\'\\\n])*\'?'
_BRACES = re.compile(rf"{_TEXT}|(?P<open>\{{)|(?P<close>\}})", re.DOTALL)
_HEADERS = {"cpp": r"\s*#\s*include\b.*", "java": r"\s*import\b.*;\s*", "csharp": r"\s*using\b.*;\s*"}
_MAINS = {"cpp": r"\bmain(?=\s*\()", "java": r"\bmain(?=\s*\()", "csharp": r"\bMain(?=\s*\()"}
_TUPLES = {"Unit": 1, "Pair": 2, "Triplet": 3, "Quartet": 4, "Quintet": 5, "Sextet": 6}
_IN_A_CLASS = ("java", "csharp")
# What `assert` and its like mean is settled by the tests' side, after the program has had its say.
_BEFORE_TESTS = {"cpp": "\n#undef NDEBUG\n#undef assert\n#include <cassert>\n#include <iostream>\n"}
_FIRST = {"javascript": 'Object.freeze(require("node:assert"));\n', "typescript": 'Object.freeze(require("node:assert"));\n'}
_SAY = {
    "cpp": 'std::cout << std::endl << "{word}" << std::endl;',
    "java": 'System.out.println("\\n{word}");',
    "csharp": 'System.Console.WriteLine("\\n{word}");',
    "javascript": '\nconsole.log("\\n{word}");\n',
    "typescript": '\nconsole.log("\\n{word}");\n',
    "php": '\necho "\\n{word}\\n";\n',
    "bash": "\necho\necho {word}\n",
}


def join(language: str, program: str, tests: Following, word: str) -> str:
    """One text to compile and run that prints `word` on a line of its own only when every test has passed.

    The program may be whole or only what completes the task's head; a `main` of its own is put aside.
    """
    if language not in _SAY:
        raise DataError(f"tests that follow the program in its file are not known for {language}; there are {', '.join(_SAY)}")
    if language in _MAINS:
        program = re.sub(_MAINS[language], "main_of_the_program", program)
    text = _said(language, tests.text, word)
    name = _function(tests.head)
    whole = not name or _defines(program, name)
    closes = text.lstrip().startswith("}")
    if closes:
        text = text.lstrip()[1:]
        before = "" if whole else "}"
        text = before + _BEFORE_TESTS.get(language, "") + text
    if not whole:
        return _opened(language, _FIRST.get(language, "") + tests.head + program) + "\n" + text
    header = _FIRST.get(language, "") + _header(language, tests.head)
    if language in _IN_A_CLASS and closes:
        joined = header + _in_class(language, program, text, tests.head)
        return joined + _tuples(joined) if language == "java" else joined
    return _opened(language, header + program) + "\n" + text


def passed(word: str, output: str) -> bool:
    """Whether the output holds the secret word on a line of its own."""
    return word in output.splitlines()


def _said(language: str, text: str, word: str) -> str:
    """The tests with the word behind the last of them."""
    say = _SAY[language].replace("{word}", word)
    if language == "csharp":  # Debug.Assert of mono reports and goes on
        text = text.replace("Debug.Assert(", f"Held{word[:8]}.That(")
        held = 'public static void That(bool held) { if (!held) throw new System.Exception("a test does not hold"); }'
        return _before_brace(text, 2, say) + f"\nclass Held{word[:8]} {{ {held} }}\n"
    if language in ("cpp", "java"):
        return _before_brace(text, 2 if language == "java" else 1, say)
    return text + say


def _before_brace(text: str, which: int, insert: str) -> str:
    """`insert` put before one of the last closing braces."""
    end = len(text)
    for _ in range(which):
        end = text.rfind("}", 0, end)
    if end < 0:
        raise DataError("tests that follow the program must end with the braces that close its main function and class")
    return text[:end] + insert + "\n" + text[end:]


def _function(head: str) -> str:
    """The name of the function that a head leaves open, on its last line."""
    lines = head.rstrip().splitlines()
    found = re.search(r"(\w+)\s*\(", lines[-1]) if lines else None
    return found[1] if found else ""


def _defines(program: str, name: str) -> bool:
    """Whether a program holds the function's own definition, not only calls of it."""
    types = r"(?![^\S\n]*+(?:return|if|while|for|else|echo|print)\b)[\w <>:,\[\]*&?.]{0,200}"
    return bool(re.search(rf"^{types}\b{re.escape(name)}\s*(?:\(|=[^=]|:)", program, re.MULTILINE))


def _header(language: str, head: str) -> str:
    """The lines of a head that bring in libraries, without the one that `_tuples` stands in for."""
    pattern = _HEADERS.get(language)
    return "".join(line + "\n" for line in head.splitlines() if pattern and re.fullmatch(pattern, line) and "javatuples" not in line)


def _tuples(text: str) -> str:
    """The classes of org.javatuples that a Java text uses and does not define, so that the library need not be there."""
    used = [name for name in _TUPLES if re.search(rf"\b{name}\s*[<.]", text) and not re.search(rf"\bclass\s+{name}\b", text)]
    return "\n" + "\n".join(_tuple(name, "ABCDEF"[: _TUPLES[name]]) for name in used) + "\n"


def _tuple(name: str, types: str) -> str:
    kinds, given, items = ", ".join(types), ", ".join(f"{type} {type.lower()}" for type in types), ", ".join(types.lower())
    getters = " ".join(f"public {type} getValue{at}() {{ return ({type}) items.get({at}); }}" for at, type in enumerate(types))
    return f"""@SuppressWarnings("unchecked") final class {name}<{kinds}> {{
    private final java.util.List<Object> items;
    public {name}({given}) {{ items = java.util.Arrays.asList({items}); }}
    public static <{kinds}> {name}<{kinds}> with({given}) {{ return new {name}<{kinds}>({items}); }}
    {getters}
    public boolean equals(Object other) {{ return other instanceof {name} && items.equals((({name}) other).items); }}
    public int hashCode() {{ return items.hashCode(); }}
    public String toString() {{ return items.toString(); }}
}}"""


def _opened(language: str, program: str) -> str:
    """PHP must begin with its tag and may not end with it."""
    if language != "php":
        return program
    program = program.strip().removesuffix("?>")
    return "<?php\n" + program.replace("<?php", "")


def _in_class(language: str, program: str, text: str, head: str) -> str:
    """The tests inside the class that the head names; a program without it is put into it, or it inherits from the program's class."""
    named = re.search(r"\bclass\s+(\w+)", head)
    name = named[1] if named else "Problem"
    program = re.sub(r"^[^\S\n]*+(package\b.*|import\s+org\.javatuples\b.*);", "", program, flags=re.MULTILINE)
    end = _class_end(program, name)
    if end >= 0:
        return program[:end] + text + program[end + 1 :]
    other = re.search(r"^[ \t]*(?:public |final |static |internal )*class\s+(\w+)", program, re.MULTILINE)
    if not other:
        imports = "".join(line + "\n" for line in program.splitlines() if re.fullmatch(_HEADERS[language], line))
        body = "\n".join(line for line in program.splitlines() if not re.fullmatch(_HEADERS[language], line))
        return f"{imports}class {name} {{\n{body}\n{text}"
    inherits = f"extends {other[1]}" if language == "java" else f": {other[1]}"
    return f"{program}\nclass {name} {inherits} {{\n{text}"


def _class_end(program: str, name: str) -> int:
    """Where the closing brace of a class stands; -1 without the class or the brace."""
    start = re.search(rf"\bclass\s+{re.escape(name)}\b", program)
    depth = 0
    for token in _BRACES.finditer(program, start.end() if start else len(program)):
        depth += 1 if token["open"] else -1 if token["close"] else 0
        if token["close"] and depth <= 0:
            return token.start()
    return -1

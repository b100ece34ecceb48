"""The eight languages of HumanEval-Mul: what compiles them, what runs them, what their runtimes need.  [V3 Table 6]

A program is compiled once in a job of its own; the artefact comes back and goes into a fresh job for every input.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from os.path import realpath
from pathlib import Path

from afterbase.config import nearest
from afterbase.errors import ConfigError
from afterbase.sandbox.base import Job, Limits

# Code without what only looks like it: a comment or text that is never closed runs to the end, so that one pass is enough.
_TEXT = r'/\*(?:.*?\*/|.*)|//[^\n]*|"""(?:.*?"""|.*)|"(?:\\.|[^"\\\n])*"?|\'(?:\\.|[^\'\\\n])*\'?'
_TYPE = r"(?:class|record|enum|interface)\s+"
_JAVA = re.compile(rf"{_TEXT}|(?P<brace>[{{}}])|\b{_TYPE}(?P<type>\w{{1,100}})|(?P<main>\bstatic\s+void\s+main\b)", re.DOTALL)
_PACKAGE = re.compile(r"^[^\S\n]*+package\s+([\w.]{1,200})\s*;", re.MULTILINE)
_PUBLIC = re.compile(rf"^[ \t]*public\s+(?:\w+\s+){{0,4}}?{_TYPE}(\w{{1,100}})", re.MULTILINE)

# A program's classes are known only once they are there, and a job brings back files by name: so they are packed into one.
_PACK = b"""import pathlib, subprocess, sys, zipfile
done = subprocess.run(sys.argv[1:])
if done.returncode == 0:
    with zipfile.ZipFile("main.jar", "w") as jar:
        for path in sorted(pathlib.Path("classes").rglob("*.class")):
            jar.write(path, path.relative_to("classes"))
sys.exit(done.returncode)
"""

# What node offers a program, for a compiler that has no @types/node: without it every program that reads its input would be refused.
_AMBIENT = b"""declare var require: any, process: any, console: any, Buffer: any, module: any, exports: any, global: any, performance: any;
declare var __dirname: string, __filename: string;
declare function setTimeout(...given: any[]): any;
declare function setImmediate(...given: any[]): any;
declare function clearTimeout(given: any): void;
declare function structuredClone(given: any): any;
declare module "*";
"""


@dataclass(frozen=True, slots=True)
class Build:
    """How one program is compiled and run, e.g. Build("main.py", run=("python3", "main.py"))."""

    source: str
    """The file that holds the program."""
    run: tuple[str, ...]
    """What runs the artefact, or the source where nothing is compiled."""
    compile: tuple[str, ...] = ()
    """What makes the artefact out of the source; empty where nothing does."""
    artefact: str = ""
    """The file that comes back from compiling and goes into every run."""
    helpers: dict[str, bytes] = field(default_factory=dict)
    """Further files that compiling needs."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that its runtime needs."""

    def compiling(self, program: str) -> Job:
        """The job that makes the artefact."""
        files = {**self.helpers, self.source: program.encode("utf-8", "replace")}
        return Job(self.compile, files, keep=(self.artefact,), environment=self.environment)

    def running(self, program: str, artefact: bytes | None, stdin: bytes) -> Job:
        """The job that runs it on one input."""
        files = {self.artefact: artefact} if artefact is not None else {self.source: program.encode("utf-8", "replace")}
        return Job(self.run, files, stdin, environment=self.environment)


@dataclass(frozen=True, slots=True)
class Language:
    """A language that programs may be written in, e.g. LANGUAGES["java"]."""

    name: str
    """What recipes and data call it."""
    tags: tuple[str, ...]
    """What code fences and data sets call it besides its name."""
    tools: tuple[str, ...]
    """The programs that it needs."""
    install: str
    """How to get them on Debian."""
    build: Callable[[Tools, str, int], Build]
    """From the tools, the program and the memory in MiB to its commands."""
    opening: str = r"$^"
    """A regular expression that the first line of a program matches and prose does not."""
    startup: float = 0.0
    """Seconds that its runtime may take before the program's first line, on top of the program's own."""
    overhead_mb: int = 0
    """Memory that its runtime takes, on top of the program's own. JVM, node and mono reserve many GiB of addresses that they never use,
    so memory must be limited by what is used (cgroup, watching), never by RLIMIT_AS."""
    settings: tuple[str, ...] = ()
    """Directories of settings outside /usr that its runtime reads; those that are missing are not needed."""

    def limits(self, limits: Limits) -> Limits:
        """The same limits with room for the runtime itself."""
        wall, cpu = limits.wall_seconds + self.startup, limits.cpu_seconds + self.startup
        return replace(limits, wall_seconds=wall, cpu_seconds=cpu, memory_mb=limits.memory_mb + self.overhead_mb)


class Tools:
    """The compilers and interpreters of this machine, looked up once each."""

    def __init__(self, path: str | None = None):
        """`path`: directories to look in, separated by colons; the usual search path when None."""
        self.path = path
        self._found: dict[str, str | None] = {"python3": "python3"}  # the sandbox brings the interpreter, whatever the host calls it

    def find(self, tool: str) -> str | None:
        """Where a program is, all links followed (a minimal root may lack what they lead through); None without it."""
        if tool not in self._found:
            found = shutil.which(tool, path=self.path)
            self._found[tool] = realpath(found) if found else None
        return self._found[tool]

    def need(self, tool: str) -> str:
        """Where a program is; ConfigError without it."""
        found = self.find(tool)
        if not found:
            raise ConfigError(f"the program {tool!r} is not installed or not on the search path; {_how_to_get(tool)}")
        return found

    def missing(self, language: Language) -> str:
        """What this machine lacks for a language and how to get it; "" when it has everything."""
        lacking = [tool for tool in language.tools if not self.find(tool)]
        if language.name == "typescript" and lacking == ["tsc"] and self._strips_types():
            return ""
        return f"{language.name} needs {' and '.join(lacking)}, which this machine lacks; {language.install}" if lacking else ""

    def visible(self, languages: Iterable[Language]) -> tuple[Path, ...]:
        """The host's directories outside /usr, /bin and /lib that a sandbox must show for these languages."""
        homes = [_home(found) for language in languages for tool in language.tools if (found := self.find(tool))]
        settings = [Path(directory) for language in languages for directory in language.settings]
        return tuple(dict.fromkeys(path for path in [*homes, *settings] if path and path.is_dir()))

    def _strips_types(self) -> bool:
        """Whether node runs TypeScript by itself: 22.6 and later; its version is in its header files or its change log, never asked."""
        node = self.find("node")
        header = Path(node).parents[1] / "include/node/node_version.h" if node else None
        if not header or not header.is_file():
            return False
        text = header.read_text(encoding="utf-8", errors="replace")
        version = [int(found[1]) if (found := re.search(rf"#define NODE_{part}_VERSION (\d+)", text)) else 0 for part in ("MAJOR", "MINOR")]
        return version >= [22, 6]


def language(name: str) -> Language:
    """The language of a name or tag, in any case; ConfigError names the nearest."""
    known = _BY_TAG.get(name.strip().lower())
    if known is None:
        raise ConfigError(f"no language is called {name!r}{nearest(name.lower(), list(LANGUAGES))}")
    return known


def tagged(tag: str) -> Language | None:
    """The language that a code fence's tag names; None when it names none."""
    return _BY_TAG.get(tag.strip().lower())


def _python(tools: Tools, program: str, memory_mb: int) -> Build:
    return Build("main.py", ("python3", "main.py"))


def _cpp(tools: Tools, program: str, memory_mb: int) -> Build:
    compile = (tools.need("g++"), "-std=gnu++17", "-O2", "-w", "-o", "main", "main.cpp")
    return Build("main.cpp", ("./main",), compile, "main")


def _java(tools: Tools, program: str, memory_mb: int) -> Build:
    source, main = java_names(program)
    quick = ("-J-XX:+UseSerialGC", "-J-XX:TieredStopAtLevel=1")  # half the time for a compiler that runs for a second
    javac = ("python3", "pack.py", tools.need("javac"), "-nowarn", "-Xlint:none", "-proc:none", "-encoding", "UTF-8", *quick)
    java = (tools.need("java"), "-XX:+UseSerialGC", "-Xss64m", f"-Xmx{memory_mb}m", "-ea", "-Dfile.encoding=UTF-8", "-cp", "main.jar", main)
    return Build(source, java, (*javac, "-d", "classes", source), "main.jar", {"pack.py": _PACK})


def _javascript(tools: Tools, program: str, memory_mb: int) -> Build:
    return Build("main.js", (tools.need("node"), f"--max-old-space-size={memory_mb}", "main.js"))


def _typescript(tools: Tools, program: str, memory_mb: int) -> Build:
    node = (tools.need("node"), f"--max-old-space-size={memory_mb}")
    tsc = tools.find("tsc")
    if tsc is None:
        return Build("main.ts", (*node, "--experimental-strip-types", "--no-warnings", "main.ts"))
    loose = ("--strict", "false", "--skipLibCheck", "--pretty", "false")
    target = ("--target", "es2022", "--lib", "es2022", "--module", "commonjs", "--moduleDetection", "force", "--esModuleInterop")
    compile = (node[0], tsc, *loose, *target, "--types", "", "--outDir", "out", "main.ts", "ambient.d.ts")
    return Build("main.ts", (*node, "out/main.js"), compile, "out/main.js", {"ambient.d.ts": _AMBIENT})


def _php(tools: Tools, program: str, memory_mb: int) -> Build:
    return Build("main.php", (tools.need("php"), "-d", f"memory_limit={memory_mb}M", "-d", "display_errors=stderr", "main.php"))


def _bash(tools: Tools, program: str, memory_mb: int) -> Build:
    return Build("main.sh", (tools.need("bash"), "main.sh"))


def _csharp(tools: Tools, program: str, memory_mb: int) -> Build:
    references = ("-r:System.Core.dll", "-r:System.Numerics.dll")
    compile = (tools.need("mcs"), "-nologo", "-warn:0", "-optimize+", "-d:DEBUG", *references, "-out:main.exe", "main.cs")
    return Build("main.cs", (tools.need("mono"), "main.exe"), compile, "main.exe", environment={"HOME": "/tmp"})


def java_names(program: str) -> tuple[str, str]:
    """The file that a Java program must stand in and the class to run: that of its `main`, else its public or last one."""
    depth, types, main = 0, [], ""
    for token in _JAVA.finditer(program):
        if token["brace"]:
            depth += 1 if token["brace"] == "{" else -1
        elif token["type"] and depth == 0:
            types.append(token["type"])
        elif token["main"] and types:
            main = main or types[-1]
    public = next((name for name in _PUBLIC.findall(program) if name in types), None)
    package = _PACKAGE.search(program)
    main = main or public or (types or ["Main"])[-1]
    return f"{public or 'Main'}.java", f"{package[1]}.{main}" if package else main


def _how_to_get(tool: str) -> str:
    return next((language.install for language in LANGUAGES.values() if tool in language.tools), "install it")


def _home(tool: str) -> Path | None:
    """The directory that holds a program and what it loads, when every sandbox does not show it anyway."""
    path = Path(tool)
    if not path.is_absolute() or path.parts[1] in ("usr", "bin", "sbin", "lib", "lib64"):
        return None
    modules = [parent for parent in path.parents if parent.name == "node_modules"]
    return modules[-1] if modules else path.parents[1] if path.parent.name == "bin" else path.parent


def _listed(*languages: Language) -> dict[str, Language]:
    return {language.name: language for language in languages}


LANGUAGES: dict[str, Language] = _listed(
    Language(
        "python", ("py", "python3", "pypy", "pypy3"), ("python3",), "install python3", _python,
        opening=r"(import|from|def|class|async def|for|while|if|try:|with|print\(|@|#|\w+(, *\w+)* *=[^=])",
    ),
    Language(
        "cpp", ("c++", "cc", "cxx", "cpp17", "cpp20", "c++17", "c++20"), ("g++",), "apt-get install g++", _cpp,
        opening=r"(#include|#define|#pragma|using |template|int main)",
    ),
    Language(
        "java", (), ("javac", "java"), "apt-get install default-jdk-headless", _java,
        opening=r"(import |package |(public |final )*class )",
        startup=1.0, overhead_mb=256, settings=tuple(f"/etc/java-{version}-openjdk" for version in range(8, 40)),
    ),
    Language(
        "javascript", ("js", "node", "nodejs", "mjs"), ("node",), "apt-get install nodejs", _javascript,
        opening=r"(const |let |var |function\b|class |import |\"use strict\"|'use strict'|process\.|require\()",
        startup=0.5, overhead_mb=128,
    ),
    Language(
        "typescript", ("ts",), ("node", "tsc"), "apt-get install nodejs npm, then npm install -g typescript", _typescript,
        opening=r"(const |let |var |function\b|class |import |interface |type |enum |declare )",
        startup=0.5, overhead_mb=256,
    ),
    Language(
        "php", ("php8",), ("php",), "apt-get install php-cli", _php,
        opening=r"<\?(php|=)", startup=0.2, overhead_mb=32, settings=("/etc/php",),
    ),
    Language("bash", ("sh", "shell", "zsh"), ("bash",), "apt-get install bash", _bash, opening=r"#!.*sh"),
    Language(
        "csharp", ("cs", "c#"), ("mcs", "mono"), "apt-get install mono-mcs mono-runtime", _csharp,
        opening=r"(using |namespace |(public |static |internal )*class )", startup=0.5, overhead_mb=128, settings=("/etc/mono",),
    ),
)  # fmt: skip
"""By name."""

_BY_TAG = {tag: language for language in LANGUAGES.values() for tag in (language.name, *language.tags)}

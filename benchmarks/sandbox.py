"""Short programs a second in each kind of sandbox, beside plain child processes in the same run.

    python benchmarks/sandbox.py                (--programs 200 --rounds 3 --kinds namespaces none --languages python cpp)

The work: a program reads a number, and prints a sum of that many squares. Python runs warm (forked from a started interpreter, where the
kind has one) and cold (a fresh interpreter, asked for with an option); other languages are compiled once, and the artefact is run. "bare"
is `subprocess.run` of the same command in a thread for each core: no limits, no isolation, nothing captured but the output. Kinds take
turns; the figure is the median over the rounds, with their range. Writes benchmarks/results/sandbox.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

from afterbase.errors import AfterbaseError
from afterbase.sandbox.base import Job, Sandbox
from afterbase.sandbox.interpreter import interpreter
from afterbase.sandbox.languages import LANGUAGES, Build, Tools
from afterbase.sandbox.open import SandboxConfig

PROGRAMS = {
    "python": "import sys\nfrom collections import Counter\nn = int(sys.stdin.readline())\nprint(sum(i * i for i in range(n)))\n",
    "cpp": "#include <iostream>\nint main() { long n, s = 0; std::cin >> n; for (long i = 0; i < n; i++) s += i * i;"
    " std::cout << s << '\\n'; }\n",
    "java": "import java.util.*;\npublic class Main { public static void main(String[] a) {"
    " long n = new Scanner(System.in).nextLong(), s = 0; for (long i = 0; i < n; i++) s += i * i; System.out.println(s); } }\n",
    "javascript": "let n = +require('fs').readFileSync(0, 'utf8'), s = 0;\nfor (let i = 0; i < n; i++) s += i * i;\nconsole.log(s);\n",
    "typescript": "let n: number = +require('fs').readFileSync(0, 'utf8'), s: number = 0;\n"
    "for (let i = 0; i < n; i++) s += i * i;\nconsole.log(s);\n",
    "php": '<?php $n = (int) fgets(STDIN); $s = 0; for ($i = 0; $i < $n; $i++) $s += $i * $i; echo $s, "\\n";\n',
    "bash": "read n; s=0; for ((i = 0; i < n; i++)); do s=$((s + i * i)); done; echo $s\n",
    "csharp": "using System; class P { static void Main() { long n = long.Parse(Console.ReadLine()), s = 0;"
    " for (long i = 0; i < n; i++) s += i * i; Console.WriteLine(s); } }\n",
}
STDIN, EXPECTED = b"100\n", b"328350"
COLD = ("python3", "-X", "utf8", "main.py")
KINDS = ("namespaces", "bubblewrap", "none", "bare")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--programs", type=int, default=200, help="runs of each Python measurement; other languages a quarter")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options.add_argument("--languages", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sandbox.json")
    chosen = options.parse_args()
    rates: dict[str, list[float]] = {}
    notes = {}
    for _ in range(chosen.rounds):
        for kind in chosen.kinds:
            try:
                measure(kind, chosen.languages, chosen.programs, rates)
            except AfterbaseError as error:
                notes[kind] = str(error)
    result = {
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "date": date.today().isoformat(), "user": "root" if os.geteuid() == 0 else "ordinary", "command": "python " + " ".join(sys.argv),
        "programs_per_second": {name: summary(found) for name, found in sorted(rates.items())}, "missing": notes,
    }  # fmt: skip
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, numbers in result["programs_per_second"].items():
        print(f"{name:32} {numbers['median']:7} programs/s   ({numbers['lowest']} to {numbers['highest']})")
    for kind, note in notes.items():
        print(f"{kind}: {note}")


def summary(found: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(found), 1), "lowest": round(min(found), 1), "highest": round(max(found), 1)}


def measure(kind: str, languages: list[str], programs: int, rates: dict[str, list[float]]) -> None:
    """Add one rate for each language that this machine has."""
    tools = Tools()
    sandbox = None if kind == "bare" else SandboxConfig(isolation=kind).build()
    try:
        for name in languages:
            if tools.missing(LANGUAGES[name]):
                continue
            build = LANGUAGES[name].build(tools, PROGRAMS[name], 256)
            commands = {name: build.run} if name != "python" else {"python cold": COLD, "python warm": build.run}
            for label, argv in commands.items():
                if not (label == "python warm" and kind in ("bare", "none")):
                    rate = timed(sandbox, name, build, argv, programs if name == "python" else programs // 4)
                    rates.setdefault(f"{kind}: {label}", []).append(rate)
    finally:
        if sandbox:
            asyncio.run(sandbox.close())


def timed(sandbox: Sandbox | None, language: str, build: Build, argv: tuple[str, ...], programs: int) -> float:
    """Programs a second."""
    program = PROGRAMS[language]
    artefact = compiled(sandbox or SandboxConfig(isolation="none").build(), language, build) if build.compile else None
    job = build.running(program, artefact, STDIN)
    job = Job(argv, job.files, job.stdin, job.keep, job.environment)
    go = bare(job) if sandbox is None else sandboxed(sandbox, job, language)
    go(4)  # warms up
    began = time.monotonic()
    go(programs)
    return programs / (time.monotonic() - began)


def compiled(sandbox: Sandbox, language: str, build: Build) -> bytes:
    """The artefact."""
    limits = LANGUAGES[language].limits(SandboxConfig().limits)
    execution = asyncio.run(sandbox.run(build.compiling(PROGRAMS[language]), limits))
    assert execution.status == "ok", execution
    return execution.kept[build.artefact]


def sandboxed(sandbox: Sandbox, job: Job, language: str) -> Callable[[int], None]:
    limits = LANGUAGES[language].limits(SandboxConfig().limits)

    async def all_of_them(number: int) -> None:
        for execution in await asyncio.gather(*(sandbox.run(job, limits) for _ in range(number))):
            assert execution.stdout.strip() == EXPECTED, execution

    return lambda number: asyncio.run(all_of_them(number))


def bare(job: Job) -> Callable[[int], None]:
    directory = tempfile.TemporaryDirectory()
    for name, content in job.files.items():
        path = Path(directory.name, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755)
    argv = [str(interpreter()) if job.argv[0] == "python3" else job.argv[0], *job.argv[1:]]

    def once(_: int) -> None:
        done = subprocess.run(argv, cwd=directory.name, input=job.stdin, capture_output=True)
        assert done.stdout.strip() == EXPECTED, done

    def go(number: int) -> None:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(once, range(number)))

    return go


if __name__ == "__main__":
    main()

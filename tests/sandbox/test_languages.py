import asyncio

import pytest

from afterbase.errors import ConfigError
from afterbase.sandbox.base import Limits
from afterbase.sandbox.languages import LANGUAGES, Tools, java_names, language, tagged
from afterbase.sandbox.open import SandboxConfig

# Each reads numbers to the end of its input and prints their sum.
SUMS = {
    "python": "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
    "cpp": "#include <iostream>\nint main() { long s = 0, x; while (std::cin >> x) s += x; std::cout << s << std::endl; }",
    "java": """import java.util.*;
class Helper { static long add(long a, long b) { return a + b; } }
public class Sum {
    static class Inner { long value; }
    public static void main(String[] args) {
        Inner sum = new Inner();
        Scanner in = new Scanner(System.in);
        while (in.hasNextLong()) sum.value = Helper.add(sum.value, in.nextLong());
        System.out.println(sum.value);
    }
}""",
    "javascript": """const numbers = require("fs").readFileSync(0, "utf8").split(/\\s+/).filter(Boolean);
console.log(numbers.map(Number).reduce((a, b) => a + b, 0));""",
    "typescript": """import * as fs from "fs";
const name: number[] = fs.readFileSync(0, "utf8").split(/\\s+/).filter(Boolean).map(Number);
console.log(name.reduce((a: number, b: number): number => a + b, 0));""",
    "php": "<?php\n$s = 0;\nwhile (($line = fgets(STDIN)) !== false) foreach (preg_split('/\\s+/', trim($line)) as $x) $s += (int)$x;\n"
           "echo $s, PHP_EOL;",
    "bash": "s=0; while read -r line; do for x in $line; do s=$((s + x)); done; done; echo $s",
    "csharp": """using System; using System.Linq; using System.Numerics;
class Sum { static void Main() {
    var sum = new BigInteger(0); string line;
    while ((line = Console.ReadLine()) != null) sum += line.Split(' ').Where(x => x != "").Select(x => long.Parse(x)).Sum();
    Console.WriteLine(sum); } }""",
}  # fmt: skip
BROKEN = {
    "cpp": "int main() { return undefined_name; }",
    "java": "class Main { public static void main(String[] args) { int x = \"text\"; } }",
    "typescript": "const x: number = 'text'; console.log(x);",
    "csharp": "class Main { static void Main() { undefined_name(); } }",
}  # fmt: skip
LIMITS = Limits(wall_seconds=20, cpu_seconds=20, memory_mb=512)


@pytest.fixture(scope="module")
def sandbox():
    try:
        made = SandboxConfig(workers=1).build()
    except ConfigError:  # a kernel that forbids isolation has languages all the same
        made = SandboxConfig(workers=1, isolation="none").build()
    yield made
    asyncio.run(made.close())


def here(name: str, tools: Tools) -> None:
    if complaint := tools.missing(LANGUAGES[name]):
        pytest.skip(complaint)


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_program_is_compiled_once_and_run_on_each_input(name: str, sandbox):
    tools = Tools()
    here(name, tools)
    build = LANGUAGES[name].build(tools, SUMS[name], LIMITS.memory_mb)
    limits = LANGUAGES[name].limits(LIMITS)

    async def outputs() -> list[bytes]:
        artefact = None
        if build.compile:
            compiled = await sandbox.run(build.compiling(SUMS[name]), limits)
            assert compiled.status == "ok", compiled
            artefact = compiled.kept[build.artefact]
        runs = [await sandbox.run(build.running(SUMS[name], artefact, stdin), limits) for stdin in (b"1 2\n3\n", b"")]
        assert [run.status for run in runs] == ["ok", "ok"], runs
        return [run.stdout.strip() for run in runs]

    assert asyncio.run(outputs()) == [b"6", b"0"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_program_that_does_not_compile_says_where_and_leaves_nothing(name: str, sandbox):
    tools = Tools()
    here(name, tools)
    build = LANGUAGES[name].build(tools, BROKEN[name], LIMITS.memory_mb)
    done = asyncio.run(sandbox.run(build.compiling(BROKEN[name]), LANGUAGES[name].limits(LIMITS)))
    assert done.status == "failed" and b"error" in done.stdout + done.stderr
    assert build.artefact not in done.kept or name == "typescript"  # tsc writes its output even so; the exit code is what counts


def test_a_missing_language_is_reported_with_how_to_get_it(tmp_path):
    empty = Tools(str(tmp_path))
    assert empty.missing(LANGUAGES["python"]) == ""  # the sandbox brings it
    assert (
        empty.missing(LANGUAGES["csharp"]) == "csharp needs mcs and mono, which this machine lacks; apt-get install mono-mcs mono-runtime"
    )
    with pytest.raises(ConfigError, match=r"'g\+\+' is not installed.*apt-get install g\+\+"):
        LANGUAGES["cpp"].build(empty, "", 512)


def test_typescript_runs_on_node_alone_where_node_strips_types(tmp_path):
    for directory, version in (("old", (22, 5)), ("new", (23, 0))):
        node, header = tmp_path / directory / "bin/node", tmp_path / directory / "include/node/node_version.h"
        for file in (node, header):
            file.parent.mkdir(parents=True)
        node.touch(mode=0o755)
        header.write_text("#define NODE_MAJOR_VERSION {}\n#define NODE_MINOR_VERSION {}\n".format(*version))
    old, new = (Tools(str(tmp_path / directory / "bin")) for directory in ("old", "new"))
    assert "npm install -g typescript" in old.missing(LANGUAGES["typescript"])
    assert new.missing(LANGUAGES["typescript"]) == ""
    build = LANGUAGES["typescript"].build(new, "", 512)
    assert not build.compile and build.run[0] == str(tmp_path / "new/bin/node")


def test_what_lies_outside_usr_is_named_for_the_sandbox(tmp_path):
    for tool in ("bin/node", "lib/node_modules/typescript/bin/tsc"):
        (tmp_path / tool).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / tool).touch(mode=0o755)
    (tmp_path / "bin/tsc").symlink_to(tmp_path / "lib/node_modules/typescript/bin/tsc")
    tools = Tools(str(tmp_path / "bin"))
    assert tools.visible([LANGUAGES["typescript"]]) == (tmp_path, tmp_path / "lib/node_modules")


def test_a_language_is_found_by_its_tags_and_a_wrong_one_is_named():
    assert [language(tag).name for tag in ("C++", "js", "ts", "sh", "C#", "py")] == [
        "cpp",
        "javascript",
        "typescript",
        "bash",
        "csharp",
        "python",
    ]
    assert tagged("json") is None and tagged("") is None
    with pytest.raises(ConfigError, match="'pyton'; did you mean 'python'"):
        language("pyton")


@pytest.mark.parametrize(
    ("program", "names"),
    [
        ("class A {} class B { static void main(String[] a) {} }", ("Main.java", "B")),
        ("class A { static class C {} public static void main(String[] a) {} } class B {}", ("Main.java", "A")),
        ("public class Sum { public static void main(String[] a) {} } class B {}", ("Sum.java", "Sum")),
        ("package p.q;\npublic final class Sum { }", ("Sum.java", "p.q.Sum")),
        ("// class X { static void main\nclass Y { String s = \"class Z { static void main\"; }", ("Main.java", "Y")),
        ("", ("Main.java", "Main")),
    ],
)  # fmt: skip
def test_the_file_and_class_of_a_java_program(program: str, names: tuple[str, str]):
    assert java_names(program) == names


@pytest.mark.parametrize("text", ["/*" * 100_000, '"' * 100_000, "class " * 30_000, "public " * 30_000, "{" * 100_000])
def test_hostile_java_is_read_in_linear_time(text: str):
    assert java_names(text)[0] == "Main.java"

"""Sandboxes behind HTTP: the same programs come to the same end as here, and a bad server never becomes a wrong answer."""

import asyncio
import base64
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from afterbase.config import build as build_config
from afterbase.errors import ConfigError
from afterbase.records import Completion, Message, Prompt, Rollout, Score
from afterbase.rewards.code import CodeConfig
from afterbase.sandbox import http_exchange, http_talk
from afterbase.sandbox.base import Execution, Job, Limits
from afterbase.sandbox.http import HttpConfig, HttpSandbox, on_server
from afterbase.sandbox.languages import LANGUAGES, Tools
from afterbase.sandbox.open import SandboxConfig
from afterbase.sandbox.plain import PlainSandbox

EXAMPLE = Path(__file__).parents[2] / "examples" / "sandbox_server.py"
LIMITS = Limits(wall_seconds=10, cpu_seconds=5, memory_mb=128, output_bytes=10_000, disk_mb=8)
SHORT = Limits(wall_seconds=0.5, cpu_seconds=5, memory_mb=128, output_bytes=10_000)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The example server, on a free port."""
    command = [sys.executable, str(EXAMPLE), "--port", "0", "--isolation", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        yield server.stdout.readline().strip()
        server.kill()


@pytest.fixture(scope="module")
def remote(address: str) -> Iterator[HttpSandbox]:
    sandbox = HttpConfig(url=address, concurrency=4).build()
    yield sandbox
    asyncio.run(sandbox.close())


@pytest.fixture(scope="module")
def local() -> Iterator[PlainSandbox]:
    sandbox = PlainSandbox(2)
    yield sandbox
    asyncio.run(sandbox.close())


def python(program: str, stdin: bytes = b"", argv: tuple[str, ...] = ("python3", "main.py"), **more) -> Job:
    return Job(argv, {"main.py": program.encode()}, stdin, **more)


# ---- the same as here

SAME = {
    "input and output": (python("print(int(input()) + 1)", b"41\n"), LIMITS),
    "an exit code": (python("import sys; print('x', file=sys.stderr); sys.exit(3)"), LIMITS),
    "a signal": (python("import os; os.abort()"), LIMITS),
    "no UTF-8": (python("import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())", bytes(range(256))), LIMITS),
    "NUL and line ends": (python("print('a\\0b\\r\\n\\ud83d'.encode('utf-8', 'replace'), end='\\r')"), LIMITS),
    "time": (python("print('before', flush=True)\nwhile True: pass"), SHORT),
    "sleep": (python("import time; time.sleep(60)"), SHORT),
    "processor time": (python("while True: pass"), Limits(wall_seconds=20, cpu_seconds=1)),
    "output": (python("print('x' * 10_000)"), LIMITS),
    "just no output too many": (python("print('x' * 10_000, end='')"), LIMITS),
    "complaints without end": (python("import sys\nwhile True: sys.stderr.write('x' * 1000)"), LIMITS),
    "files in and out": (
        Job(("python3", "a/main.py", "x"),
            {"a/main.py": b"import sys; open('o', 'wb').write(open('b', 'rb').read() * 2); print(sys.argv)", "b": b"\xc3"},
            keep=("o", "none")),
        LIMITS,
    ),
    "a file that is a program": (Job(("./tool", "1"), {"tool": b'#!/bin/sh\necho "$1" "$WORD"\n'}, environment={"WORD": "y"}), LIMITS),
    "input that nobody reads": (python("print(1)", b"x" * 300_000), LIMITS),
    "a daemon": (python("import os, time\nif os.fork() == 0: time.sleep(60)\nprint('gone', flush=True)\nos._exit(0)"), LIMITS),
}  # fmt: skip


@pytest.mark.parametrize(("job", "limits"), SAME.values(), ids=SAME)
def test_a_job_ends_there_as_it_ends_here(local: PlainSandbox, remote: HttpSandbox, job: Job, limits: Limits):
    here, there = (asyncio.run(sandbox.run(job, limits)) for sandbox in (local, remote))
    if here.status == "output":  # at which byte of the other stream it was killed is chance
        assert here.stdout[:100] == there.stdout[:100] and len(here.stdout) == len(there.stdout)
    assert [getattr(there, name) for name in ("status", "exit_code", "kept", "note")] == [
        getattr(here, name) for name in ("status", "exit_code", "kept", "note")
    ]
    assert here.status == "output" or (there.stdout, there.stderr) == (here.stdout, here.stderr)


def test_too_much_memory_is_told_from_failing(remote: HttpSandbox):
    done = asyncio.run(remote.run(python("x = []\nwhile True: x.append(bytearray(b'x') * 1_000_000)"), LIMITS))
    assert done.status == "memory" and done.exit_code == 1


def test_a_program_that_is_not_there_is_no_fault_of_the_program(remote: HttpSandbox):
    done = asyncio.run(remote.run(Job(("no-such-compiler",)), LIMITS))
    assert done.status == "error" and "no-such-compiler: No such file" in done.note


@pytest.mark.parametrize(
    "attack",
    [
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
        "import os\nos.chdir('..')\nos.mkdir('report.json')",
        "import os\nos.chdir('..')\nos.symlink('/etc/passwd', 'report.json')\nos.kill(os.getppid(), 9)",
        "import os\nopen('../report.json', 'w').write('{\"code\": 0}')\nos.kill(os.getppid(), 9)",
    ],
)
def test_a_program_that_ends_or_fools_its_launcher_has_failed_and_masks_nothing(remote: HttpSandbox, attack: str):
    done = asyncio.run(remote.run(python(attack), LIMITS))
    assert done.status in ("failed", "memory") and done.stdout == b""


def test_many_jobs_and_several_event_loops(remote: HttpSandbox):
    async def many() -> list[Execution]:
        return await asyncio.gather(*(remote.run(python("print(input())", b"%d" % n), LIMITS) for n in range(8)))

    for _ in range(2):
        assert [done.stdout for done in asyncio.run(many())] == [b"%d\n" % n for n in range(8)]


ECHO = "print('hello')\nwhile (line := input()) != 'quit': print(line.upper(), flush=True)\nprint('bye', end='')"


async def conversation(sandbox) -> tuple[list[bytes | None], Execution]:
    talk = await sandbox.start(python(ECHO, b"first\n", ("python3", "-u", "main.py")), LIMITS)
    heard = [await talk.read_line(5), await talk.read_line(5)]
    await talk.write(b"second\nquit\n")
    heard += [await talk.read_line(5) for _ in range(3)]
    return heard, await talk.finish()


def test_a_conversation_says_the_same_there_as_here(local: PlainSandbox, remote: HttpSandbox):
    (heard, there), (expected, here) = (asyncio.run(conversation(sandbox)) for sandbox in (remote, local))
    assert heard == expected == [b"hello", b"FIRST", b"SECOND", b"bye", None]
    assert (there.status, there.exit_code, there.stdout) == (here.status, here.exit_code, here.stdout)


async def answers(sandbox, program: str, asked: int) -> tuple[list[bytes | None], Execution]:
    talk, heard = await sandbox.start(python(program), LIMITS), []
    for _ in range(asked):
        await talk.write(b"1\n")
        heard.append(await talk.read_line(0.5))
    return heard, await talk.finish()


def test_what_is_drawn_at_random_stays_drawn(remote: HttpSandbox):
    program = "import random\nwhile input(): print(random.random(), flush=True)"
    heard, done = asyncio.run(answers(remote, program, 3))
    assert len(set(heard)) == 3 and None not in heard and done.status == "failed" and "stopped" in done.note


def test_a_conversation_that_contradicts_itself_is_an_error_and_no_verdict(remote: HttpSandbox):
    heard, done = asyncio.run(answers(remote, "import os\nwhile input(): print(os.urandom(9).hex(), flush=True)", 2))
    assert heard[0] and heard[1] is None and done.status == "error" and "did not say the same" in done.note


def test_a_conversation_has_a_last_line_and_a_clock(remote: HttpSandbox, monkeypatch: pytest.MonkeyPatch):
    heard, done = asyncio.run(answers(remote, "input(); print(1, flush=True); input(); import time; time.sleep(60)", 2))
    assert heard == [b"1", None] and done.status == "timeout"
    monkeypatch.setattr(http_talk, "TURNS", 2)
    heard, done = asyncio.run(answers(remote, "while input(): print(1, flush=True)", 3))
    assert heard == [b"1", b"1", None] and done.status == "error" and "more than 2 lines" in done.note


# ---- by language


def by_language(name: str, program: str, stdin: bytes = b"") -> Job:
    return on_server(LANGUAGES[name]).build(Tools(), program, 256).running(program, None, stdin)


def test_other_languages_go_by_their_name(remote: HttpSandbox):
    done = asyncio.run(remote.run(by_language("bash", "read n; echo $((n + 1)); exit 4", b"41\n"), LIMITS))
    assert (done.status, done.exit_code, done.stdout) == ("failed", 4, b"42\n")
    done = asyncio.run(remote.run(by_language("bash", "echo up; sleep 60"), SHORT))
    assert (done.status, done.stdout) == ("timeout", b"up\n")


def test_what_does_not_compile_has_failed(remote: HttpSandbox):
    if Tools().missing(LANGUAGES["cpp"]):
        pytest.skip("g++ is not installed")
    done = asyncio.run(remote.run(by_language("cpp", "int main() {"), LIMITS))
    assert done.status == "failed" and done.note.startswith("does not compile") and b"error" in done.stderr


@pytest.mark.parametrize(
    ("program", "kept", "added"),
    [
        ("public class Main { public static void main(String[] a) {} }", "public class Main {", ""),
        ("public class Solution { public static void main(String[] a) {} }", "\nclass Solution", "Solution.main(given)"),
        ("package a.b;\nclass X { int main; }\nclass Y { public static void main(String[] a) {} }", "class X", "Y.main(given)"),
    ],
)
def test_a_java_program_gets_the_class_that_servers_run(fake, program: str, kept: str, added: str):
    fake.answers = [said("")]
    asyncio.run(fake.sandbox().run(by_language("java", program), LIMITS))
    code = "\n" + fake.asked[0]["code"]
    assert kept in code and added in code and ("class Main {" in code) and "package" not in code
    assert fake.asked[0]["memory_limit_MB"] == -1 and fake.asked[0]["language"] == "java"


# ---- bad servers


class Fake:
    """A server that answers what a test wants."""

    def __init__(self) -> None:
        self.answers: list[bytes | tuple[int, bytes] | Callable] = []
        self.asked: list[dict] = []
        self.headers: list[dict] = []
        self.peak = self.now = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                fake.serve(self)

            def log_message(self, *given) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/run_code"

    def sandbox(self, **settings) -> HttpSandbox:
        return HttpSandbox(HttpConfig(url=self.url, **{"timeout": 5, **settings}))

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        self.now += 1
        self.peak = max(self.peak, self.now)
        self.headers.append(dict(handler.headers))
        self.asked.append(json.loads(handler.rfile.read(int(handler.headers["Content-Length"]))))
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        answer = answer(handler) if callable(answer) else answer
        self.now -= 1
        if answer is not None:
            status, body, *headers = answer if isinstance(answer, tuple) else (200, answer)
            handler.send_response(status)
            for name, value in headers:
                handler.send_header(name, value)
            handler.end_headers()
            with contextlib.suppress(OSError):  # a client may have heard enough
                handler.wfile.write(body)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setattr(http_exchange, "FIRST_DELAY", 0.01)
    fake = Fake()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def said(stdout: str, code: int = 0, **more) -> bytes:
    ran = {"status": "Finished", "return_code": code, "stdout": stdout, "stderr": "", "execution_time": 0.1}
    return json.dumps({"status": "Success", "message": "", "run_result": ran, "files": {}, **more}).encode()


def ask(sandbox: HttpSandbox, limits: Limits = LIMITS) -> Execution:
    return asyncio.run(sandbox.run(by_language("bash", "echo 1"), limits))


def dribble(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(60):
        try:
            handler.wfile.write(b" ")
        except OSError:
            return
        time.sleep(0.02)


SOMEBODY_ELSE = {"status": "Success", "run_result": {"status": "Finished", "return_code": "0", "stdout": ["1"]}}
BAD = {
    "no JSON": (b"<html>ok</html>", "no JSON"),
    "a list": (b"[1]", "none of the /run_code protocol"),
    "another protocol": (b'{"output": "1"}', "none of the /run_code protocol"),
    "other types": (json.dumps(SOMEBODY_ELSE).encode(), "run_result is none of the /run_code protocol"),
    "nothing ran": (b'{"status": "Success"}', "could not run the program"),
    "its own fault": (b'{"status": "SandboxError", "message": "no\\n disk"}', "could not run the program (no disk)"),
    "no exit code": (json.dumps({"status": "Success", "run_result": {"status": "Finished"}}).encode(), "no exit code"),
    "deep": (b"[" * 100_000, "no JSON"),
    "404": ((404, b"who?"), "404 Not Found"),
    "cut short": ((200, b'{"sta', ("Content-Length", "5000")), "no JSON"),
    "endless": (dribble, "no answer within"),
}


@pytest.mark.parametrize(("answer", "words"), BAD.values(), ids=BAD)
def test_nonsense_is_an_error_in_words_and_never_a_verdict(fake: Fake, answer, words: str):
    fake.answers = [answer]
    sandbox = fake.sandbox(compile_seconds=0.1, timeout=0.2 if answer is dribble else 5)
    done = ask(sandbox, SHORT)
    assert done.status == "error" and words in done.note and fake.url in done.note and done.stdout == b"", done
    assert len(fake.asked) == 1
    assert asyncio.run(sandbox.run(python("print(1)"), SHORT)).status == "error"


def test_a_slow_server_is_an_error_after_its_time(fake: Fake):
    fake.answers = [lambda handler: time.sleep(3)]
    done = ask(fake.sandbox(timeout=0.1, compile_seconds=0.1), Limits(wall_seconds=0.1))
    assert done.status == "error" and "no answer within 0.3 s" in done.note and len(fake.asked) == 1


def test_an_answer_without_end_is_a_program_that_prints_without_end(fake: Fake):
    fake.answers = [b" " * 20_000_000]
    assert ask(fake.sandbox()).status == "output"
    assert asyncio.run(fake.sandbox().run(python("print(1)"), LIMITS)).status == "error"  # the launcher would have cut it


def test_a_server_that_is_down_is_an_error_after_retries_and_is_named_when_a_run_starts(fake: Fake):
    fake.server.shutdown()
    fake.server.server_close()
    done = ask(fake.sandbox(retries=2))
    assert done.status == "error" and "Connection refused" in done.note and "also after 2 retries" in done.note
    with pytest.raises(ConfigError, match=r"runs no programs: the connection failed .*; start it there, or change url"):
        HttpConfig(url=fake.url, retries=0).build()


@pytest.mark.parametrize("trouble", [(500, b"x"), (503, b""), (429, b"", ("Retry-After", "0")), lambda handler: handler.connection.close()])
def test_trouble_that_passes_is_waited_for(fake: Fake, trouble):
    fake.answers = [trouble, trouble, said("1\n")]
    done = ask(fake.sandbox(retries=2))
    assert (done.status, done.stdout, len(fake.asked)) == ("ok", b"1\n", 3)
    fake.asked.clear()
    assert ask(fake.sandbox(retries=1)).status == "error" and len(fake.asked) == 2


def test_no_server_sends_us_elsewhere(fake: Fake):
    other = Fake()
    other.answers, fake.answers = [said("1\n")], [(307, b"", ("Location", other.url))]
    done = ask(fake.sandbox())
    assert done.status == "error" and other.url in done.note and "never followed" in done.note and not other.asked
    other.server.shutdown()


def test_no_more_than_concurrency_are_asked_at_a_time(fake: Fake):
    fake.answers = [lambda handler: time.sleep(0.05) or (200, said("1\n"))]

    async def many(sandbox: HttpSandbox) -> list[Execution]:
        return await asyncio.gather(*(sandbox.run(by_language("bash", "echo"), LIMITS) for _ in range(9)))

    assert {done.status for done in asyncio.run(many(fake.sandbox(concurrency=3)))} == {"ok"} and fake.peak == 3


def test_cancelling_and_closing_wait_for_nobody(fake: Fake):
    fake.answers = [lambda handler: time.sleep(5)]

    async def leave() -> Execution:
        sandbox = fake.sandbox()
        first, second = (asyncio.create_task(sandbox.run(by_language("bash", "echo"), LIMITS)) for _ in range(2))
        while len(fake.asked) < 2:
            await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await asyncio.wait_for(sandbox.close(), 3)
        return await second

    assert asyncio.run(leave()).note == "stopped while it was running"


# ---- the token and the settings


def test_the_token_is_sent_and_never_shown(fake: Fake, tmp_path: Path):
    (tmp_path / "token").write_text("s3cret-token\n")
    fake.answers = [(401, b"no")]
    sandbox = fake.sandbox(token_file=tmp_path / "token")
    done = ask(sandbox)
    assert fake.headers[0]["Authorization"] == "Bearer s3cret-token"
    assert "s3cret" not in done.note + repr(sandbox.config) + sandbox.config.model_dump_json() and "401" in done.note
    with pytest.raises(ConfigError, match=r"token_file=.*cannot be read"):
        fake.sandbox(token_file=tmp_path / "none")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"isolation": "http"}, "come together"),
        ({"http": {"url": "http://a"}}, "come together"),
        ({"isolation": "http", "http": {"url": "a:80"}}, "begins with http://"),
        ({"isolation": "http", "http": {"url": "http://me:pw@a"}}, "no user, password"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_words(table: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        build_config(SandboxConfig, table, "recipe")


def test_the_address_may_leave_out_the_path():
    assert HttpConfig(url="http://a:1/x/").url == "http://a:1/x/run_code" == HttpConfig(url="http://a:1/x/run_code").url


# ---- the code reward

KINDS = {
    "print": {"tests": [{"input": "3\n", "output": "9"}, {"input": "12\n", "output": "144"}]},
    "call": {"tests": {"fn_name": "square", "inputs": [[3], [12]], "outputs": [9, 144]}},
    "assert": {"test_list": ["assert square(3) == 9", "assert square(12) == 144"]},
    "check": {
        "entry_point": "square",
        "test": "import random\ndef check(f):\n    n = random.randint(1, 9)\n    assert f(n) == n * n",
    },
}
RIGHT, WRONG = (f"def square(n): return {value}\ntry: print(square(int(input())))\nexcept EOFError: pass" for value in ("n * n", "n + 6"))


@pytest.fixture(scope="module")
def part(address: str):
    made = CodeConfig(sandbox=SandboxConfig(isolation="http", http=HttpConfig(url=address)), languages=("python", "bash")).build()
    yield made
    asyncio.run(made.close())


def judge(part, program: str, **extra) -> Score:
    prompt = Prompt("p-1", (Message("user", "Square it."),), "code", None, extra)
    return asyncio.run(
        part(Rollout(prompt, (), Completion((), (), (), 0, "stop"), f"```{extra.get('language', 'python')}\n{program}\n```"))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_test_is_judged_by_a_plain_server(part, kind: str):
    assert (judge(part, RIGHT, **KINDS[kind]).outcome, judge(part, WRONG, **KINDS[kind]).outcome) == ("correct", "wrong")


def test_another_language_is_judged_by_a_plain_server(part):
    outcomes = [judge(part, f"read n; echo $(({value}))", language="bash", **KINDS["print"]).outcome for value in ("n * n", "n + 6")]
    assert outcomes == ["correct", "wrong"]


def test_a_call_that_hangs_is_a_timeout(address: str):
    config = CodeConfig(sandbox=SandboxConfig(isolation="http", http=HttpConfig(url=address), wall_seconds=0.5))
    part = config.build()
    assert judge(part, "def square(n):\n    while n > 3: pass\n    return n * n", **KINDS["call"]).outcome == "timeout"
    asyncio.run(part.close())


@pytest.mark.parametrize("kind", ["print", "call"])
def test_expected_outputs_never_leave_this_machine(fake: Fake, part, kind: str, monkeypatch: pytest.MonkeyPatch):
    sent: list[bytes] = []
    run = http_exchange.Exchange.run
    monkeypatch.setattr(http_exchange.Exchange, "run", lambda self: (sent.append(self._body), run(self))[1])
    secret = {"print": [{"input": "3\n", "output": "31415926"}], "call": {"fn_name": "square", "inputs": [[3]], "outputs": [31415926]}}
    assert judge(part, RIGHT, tests=secret[kind]).outcome == "wrong"
    texts = [body.decode() + "".join(base64.b64decode(file).decode() for file in json.loads(body)["files"].values()) for body in sent]
    assert texts and not any("31415926" in text for text in texts)

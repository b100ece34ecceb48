"""Jobs on a server that speaks the /run_code protocol of SandboxFusion, plain as it is deployed: nothing is to be installed there.

A job of ours is a command and files, the protocol's is a text in a language, and its answers are text. So Python jobs travel with a small
launcher (`http_launcher`) that runs the command, keeps our limits, and brings its bytes back whole. Programs in other languages go by
their language (`on_server`): the server compiles and runs each with its own tools and settings, again for each input, and what it
brings back is what it could read as UTF-8. Conversations are runs from the start (`http_talk`). Tests and expected outputs stay here.

A server that is down, slow, or answers nonsense gives the status `error`, which masks a sample; so does one that cannot start a job.
Limits that only a server can keep (memory of a whole job, processes, network, files) are as good as its isolation. Memory is not sent for
languages whose runtimes reserve far more addresses than they use, since servers may limit addresses.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import re
import secrets
import signal
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from afterbase.config import Config
from afterbase.errors import ConfigError
from afterbase.sandbox.base import Execution, Job, Limits
from afterbase.sandbox.crew import check
from afterbase.sandbox.http_exchange import Exchange, Server, ServerTrouble, Stopped, TooLong
from afterbase.sandbox.http_talk import Replay
from afterbase.sandbox.languages import Build, Language, Tools, java_names
from afterbase.sandbox.pump import FULL

RUN_CODE = "run_code"  # in the place of a command: the source goes to the server by its language, which is the next word
THEIR_NAMES = {"cpp": "cpp", "java": "java", "javascript": "nodejs", "typescript": "typescript", "php": "php", "bash": "bash",
               "csharp": "csharp"}  # fmt: skip
RESERVING = ("java", "nodejs", "typescript", "csharp")  # their runtimes do not start under a limit of addresses
LAUNCHER = Path(__file__).with_name("http_launcher.py")
START_SECONDS = 5.0  # for the launcher, on top of its job
THEIR_TEXT = 1 << 20  # bytes of output that a server answers with, whatever our limit
SANE = 1 << 20  # bytes of an answer besides what the job printed


class HttpConfig(Config):
    """A server that runs programs for us."""

    url: str
    """Its address, with or without /run_code at the end, such as "http://10.0.0.5:8080"."""
    concurrency: int = Field(16, ge=1)
    """Jobs that are sent at one time; no more than the server runs at one time, since waiting there counts."""
    timeout: float = Field(60.0, gt=0)
    """Seconds that an answer may take beyond the limits of its own job, for waiting and travelling, before it is an error."""
    compile_seconds: float = Field(30.0, gt=0)
    """Wall time of one compilation on the server."""
    retries: int = Field(3, ge=0)
    """After connection errors, 429 and 5xx, each after twice the time of the one before."""
    token_file: Path | None = None
    """A file with the token that is sent as `Authorization: Bearer`; None sends none."""

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an address begins with http:// or https:// and names a host, such as http://127.0.0.1:8080")
        if parts.username or parts.password or parts.fragment:
            raise ValueError("an address holds no user, password or fragment; put a token into the file token_file")
        path = parts.path.rstrip("/")
        return parts._replace(path=path if path.endswith("/run_code") else f"{path}/run_code").geturl()

    def build(self) -> HttpSandbox:
        """The sandbox, after a first program has run on the server; ConfigError in words when none did."""
        sandbox = HttpSandbox(self)
        if complaint := sandbox.probe():
            raise ConfigError(f"the server {self.url} runs no programs: {complaint}; start it there, or change url")
        return sandbox

    def server(self) -> Server:
        """Where questions go."""
        try:
            token = self.token_file.read_text(encoding="utf-8").strip() if self.token_file else ""
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"token_file={self.token_file} cannot be read ({error}); give a text file that holds the token") from None
        if not token.isascii() or not token.isprintable():
            raise ConfigError(f"token_file={self.token_file} must hold one line of plain ASCII")
        return Server(self.url, token, self.retries, ssl.create_default_context() if self.url.startswith("https") else None)


class HttpSandbox:
    """isolation = "http"; serves several `asyncio.run` one after the other, since threads do the waiting."""

    def __init__(self, config: HttpConfig):
        self.config, self.workers = config, config.concurrency
        self._server, self._launcher = config.server(), LAUNCHER.read_text(encoding="utf-8")
        self._threads: ThreadPoolExecutor | None = None
        self._running: set[Exchange] = set()
        self._lock = threading.Lock()

    async def run(self, job: Job, limits: Limits) -> Execution:
        """Run to the end; never raises for what the program or the server does. A cancelled call is not waited for any more."""
        if check(job).argv[0] == RUN_CODE:
            return await self._by_language(job, limits)
        return (await self._launched(job, limits))[0]

    async def start(self, job: Job, limits: Limits) -> Replay:
        """Start a job to talk to, which costs one run a line; see `http_talk`."""
        return Replay(self._launched, check(job), limits)

    async def close(self) -> None:
        """Drop what is under way; the next job would start afresh."""
        with self._lock:
            threads, self._threads = self._threads, None
            running = list(self._running)
        for exchange in running:
            exchange.abort()
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)

    def probe(self) -> str:
        """Why the server does not run programs as we need them; empty when it does."""
        question, token = self._orders(Job(("python3", "main.py"), {"main.py": b"print(6 * 7)"}), Limits(), 0)
        try:
            answer = Exchange(self._server, question, self.config.timeout, SANE).run()
            done, _ = _read_launched(answer, token, Limits())
        except ServerTrouble as trouble:
            return str(trouble)
        return "" if done.stdout == b"42\n" else f"a program that prints 42 did not ({done.note or done.stdout[:100]!r})"

    async def _launched(self, job: Job, limits: Limits, lines: int = 0) -> tuple[Execution, bool]:
        """What became of a command, and whether it came to its own end before it had printed so many lines."""
        question, token = self._orders(job, limits, lines)
        most = SANE + 4 * limits.output_bytes + (2 * (limits.disk_mb << 20) if job.keep else 0)  # in base64 twice
        try:
            answer = await self._ask(question, question["run_timeout"] + self.config.timeout, most)
            return _read_launched(answer, token, limits)
        except Stopped:
            return Execution("failed", None, note="stopped while it was running"), True
        except ServerTrouble as trouble:
            return Execution("error", None, note=f"{self.config.url}: {trouble}"), True

    def _orders(self, job: Job, limits: Limits, lines: int) -> tuple[dict[str, Any], str]:
        token = secrets.token_hex(8)
        orders = {
            "token": token, "argv": job.argv, "environment": dict(job.environment), "keep": job.keep, "hold": lines,
            "wall_seconds": limits.wall_seconds, "cpu_seconds": math.ceil(limits.cpu_seconds), "memory_bytes": limits.memory_mb << 20,
            "disk_bytes": limits.disk_mb << 20, "output_bytes": limits.output_bytes,
        }  # fmt: skip
        files = {"stdin": job.stdin} | {f"job/{name}": content for name, content in job.files.items()}
        code = f"{self._launcher}\n\nmain({json.dumps(orders)!r})\n"
        question = _question("python", code, "", limits, {name: base64.b64encode(content).decode() for name, content in files.items()})
        return question | {"run_timeout": limits.wall_seconds + START_SECONDS, "fetch_files": ["report.json"]}, token

    async def _by_language(self, job: Job, limits: Limits) -> Execution:
        """What became of a program that the server compiles and runs its own way."""
        _, name = job.argv
        (source,) = job.files.values()
        try:
            code, stdin = source.decode("utf-8"), job.stdin.decode("utf-8")
        except UnicodeDecodeError:
            return Execution("error", None, note="programs and their input travel as text, which must be UTF-8")
        question = _question(name, _as_main(code) if name == "java" else code, stdin, limits, {})
        question |= {"compile_timeout": self.config.compile_seconds} | ({"memory_limit_MB": -1} if name in RESERVING else {})
        seconds = self.config.compile_seconds + limits.wall_seconds + self.config.timeout
        try:
            answer = await self._ask(question, seconds, SANE + 12 * max(THEIR_TEXT, limits.output_bytes))
            return _read_by_language(answer, limits)
        except TooLong as trouble:  # only a program that prints without end makes it so long
            return Execution("output", None, note=str(trouble))
        except Stopped:
            return Execution("failed", None, note="stopped while it was running")
        except ServerTrouble as trouble:
            return Execution("error", None, note=f"{self.config.url}: {trouble}")

    async def _ask(self, question: dict[str, Any], seconds: float, most: int) -> Any:
        exchange = Exchange(self._server, question, seconds, most)
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.workers, "sandbox-http")
            self._running.add(exchange)
            future = self._threads.submit(exchange.run)
        future.add_done_callback(lambda _: self._running.discard(exchange))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            exchange.abort()
            raise


def on_server(language: Language) -> Language:
    """The same language without tools of this machine: its programs go to a server as they are. Python goes with the launcher."""
    if language.name == "python":
        return language
    return replace(language, tools=(), build=partial(_build, THEIR_NAMES[language.name]))


def _build(name: str, tools: Tools, program: str, memory_mb: int) -> Build:
    return Build("program", (RUN_CODE, name))


def _as_main(program: str) -> str:
    """A Java program as servers want it, in Main.java with a class Main: a public class of another name may not stand there."""
    file, main = java_names(program)
    public = file.removesuffix(".java")
    if public != "Main":
        kinds = r"(?:class|record|enum|interface)"
        program = re.sub(rf"(?m)^([ \t]*)public\s+((?:\w+\s+){{0,4}}?{kinds}\s+{re.escape(public)}\b)", r"\1\2", program)
    program = re.sub(r"(?m)^\s*package\s+[\w.]{1,200}\s*;", "", program, count=1)
    name = main.rpartition(".")[2]
    call = f"public static void main(String[] given) throws Throwable {{ {name}.main(given); }}"
    return program if name == "Main" else f"{program}\nclass Main {{ {call} }}\n"


def _question(language: str, code: str, stdin: str, limits: Limits, files: dict[str, str]) -> dict[str, Any]:
    return {
        "language": language, "code": code, "stdin": stdin, "files": files, "fetch_files": [], "compile_timeout": 30.0,
        "run_timeout": limits.wall_seconds, "memory_limit_MB": limits.memory_mb,
    }  # fmt: skip


def _read_launched(answer: Any, token: str, limits: Limits) -> tuple[Execution, bool]:
    """What the launcher reports. It is believed as far as a program may speak for itself: no report of its own is ever an `error`."""
    ran = _stage(answer, "run_result")
    said = (ran["stdout"] if ran else "").partition("\n")[0]
    if not ran or not said.startswith(token):
        raise ServerTrouble(f"it did not start the job ({_complaint(answer, ran)})")
    if said != token:
        return Execution("error", None, note=f"the server could not start the job: {said.removeprefix(token).strip()[:200]}"), True
    files = answer.get("files")
    try:
        report = json.loads(base64.b64decode(files["report.json"], validate=True))
        done = Execution(
            "ok", int(report["code"]), _bytes(report["stdout"], limits.output_bytes), _bytes(report["stderr"], limits.output_bytes),
            float(report["seconds"]), {str(name): _bytes(content, limits.disk_mb << 20) for name, content in report["kept"].items()},
        )  # fmt: skip
        why = str(report["why"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return _without_report(ran, limits), True
    return _judged(done, "" if why == "heard" else why, limits), why != "heard"


def _without_report(ran: dict[str, Any], limits: Limits) -> Execution:
    """The launcher was ended: by the server at a limit of its own, or by its program."""
    if ran["status"] == "TimeLimitExceeded":
        return Execution("timeout", None, seconds=limits.wall_seconds, note=f"killed after {limits.wall_seconds:g} s")
    if ran["return_code"] in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return Execution("memory", -signal.SIGKILL, note=f"killed by the server, most likely for more than {limits.memory_mb} MiB")
    return Execution("failed", ran["return_code"], note="it ended its launcher")


def _read_by_language(answer: Any, limits: Limits) -> Execution:
    compiled, ran = _stage(answer, "compile_result"), _stage(answer, "run_result")
    last = ran or compiled
    if last is None or answer["status"] == "SandboxError":
        raise ServerTrouble(f"it could not run the program ({_complaint(answer, last)})")
    output, errors = (last[name].encode("utf-8", "replace") for name in ("stdout", "stderr"))
    over = any(len(text) > limits.output_bytes or len(text) >= THEIR_TEXT for text in (output, errors))
    done = Execution("ok", last["return_code"], output[: limits.output_bytes], errors[: limits.output_bytes], last["execution_time"])
    why = "output" if over else "timeout" if last["status"] == "TimeLimitExceeded" else ""
    if not why and done.exit_code is None:
        raise ServerTrouble("its answer gives no exit code")
    done = _judged(done, why, limits)
    if ran:
        return done
    if done.status == "ok":
        raise ServerTrouble("its answer has no run_result")
    return replace(done, status="failed" if done.status == "memory" else done.status, note=f"does not compile: {done.note}")


def _judged(done: Execution, why: str, limits: Limits) -> Execution:
    """The status that the end of a program means, as every sandbox says it."""
    code = done.exit_code
    if why == "output":
        return replace(done, status="output", note=f"killed for printing more than {limits.output_bytes} bytes")
    if why == "timeout":
        return replace(done, status="timeout", note=f"killed after {limits.wall_seconds:g} s")
    if code == -signal.SIGXCPU:
        return replace(done, status="timeout", note=f"killed after {limits.cpu_seconds:g} s of processor time")
    if code and any(words in done.stderr for words in FULL):
        return replace(done, status="memory", note=f"an allocation was refused at {limits.memory_mb} MiB")
    if code:
        return replace(done, status="failed", note=f"killed by signal {-code}" if code < 0 else f"exit code {code}")
    return done


def _stage(answer: Any, name: str) -> dict[str, Any] | None:
    """The compiling or running of an answer in the types that it must have; None when there was none; ServerTrouble for nonsense."""
    if not isinstance(answer, dict) or answer.get("status") not in ("Success", "Failed", "SandboxError"):
        raise ServerTrouble(f"its answer is none of the /run_code protocol: {str(answer)[:100]!r}")
    stage = answer.get(name)
    if stage is None:
        return None
    wanted = {"status": str, "stdout": str, "stderr": str, "execution_time": int | float, "return_code": int}
    missing = {"stdout": "", "stderr": "", "execution_time": 0.0, "return_code": None}
    found = {key: missing.get(key) if stage.get(key) is None else stage[key] for key in wanted} if isinstance(stage, dict) else {}
    fits = all(isinstance(value, wanted[key]) or (value is None and key == "return_code") for key, value in found.items())
    if not found or not fits or found["status"] not in ("Finished", "Error", "TimeLimitExceeded"):
        raise ServerTrouble(f"its {name} is none of the /run_code protocol: {str(stage)[:100]!r}")
    if found["status"] == "Error":
        raise ServerTrouble(f"it could not run the program ({_complaint(answer, found)})")
    return found


def _complaint(answer: dict[str, Any], stage: dict[str, Any] | None) -> str:
    """What the server says of its trouble, in few words; its message may begin with the whole program."""
    words = str(answer.get("message") or "") or (stage["stderr"] if stage else "")
    return " ".join(words[-300:].split()) or "it does not say why"


def _bytes(text: Any, most: int) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if len(content) > most:
        raise ValueError("too long")
    return content

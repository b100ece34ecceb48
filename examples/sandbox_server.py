"""A small /run_code server over afterbase's own sandbox, for a second machine or for trying out isolation = "http".

    python examples/sandbox_server.py --port 8080        (then: sandbox.isolation = "http", sandbox.http.url = "http://127.0.0.1:8080")

It speaks the protocol of SandboxFusion: POST /run_code with code, language, stdin, files, fetch_files and limits. It asks for no password,
so it listens to this machine only; another --host is for a network in which everybody may run programs.
"""

import argparse
import asyncio
import base64
import json
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from afterbase.errors import ConfigError
from afterbase.sandbox.base import Execution, Sandbox
from afterbase.sandbox.languages import Tools, language
from afterbase.sandbox.open import SandboxConfig

STATUS = {"timeout": "TimeLimitExceeded", "error": "Error"}


def told(done: Execution) -> dict:
    """One command as the protocol tells it, which has no word for memory or output; bytes that are no UTF-8 are replaced."""
    code = None if done.status in STATUS else -9 if done.exit_code is None else done.exit_code
    texts = {"stdout": done.stdout.decode("utf-8", "replace"), "stderr": (done.stderr or done.note.encode()).decode("utf-8", "replace")}
    return {"status": STATUS.get(done.status, "Finished"), "return_code": code, "execution_time": done.seconds, **texts}


async def run_code(sandbox: Sandbox, asked: dict) -> dict:
    """Compile where the language is compiled, run, and answer."""
    spoken, code, memory = language(asked["language"]), asked["code"], max(asked.get("memory_limit_MB", -1), 0) or 1024
    build, limits = spoken.build(Tools(), code, memory), spoken.limits(SandboxConfig(memory_mb=memory + 32).limits)
    compiled, artefact, kept = None, None, {}
    if build.compile:
        seconds = float(asked.get("compile_timeout", 10))
        compiled = await sandbox.run(build.compiling(code), replace(limits, wall_seconds=seconds, cpu_seconds=seconds))
        artefact = compiled.kept.get(build.artefact)
    done = compiled
    if artefact is not None or not build.compile:
        job = build.running(code, artefact, (asked.get("stdin") or "").encode())
        files = {name: base64.b64decode(content) for name, content in asked.get("files", {}).items()}
        seconds = float(asked.get("run_timeout", 10))
        job = replace(job, files=files | dict(job.files), keep=tuple(asked.get("fetch_files", ())))
        done = await sandbox.run(job, replace(limits, wall_seconds=seconds, cpu_seconds=seconds))
        kept = {name: base64.b64encode(content).decode() for name, content in done.kept.items()}
    status = {"error": "SandboxError", "ok": "Success"}.get(done.status, "Failed")
    stages = {"compile_result": compiled and told(compiled), "run_result": None if done is compiled else told(done)}
    return {"status": status, "message": "", **stages, "files": kept}


class Handler(BaseHTTPRequestHandler):
    """One request, in a thread of its own."""

    def do_POST(self) -> None:
        """The only thing that can be asked for."""
        try:
            asked = json.loads(self.rfile.read(min(int(self.headers["Content-Length"]), 256 << 20)))
            body = json.dumps(asyncio.run(run_code(self.server.sandbox, asked))).encode()
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            return self.send_error(422, " ".join(f"{type(error).__name__}: {error}"[:200].split()))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    options.add_argument("--isolation", default="auto", choices=("auto", "namespaces", "bubblewrap", "none"))
    chosen = options.parse_args()
    with ThreadingHTTPServer((chosen.host, chosen.port), Handler) as server:
        server.daemon_threads, server.sandbox = True, SandboxConfig(isolation=chosen.isolation).build()
        print(f"http://{chosen.host}:{server.server_port}/run_code", flush=True)
        server.serve_forever()

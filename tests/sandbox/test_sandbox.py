"""What every sandbox promises its callers, whatever its isolation."""

import asyncio
import os
import signal
import subprocess
import time

import pytest

from afterbase.sandbox.base import Job, Limits

LIMITS = Limits(wall_seconds=20, cpu_seconds=10, memory_mb=128, processes=16, output_bytes=100_000, disk_mb=8)
ENDLESS = b"import time\nprint('up', flush=True)\ntime.sleep(600)\n"


def test_input_comes_in_and_output_comes_out(run):
    execution = run("import sys; print(int(input()) + 1); print(sys.stdin.read(), file=sys.stderr)", b"41\nrest")
    assert (execution.status, execution.exit_code, execution.stdout, execution.stderr) == ("ok", 0, b"42\n", b"rest\n")


def test_a_large_input_and_output_pass_through_together(run):
    data = bytes(range(256)) * 1000
    execution = run("import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())", data, limits=Limits(output_bytes=len(data)))
    assert execution.status == "ok" and execution.stdout == data


def test_input_that_nobody_reads_is_no_error(run):
    assert run("print(1)", b"x" * 1_000_000).status == "ok"


@pytest.mark.parametrize(
    ("program", "status", "code"),
    [
        ("import sys; sys.exit(3)", "failed", 3),
        ("raise ValueError", "failed", 1),
        ("import os; os.abort()", "failed", -6),
        ("import os; os._exit(0)", "ok", 0),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "failed", -9),
    ],
)
def test_the_exit_code_is_the_programs(run, program, status, code):
    execution = run(program)
    assert (execution.status, execution.exit_code) == (status, code)


def test_the_clock_stops_it_and_what_it_printed_stays(run):
    execution = run("print('before', flush=True)\nwhile True: pass", limits=Limits(wall_seconds=1))
    assert execution.status == "timeout" and execution.stdout == b"before\n" and execution.seconds >= 1


def test_processor_time_stops_it(run):
    assert run("while True: pass", limits=Limits(wall_seconds=20, cpu_seconds=1)).status == "timeout"


def test_too_much_memory_is_told_from_failing(run):
    assert run("x = []\nwhile True: x.append(bytearray(b'x') * 1_000_000)", limits=LIMITS).status == "memory"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_cut_at_the_limit_to_the_byte(run, stream):
    limits = Limits(output_bytes=1000)
    fits = run(f"import sys; sys.{stream}.write('x' * 1000)", limits=limits)
    over = run(f"import sys; sys.{stream}.write('x' * 1001)", limits=limits)
    assert (fits.status, len(getattr(fits, stream))) == ("ok", 1000)
    assert (over.status, len(getattr(over, stream))) == ("output", 1000)


def test_files_go_in_and_those_asked_for_come_back(sandbox):
    program = "import os; os.makedirs('a/b'); open('a/b/c', 'w').write(open('deep/er/x').read() * 2)"
    files = {"main.py": program.encode(), "deep/er/x": b"ab"}
    execution = asyncio.run(sandbox.run(Job(("python3", "main.py"), files, keep=("a/b/c", "none", "a")), LIMITS))
    assert dict(execution.kept) == {"a/b/c": b"abab"}


def test_a_file_may_be_run_as_a_program(sandbox):
    job = Job(("./tool", "x"), {"tool": b'#!/bin/sh\necho "$1" "$WORD"\n'}, environment={"WORD": "y"})
    assert asyncio.run(sandbox.run(job, LIMITS)).stdout == b"x y\n"


def test_a_program_that_is_not_there_is_our_error_not_the_programs(sandbox):
    execution = asyncio.run(sandbox.run(Job(("no-such-compiler",)), LIMITS))
    assert execution.status == "error" and execution.exit_code is None and "no-such-compiler" in execution.note


def test_nothing_of_our_environment_is_passed_on(run, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret")
    printed = run("import os; print(sorted(os.environ))", environment={"MINE": "1"}).stdout
    assert b"'MINE'" in printed and b"TOKEN" not in printed


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", "a\0b", "a/"])
def test_a_name_that_leads_out_of_the_directory_is_its_authors_mistake(sandbox, name):
    for job in (Job(("true",), {name: b""}), Job(("true",), keep=(name,))):
        with pytest.raises(ValueError, match="relative path"):
            asyncio.run(sandbox.run(job, LIMITS))


def test_a_file_cannot_be_a_directory_too(sandbox):
    with pytest.raises(ValueError, match="'a' is also the directory"):
        asyncio.run(sandbox.run(Job(("true",), {"a": b"", "a/b": b""}), LIMITS))


def test_many_jobs_at_once_each_get_their_own_answer(sandbox):
    async def many() -> list[bytes]:
        program = b"import os, time; time.sleep(0.01); print(input(), os.listdir('.'))"
        jobs = [Job(("python3", "main.py"), {"main.py": program, f"file{n}": b""}, f"{n}".encode()) for n in range(12)]
        return [execution.stdout for execution in await asyncio.gather(*(sandbox.run(job, LIMITS) for job in jobs))]

    for n, printed in enumerate(asyncio.run(many())):
        assert printed.startswith(f"{n} ".encode()) and printed.count(b"file") == 1 and f"'file{n}'".encode() in printed


def test_at_most_workers_run_at_a_time(sandbox):
    async def peak() -> int:
        program = b"import time; print(time.time()); time.sleep(0.1); print(time.time())"
        jobs = [sandbox.run(Job(("python3", "main.py"), {"main.py": program}), LIMITS) for _ in range(6)]
        spans = [tuple(map(float, execution.stdout.split())) for execution in await asyncio.gather(*jobs)]
        return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)

    assert asyncio.run(peak()) == sandbox.workers == 2


async def conversation(sandbox) -> tuple:
    program = b"print('hello')\nwhile (line := input()) != 'quit': print(line.upper(), flush=True)\nprint('bye', end='')"
    talk = await sandbox.start(Job(("python3", "-u", "main.py"), {"main.py": program}, b"first\n"), LIMITS)
    heard = [await talk.read_line(10), await talk.read_line(10), await talk.read_line(0.05)]
    await talk.write(b"second\nquit\n")
    heard += [await talk.read_line(10), await talk.read_line(10), await talk.read_line(10)]
    await talk.write(b"into the void\n")
    return heard, await talk.finish()


def test_a_conversation_goes_line_by_line(sandbox):
    heard, execution = asyncio.run(conversation(sandbox))
    assert heard == [b"hello", b"FIRST", None, b"SECOND", b"bye", None]
    assert execution.status == "ok" and execution.stdout == b"hello\nFIRST\nSECOND\nbye"


def test_a_conversation_that_does_not_end_is_ended(sandbox):
    async def talk() -> tuple:
        running = await sandbox.start(Job(("python3", "main.py"), {"main.py": ENDLESS}), LIMITS)
        line = await running.read_line(10)
        return line, await running.finish()

    line, execution = asyncio.run(talk())
    assert line == b"up" and execution.status == "failed" and execution.seconds < LIMITS.wall_seconds / 2


def test_the_clock_of_a_conversation_runs_while_nobody_listens(sandbox):
    async def talk() -> tuple:
        running = await sandbox.start(Job(("python3", "main.py"), {"main.py": ENDLESS}), Limits(wall_seconds=0.5))
        await asyncio.sleep(0.8)
        return await running.read_line(5), await running.read_line(5), await running.finish()

    first, second, execution = asyncio.run(talk())
    assert first in (b"up", None) and second is None and execution.status == "timeout"


def test_a_cancelled_job_is_killed(sandbox):
    async def cancel() -> float:
        began = time.monotonic()
        waiting = [asyncio.create_task(sandbox.run(Job(("python3", "main.py"), {"main.py": ENDLESS}), LIMITS)) for _ in range(4)]
        await asyncio.sleep(0.2)
        for task in waiting:
            task.cancel()
        assert all(isinstance(found, asyncio.CancelledError) for found in await asyncio.gather(*waiting, return_exceptions=True))
        assert (await sandbox.run(Job(("python3", "main.py"), {"main.py": b"print(1)"}), LIMITS)).stdout == b"1\n"
        return time.monotonic() - began

    assert asyncio.run(cancel()) < LIMITS.wall_seconds  # a worker was free again long before the endless jobs' own end


def test_closing_ends_what_runs_and_the_next_job_starts_afresh(sandbox):
    async def close() -> str:
        running = asyncio.create_task(sandbox.run(Job(("python3", "main.py"), {"main.py": ENDLESS}), LIMITS))
        await asyncio.sleep(0.2)
        await sandbox.close()
        return (await running).status

    assert asyncio.run(close()) == "failed"
    assert asyncio.run(sandbox.run(Job(("python3", "main.py"), {"main.py": b"print(1)"}), LIMITS)).stdout == b"1\n"


def test_a_lost_launcher_is_our_error_and_is_replaced(namespaces):
    async def lose() -> str:
        running = asyncio.create_task(namespaces.run(Job(("python3", "main.py"), {"main.py": ENDLESS}), LIMITS))
        await asyncio.sleep(0.3)
        found = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "sandbox.inside"], capture_output=True, text=True)
        for keeper in found.stdout.split():
            os.kill(int(keeper), signal.SIGKILL)
        return (await running).status

    assert asyncio.run(lose()) == "error"
    assert asyncio.run(namespaces.run(Job(("python3", "main.py"), {"main.py": b"print(1)"}), LIMITS)).stdout == b"1\n"

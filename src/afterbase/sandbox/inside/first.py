"""The first process of a job's namespaces: makes them private, starts the program with no rights at all, waits, and reports.

It reads the job itself, so that nothing of one job is ever in the memory of the launcher, from which the next job is born. The program
cannot reach it: the first process of a namespace gets no signal from inside that it does not ask for, its memory and descriptors are
hidden, and the program has no capability.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from afterbase.sandbox.inside import files, kernel, root, seccomp, warm, wire

TICK_SECONDS = 0.02  # between two looks at a job whose memory or files the kernel does not limit as a whole
OPEN_FILES = 1024
STACK = 8 << 20
SOCKET = 416 << 10  # the most that a local socket may have under way, by the kernel's default
FILTER = seccomp.build_filter(platform.machine())
MESSAGES_AND_LOCKED = 1 << 16


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for all jobs of a launcher, e.g. Setting("/usr/bin/python3.11", True, False, True, True)."""

    python: str
    """The interpreter that "python3" is."""
    two_users: bool
    """Whether the first process has another user than the program."""
    grouped: bool
    """Whether a control group limits the job's memory."""
    bounded_files: bool
    """Whether the disk limits the number of files."""
    rights: bool
    """Whether the first process has capabilities, which the program must not inherit."""


def serve(control: socket.socket, stdio: tuple[int, int, int], setting: Setting) -> None:
    """Run the job that comes over `control`, and report on it; does not return."""
    code = 1
    try:
        kernel.hide(True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        spec, contents = wire.receive(control)
        os.umask(0o022)
        os.mkdir(root.WORK)
        if setting.two_users:
            os.chown(root.WORK, root.USER, root.USER)
        report, kept = _run(spec, contents, stdio, setting)
        control.sendall(wire.pack(report, kept))
        code = 0
    except EOFError:
        pass  # nobody waits for it any more
    except BaseException as error:
        fail(control, error)
    finally:
        os._exit(code)


def fail(control: socket.socket, error: BaseException) -> None:
    """Say why the job was not run."""
    with contextlib.suppress(OSError):
        control.sendall(wire.pack({"failure": f"{type(error).__name__}: {error}"}))


def close_all_but(*descriptors: int) -> None:
    """Close all descriptors but the standard three and these."""
    below = 2
    for descriptor in sorted(descriptors):
        os.closerange(below + 1, descriptor)
        below = descriptor
    os.closerange(below + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _run(spec: dict[str, Any], contents: dict[str, bytes], stdio: tuple[int, int, int], setting: Setting) -> tuple[dict, dict[str, bytes]]:
    directory = os.open(root.WORK, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # whatever the program does to its name
    said, says = os.pipe()
    child = os.fork()
    if child == 0:
        _become(spec, contents, stdio, says, setting)
    os.close(says)
    for descriptor in stdio:
        os.close(descriptor)
    failure = b"".join(iter(lambda: os.read(said, 4096), b"")).decode()  # ends when the program has been started
    code, used, memory = _wait(child, spec, setting)
    if failure:
        return {"failure": failure}, {}
    kept = files.collect(directory, spec["keep"], spec["disk_mb"] << 20)
    return {"exit_code": code, "memory": memory, "overtime": code < 0 and used >= spec["cpu_seconds"]}, kept


def _wait(child: int, spec: dict[str, Any], setting: Setting) -> tuple[int, float, str]:
    """Wait for the program's own process, then kill and reap the others; its exit code and processor time, and what it was killed for."""
    memory, ended = "", None
    tick = None if setting.grouped and setting.bounded_files else TICK_SECONDS
    while ended is None:
        if tick is None:
            signal.sigwaitinfo([signal.SIGCHLD])
        elif not signal.sigtimedwait([signal.SIGCHLD], tick) and not memory:
            memory = excess(spec, setting)
            if memory:
                _kill_all()
        ended = _reap(child)
    _kill_all()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    return *ended, memory


def _reap(child: int) -> tuple[int, float] | None:
    """Take in all that have ended; the exit code and the seconds of processor time of the child if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.wait4(-1, os.WNOHANG))[0]:
            pid, status, used = ended
            if pid == child:
                found = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
    return found


def _kill_all() -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)  # all in our namespace but ourselves


def excess(spec: dict[str, Any], setting: Setting) -> str:
    """What the job uses too much of, in words; empty when nothing."""
    disk = os.statvfs("/tmp")
    if not setting.bounded_files and disk.f_files - disk.f_ffree > root.inodes(spec["disk_mb"]):
        return f"killed for more than {root.inodes(spec['disk_mb'])} files"
    if setting.grouped:
        return ""
    written, most = (disk.f_blocks - disk.f_bfree) * disk.f_frsize + _in_sockets(), spec["memory_mb"] << 20
    processes = [entry for entry in os.listdir("/proc") if entry.isdigit() and entry != "1"]
    # What processes share is counted for each of them at first; only where that is too much it is worth the kernel's time to share it out.
    for measure in (_held, _share):
        if written + sum(map(measure, processes)) <= most:
            return ""
    return f"killed for using more than {spec['memory_mb']} MiB"


def _in_sockets() -> int:
    """Bytes that the kernel may hold for what the job's sockets have not read yet, which no process's memory shows."""
    with open("/proc/net/unix") as sockets:
        return SOCKET * (sum(1 for _ in sockets) - 1)  # below a heading


def _held(pid: str) -> int:
    """Bytes of memory that a process holds besides files, alone or with others."""
    return _sum(f"/proc/{pid}/status", ("RssAnon", "RssShmem"))


def _share(pid: str) -> int:
    """The same, with what it shares with others divided among them; a process that hides its memory counts in full."""
    return _sum(f"/proc/{pid}/smaps_rollup", ("Pss_Anon", "Pss_Shmem")) or _held(pid)


def _sum(path: str, names: tuple[str, ...]) -> int:
    try:
        with open(path) as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
    except (OSError, ValueError):  # it has ended in the meantime
        return 0
    return sum(int(fields[name].split()[0]) << 10 for name in names if name in fields)


def _become(spec: dict[str, Any], contents: Mapping[str, bytes], stdio: tuple[int, int, int], says: int, setting: Setting) -> None:
    """Turn this process into the program; does not return."""
    try:
        os.setsid()
        for number, descriptor in enumerate(stdio):
            os.dup2(descriptor, number)
        close_all_but(says)
        argv, environment = spec["argv"], spec["environment"]
        warmly = warm.suits(argv, environment)
        if setting.rights:
            kernel.drop_bounding()
        if setting.two_users:
            os.setresgid(root.USER, root.USER, root.USER)
            os.setresuid(root.USER, root.USER, root.USER)
        os.chdir(root.WORK)
        files.lay(root.WORK, contents)
        restrict(spec, setting)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            if not (warmly and number != signal.SIGINT):  # Python ignores these two itself
                signal.signal(number, signal.SIG_DFL)
        kernel.hide(False)
        kernel.drop_capabilities()
        kernel.no_new_privileges()
        kernel.install_filter(FILTER)
        if warmly:
            os.close(says)
            warm.run(argv, environment)
        program = setting.python if argv[0] == "python3" else argv[0]
        os.execvpe(program, argv, environment)
    except BaseException as error:
        words = f"{spec['argv'][0]}: {error.strerror}" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
        os.write(says, words.encode()[:4096])
    finally:
        os._exit(127)


def restrict(spec: dict[str, Any], setting: Setting) -> None:
    """The limits that bind each process (the number of processes: all of this user in this namespace)."""
    seconds = -int(-spec["cpu_seconds"] // 1)
    disk, memory = spec["disk_mb"] << 20, spec["memory_mb"] << 20
    wanted = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_NPROC: spec["processes"] + (0 if setting.two_users else 1),  # the first process counts where it has the same user
        resource.RLIMIT_FSIZE: disk,
        resource.RLIMIT_CORE: 1,  # not 0, which does not keep the kernel from starting the host's own handler of core dumps
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_STACK: STACK,
        resource.RLIMIT_MEMLOCK: MESSAGES_AND_LOCKED,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 1024,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
    }
    if not setting.grouped:
        wanted[resource.RLIMIT_DATA] = memory  # not RLIMIT_AS: runtimes reserve many GiB of addresses that they never use
    for which, value in wanted.items():
        soft, hard = value if isinstance(value, tuple) else (value, value)
        _, highest = resource.getrlimit(which)
        if highest != resource.RLIM_INFINITY:
            soft, hard = min(soft, highest), min(hard, highest)
        resource.setrlimit(which, (soft, hard))

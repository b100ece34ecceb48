"""Isolation by direct system calls: no other program is needed, and a job costs two forks of a process that is ready.

The launcher itself lives in a minimal root and in a process namespace, whose first process it is: if it dies, the kernel kills every job.
Where we are root, jobs become users that nobody else is, so that limits for each user hold and nothing of root's obeys them; where we are
not, they are us, without any right, in a root that shows nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

from afterbase.sandbox.inside import first, kernel, root, warm

USERS = 0x70000000
"""From here on lie users that nobody is; each launcher takes two of them."""
ALL = ("user", "mount", "pid", "net", "ipc", "uts", "cgroup")


class Namespaces:
    """isolation = "namespaces"."""

    def __init__(self, settings: dict[str, Any], grouped: bool):
        self._settings = settings
        self._users = USERS + 2 * os.getpid() if os.geteuid() == 0 else None
        self._setting = first.Setting(
            settings["python"], two_users=self._users is not None, grouped=grouped, bounded_files=True, rights=True
        )
        self._pid = 0

    def leave_host(self) -> None:
        """Put this process (and its next child as the first process) into namespaces of their own."""
        if self._users is not None:
            os.setgroups([])
            kernel.unshare("pid", "net", "ipc", "uts")
            return
        user, group = os.geteuid(), os.getegid()
        kernel.unshare("user", "pid", "net", "ipc", "uts")
        _map("self", f"0 {user} 1", f"0 {group} 1")

    def prepare(self) -> None:
        """Enter the minimal root, and import what programs import."""
        with contextlib.suppress(PermissionError):
            _oom_score("-1000")  # out of memory, the kernel must end the job, not its launcher
        kernel.unshare("mount")  # only now: the keeper still needs to see the host's control groups
        root.build(self._settings["visible"], self._settings["hidden"])
        warm.prepare()

    def start(self, limits: dict[str, Any], control: socket.socket, stdio: list[int]) -> list[int]:
        """Start the job's first process; descriptors of the processes to wait for."""
        gate, opens = os.pipe()
        self._pid = kernel.clone(*ALL)
        if self._pid == 0:
            self._first(limits, control, stdio, gate)
        os.close(gate)
        try:
            if self._users is None:
                _map(str(self._pid), f"{root.USER} 0 1", f"{root.USER} 0 1")
            else:
                ours = f"0 {self._users} 1\n{root.USER} {self._users + 1} 1"
                _map(str(self._pid), ours, ours)
            os.write(opens, b"x")
        finally:
            os.close(opens)
        return [os.pidfd_open(self._pid)]

    def reap(self) -> int:
        """The exit code of the first process."""
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _first(self, limits: dict[str, Any], control: socket.socket, stdio: list[int], gate: int) -> None:
        try:
            first.close_all_but(control.fileno(), gate, *stdio)
            if os.read(gate, 1):
                os.close(gate)
                _oom_score("1000")  # as long as its files in /proc are still ours
                if self._users is not None:
                    os.setresgid(0, 0, 0)
                    os.setresuid(0, 0, 0)
                root.private(limits["disk_mb"])
                socket.sethostname("sandbox")
                first.serve(control, tuple(stdio), self._setting)
        except OSError as error:
            first.fail(control, error)
        finally:
            os._exit(1)


def _map(pid: str, users: str, groups: str) -> None:
    for name, text in (("setgroups", "deny"), ("uid_map", users), ("gid_map", groups)):
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(text)


def _oom_score(score: str) -> None:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(score)

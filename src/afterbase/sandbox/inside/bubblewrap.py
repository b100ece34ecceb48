"""Isolation by bubblewrap, a small and much reviewed program: for kernels that let it make user namespaces, but not everybody.

Each job is a fresh bubblewrap with a fresh Python in it that starts the program, so a job costs a little more than a Python's start.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from typing import Any

from afterbase.sandbox.inside import first, root

SHIM = "/run/inside"
"""Where the sandbox's own code, and nothing else of the package, is seen in the sandbox."""
BOOT = """import json, sys
sys.path.append(sys.argv[1])
from afterbase.sandbox.inside.bubblewrap import serve
serve(json.loads(sys.argv[2]))"""


class Bubblewrap:
    """isolation = "bubblewrap"."""

    def __init__(self, settings: dict[str, Any], grouped: bool):
        self._settings, self._grouped = settings, grouped
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            # Its only user is the one who calls it: a job could then change the mode of /dev/null, and no limit of processes binds root.
            raise OSError("jobs that root gives to bubblewrap would still be root to every device and limit; be an ordinary user")

    def leave_host(self) -> None:
        """Nothing: bubblewrap does, for each job."""

    def prepare(self) -> None:
        """Nothing: each job is a fresh process."""

    def start(self, limits: dict[str, Any], control: socket.socket, stdio: list[int]) -> list[int]:
        """Start bubblewrap; descriptors of the processes to wait for: its own and the first of the sandbox."""
        reads, writes = os.pipe()
        options = ["-s"] if self._settings["packages"] else ["-s", "-S"]
        made = {name: _readable(content) for name, content in root.MADE.items()}
        task = {"control": control.fileno(), "stdio": stdio, "grouped": self._grouped, "python": self._settings["python"]}
        command = [*self._command(limits["disk_mb"], writes, made), self._settings["python"], *options, "-c", BOOT, SHIM, json.dumps(task)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                pass_fds=(writes, control.fileno(), *stdio, *made.values()),
            )  # fmt: skip
        finally:
            for descriptor in (writes, *made.values()):
                os.close(descriptor)
        with open(reads, "rb") as told:
            text = told.read()
        if not text:
            raise OSError(f"bubblewrap: {self._process.communicate()[1].decode(errors='replace').strip()[:500]}")
        return [os.pidfd_open(self._process.pid), os.pidfd_open(json.loads(text)["child-pid"])]

    def reap(self) -> int:
        """The exit code of bubblewrap."""
        self._process.stderr.close()
        return self._process.wait()

    def _command(self, disk_mb: int, info: int, made: dict[str, int]) -> list[str]:
        inside = os.path.dirname(os.path.abspath(__file__))
        words = [self._settings["bubblewrap"]]
        words += ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        words += ["--disable-userns", "--die-with-parent", "--as-pid-1", "--new-session", "--cap-drop", "ALL", "--clearenv"]
        words += ["--uid", str(root.USER), "--gid", str(root.USER), "--hostname", "sandbox", "--info-fd", str(info)]
        for name, value in (("LANG", "C.UTF-8"), ("PYTHONHASHSEED", "0")):
            words += ["--setenv", name, value]
        for path in (*(f"/{name}" for name in root.TOP), *sorted(self._settings["visible"])):
            words += _shown(path)
        for path in self._settings["hidden"]:
            if os.path.isdir(path):
                words += ["--tmpfs", path, "--remount-ro", path]
        words += ["--ro-bind", inside, f"{SHIM}/afterbase/sandbox/inside", "--dir", "/dev"]
        for name, descriptor in made.items():
            words += ["--perms", "0644", "--file", str(descriptor), f"/etc/{name}"]
        for name in root.DEVICES:
            words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
        for name, target in root.LINKS.items():
            words += ["--symlink", target, f"/dev/{name}"]
        words += ["--size", str(disk_mb << 20), "--perms", "1777", "--tmpfs", "/tmp", "--proc", "/proc", "--remount-ro", "/proc"]
        return [*words, "--remount-ro", "/", "--chdir", "/", "--"]


def serve(task: dict[str, Any]) -> None:
    """Be the first process of a sandbox that bubblewrap has made."""
    first.close_all_but(task["control"], *task["stdio"])
    setting = first.Setting(task["python"], two_users=False, grouped=task["grouped"], bounded_files=False, rights=False)
    first.serve(socket.socket(fileno=task["control"]), tuple(task["stdio"]), setting)


def _shown(path: str) -> list[str]:
    if os.path.islink(path):
        return ["--symlink", os.readlink(path), path]
    return ["--ro-bind", path, path] if os.path.exists(path) else []


def _readable(content: str) -> int:
    """A descriptor from which a short text can be read once."""
    reads, writes = os.pipe()
    os.write(writes, content.encode())
    os.close(writes)
    return reads

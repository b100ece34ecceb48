"""The file system that jobs see: what language runtimes need of /usr, read-only, a few devices, and nothing else of the host."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from afterbase.sandbox.inside.kernel import (
    BIND,
    NODEV,
    NOEXEC,
    NOSUID,
    PRIVATE,
    RDONLY,
    REC,
    REMOUNT,
    bind,
    detach,
    mount,
    pivot_root,
)  # fmt: skip

TOP = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
DEVICES = ("null", "zero", "full", "random", "urandom")
LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "shm": "/tmp"}
USER = 1000
"""The number that the job's user has inside."""
MADE = {
    "passwd": f"root:x:0:0::/:/usr/sbin/nologin\nuser:x:{USER}:{USER}::/tmp:/bin/sh\n",
    "group": f"root:x:0:\nuser:x:{USER}:\n",
    "hosts": "127.0.0.1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
WORK = "/tmp/work"
_OLD = "/.old"


def build(visible: Iterable[str], hidden: Iterable[str]) -> None:
    """Make this process's own mount namespace the minimal root.

    `visible` are the host's further directories that it shows read-only, `hidden` those in them that are shown empty.
    """
    mount("", "/", flags=REC | PRIVATE)
    # Any directory can carry the new root: once it is the root, what it covered is to be seen again below the old one.
    mount("tmpfs", "/tmp", "tmpfs", NOSUID | NODEV, "size=1m,nr_inodes=1000,mode=755")
    os.mkdir("/tmp" + _OLD)
    pivot_root("/tmp", "/tmp" + _OLD)
    os.chdir("/")
    for name in TOP:
        _show(f"/{name}")
    for path in sorted(visible):  # a directory before what lies in it
        _show(path)
    for path in hidden:
        if os.path.isdir(path):
            mount("tmpfs", path, "tmpfs", RDONLY | NOSUID | NODEV | NOEXEC, "size=4k,mode=755")
    _make_etc()
    _make_devices()
    os.mkdir("/tmp")
    os.mkdir("/proc")
    mount("proc", "/proc", "proc", NOSUID | NODEV | NOEXEC)
    detach(_OLD)
    os.rmdir(_OLD)
    mount("", "/", flags=REMOUNT | BIND | RDONLY | NOSUID | NODEV)


def private(disk_mb: int) -> None:
    """What each job has for itself, mounted over the common root in its own namespace: the disk and the view of processes."""
    # A file takes about 1 KiB of kernel memory besides its content, so their number is limited too.
    mount("tmpfs", "/tmp", "tmpfs", NOSUID | NODEV, f"size={disk_mb}m,nr_inodes={inodes(disk_mb)},mode=1777")
    mount("proc", "/proc", "proc", NOSUID | NODEV | NOEXEC)
    # What has no right to mount could get it in a user namespace of its own.
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
    # Read-only: some of its files obey the user who owns the namespace, or even user 0 without any right.
    mount("", "/proc", flags=REMOUNT | BIND | RDONLY | NOSUID | NODEV | NOEXEC)


def inodes(disk_mb: int) -> int:
    """How many files and directories a disk of this size may hold."""
    return 1000 + 100 * disk_mb


def _show(path: str) -> None:
    """Repeat a link, or bind a directory or file of the old root read-only at the same place, unless it is to be seen there already."""
    source = _OLD + path
    if not os.path.lexists(source) or os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), path)
        return
    if os.path.isdir(source):
        os.mkdir(path)
    else:
        _touch(path)
    bind(source, path, RDONLY | NOSUID | NODEV)


def _make_etc() -> None:
    os.makedirs("/etc", exist_ok=True)
    for name, content in MADE.items():
        with open(f"/etc/{name}", "w") as file:
            file.write(content)


def _make_devices() -> None:
    os.mkdir("/dev")
    for name in DEVICES:
        if stat.S_ISCHR(os.stat(f"{_OLD}/dev/{name}").st_mode):
            _touch(f"/dev/{name}")
            bind(f"{_OLD}/dev/{name}", f"/dev/{name}", RDONLY | NOSUID | NOEXEC)
    for name, target in LINKS.items():
        os.symlink(target, f"/dev/{name}")


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))

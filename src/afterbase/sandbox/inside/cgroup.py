"""Control groups, where they are writable: the kernel's own limits on the memory and the number of processes of a whole job.

Each launcher lives in a group of its own, into which all its jobs are born: moving a process between groups takes the kernel longer than
a short program runs.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass

MARK = "afterbase-"
_ROOT = "/sys/fs/cgroup"
LEAVING_TRIES, LEAVING_SECONDS = 100, 0.01
_OWN = 2  # processes in the group besides the job's: the launcher, and the first process of the job


@dataclass(frozen=True, slots=True)
class Group:
    """One group, in one directory of the second version of control groups or in one a controller of the first."""

    memory: str
    """Directory that limits memory."""
    processes: str
    """Directory that limits processes."""
    others: tuple[str, ...] = ()
    """Further directories: processor time is shared by groups, so that a job of many threads slows no other job down."""
    version: int = 1
    """Of control groups."""

    @property
    def directories(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((self.memory, self.processes, *self.others)))

    def enter(self) -> None:
        """Move this process in; its children are born there."""
        for directory in self.directories:
            _write(f"{directory}/cgroup.procs", str(os.getpid()))

    def open(self) -> OpenGroup:
        """Its files, to be used where its directories cannot be seen."""
        return OpenGroup(
            os.open(self.memory, os.O_RDONLY | os.O_CLOEXEC), os.open(self.processes, os.O_RDONLY | os.O_CLOEXEC), self.version
        )

    def remove(self) -> None:
        """Remove its directories, once the last of its processes, which may have been waited for already, have left them."""
        left = list(self.directories)
        for _ in range(LEAVING_TRIES):
            left = [directory for directory in left if not _removed(directory)]
            if not left:
                return
            time.sleep(LEAVING_SECONDS)


@dataclass(frozen=True, slots=True)
class OpenGroup:
    """A group's open directories."""

    memory: int
    """Descriptor of the directory that limits memory."""
    processes: int
    """Descriptor of the directory that limits processes."""
    version: int
    """Of control groups."""

    def limit(self, memory_mb: int, processes: int) -> None:
        """Set what the next job may use."""
        size = str(memory_mb << 20)
        if self.version == 1:
            self._set_memory_1(size)
        else:
            _write("memory.max", size, self.memory)
            with contextlib.suppress(FileNotFoundError):
                _write("memory.swap.max", "0", self.memory)
        _write("pids.max", str(processes + _OWN), self.processes)

    def kills(self) -> int:
        """How many processes were ever killed for the group's memory."""
        text = _read("memory.oom_control" if self.version == 1 else "memory.events", self.memory)
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])

    def _set_memory_1(self, size: str) -> None:
        # memory and swap together may never be below memory alone, so which is written first depends on whether the limit grows.
        names = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
        try:
            _write(names[0], size, self.memory)
        except OSError:
            names.reverse()
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                _write(name, size, self.memory)


def _removed(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def create(name: str) -> Group | None:
    """A group below our own (or beside it), so that limits above us hold for it too; None where that is not allowed."""
    places = _places()
    return _create_1(places, MARK + name) or _create_2(places, MARK + name)


def _create_1(places: dict[str, str], name: str) -> Group | None:
    group = Group(*(f"{places.get(controller, '')}/{name}" for controller in ("memory", "pids")))
    others = tuple(f"{places[controller]}/{name}" for controller in ("cpu",) if controller in places)
    if "memory" not in places or "pids" not in places:
        return None
    return _made(Group(group.memory, group.processes, others))


def _create_2(places: dict[str, str], name: str) -> Group | None:
    # Controllers can only be passed on to the children of a group without processes of its own, so often only a sibling can have them.
    here = places.get("")
    for parent in (here, os.path.dirname(here)) if here else ():
        group = Group(f"{parent}/{name}", f"{parent}/{name}", version=2)
        if parent.startswith(_ROOT) and _made(group):
            if all(os.path.exists(f"{group.memory}/{file}") for file in ("memory.max", "pids.max", "memory.events")):
                return group
            group.remove()
    return None


def _made(group: Group) -> Group | None:
    try:
        for directory in group.directories:
            os.mkdir(directory)
            if not os.access(f"{directory}/cgroup.procs", os.W_OK):
                raise PermissionError
    except OSError:
        group.remove()
        return None
    return group


def sweep() -> None:
    """Remove the groups of launchers that were killed before they could."""
    for place in set(_places().values()):
        for parent in (place, os.path.dirname(place)):
            with contextlib.suppress(OSError):
                for entry in os.scandir(parent):
                    pid = entry.name.removeprefix(MARK)
                    if pid != entry.name and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
                        with contextlib.suppress(OSError):
                            os.rmdir(entry.path)


def _places() -> dict[str, str]:
    """For each controller (and "" for the second version) the directory of the group that we are in."""
    found: dict[str, str] = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller:
                mounted = f"{_ROOT}/{controllers}"
                mounted = mounted if os.path.isdir(mounted) else f"{_ROOT}/{controller}"
            else:
                mounted = f"{_ROOT}/unified" if os.path.isdir(f"{_ROOT}/unified") else _ROOT
            place = (mounted + path).rstrip("/")
            if os.path.isdir(place):
                found[controller] = place
    return found


def _write(path: str, text: str, directory: int | None = None) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _read(path: str, directory: int | None = None) -> str:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(file, 1 << 16).decode()
    finally:
        os.close(file)

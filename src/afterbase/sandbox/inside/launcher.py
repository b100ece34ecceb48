"""One worker's launcher: a small process that starts one job after the other, each in namespaces of its own.

It exists because our own process is large and has threads, and because it can prepare once what all jobs share: the minimal root, in
which it lives itself, its control group, and a Python that has started already. The process that it was forked from, its *keeper*, stays
outside to see to it that launcher, jobs and group are gone when our own process dies, or either of them.

A job comes as a packet on `requests` with four descriptors: the job's control socket and its standard input, output and error. Shutting
our side of the control socket down kills the job; a last message on it, the epilogue, says that all its processes are gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import site
import socket
import sys
from typing import Any

from afterbase.sandbox.inside import cgroup, kernel, wire
from afterbase.sandbox.inside.bubblewrap import Bubblewrap
from afterbase.sandbox.inside.namespaces import Namespaces

PACKET = 4096  # bytes of the largest request
WATCH_SECONDS = 1.0  # between two looks at whether our own process still lives, besides the closing of its socket


def main(requests: int) -> None:
    """Read the settings from standard input, and serve until the other side closes `requests`; the caller's process is the keeper."""
    settings = json.load(sys.stdin)
    settings["hidden"] = [] if settings["packages"] else site.getsitepackages()
    parent = os.getppid()
    connection = socket.socket(fileno=requests)
    cgroup.sweep()
    group = cgroup.create(str(os.getpid())) if settings["groups"] else None
    try:
        launcher = _fork(settings, connection, group)
        connection.close()
        _keep(launcher, parent)
    except OSError as error:
        _fail(connection, error)
    finally:
        if group:
            group.remove()


def _fork(settings: dict[str, Any], connection: socket.socket, group: cgroup.Group | None) -> int:
    backend = (Namespaces if settings["isolation"] == "namespaces" else Bubblewrap)(settings, group is not None)
    backend.leave_host()
    launcher = os.fork()
    if launcher:
        return launcher
    try:
        kernel.die_with_parent(signal.SIGKILL)
        if group:
            group.enter()
        _serve(connection, backend, group.open() if group else None)
    except OSError as error:
        _fail(connection, error)
    finally:
        os._exit(0)


def _fail(connection: socket.socket, error: Exception) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(wire.pack({"failure": str(error)}))


def _keep(launcher: int, parent: int) -> None:
    """Wait for the launcher to end; end it when our own process has gone without closing its socket, which its other children may hold."""
    watched = select.poll()
    watched.register(os.pidfd_open(launcher), select.POLLIN)
    while not watched.poll(WATCH_SECONDS * 1000):
        if os.getppid() != parent:
            os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)


def _serve(connection: socket.socket, backend: Namespaces | Bubblewrap, group: cgroup.OpenGroup | None) -> None:
    backend.prepare()
    connection.sendall(wire.pack({"grouped": group is not None}))
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, PACKET, 4)
        if not data:
            return
        control, stdio = socket.socket(fileno=descriptors[0]), descriptors[1:]
        limits = json.loads(data)
        before = 0
        if group:
            group.limit(limits["memory_mb"], limits["processes"])
            before = group.kills()
        epilogue: dict[str, Any] = {"epilogue": True}
        try:
            watched = backend.start(limits, control, stdio)
            for descriptor in stdio:
                os.close(descriptor)
            _attend(connection, control, watched)
            epilogue["code"] = backend.reap()
        except OSError as error:
            epilogue["failure"] = str(error)
        epilogue["out_of_memory"] = bool(group and group.kills() > before)
        with contextlib.suppress(OSError), control:
            control.sendall(wire.pack(epilogue))


def _attend(connection: socket.socket, control: socket.socket, watched: list[int]) -> None:
    """Until all processes in `watched` have ended; kill them when the job is no longer wanted."""
    poller = select.poll()
    for process in watched:
        poller.register(process, select.POLLIN)
    for other in (connection, control):
        poller.register(other, select.POLLRDHUP)
    alive = set(watched)
    while alive:
        for descriptor, _ in poller.poll():
            poller.unregister(descriptor)
            if descriptor in alive:
                alive.remove(descriptor)
                os.close(descriptor)
                continue
            for process in alive:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process, signal.SIGKILL)

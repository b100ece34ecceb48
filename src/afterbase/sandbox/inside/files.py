"""A job's files: laid into its working directory before, read back out of a hostile one afterwards."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath


def lay(directory: str, files: Mapping[str, bytes]) -> None:
    """Write the files; all of them may be executed, since an artefact that comes back from compiling has lost its mode."""
    for name, content in files.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o755)


def collect(directory: int, names: Iterable[str], room: int) -> dict[str, bytes]:
    """Those of the names below an open directory that are regular files, not reached through a link, and fit into `room` bytes together."""
    found: dict[str, bytes] = {}
    for name in names:
        content = _read_regular(directory, name, room)
        if content is not None:
            found[name] = content
            room -= len(content)
    return found


def _read_regular(directory: int, name: str, room: int) -> bytes | None:
    # O_NONBLOCK: opening a FIFO or a device must not wait for anybody.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    *parents, last = PurePosixPath(name).parts
    with contextlib.ExitStack() as opened:
        try:
            for part in parents:
                directory = os.open(part, flags | os.O_DIRECTORY, dir_fd=directory)
                opened.callback(os.close, directory)
            file = os.open(last, flags, dir_fd=directory)
            opened.callback(os.close, file)
            about = os.fstat(file)
            if not stat.S_ISREG(about.st_mode) or about.st_size > room:
                return None
            with open(file, "rb", closefd=False) as content:
                read = content.read(room + 1)
        except OSError:
            return None
        return read if len(read) <= room else None

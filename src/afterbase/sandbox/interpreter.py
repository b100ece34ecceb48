"""The Python that jobs get: not the one of our virtual environment, whose packages are none of their business, but the one below it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from afterbase.errors import ConfigError

ETC = ("alternatives", "ld.so.cache", "java*", "php*", "mono*")
"""What language runtimes read in /etc."""
SEARCHED = ("/usr/local/bin", "/usr/bin", "/bin")


def interpreter(python: Path | None = None) -> Path:
    """The interpreter itself, all links followed; ConfigError when it is none."""
    chosen = Path(python) if python else Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if not python and not chosen.exists():
        chosen = Path(sys.executable)
    if not os.access(chosen, os.X_OK) or chosen.is_dir():
        raise ConfigError(f"sandbox.python={chosen} is no program; give the path of a Python interpreter, e.g. /usr/bin/python3")
    return chosen.resolve()


def search_path(python: Path) -> str:
    """The PATH of every job: the interpreter's own directory first, so that `python3` means the same everywhere."""
    return ":".join(dict.fromkeys((str(python.parent), *SEARCHED)))


def visible(python: Path, asked: Iterable[Path] = (), tools: Iterable[Path] = ()) -> tuple[str, ...]:
    """What jobs see of the host besides /usr: the interpreter's installation, settings of runtimes, what is asked for, and tools.

    ConfigError when the interpreter or what is asked for would show a home directory or the whole host; such a tool is just not shown.
    """
    prefix = python.parent.parent
    needed = [*asked, *([] if prefix in (Path("/usr"), Path("/")) else [prefix])]
    for path in needed:
        if revealing(path):
            raise ConfigError(f"{path} may not be shown to untrusted programs; move the interpreter or the tool to a directory of its own")
    shown = [place for path in needed for place in (path, path.resolve())]
    shown += [path for path in tools if not revealing(path)]
    shown += [path for pattern in ETC for path in Path("/etc").glob(pattern)]
    return tuple(sorted({str(path) for path in shown}))


def revealing(path: Path) -> bool:
    """Whether a directory holds, or is, one with more of the host than a tool."""
    private = (
        Path.home(),
        Path.cwd(),
        *(Path(name) for name in ("/home", "/root", "/proc", "/sys", "/dev", "/tmp", "/var", "/etc", "/run")),
    )
    return not path.is_absolute() or any(path == kept or path in kept.parents for kept in private)

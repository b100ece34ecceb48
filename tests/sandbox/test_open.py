"""From a recipe to the strongest sandbox, or to words that say why there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from afterbase.errors import ConfigError
from afterbase.sandbox.base import Limits
from afterbase.sandbox.interpreter import interpreter, search_path, visible
from afterbase.sandbox.open import SandboxConfig
from afterbase.sandbox.plain import PlainSandbox

FORBIDDEN = """
import platform
from afterbase.errors import ConfigError
from afterbase.sandbox.inside import kernel, seccomp
from afterbase.sandbox.open import SandboxConfig
kernel.no_new_privileges()
kernel.install_filter(seccomp.build_filter(platform.machine()))
print(SandboxConfig(isolation="none").build().workers > 0)
try:
    SandboxConfig().build()
except ConfigError as error:
    print(error)
"""


def test_none_is_plain_processes_and_only_when_asked_for():
    assert isinstance(SandboxConfig(isolation="none", workers=3).build(), PlainSandbox)
    assert SandboxConfig().isolation == "auto" and SandboxConfig(isolation="none", workers=3).build().workers == 3


def test_auto_takes_namespaces_where_they_work(namespaces):
    sandbox = SandboxConfig().build()
    assert sandbox.isolation.kind == "namespaces" and sandbox.workers == len(os.sched_getaffinity(0))
    sandbox.tidy()


def test_a_kernel_that_forbids_isolation_is_named_with_the_ways_out():
    done = subprocess.run([sys.executable, "-c", FORBIDDEN], capture_output=True, text=True, timeout=60)
    plain, words = done.stdout.splitlines()
    assert plain == "True" and "\n" not in words.strip()
    for part in ("namespaces: ", "unshare", "Operation not permitted", "bubblewrap: ", 'sandbox.isolation = "none"'):
        assert part in words


def test_the_limits_are_the_recipes():
    config = SandboxConfig(wall_seconds=1, cpu_seconds=2, memory_mb=30, processes=4, output_bytes=5, disk_mb=6)
    assert config.limits == Limits(1, 2, 30, 4, 5, 6)
    assert SandboxConfig().limits == Limits()


def test_an_interpreter_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="is no program; give the path of a Python interpreter"):
        SandboxConfig(python=Path("/no/such/python")).build()


def test_jobs_get_the_interpreter_below_the_environment_and_find_it_first():
    python = interpreter()
    assert (python.is_file() and not python.is_symlink() and Path(sys.base_prefix) in python.parents) or Path("/usr") in python.parents
    assert search_path(python).split(":")[0] == str(python.parent)


@pytest.mark.parametrize("path", ["/", "/home", str(Path.home()), str(Path.cwd()), str(Path.cwd().parent), "relative", "/tmp", "/etc"])
def test_no_recipe_shows_jobs_a_home_or_the_checkout(path):
    with pytest.raises(ConfigError, match="may not be shown to untrusted programs"):
        visible(Path("/usr/bin/python3"), [Path(path)])
    assert path not in visible(Path("/usr/bin/python3"), tools=[Path(path)])


def test_what_is_shown_is_the_interpreters_own_directory_and_not_its_parent(tmp_path):
    python = tmp_path / "versions" / "3" / "bin" / "python3"
    shown = visible(python, tools=[tmp_path / "tool"])
    assert {str(python.parents[1]), str(tmp_path / "tool")} <= set(shown) and str(tmp_path) not in shown

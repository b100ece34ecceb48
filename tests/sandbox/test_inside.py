"""The parts inside: the filter's arithmetic, messages in pieces, control groups by name."""

import errno
import struct

import pytest

from afterbase.sandbox.inside import cgroup, seccomp, wire
from afterbase.sandbox.inside.seccomp import LAST_KNOWN, build_filter, forbidden

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decide(machine: str, number: int, argument: int = 0, architecture: int | None = None) -> int:
    """What the filter answers, by a reading of classic BPF of our own."""
    data = struct.pack("=iIQ6Q", number, architecture or ARCHITECTURE[machine], 0, argument, *[0] * 5)
    code = list(struct.iter_unpack("=HBBI", build_filter(machine)))
    at = accumulator = 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        else:
            held = {0x15: accumulator == value, 0x25: accumulator > value, 0x45: bool(accumulator & value)}[operation]
            at += if_true if held else if_false


@pytest.mark.parametrize("machine", ARCHITECTURE)
def test_each_forbidden_call_is_refused_and_its_neighbours_are_not(machine):
    numbers = forbidden(machine)
    assert len(set(numbers.values())) == len(numbers) > 60
    special = {56, 41, 53} if machine == "x86_64" else {220, 198, 199}
    for number in range(LAST_KNOWN + 1):
        answer = decide(machine, number, argument=1)
        if number in numbers.values():
            assert answer in (ERRNO | errno.EPERM, ERRNO | errno.ENOSYS)
        elif number not in special:
            assert answer == ALLOW


@pytest.mark.parametrize(("machine", "clone", "socket"), [("x86_64", 56, 41), ("aarch64", 220, 198)])
def test_arguments_decide_over_clone_and_socket(machine, clone, socket):
    assert decide(machine, clone, 0x003D0F00) == ALLOW  # a thread
    assert decide(machine, clone, 17) == ALLOW  # a fork
    for flag in (0x10000000, 0x20000000, 0x40000000, 0x20000, 0x80, 0x8000000):
        assert decide(machine, clone, flag | 17) == ERRNO | errno.EPERM
    assert decide(machine, socket, 1) == decide(machine, socket + (12 if machine == "x86_64" else 1), 1) == ALLOW
    for family in (2, 10, 16, 17, 38, 40):
        assert decide(machine, socket, family) == ERRNO | errno.EAFNOSUPPORT


def test_other_calling_conventions_and_the_future_are_unknown():
    assert decide("x86_64", 1, architecture=0x40000003) == KILL
    assert decide("x86_64", 0x40000000 | 101) == decide("x86_64", LAST_KNOWN + 1) == ERRNO | errno.ENOSYS


def test_both_machines_forbid_the_same_calls_by_name():
    only_here = set(forbidden("x86_64")) - set(forbidden("aarch64"))
    assert set(forbidden("aarch64")) < set(forbidden("x86_64"))
    assert only_here == {name for name, numbers in (seccomp._FORBIDDEN | seccomp._UNKNOWN).items() if numbers[1] is None}


def test_a_message_is_read_only_when_it_is_whole():
    data = wire.pack({"a": 1}, {"x": b"123", "y": b""}) + wire.pack({"b": 2})
    first = len(wire.pack({"a": 1}, {"x": b"123", "y": b""}))
    assert all(wire.unpack(data[:length]) is None for length in range(first))
    assert wire.unpack(data) == ({"a": 1}, {"x": b"123", "y": b""}, first)
    assert wire.unpack(data[first:]) == ({"b": 2}, {}, len(data) - first)


def tree(tmp_path, monkeypatch, membership: str) -> None:
    monkeypatch.setattr(cgroup, "_ROOT", str(tmp_path))
    read = cgroup._read
    monkeypatch.setattr(cgroup, "_read", lambda path, directory=None: membership if path == "/proc/self/cgroup" else read(path, directory))


def kernel_files(monkeypatch, *names: str) -> None:
    """A kernel that puts these files into each new directory."""
    make = cgroup.os.mkdir

    def mkdir(path: str) -> None:
        make(path)
        for name in names:
            open(f"{path}/{name}", "w").close()

    monkeypatch.setattr(cgroup.os, "mkdir", mkdir)


def test_a_group_of_the_second_version_lies_beside_ours_when_it_may_not_lie_below(tmp_path, monkeypatch):
    (tmp_path / "user" / "app").mkdir(parents=True)
    tree(tmp_path, monkeypatch, "0::/user/app\n")
    kernel_files(monkeypatch, "cgroup.procs", "memory.max", "pids.max", "memory.events")
    below = cgroup.create("1")
    assert below == cgroup.Group(f"{tmp_path}/user/app/afterbase-1", f"{tmp_path}/user/app/afterbase-1", version=2)
    opened = below.open()
    (tmp_path / "user/app/afterbase-1/memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    opened.limit(64, 10)
    assert (tmp_path / "user/app/afterbase-1/memory.max").read_text() == str(64 << 20)
    assert (tmp_path / "user/app/afterbase-1/pids.max").read_text() == "12" and opened.kills() == 2


def test_groups_that_nobody_may_make_are_none(tmp_path, monkeypatch):
    (tmp_path / "memory").mkdir()
    (tmp_path / "pids").mkdir()
    tree(tmp_path, monkeypatch, "8:pids:/\n4:memory:/\n0::/\n")
    assert cgroup.create("1") is None  # no kernel put its files there
    assert list((tmp_path / "memory").iterdir()) == list((tmp_path / "pids").iterdir()) == []


def test_groups_of_the_dead_are_swept(tmp_path, monkeypatch):
    for name in ("afterbase-99999999", f"afterbase-{cgroup.os.getpid()}", "other"):
        (tmp_path / "memory" / name).mkdir(parents=True)
    tree(tmp_path, monkeypatch, "4:memory:/\n")
    cgroup.sweep()
    assert {entry.name for entry in (tmp_path / "memory").iterdir()} == {f"afterbase-{cgroup.os.getpid()}", "other"}

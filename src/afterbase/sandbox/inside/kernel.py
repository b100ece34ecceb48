"""The system calls that Python has no words for; each raises OSError when the kernel refuses."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

# <linux/sched.h>
NEW_NAMESPACE = {
    "mount": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000, "pid": 0x20000000,
    "net": 0x40000000, "time": 0x00000080,
}  # fmt: skip
SIGCHLD = 17

# <linux/mount.h>
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_ATTRIBUTE = {RDONLY: 1, NOSUID: 2, NODEV: 4, NOEXEC: 8}  # the same in mount_setattr(2)
_AT_RECURSIVE, _AT_FDCWD = 0x8000, -100

# <linux/prctl.h>, <linux/securebits.h>, <linux/seccomp.h>
_SET_PDEATHSIG, _SET_DUMPABLE, _CAPBSET_DROP, _SET_SECUREBITS, _SET_NO_NEW_PRIVS, _CAP_AMBIENT, _SET_SECCOMP = 1, 4, 24, 28, 38, 47, 22
_ROOT_IS_NOBODY = 0b101111  # NOROOT and NO_SETUID_FIXUP, locked; KEEP_CAPS off and locked
_AMBIENT_CLEAR_ALL = 4
_FILTER = 2
_CAPABILITY_VERSION = 0x20080522
LAST_CAPABILITY = 63

_NUMBER = {
    "x86_64": {"clone": 56, "pivot_root": 155, "capset": 126, "mount_setattr": 442},
    "aarch64": {"clone": 220, "pivot_root": 41, "capset": 91, "mount_setattr": 442},
}
MACHINES = tuple(_NUMBER)

# PyDLL keeps the interpreter's lock: the child of a clone wakes up holding it, as the child of a fork does.
_libc = ctypes.PyDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _call(name: str, *arguments: object) -> int:
    number = _NUMBER[platform.machine()][name]
    return _checked(_libc.syscall(ctypes.c_long(number), *arguments), name)


def _prctl(option: int, *values: int) -> int:
    padded = (*values, 0, 0, 0, 0)[:4]
    return _checked(_libc.prctl(option, *(ctypes.c_ulong(value) for value in padded)), f"prctl {option}")


def clone(*namespaces: str) -> int:
    """Fork into new namespaces: 0 in the child, which is their first process; its number in the parent."""
    flags = SIGCHLD
    for name in namespaces:
        flags |= NEW_NAMESPACE[name]
    ctypes.pythonapi.PyOS_BeforeFork()
    try:
        zero = ctypes.c_long(0)
        pid = _call("clone", ctypes.c_ulong(flags), zero, zero, zero, zero)
    except OSError:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        raise
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    return pid


def unshare(*namespaces: str) -> None:
    """Move this process (for "pid" its children) into new namespaces."""
    flags = 0
    for name in namespaces:
        flags |= NEW_NAMESPACE[name]
    _checked(_libc.unshare(flags), f"unshare {' '.join(namespaces)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    words = [word.encode() or None for word in (source, target, kind)]
    result = _libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None)
    _checked(result, f"mount {kind or source} on {target}")


def bind(source: str, target: str, flags: int) -> None:
    """Show a file or directory, and what is mounted below it, at a second place with stricter flags (RDONLY, NOSUID, NODEV, NOEXEC)."""
    mount(source, target, flags=BIND | REC)
    attributes = struct.pack("=QQQQ", sum(value for flag, value in _ATTRIBUTE.items() if flags & flag), 0, 0, 0)
    _call(
        "mount_setattr",
        ctypes.c_int(_AT_FDCWD),
        target.encode(),
        ctypes.c_uint(_AT_RECURSIVE),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    _call("pivot_root", new.encode(), old.encode())


def detach(target: str) -> None:
    """Unmount a tree at once, whatever is open in it."""
    _checked(_libc.umount2(target.encode(), _DETACH), f"umount {target}")


def die_with_parent(signal: int) -> None:
    """Get this signal when the parent's thread ends."""
    _prctl(_SET_PDEATHSIG, signal)


def hide(hidden: bool) -> None:
    """Whether others of the same user are kept from tracing this process and from reading its memory and descriptors in /proc."""
    _prctl(_SET_DUMPABLE, 0 if hidden else 1)


def no_new_privileges() -> None:
    """From now on no program that is run gives more rights: set-user-id bits and file capabilities are void."""
    _prctl(_SET_NO_NEW_PRIVS, 1)


def drop_bounding() -> None:
    """Empty the capability bounding set and see to it that user 0 means nothing; needs CAP_SETPCAP."""
    _prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    for capability in range(LAST_CAPABILITY + 1):
        try:
            _prctl(_CAPBSET_DROP, capability)
        except OSError:
            break  # past the last one that this kernel knows
    _prctl(_SET_SECUREBITS, _ROOT_IS_NOBODY)


def drop_capabilities() -> None:
    """Give up every capability."""
    _call("capset", struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24))


def install_filter(program: bytes) -> None:
    """Install a seccomp filter (an array of BPF instructions) for this process and all that it starts."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    holder = ctypes.create_string_buffer(header, len(header))
    _prctl(_SET_SECCOMP, _FILTER, ctypes.addressof(holder))

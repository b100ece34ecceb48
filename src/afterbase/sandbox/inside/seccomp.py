"""Which system calls a job may not make, as a seccomp filter in classic BPF.

A list of what is refused, not of what is allowed: eight language runtimes must live with it, on kernels to come. What it refuses is what
no program of a judge needs and what kernel holes have most often been found behind; numbers newer than this file are unknown to the job,
as on an older kernel.
"""

from __future__ import annotations

import errno
import struct

from afterbase.sandbox.inside.kernel import NEW_NAMESPACE

# name: number on x86_64, number on aarch64 (None where it does not exist)
_FORBIDDEN: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272), "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440), "move_pages": (279, 239), "migrate_pages": (256, 238),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "statmount": (457, 457), "listmount": (458, 458), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    # the machine
    "reboot": (169, 142), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None), "ioperm": (173, None), "syslog": (103, 116), "vhangup": (153, 58), "lookup_dcookie": (212, 18),
    "modify_ldt": (154, None), "personality": (135, 92), "uselib": (134, None), "ustat": (136, None), "sysfs": (139, None),
    "_sysctl": (156, None),
    "sync": (162, 81), "syncfs": (306, 267),  # makes all of the host wait for its disks
    # large and often broken machinery
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "vmsplice": (278, 75), "mbind": (237, 235), "set_mempolicy": (238, 237), "set_mempolicy_home_node": (450, 450),
    # memory that no limit of a process counts
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "memfd_secret": (447, 447),
}  # fmt: skip
# Those for which programs have another way when the kernel does not know them.
_UNKNOWN: dict[str, tuple[int | None, int | None]] = {
    "clone3": (435, 435),  # its flags are in memory, where a filter cannot see them; all fall back to clone
    "memfd_create": (319, 279),
    # The kernel counts these for the whole machine, or for the user who started the launcher, whom a job could so leave without any; and
    # a watch on what jobs see of the host tells what others open there.
    "io_setup": (206, 0), "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
}  # fmt: skip
_CLONE, _SOCKET, _SOCKETPAIR = (56, 220), (41, 198), (53, 199)
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
LAST_KNOWN = 462  # mseal

_AF_UNIX = 1
_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def forbidden(machine: str) -> dict[str, int]:
    """The calls that are refused outright, with their numbers on this machine."""
    column = list(_ARCHITECTURE).index(machine)
    return {name: numbers[column] for name, numbers in (_FORBIDDEN | _UNKNOWN).items() if numbers[column] is not None}


def build_filter(machine: str) -> bytes:
    """The filter for this kind of machine (x86_64 or aarch64)."""
    column = list(_ARCHITECTURE).index(machine)
    refuse, unknown = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    new_namespaces = 0
    for flag in NEW_NAMESPACE.values():
        new_namespaces |= flag
    # The bit of the time namespace lies where clone(2) takes the signal to send at the end, and no signal has the number 128.
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, _ARCHITECTURE[machine]),
        (_RETURN, 0, 0, _KILL),  # the 32-bit calls of the same processor have other numbers
        (_LOAD, 0, 0, _NUMBER_AT),
        (_ABOVE, 0, 1, LAST_KNOWN),  # also those of the x32 kind, whose bit 30 is set
        (_RETURN, 0, 0, unknown),
    ]
    for numbers, answer in [*((value, refuse) for value in _FORBIDDEN.values()), *((value, unknown) for value in _UNKNOWN.values())]:
        if numbers[column] is not None:
            code += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, answer)]
    code += [
        (_EQUAL, 0, 4, _CLONE[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_ANY_BIT, 0, 1, new_namespaces),
        (_RETURN, 0, 0, refuse),
        (_RETURN, 0, 0, _ALLOW),
        (_EQUAL, 1, 0, _SOCKET[column]),
        (_EQUAL, 0, 3, _SOCKETPAIR[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_EQUAL, 1, 0, _AF_UNIX),
        (_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)

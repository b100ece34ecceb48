"""Untrusted programs, run in isolation: their time, memory and reach are limited, their output is data.

    sandbox = SandboxConfig().build()                                     # sandbox/open.py; ConfigError where this machine cannot isolate
    execution = await sandbox.run(Job(("python3", "main.py"), {"main.py": program}, stdin), Limits(wall_seconds=5))

**What a job sees.** Its own user, mount, process, network, IPC, host name and control group namespaces. A read-only root with /usr, the
interpreter's own installation and settings of language runtimes; a private disk of limited size and number of files at /tmp, where its
working directory lies; five devices; a read-only /proc of its own processes. No network, not even to itself; no file, variable,
descriptor or process of the host; no packages beside the interpreter unless the recipe shows them.

**What a job may do.** It has no capability and can gain none; a filter refuses the system calls that trace, mount, make namespaces or
reach large kernel machinery, and sockets other than local ones. Limits: wall time (kept from outside, by killing everything), processor
time of each process, memory and processes of all together, disk, files, output. Memory and processes are limited by control groups where
those are writable; elsewhere the number of processes by the kernel's count for the namespace, and memory by a limit for each process and
a look at their sum 50 times a second, so that a job may be over its limit for that long.

**How jobs end.** When the program's first process ends, or a limit is passed, every other process of the job is killed; so they are when
our own process dies, by whatever. Files that were asked for are read after that, never through a link.

**Two ways to isolate.** `namespaces` makes the system calls itself (Linux 5.12 or later), as root or as anybody; a launcher for each
worker lives inside the minimal root and forks a started Python for each Python program. `bubblewrap` asks that program, for each job anew,
for systems that let only known programs make namespaces; not as root. Both pass the same attacks (tests/sandbox/attacks.py).

**Elsewhere.** `http` sends jobs to a server that speaks SandboxFusion's protocol; what is held there is that server's affair.

**What this does not hold.** Holes in the kernel, which the host shares with every job; what can be measured through shared processor
caches, or by how busy the machine is; the machine's own description (processor, memory and kernel version in /proc; names of mounted
devices); the host's own file locks, which a job may hold on a file that it can read, and notices that a directory it can read was used.
Two sandboxes at once have no common limit. `isolation = "none"` holds nothing at all (sandbox/plain.py).
"""

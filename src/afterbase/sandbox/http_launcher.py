"""Runs one job where a /run_code server has put us: it is sent as the code of a Python request, followed by a line that calls `main`.

Standard library and Python 3.8 only: whatever the server has. The job's files lie below job/, its input in the file stdin. A first line
on standard output says that it was started; what became of it goes into report.json, bytes as base64, since the protocol itself carries
text only and cuts it where it likes. The program could write that report in our place: it could only claim what it is free to do anyway.
"""

import base64
import contextlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time

PIECE = 1 << 16
STEADY = "import random\nrandom.seed(0)\n"  # a conversation is held by running again: what is drawn must come out the same


def main(text):
    """Run the job that the orders describe and write the report."""
    orders = json.loads(text)
    began = time.monotonic()
    variables = environment(orders)
    program = find(orders["argv"][0], variables["PATH"])
    if not program:
        print(orders["token"], orders["argv"][0] + ": No such file or directory", flush=True)
        return
    print(orders["token"], flush=True)  # before the program runs, so that it cannot say anything else in its place
    try:
        process = start(program, orders, variables)
    except OSError as error:
        write({"code": 126, "why": "", "seconds": 0.0, "stdout": "", "stderr": coded(str(error).encode()), "kept": {}})
        return
    threading.Thread(target=feed, args=(process.stdin, orders["hold"]), daemon=True).start()
    why, texts = watch(process, orders, began + orders["wall_seconds"])
    seconds = time.monotonic() - began
    output, errors = (coded(bytes(text[: orders["output_bytes"]])) for text in texts)
    kept = collect(orders["keep"], orders["disk_bytes"])
    write({"code": process.returncode, "why": why, "seconds": seconds, "stdout": output, "stderr": errors, "kept": kept})


def environment(orders):
    """What every sandbox sets, and the job's own variables; never the server's."""
    home = os.path.abspath("job")
    os.makedirs(home, exist_ok=True)
    path = os.path.dirname(sys.executable) + ":/usr/local/bin:/usr/bin:/bin"
    given = {"PATH": path, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
    if orders["hold"]:
        os.makedirs("steady", exist_ok=True)
        with open("steady/sitecustomize.py", "w") as file:
            file.write(STEADY)
        given["PYTHONPATH"] = os.path.abspath("steady")
    given.update(orders["environment"])
    return given


def find(name, path):
    """Where the program is; None when it is not there."""
    for directory, _, names in os.walk("job"):
        for file in names:
            os.chmod(os.path.join(directory, file), 0o755)
    if name == "python3":
        return sys.executable
    place = os.path.abspath(os.path.join("job", name)) if "/" in name else name
    return shutil.which(place, path=path)


def start(program, orders, variables):
    """The program in a session of its own, with its limits set before its first instruction."""
    limits = {
        resource.RLIMIT_CPU: (orders["cpu_seconds"], orders["cpu_seconds"] + 1),
        resource.RLIMIT_DATA: (orders["memory_bytes"],) * 2,
        resource.RLIMIT_FSIZE: (orders["disk_bytes"],) * 2,
        resource.RLIMIT_CORE: (1, 1),
    }

    def restrict():
        for which, wanted in limits.items():
            hard = resource.getrlimit(which)[1]
            resource.setrlimit(which, tuple(value if hard < 0 else min(value, hard) for value in wanted))

    return subprocess.Popen(
        orders["argv"], executable=program, cwd="job", env=variables, start_new_session=True, preexec_fn=restrict,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def feed(pipe, hold):
    """Write the whole input; a program that does not read it is no trouble."""
    with contextlib.suppress(OSError), open("stdin", "rb") as file:
        shutil.copyfileobj(file, pipe)
        pipe.flush()
        if not hold:
            pipe.close()


def watch(process, orders, until):
    """Take in what it prints until it ends or must be ended; why it was ended, and the two texts."""
    texts = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    output = texts[process.stdout.fileno()]
    poller = select.poll()
    for descriptor in texts:
        poller.register(descriptor, select.POLLIN)
    open_ones, why = set(texts), ""
    while not why and process.poll() is None:
        wait = until - time.monotonic()
        ready = poller.poll(max(1, min(50.0, 1000 * wait))) if open_ones else time.sleep(0.01)
        for descriptor, _ in ready or ():
            if not take(descriptor, texts[descriptor], orders["output_bytes"]):
                poller.unregister(descriptor)
                open_ones.discard(descriptor)
        why = verdict(output, texts.values(), orders, wait)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while any(take(descriptor, texts[descriptor], orders["output_bytes"]) for descriptor, _ in poller.poll(0)):
        pass
    return why or verdict(output, texts.values(), {**orders, "hold": 0}, 1), texts.values()


def take(descriptor, text, most):
    """Read one piece; past the limit it is thrown away, so that memory stays flat."""
    piece = os.read(descriptor, PIECE)
    text += piece[: most + 1 - len(text)]
    return len(piece)


def verdict(output, texts, orders, wait):
    """Why it must be ended now; empty while it may go on."""
    if any(len(text) > orders["output_bytes"] for text in texts):
        return "output"
    if orders["hold"] and output.count(b"\n") >= orders["hold"]:
        return "heard"
    return "timeout" if wait <= 0 else ""


def collect(names, room):
    """Regular files of the job, not reached through a link, as far as they fit."""
    kept = {}
    for name in names:
        path = os.path.join(os.path.abspath("job"), name)
        with contextlib.suppress(OSError):
            if os.path.realpath(path) == path and os.path.isfile(path) and os.path.getsize(path) <= room:
                with open(path, "rb") as file:
                    content = file.read(room)
                kept[name] = coded(content)
                room -= len(content)
    return kept


def coded(content):
    """Bytes as text."""
    return base64.b64encode(content).decode()


def write(report):
    """The report, into a file of our own: the program may have put anything in its place."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink("report.json")
    with open(os.open("report.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "w") as file:
        json.dump(report, file)

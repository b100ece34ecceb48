"""The kernels beside this file, compiled for this processor the first time they are needed; None where that cannot be done.

On a CPU a small model is bound by trips through memory and by the number of operations, not by arithmetic: a norm that torch writes as
six passes is one here. Everything that uses a kernel has the same thing in torch, beside it or in the model, and a test that they agree.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
SOURCES = tuple(HERE / name for name in ("kernels.cpp", "latent.cpp"))
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros")
"""No -ffast-math: it would let the compiler take NaN for impossible, and a bad gradient must stay visible."""
WIDE = ("-mprefer-vector-width=512",)
KINDS = {torch.float32: 0, torch.bfloat16: 1}
"""The dtypes that kernels read, and the number they go by."""
WIDEST_HEAD = 1024
"""What decoding attention has room for; MOST in the source."""
BUILD_SECONDS = 120
PAGE, HUGE_PAGE, MADV_HUGEPAGE = 4096, 1 << 21, 14
"""Bytes, and Linux's number for the advice."""


SIGNATURES = {
    "add_norm": "iiiippp fppp",
    "norm_backward": "iiii ppppp ppp",
    "swiglu": "iiii ppp",
    "swiglu_backward": "iiii ppp pp",
    "rotate": "iiiiii ppp fip",
    "decode_attention": "iiiiii ppp f ppp f ppp",
    "draw": "iii pppp pp",
    "decode_latents": "iiiiiiiiiii ppp f ppp f pppp",
    "add_experts": "iiiiiiiii f pppppp",
}
"""What each kernel takes: i a whole number, f a float, p a tensor or None."""
CODES = {"i": ctypes.c_int64, "f": ctypes.c_float, "p": ctypes.c_void_p}


class Kernels:
    """The compiled functions."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.functions = {name: library[f"native_{name}"] for name in SIGNATURES}
        for name, function in self.functions.items():
            function.argtypes = [CODES[code] for code in SIGNATURES[name] if code != " "]
            function.restype = None

    def __call__(self, name: str, *arguments: Tensor | int | float | None) -> None:
        """Run one kernel. The caller has seen to it that tensors are dense where the kernel wants them so."""
        self.functions[name](*[each.data_ptr() if isinstance(each, Tensor) else each for each in arguments])


@functools.cache
def kernels() -> Kernels | None:
    """The kernels, built once for each machine and version of their source."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        return None
    command = (compiler, *FLAGS, *(WIDE if platform.machine() == "x86_64" else ()))
    text = b"".join(source.read_bytes() for source in (*SOURCES, HERE / "common.h"))
    key = hashlib.sha256(text + repr((command, _processor(), torch.__version__)).encode()).hexdigest()[:16]
    for directory in (Path.home() / ".cache" / "afterbase", Path(tempfile.gettempdir(), f"afterbase-{os.getuid()}")):
        try:
            return _loaded(command, directory, key)
        except (OSError, subprocess.SubprocessError):
            continue  # not writable, or not allowed to load from: try the next place, then do without
    return None


def kernels_for(tensor: Tensor) -> Kernels | None:
    """The kernels, where they can read such a tensor: on a CPU, in one of `KINDS`."""
    return kernels() if tensor.device.type == "cpu" and tensor.dtype in KINDS else None


def spread(memory: Tensor) -> Tensor:
    """The same memory on huge pages where Linux has them: a cache is read a little from everywhere, and page tables cost as much."""
    start, end = -(-memory.data_ptr() // PAGE) * PAGE, memory.data_ptr() + memory.nbytes
    if memory.device.type == "cpu" and sys.platform == "linux" and end - start > HUGE_PAGE:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t((end - start) // PAGE * PAGE), MADV_HUGEPAGE)
    return memory


def _loaded(command: tuple[str, ...], directory: Path, key: str) -> Kernels:
    library = directory / f"kernels-{key}.so"
    if not library.exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as build:
            compiled, linked = [Path(build, f"{source.stem}.o") for source in SOURCES], Path(build, "kernels.so")
            # Linked without -fopenmp: the threads must be those of the OpenMP that torch has loaded, a second pool would fight it.
            for source, part in zip(SOURCES, compiled, strict=True):
                _run(*command, "-fopenmp", "-c", str(source), "-o", str(part))
            _run(command[0], "-shared", *map(str, compiled), "-o", str(linked))
            ctypes.CDLL(str(linked))  # an OSError here, before others find it
            os.replace(linked, library)
    if library.stat().st_uid != os.getuid():
        raise PermissionError(f"{library} belongs to somebody else")
    return Kernels(ctypes.CDLL(str(library)))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=BUILD_SECONDS)


def _processor() -> str:
    """What -march=native depends on: a home directory may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))

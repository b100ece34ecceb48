"""Every kernel of training that is not decoding's too compiles for a Hopper GPU, on a machine that has none."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed here, so its kernels cannot be compiled")

SCRIPT = """
import triton
from triton.backends.compiler import GPUTarget
from afterbase.model.cuda import experts, joints

INTEGERS = dict.fromkeys(("total", "experts", "width", "inner", "count", "stride"), "i32")
INDICES = {**dict.fromkeys(("counts", "before", "order", "place"), "*i32"), "chosen": "*i64"}
FLOATS = dict.fromkeys(("scores", "gates", "into_gates", "cos", "sin"), "*fp32")

def check(kernel, **constants):
    kinds = {**INTEGERS, **INDICES, **FLOATS}
    signature = {name: kinds.get(name, "*bf16") for name in kernel.arg_names if name not in constants}
    source = triton.compiler.ASTSource(kernel, {**signature, **dict.fromkeys(constants, "constexpr")}, constants)
    triton.compile(source, target=GPUTarget("cuda", 90, 32))

check(experts._choose, GROUPS=8, G_PADDED=8, TOP_GROUPS=4, BEST=2, SIZE=8, S_PADDED=8, COPIES=8, C_PADDED=8)
check(experts._count, EXPERTS=256, CHOICES=experts.CHOICES)
check(experts._place, EXPERTS=256, CHOICES=experts.CHOICES)
check(experts._add, BASE=True, COPIES=8, COLUMNS=experts.COLUMNS)
check(experts._weight, BLOCK=256)
check(experts._weight_backward, BLOCK=2048)
LATENT = dict(NOPE=128, N_PADDED=128, HALF=32, H_PADDED=32, VALUE=128, W_PADDED=256, INTERLEAVED=True, TOKENS=joints.TOKENS)
check(joints._join, **LATENT)
check(joints._part, HEADS=128, **LATENT)
"""


def test_every_kernel_of_training_compiles_for_a_gpu(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**environment, "TRITON_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-3000:]

"""What the card itself does: a large matrix product and a large copy."""

import json
import sys
import time

import torch

small = json.loads(sys.argv[1])["rehearse"]
device = "cuda" if torch.cuda.is_available() else "cpu"


def seconds(work, times: int) -> float:
    for _ in range(3):
        work()
    wait()
    began = time.perf_counter()
    for _ in range(times):
        work()
    wait()
    return (time.perf_counter() - began) / times


def wait() -> None:
    if device == "cuda":
        torch.cuda.synchronize()


side, length = (256, 1 << 20) if small else (8192, 1 << 31)
a, b = torch.randn(2, side, side, device=device).bfloat16()
flops = 2 * side**3 / seconds(lambda: a @ b, 30)
source = torch.empty(length, dtype=torch.bfloat16, device=device).normal_()
target = torch.empty_like(source)
moved = 2 * source.nbytes / seconds(lambda: target.copy_(source), 20)
print(json.dumps({"flops_per_second": flops, "bytes_per_second": moved}))

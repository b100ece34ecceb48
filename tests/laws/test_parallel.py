"""Several processes learn what one learns: losses, every gradient, whole updates, and what is saved, on every side of the mesh."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from afterbase.errors import ConfigError
from afterbase.model.attend import attend
from afterbase.model.parallel.mesh import MeshConfig, Sizes
from afterbase.segments import Segments

WORKER = Path(__file__).with_name("parallel_worker.py")
SIDES = ("data", "tensor", "context", "expert")
FAMILIES = ("llama", "qwen2", "qwen3", "deepseek_v3 with MTP")
CHECKS = [
    *(f"gradients, {side}, {family}" for side in SIDES for family in FAMILIES if side != "expert" or family.startswith("deepseek")),
    *(f"{what}, {side}" for side in SIDES for what in ("steps", "score", "one short sample", "recomputed blocks")),
    *(f"alike, {what}" for what in ("Muon", "adapters", "masters", "FP8")),
    *(f"loaded, {what}" for what in (*SIDES, "tied", "FP8")),
    *(
        "gradients, modules cut off from the trunk",
        "gradients, another temperature",
        "saved, tensor to expert",
        "saved, data to tensor",
        "saved, unlearned",
        "loaded in little memory",
        "a bad batch",
        "a bad batch, alike",
        *(f"bfloat16, {side}" for side in SIDES[:3]),
        "refusals",
    ),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, str]:
    """What two processes found of each check: nothing, or what went wrong."""
    room = tmp_path_factory.mktemp("parallel")
    for name in "abc":
        (room / name).mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}
    ranks = [
        subprocess.Popen([sys.executable, str(WORKER), str(room)], env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            rank.wait(timeout=300)
    finally:
        for rank in ranks:
            rank.kill()
    said = [json.loads((room / f"found-{rank}.json").read_text()) for rank in range(2)]
    return {name: said[0].get(name, "not reached") or said[1].get(name, "not reached") for name in {*said[0], *said[1]}}


@pytest.mark.parametrize("check", CHECKS)
def test_two_processes_do_what_one_does(found: dict[str, str], check: str):
    assert found.get(check, "not reached") == ""


def test_every_check_is_looked_at(found: dict[str, str]):
    assert sorted(found) == sorted(CHECKS)


@pytest.mark.parametrize(
    ("asked", "world", "said"),
    [
        ({"tensor": 3}, 4, "tensor=3 x expert=1 x context=1 = 3 does not divide the 4 processes .* one of 1, 2 or 4"),
        ({"data": 2, "tensor": 4}, 4, "is 8, but 4 processes were started; set data=1 or -1, or start 8"),
        ({"context": 2}, 1, "does not divide the 1 processes"),
    ],
)
def test_a_mesh_that_does_not_fit_the_processes_names_those_that_would(asked: dict, world: int, said: str):
    with pytest.raises(ConfigError, match=said):
        Sizes.of(MeshConfig(**asked), world)


@pytest.mark.parametrize(
    ("family", "asked", "said"),
    [
        ("qwen3", {"tensor": 4}, "tensor=4 does not divide this model's num_key_value_heads=2; 1 or 2 would"),
        ("deepseek_v3", {"expert": 3}, "expert=3 does not divide this model's n_routed_experts=8; 1, 2, 4 or 8 would"),
        ("llama", {"expert": 2}, "a llama model has no experts; set it to 1"),
        ("qwen2", {"tensor": 2, "data": 3}, "data x context x expert=3 does not divide this model's hidden_size=16"),
    ],
)
def test_a_mesh_that_does_not_fit_the_model_names_those_that_would(tiny: Callable, family: str, asked: dict, said: str):
    sizes = {"data": 1, "context": 1, "expert": 1, "tensor": 1, **asked}
    with pytest.raises(ConfigError, match=said):
        Sizes(**sizes).check(tiny(family).config)


@pytest.mark.parametrize("cut", [1, 5, 7, 8, 11])
def test_queries_that_begin_in_the_middle_of_a_sequence_see_all_of_it(cut: int):
    """Attention of the tokens from `cut` on, with the keys and values from the beginning of their first sequence, is that of the stream."""
    torch.manual_seed(0)
    lengths = [3, 5, 4]
    q, k, v = torch.randn(12, 4, 6), torch.randn(12, 2, 6), torch.randn(12, 2, 5)
    whole = attend(q, k, v, Segments.of(lengths), 0.4)
    begins = [0, 3, 8, 12]
    first = next(i for i in range(3) if begins[i + 1] > cut)
    rest = Segments.of([begins[first + 1] - cut, *lengths[first + 1 :]])
    torch.testing.assert_close(attend(q[cut:], k[begins[first] :], v[begins[first] :], rest, 0.4), whole[cut:], atol=1e-6, rtol=1e-5)

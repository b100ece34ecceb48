"""Checkpoints are read and written tensor by tensor: what that costs in memory, and what a failure leaves behind."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from afterbase.errors import CheckpointError
from afterbase.model import saving
from afterbase.model.checkpoint import hf_weights, load_config, load_model, save_model
from afterbase.model.config import ModelConfig
from afterbase.model.transformer import Transformer

SHAPES = {"num_attention_heads": 4, "max_position_embeddings": 64}
FAMILIES = {
    "llama": {"num_key_value_heads": 4},
    "qwen2": {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "deepseek_v3": {
        "q_lora_rank": 64, "kv_lora_rank": 64, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
    },
}  # fmt: skip
WIDE = {"hidden_size": 512, "intermediate_size": 1024, "vocab_size": 8_000, "num_hidden_layers": 6}
SPARSE = {**WIDE, "n_routed_experts": 16, "moe_intermediate_size": 512, "num_hidden_layers": 3, "num_nextn_predict_layers": 1}
CASES = {
    "widened": ("llama", WIDE, torch.bfloat16, torch.float32),
    "narrowed": ("llama", WIDE, torch.float32, torch.bfloat16),
    "tied": ("qwen2", WIDE, torch.float32, torch.float32),
    "experts from FP8": ("deepseek_v3", SPARSE, torch.float8_e4m3fn, torch.float32),
}
"""Family, sizes, what the files hold and what the model is to be."""
GIVEN_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""What is freed goes back to the system at once, else the next measurement would find it there already."""
MEASURE = """
import json, sys, torch
from pathlib import Path
from afterbase.model.checkpoint import load_model, save_model
torch.set_num_threads(1)

def highest(work):
    "What work makes, and the memory that it needs beyond what is there before, at its highest, in bytes."
    Path("/proc/self/clear_refs").write_text("5")
    table = lambda: dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    before = int(table()["VmRSS"].split()[0])
    made = work()
    return made, 1024 * (int(table()["VmHWM"].split()[0]) - before)

def measured(path, kind):
    model, reading = highest(lambda: load_model(path, dtype=kind))
    _, writing = highest(lambda: save_model(model, Path(sys.argv[1]), torch.bfloat16, 8 << 20))
    sizes = [p.nbytes for p in model.parameters()]
    return {"reading": reading - sum(sizes), "writing": writing, "largest": max(sizes)}

jobs = [(Path(path), getattr(torch, kind)) for path, kind in json.loads(sys.argv[2])]
measured(*jobs[-1])  # what a first time imports and sets up
print(json.dumps([measured(*job) for job in jobs]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is read from /proc")
def test_reading_needs_one_file_beyond_the_model_and_writing_one_tensor(tmp_path):
    """1.2 times the largest file, and 2 MiB for what else comes and goes in a process; the checkpoints have three files or more."""
    jobs, largest = [], []
    (tmp_path / "out").mkdir()
    for number, (family, sizes, stored, wanted) in enumerate(CASES.values()):
        with torch.device("meta"):
            model = Transformer(ModelConfig.from_hf({"model_type": family, **SHAPES, **FAMILIES[family], **sizes}))
        model.to_empty(device="cpu")
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data.fill_(0.5)
        path = tmp_path / str(number)
        path.mkdir()
        save_model(model, path, stored, shard_bytes=18 << 20)
        files = [file.stat().st_size for file in path.glob("*.safetensors")]
        assert len(files) > 2
        jobs.append((str(path), str(wanted).removeprefix("torch.")))
        largest.append(max(files))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "out"), json.dumps(jobs)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **GIVEN_BACK})
    for case, file, found in zip(CASES, largest, json.loads(told.stdout.splitlines()[-1]), strict=True):
        assert found["reading"] < 1.2 * file + (2 << 20), case
        assert found["writing"] < found["largest"] + (2 << 20), case


def same(first: Transformer, second: Transformer) -> bool:
    first, second = dict(hf_weights(first)), dict(hf_weights(second))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def files(directory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_save_that_fails_leaves_the_old_checkpoint_as_it_was(tiny, tmp_path, monkeypatch):
    save_model(tiny("qwen3"), tmp_path)
    before, written = files(tmp_path), []

    def full(entries, path):
        if written:
            raise OSError("disk full")
        written.append(path)
        path.write_bytes(b"half")

    monkeypatch.setattr(saving, "write_safetensors", full)
    with pytest.raises(OSError, match="disk full"):
        save_model(tiny("qwen3", seed=1), tmp_path, shard_bytes=5_000)
    assert written and files(tmp_path) == before


@pytest.mark.parametrize("done", range(4))
def test_a_save_that_is_killed_while_it_takes_the_others_place_leaves_nothing_that_loads(tiny, tmp_path, monkeypatch, done):
    """Two shards, the index and the config are moved one by one; only all of them are a checkpoint."""
    save_model(tiny("qwen3"), tmp_path)
    moved = []

    def killed(old, new):
        if len(moved) == done:
            raise KeyboardInterrupt
        moved.append(new)
        os.rename(old, new)

    monkeypatch.setattr(saving.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_model(tiny("qwen3", seed=1), tmp_path, shard_bytes=15_000)
    with pytest.raises(CheckpointError, match=r"it has no config\.json"):
        load_model(tmp_path)


def test_what_a_killed_save_left_is_swept_away_also_by_a_process_of_the_same_number(tiny, tmp_path):
    for number in (os.getpid(), 1):
        (tmp_path / f".weights.tmp-{number}").mkdir()
        (tmp_path / f".weights.tmp-{number}" / "model.safetensors").write_bytes(b"half")
    save_model(tiny("qwen3"), tmp_path)
    assert sorted(files(tmp_path)) == ["config.json", "model.safetensors"]


def test_a_checkpoint_takes_the_place_of_another_whole(tiny, tmp_path):
    """Many files before, one after, and the other way round; a tokenizer beside them stays."""
    (tmp_path / "tokenizer.json").write_text("{}")
    for seed, shard_bytes in enumerate((5_000, 1 << 30, 5_000)):
        save_model(tiny("qwen3", seed=seed), tmp_path, shard_bytes=shard_bytes)
        assert same(load_model(tmp_path), tiny("qwen3", seed=seed))
        assert (len(list(tmp_path.glob("*.safetensors"))) == 1) == (seed == 1)
    assert (tmp_path / "tokenizer.json").exists() and not list(tmp_path.glob(".*"))


def test_a_file_cut_short_is_refused_before_memory_is_asked_for(tiny, tmp_path, monkeypatch):
    """Also the last of many."""
    save_model(tiny("qwen3"), tmp_path, shard_bytes=5_000)
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-1])
    monkeypatch.setattr(Transformer, "to_empty", lambda *_, **__: pytest.fail("memory was asked for"))
    with pytest.raises(CheckpointError, match=rf"{last.name} is not a whole safetensors file"):
        load_model(tmp_path)


def test_a_tied_head_is_given_no_memory_of_its_own(tiny, tmp_path, monkeypatch):
    save_model(tiny("qwen2"), tmp_path)
    given, whole = [], Transformer.to_empty

    def seen(self, device):
        given.extend(name for name, _ in self.named_parameters(remove_duplicate=False))
        return whole(self, device=device)

    monkeypatch.setattr(Transformer, "to_empty", seen)
    model = load_model(tmp_path)
    assert "model.embed_tokens.weight" in given and "lm_head.weight" not in given
    assert model.lm_head.weight is model.model.embed_tokens.weight


def stack(directory, experts: int) -> None:
    """Rewrite a checkpoint as transformers 5 has it in memory: gate and up projections of all experts in one tensor, and down in one."""
    stored = load_file(directory / "model.safetensors")
    for prefix in sorted({name.split(".experts.")[0] for name in stored if ".experts." in name}):
        parts = {kind: [stored.pop(f"{prefix}.experts.{e}.{kind}_proj.weight") for e in range(experts)] for kind in ("gate", "up", "down")}
        both = [torch.cat(pair) for pair in zip(parts["gate"], parts["up"], strict=True)]
        stored |= {f"{prefix}.experts.gate_up_proj": torch.stack(both), f"{prefix}.experts.down_proj": torch.stack(parts["down"])}
    save_file(stored, directory / "model.safetensors")


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v2", "deepseek_v3"])
def test_stacked_experts_are_read_as_well(tiny, tmp_path, family):
    model = tiny(family, **({"num_nextn_predict_layers": 1} if family == "deepseek_v3" else {}))
    save_model(model, tmp_path)
    stack(tmp_path, experts=8)
    assert same(load_model(tmp_path), model)


def test_a_stack_of_another_number_of_experts_is_named(tiny, tmp_path):
    save_model(tiny("qwen3_moe"), tmp_path)
    stack(tmp_path, experts=8)
    table = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**table, "num_experts": 4}))
    said = r"model\.layers\.0\.mlp\.experts\.gate_up_proj is \[8, 16, 16\], the config wants \[4, 16, 16\] \(in .*model\.safetensors\)"
    with pytest.raises(CheckpointError, match=said):
        load_model(tmp_path)


def test_an_expert_number_has_two_names_and_the_published_one_is_written(tiny, tmp_path):
    """transformers 5 writes num_local_experts, the published files say num_experts."""
    table = tiny("qwen3_moe").config.to_hf()
    assert table["num_experts"] == 8 and "num_local_experts" not in table
    table["num_local_experts"] = table.pop("num_experts")
    (tmp_path / "config.json").write_text(json.dumps(table))
    again = load_config(tmp_path)
    assert again.n_routed_experts == 8 and again.to_hf()["num_experts"] == again.to_hf()["num_local_experts"] == 8

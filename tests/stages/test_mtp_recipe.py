"""The recipe of the model on which drafting is measured, at a size that fits into the test suite."""

import asyncio
from pathlib import Path

import pytest

from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.records import Sampling
from afterbase.stages.session import load_pair
from afterbase.track import read_metrics

RECIPE = Path(__file__).parents[2] / "recipes" / "mtp_deepseek.toml"
SMALL = (
    "steps=2", "tokens_per_step=1024", "tokenizer_documents=200", "architecture.hidden_size=32", "architecture.num_hidden_layers=2",
    "architecture.intermediate_size=48", "architecture.n_routed_experts=8", "architecture.moe_intermediate_size=16",
    "architecture.kv_lora_rank=16", "architecture.q_lora_rank=16", "architecture.num_attention_heads=2", 'trainer.precision="float32"',
)  # fmt: skip


@pytest.fixture
def trained(command, tmp_path):
    directory = tmp_path / "run"
    code, said, _ = command("pretrain", RECIPE, *SMALL, "--out", directory)
    assert code == 0 and "pretrain is done" in said
    return directory


def test_every_step_learns_the_modules_too(trained):
    rows = read_metrics(trained / "metrics.jsonl")
    assert len(rows) == 2 and all(row["train/mtp_loss/mean"] > 0 for row in rows)


def test_what_it_trains_drafts_past_its_only_module_and_changes_no_token(trained):
    model, tokenizer = load_pair(trained / "checkpoints" / "final")
    drafting = {"kind": "mtp", "tokens": 2, "always": True}
    engines = [LocalEngine(model, EngineConfig(rows=2, context=128, speculative=how)) for how in (None, drafting)]
    prompt, sampling = tokenizer.encode("What is the capital of Peru?"), Sampling(max_tokens=12, seed=5)
    plain, drafted = (asyncio.run(engine.generate(prompt, sampling, tag="facts"))[0].tokens for engine in engines)
    assert len(model.mtp) == 1 and drafted == plain
    told = engines[1].speculation()
    assert told.by_tag["facts"].drafted[0] == told.whole.drafted[0] > 0

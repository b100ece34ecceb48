"""`afterbase plan`: what it picks, what it says, and when a stage refuses to begin."""

import json
import tomllib
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from afterbase.cli import app
from afterbase.errors import ConfigError
from afterbase.model.config import ModelConfig
from afterbase.stages import fitting
from afterbase.stages.fitting import Job, certain, check, choose, engine_parts, refuse_what_cannot_fit
from afterbase.stages.plan import memory, record, settings, toml
from afterbase.train.trainer import TrainerConfig

GIB = 2**30
SHAPE = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
MODEL = ModelConfig.from_hf(SHAPE)
JOB = Job(MODEL, drawing=False, reference=False, together=True, tokens=32768, longest=4096, rows=256, gpus=1, card=80 * GIB)
RL = replace(JOB, drawing=True, together=False)


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    return tmp_path


def asked(directory, *words):
    return CliRunner().invoke(app, ["plan", "--model", str(directory), *words])


def test_with_room_enough_nothing_is_computed_twice_or_moved():
    chosen = choose(replace(JOB, card=141 * GIB)).trainer
    assert (chosen.tokens_per_batch, chosen.recompute, chosen.offload) == (32768, 0, False)


def test_the_less_room_the_shorter_the_passes_then_the_more_is_recomputed_then_states_leave():
    fits = [choose(replace(JOB, card=card * GIB)) for card in (141, 80, 40, 34, 24)]
    assert all(fit.fits for fit in fits)
    steps = [(fit.trainer.offload, -fit.trainer.tokens_per_batch) for fit in fits]
    assert steps == sorted(steps)
    assert [fit.trainer.recompute > 0 for fit in fits[:2]] == [False, False]
    assert fits[3].trainer.recompute > 0
    assert fits[-1].trainer.offload


def test_of_a_recomputation_no_more_blocks_than_needed():
    fit = choose(replace(JOB, card=34 * GIB))
    assert fit.trainer.recompute
    fewer = fitting.fitted(JOB, fit.trainer.model_copy(update={"recompute": fit.trainer.recompute - 1}))
    assert fewer.total - fewer.parts["allocator's gaps"] > 34 * GIB * (1 - fitting.SLACK)


def test_a_pass_holds_the_longest_sample():
    assert choose(replace(JOB, longest=8192, card=24 * GIB)).trainer.tokens_per_batch >= 8192


def test_rl_adds_the_engines_copies_and_a_cache_of_every_row_at_its_longest():
    drawn, learned = choose(replace(RL, card=200 * GIB)).parts, choose(replace(JOB, card=200 * GIB)).parts
    assert drawn["KV cache"] == 256 * 4096 * 28 * 2 * 2 * 128 * 2
    assert drawn["engine's copies"] == 2 * (1_543_714_304 - 28 * (2 * 1536 + 2048) - 1536)
    assert sum(drawn.values()) - sum(learned.values()) == drawn["KV cache"] + drawn["engine's copies"]


def test_where_the_whole_cache_does_not_fit_it_is_bounded():
    engine = choose(replace(RL, card=64 * GIB)).engine
    assert engine.memory == 14
    assert choose(RL).engine.memory is None


def test_a_reference_takes_its_weights_and_copies_unless_adapters_learn():
    frozen = fitting.fitted(replace(RL, reference=True), TrainerConfig(precision="bfloat16")).parts["reference model"]
    assert frozen == 4 * 1_543_714_304 + 2 * (1_543_714_304 - 28 * (2 * 1536 + 2048) - 1536 - 151936 * 1536)
    adapted = TrainerConfig.model_validate({"precision": "bfloat16", "lora": {}})
    assert "reference model" not in fitting.fitted(replace(RL, reference=True), adapted).parts


def test_more_gpus_share_the_states_and_cut_layers_only_when_that_is_not_enough():
    eight = choose(replace(JOB, gpus=8, tokens=8 * 32768))
    assert eight.parts["optimizer"] == pytest.approx(8 * 1_543_714_304 / 8, rel=0.001)
    assert (eight.trainer.mesh.tensor, eight.trainer.mesh.context) == (1, 1)
    narrow = choose(replace(JOB, gpus=2, tokens=2 * 32768, card=19 * GIB))
    assert narrow.trainer.mesh.tensor == 2 or narrow.trainer.mesh.context == 2


def test_the_parts_add_up_and_the_settings_are_a_recipes(directory):
    found = json.loads(asked(directory, "--gpu", "40GB", "--stage", "rl", "--json").output)
    assert found["fits"] and sum(found["parts"].values()) == found["total"] <= found["card"] == 40 * GIB
    told = tomllib.loads(toml(found["settings"]))
    assert told == found["settings"] or told["trainer"] == found["settings"]["trainer"]
    TrainerConfig.model_validate(told["trainer"])


def test_exit_codes_say_whether_it_fits(directory):
    assert asked(directory, "--gpu", "80GB").exit_code == 0
    short = asked(directory, "--gpu", "12GB", "--stage", "sft")
    assert short.exit_code == 1
    assert "it does not fit" in short.output and "to change: a GPU of " in short.output
    assert "with trainer.lora" in short.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--stage", "evaluate"], "pretrain, sft, rl"), (["--gpu", "many"], "such as 80GB"), (["--longest", "9000"], "context of 8192"),
        (["--tokens", "100", "--longest", "200"], "raise --tokens"), (["--model", "/nowhere"], "no checkpoint"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_a_sentence(directory, words, told):
    said = asked(directory, *words)
    assert said.exit_code == 2
    assert told in said.output and said.output.count("\n") == 1


def test_memory_is_told_as_makers_write_it():
    assert memory("80GB") == memory("80") == memory("80 GiB") == 80 * GIB
    assert memory("141.5g") == int(141.5 * GIB)


def test_rl_on_several_gpus_says_that_it_uses_one():
    job = replace(RL, gpus=8)
    assert any("runs on one GPU; the other 7" in line for line in record(job, choose(job))["why"])
    assert "trainer.mesh" not in settings(choose(job))


def test_a_stage_refuses_what_cannot_fit_and_names_the_largest_parts():
    parts = {"weights": 6 * GIB, "optimizer": 12 * GIB, "gradients": 6 * GIB, "logits": GIB}
    with pytest.raises(ConfigError, match=r"about 25\.0 GiB.*\(optimizer 12\.0 GiB, weights 6\.0 GiB, gradients 6\.0 GiB\) and 20\.0 GiB"):
        check(parts, 20 * GIB)


def test_what_is_close_is_not_refused():
    check({"weights": 21 * GIB}, 20 * GIB)
    with pytest.raises(ConfigError):
        check({"weights": 23 * GIB}, 20 * GIB)


def test_a_gpu_is_asked_how_much_is_free_and_a_cpu_never(monkeypatch):
    trainer = TrainerConfig(precision="bfloat16")
    refuse_what_cannot_fit(MODEL, trainer)  # on this CPU
    place = replace(fitting.here(), device=torch.device("cuda", 0))
    monkeypatch.setattr(fitting, "here", lambda: place)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB)  # 2 GiB are the process's own to use again
    for free, refused in ((30, False), (20, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free * GIB, 80 * GIB))
        if refused:
            with pytest.raises(ConfigError, match=rf"and {free + 2}\.0 GiB are free"):
                refuse_what_cannot_fit(MODEL, trainer)
        else:
            refuse_what_cannot_fit(MODEL, trainer)


def test_the_least_is_less_than_what_any_pass_takes():
    """Half of a pass is certain to be filled; which of its tokens are learned is not."""
    assert certain(TrainerConfig(tokens_per_batch=8192), 65536) == 4096
    assert certain(TrainerConfig(tokens_per_batch=8192), 1000) == 500
    least = fitting.least(MODEL, fitting.HALF, fitting.ALONE, 4096)
    full = fitting.fitted(JOB, fitting.HALF.model_copy(update={"tokens_per_batch": 8192})).parts
    assert all(size <= full[name] for name, size in least.items())


def test_engines_that_read_the_trainers_own_tensors_have_no_copies():
    full = TrainerConfig()
    assert engine_parts(MODEL, full, 1, 64)["engine's copies"] == 0
    assert engine_parts(MODEL, full, 1, 64)["KV cache"] == 2 * engine_parts(MODEL, fitting.HALF, 1, 64)["KV cache"]

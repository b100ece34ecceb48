"""Runs that learn adapters: checkpoints hold them alone, the end is a model that loads everywhere, the reference costs no second model."""

import json

import pytest
import torch
from safetensors.torch import load_file

from afterbase.config import Config
from afterbase.errors import CheckpointError, ConfigError
from afterbase.model.lora import LoraConfig, adapters
from afterbase.objective.likelihood import Likelihood
from afterbase.records import Sample
from afterbase.segments import Segments
from afterbase.stages import rl
from afterbase.stages.run import Run
from afterbase.stages.session import Session, load_pair
from afterbase.track import read_metrics
from afterbase.train.optim import OptimConfig
from afterbase.train.resume import SavingConfig
from afterbase.train.schedule import ScheduleConfig
from afterbase.train.trainer import TrainerConfig

OPTIM = OptimConfig(schedule=ScheduleConfig(peak=0.02))
TOKENS = torch.tensor([5, 6, 7, 8, 9])


@pytest.fixture
def opened(dense, tmp_path):
    """Opens a run of four steps, as one process after another does."""
    runs = {}

    def open_run(name="run", source=dense, **lora):
        if name in runs:
            runs.pop(name).close()
        runs[name] = Run.open(tmp_path / name, "toy", Config(), {})
        return Session.start(runs[name], source, TrainerConfig(optim=OPTIM, lora=LoraConfig(rank=2, **lora)), SavingConfig(every=1), 4)

    yield open_run
    for run in runs.values():
        run.close()


def learn(session, steps):
    for _ in range(steps):
        tokens = tuple(range(session.step, session.step + 6))
        session.learn(session.batches([Sample(tokens, (True,) * 6)]), Likelihood())
        session.save_if_due(None)


def logits(model):
    return model.logits(model(TOKENS, Segments.of([len(TOKENS)])))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_run_that_went_on_from_its_adapters_ends_like_one_that_was_never_left(opened, dropout):
    learn(whole := opened("whole", dropout=dropout), 4)
    learn(opened(dropout=dropout), 2)
    session = opened(dropout=dropout)
    assert session.step == 2
    learn(session, 2)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(session.model.state_dict()[name], tensor), name


def test_a_numbered_checkpoint_holds_adapters_and_their_moments_and_not_the_model(opened):
    learn(session := opened(), 2)
    (path,) = (path for path in session.checkpoints.directory.iterdir() if path.name == "000002")
    assert not (path / "model.safetensors").exists() and (path / "adapter/adapter_model.safetensors").exists()
    learned = sum(layer.lora_A.numel() + layer.lora_B.numel() for layer in adapters(session.model).values())
    states = torch.load(path / "training_state.pt", weights_only=True)["trainer"]["optimizer"]["state"].values()
    assert sum(state["exp_avg"].numel() for state in states) == learned


def test_the_final_checkpoint_is_the_merged_model_with_the_adapters_beside_it(opened, dense):
    learn(session := opened(), 4)
    session.finish({})
    final = session.checkpoints.directory / "final"
    model, _ = load_pair(final)
    torch.testing.assert_close(logits(model), logits(session.model), rtol=2e-5, atol=2e-5)
    assert (logits(load_pair(dense)[0]) - logits(model)).abs().max() > 0.01
    assert json.loads((final / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == str(dense)
    tensors = load_file(final / "adapter/adapter_model.safetensors")
    layer = adapters(session.model)["model.layers.1.mlp.up_proj"]
    assert torch.equal(tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"], layer.lora_B)
    assert opened().step == 4  # killed before its last word, it has none but that to say


def test_unmerged_it_is_the_adapters_alone_and_says_whose_they_are(opened, dense):
    learn(session := opened(merge=False), 4)
    session.finish({})
    final = session.checkpoints.directory / "final"
    for directory in (final, final / "adapter"):
        with pytest.raises(CheckpointError, match=f"holds an adapter and no model; give its base, {dense}, "):
            load_pair(directory)
    assert opened(merge=False).step == 4


def test_fresh_weights_are_not_adapted(opened, dense):
    with pytest.raises(ConfigError, match=r"trainer\.lora adapts a checkpoint, and this run begins with fresh weights"):
        opened(source=lambda: load_pair(dense))


def test_fine_tuning_by_adapters_learns(command, base, recipe, rows, tmp_path):
    """On latent attention and experts."""
    data = rows(*[{"question": f"{n} + {n}?", "response": f"<think>Twice {n}.</think>{2 * n}"} for n in range(6)])
    trainer = {"optim": {"schedule": {"peak": 0.03}}, "lora": {"rank": 4}}
    page = recipe(model=base, data=[{"path": data}], tokens_per_step=80, epochs=12, trainer=trainer)
    code, _, err = command("sft", page, "--out", tmp_path / "run")
    assert code == 0, err
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert lines[-1]["train/loss/mean"] < lines[0]["train/loss/mean"] - 0.2
    before, after = (load_file(path / "model.safetensors") for path in (base, tmp_path / "run/checkpoints/final"))
    assert {name for name, tensor in after.items() if not torch.equal(tensor, before[name])} == {
        name for name in before if ".self_attn." in name and "_proj" in name and not name.startswith("model.layers.2.")
    }


def test_reinforcement_pulls_towards_the_base_without_loading_it_twice(command, dense, recipe, rows, tmp_path, monkeypatch):
    """The first round's pull is 0, for B is; then the policy leaves, and comes to a final model that loads."""
    monkeypatch.setattr(rl, "load_model", None)
    data = rows(*[{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(5)])
    rewards = {"domains": {"default": [{"kind": "length", "ngram": 1, "tolerance": 0.0}]}}
    trainer = {"optim": {"schedule": {"peak": 0.01}}, "lora": {"rank": 2}}
    page = recipe(
        model=dense, prompts=[{"kind": "jsonl", "path": data}], steps=3, prompts_per_step=4, group=4, rewards=rewards, trainer=trainer,
        sampling={"max_tokens": 16}, engine={"rows": 16}, objective={"kl": 0.1},
    )  # fmt: skip
    code, _, err = command("rl", page, "--out", tmp_path / "run")
    assert code == 0, err
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    pull = [line["train/reference_kl/mean"] for line in lines]
    assert pull[0] < 1e-9 < 1e-5 < pull[-1]
    assert all(abs(line["train/ratio/mean"] - 1) < 1e-4 for line in lines)  # the engine draws from what the trainer adapts
    assert load_pair(tmp_path / "run/checkpoints/final")

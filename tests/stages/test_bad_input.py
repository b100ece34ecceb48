"""What a person can correct costs one clear sentence and exit code 2, and nothing that was written before."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from afterbase import room
from afterbase.track import read_metrics

SUMS = [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}."} for n in range(8)]
LONG = "How many apples? " * 100


@pytest.fixture
def refused(command):
    """Runs a command that must be refused; gives its sentence."""

    def run(*arguments, typed=None) -> str:
        code, out, err = command(*arguments, typed=typed)
        *progress, last = err.splitlines()
        assert code == 2 and "Traceback" not in err and "Error" not in last and last.startswith("afterbase: ")
        assert all("/s" in line for line in progress) and out == ""
        return last

    return run


@pytest.fixture
def page(recipe, base):
    """A recipe of any stage over one data file."""

    def write(stage: str, data: Path, model: Path = base, **changes) -> Path:
        prompts = {"prompts": [{"kind": "jsonl", "path": data}]}
        small = {"model": model, "engine": {"rows": 4}, **prompts, "sampling": {"max_tokens": 4}}
        judge = {"domains": {"default": [{"kind": "match"}]}}
        tables = {
            "sft": {"model": model, "data": [{"path": data, "columns": {"response": "answer"}}], "tokens_per_step": 60},
            "rl": {**small, "steps": 2, "prompts_per_step": 2, "group": 2, "rewards": judge, "held_out": {"every": 0}},
            "curate": {**small, "problems": 2, "candidates": 2},
            "evaluate": {"model": model, "benchmarks": [{"name": "sums", **prompts, "sampling": {"max_tokens": 4}}]},
        }
        return recipe(stage, **{**tables[stage], **changes})

    return write


STAGES = ("sft", "rl", "curate", "evaluate")


@pytest.mark.parametrize("stage", STAGES)
def test_a_data_file_that_is_missing(refused, page, tmp_path, stage):
    said = refused(stage, page(stage, tmp_path / "nowhere.jsonl"), "--out", tmp_path / "run")
    assert "nowhere.jsonl; give the path" in said and not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"question": "What is', "not valid JSON"),
        ("[1, 2]", "a row is list; it must be an object with named columns"),
        ('{"question": 7, "answer": "7"}', "'question'"),
    ],
    ids=["cut", "list", "number"],
)
def test_a_line_that_is_wrong(refused, page, rows, tmp_path, stage, line, expected):
    data = rows(SUMS[0], line, SUMS[1])
    said = refused(stage, page(stage, data), "--out", tmp_path / "run")
    assert f"{data}, line 2: " in said and expected in said


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, "does not end with the assistant, so there is nothing to learn"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "give an object with role (system, user or assistant) and content"),
        ({"messages": "Hi"}, "give a list of objects with role and content"),
        ({"question": "Hi"}, "a row needs 'messages', or 'question' and 'answer' as texts"),
    ],
)
def test_a_conversation_of_the_wrong_shape(refused, page, rows, tmp_path, row, expected):
    said = refused("sft", page("sft", rows(SUMS[0], row)), "--out", tmp_path / "run")
    assert "data.jsonl, line 2: " in said and expected in said


@pytest.mark.parametrize("stage", STAGES)
def test_a_directory_where_a_data_file_belongs(refused, page, tmp_path, stage):
    (tmp_path / "folder").mkdir()
    said = refused(stage, page(stage, tmp_path / "folder"), "--out", tmp_path / "run")
    assert "folder cannot be read (Is a directory); give a whole, readable file" in said


def test_a_mistake_in_a_recipe_leaves_its_directory_free(command, refused, page, rows, tmp_path):
    """The corrected recipe runs under the same name; nothing had been made."""
    wrong, right = rows(SUMS[0], "{", name="wrong.jsonl"), rows(*SUMS, name="right.jsonl")
    refused("sft", page("sft", wrong), "--out", tmp_path / "run")
    assert command("sft", page("sft", right), "--out", tmp_path / "run")[0] == 0


@pytest.mark.parametrize("stage", STAGES)
def test_a_data_file_that_is_empty(refused, page, rows, tmp_path, stage):
    said = refused(stage, page(stage, rows()), "--out", tmp_path / "run")
    assert "data.jsonl" in said and "give a file with at least one row" in said


@pytest.mark.parametrize(
    ("stage", "override", "expected"),
    [
        ("sft", "trainer.optim.schedule.peek=1", "unknown key 'trainer.optim.schedule.peek'; did you mean 'peak'?"),
        ("sft", "epoch=1", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("rl", "clip=0.1", "unknown key 'clip'; did you mean 'objective.clip'?"),
        ("rl", "minibatches=3", "prompts_per_step=2 does not divide into minibatches=3"),
        ("rl", 'engine.precision="bfloat16"', "set both alike"),
        ("rl", 'trainer.precision="fp8"', "which has no FP8; set trainer.precision and engine.precision to \"bfloat16\""),
        ("curate", "others_count=2", "others_count=2 needs `others`"),
        ("evaluate", 'benchmarks.0.smapling.max_tokens=2', "unknown key 'benchmarks.0.smapling'; did you mean 'sampling'?"),
    ],
)  # fmt: skip
def test_a_key_that_is_wrong(refused, page, rows, tmp_path, stage, override, expected):
    assert expected in refused(stage, page(stage, rows(*SUMS)), override, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def damaged(base, tmp_path):
    """A copy of the tiny checkpoint whose tensors were changed."""

    def make(change) -> Path:
        directory = shutil.copytree(base, tmp_path / "damaged")
        tensors = load_file(directory / "model.safetensors")
        change(tensors)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory

    return make


DAMAGE = [
    (lambda t: t.pop("model.norm.weight"), "missing model.norm.weight"),
    (lambda t: t.update({"model.extra.weight": torch.ones(2)}), "not in this model: model.extra.weight"),
    (lambda t: t.update({"model.norm.weight": torch.ones(2)}), "model.norm.weight is [2], the config wants [32]"),
]


@pytest.mark.parametrize(("change", "expected"), DAMAGE, ids=["missing", "extra", "misshapen"])
def test_a_checkpoint_of_another_model(refused, page, rows, damaged, tmp_path, change, expected):
    model, data = damaged(change), rows(*SUMS)
    for stage in STAGES:
        assert expected in refused(stage, page(stage, data, model), "--out", tmp_path / stage)
    assert expected in refused("generate", model, "Hi") and expected in refused("chat", model, typed="Hi\n")


def test_a_directory_without_a_model(refused, page, rows, tmp_path):
    (tmp_path / "empty").mkdir()
    said = refused("sft", page("sft", rows(*SUMS), tmp_path / "empty"), "--out", tmp_path / "run")
    assert "empty" in said and "tokenizer.json" in said
    assert "nowhere" in refused("generate", tmp_path / "nowhere", "Hi")


def test_a_tokenizer_of_another_model(refused, page, rows, make_checkpoint, tmp_path):
    model, data = make_checkpoint(vocab_size=300), rows(*SUMS)
    for stage in STAGES:
        said = refused(stage, page(stage, data, model), "--out", tmp_path / stage)
        assert "the model embeds 300 tokens; bring the tokenizer that the model was trained with" in said
    assert "the model embeds 300 tokens" in refused("generate", model, "Hi")


def test_a_text_longer_than_the_context(command, refused, page, rows, base, tmp_path):
    data = rows(SUMS[0], {"question": LONG, "answer": "Many."})
    for stage in STAGES[1:]:
        said = refused(stage, page(stage, data), "--out", tmp_path / stage)
        assert "tokens leaves no room in the context of 256; shorten it" in said
    assert "leaves no room in the context of 256" in refused("generate", base, LONG)
    said = refused("sft", page("sft", data), "--out", tmp_path / "sft")
    assert "line 2: " in said and "tokens exceed the model's context of 256; shorten it" in said
    assert command("sft", page("sft", data), 'overlong="drop"', "--out", tmp_path / "dropped")[0] == 0
    assert json.loads((tmp_path / "dropped" / "done.json").read_text())["dropped"] == 1


def test_a_device_that_is_not_there(refused, page, rows, tmp_path):
    recipe = page("evaluate", rows(*SUMS))
    assert "device 'cuda:77' was asked for, and torch sees" in refused("evaluate", recipe, "device=cuda:77", "--out", tmp_path / "run")
    assert "device 'cudda' is unknown; give 'cpu'" in refused(
        "evaluate", page("evaluate", rows(*SUMS)), "device=cudda", "--out", tmp_path / "b"
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_place_that_cannot_be_written(refused, page, rows, tmp_path, stage):
    data = rows(*SUMS)
    assert "cannot be written (Not a directory" in refused(stage, page(stage, data), "--out", data / "run")


@pytest.fixture
def disk(tmp_path):
    """A real disk of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", place], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting a small disk needs rights that this user has not")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_a_disk_that_runs_full_and_has_room_again(command, page, rows, disk, tmp_path, stage, monkeypatch):
    rewards = {"domains": {"default": [{"kind": "length", "ngram": 1, "tolerance": 0.0}]}}
    more = {"epochs": 4} if stage == "sft" else {"steps": 8, "rewards": rewards}
    recipe = page(stage, rows(*SUMS), saving={"every": 2}, **more)
    assert command(stage, recipe, "--out", tmp_path / "whole")[0] == 0
    ballast, checkpoints, log = disk / "ballast", disk / "run" / "checkpoints", disk / "run" / "metrics.jsonl"
    ballast.write_bytes(bytes(2 << 20))

    def free(seconds: float) -> None:  # while it waits; a checkpoint is 0.8 MB, so the third found no room
        assert sorted(path.name for path in checkpoints.iterdir()) == ["000002", "000004"] and len(read_metrics(log)) == 6
        ballast.unlink()

    monkeypatch.setattr(room, "sleep", free)
    code, _, err = command(stage, recipe, "--out", disk / "run")
    assert code == 0 and f"the disk is full, {checkpoints / '000006'} waits for room; free some space and it goes on" in err
    assert not ballast.exists() and same(tmp_path / "whole", disk / "run")


@pytest.fixture
def failing_once(monkeypatch):
    """Makes one call of a function of the system fail."""

    def fail(owner, name, at, number):
        inner, calls = getattr(owner, name), []

        def failing(*arguments, **options):
            calls.append(1)
            if len(calls) == at:
                raise OSError(number, os.strerror(number))
            return inner(*arguments, **options)

        monkeypatch.setattr(owner, name, failing)

    return fail


@pytest.mark.parametrize(("owner", "name", "at"), [(torch, "save", 2), (os, "fsync", 30), (os, "write", 7)], ids=["save", "fsync", "write"])
def test_a_write_without_room_is_made_again(command, page, rows, tmp_path, monkeypatch, failing_once, owner, name, at):
    recipe = page("sft", rows(*SUMS), saving={"every": 2}, epochs=4)
    assert command("sft", recipe, "--out", tmp_path / "whole")[0] == 0
    monkeypatch.setattr(room, "sleep", lambda seconds: None)
    failing_once(owner, name, at, errno.ENOSPC)
    code, _, err = command("sft", recipe, "--out", tmp_path / "torn")
    assert code == 0 and "waits for room" in err and same(tmp_path / "whole", tmp_path / "torn")


def test_a_write_that_fails_loses_nothing(command, refused, page, rows, tmp_path, monkeypatch, failing_once):
    recipe = page("sft", rows(*SUMS), saving={"every": 2}, epochs=4)
    assert command("sft", recipe, "--out", tmp_path / "whole")[0] == 0
    failing_once(os, "rename", 2, errno.EACCES)
    assert "cannot be written (Permission denied)" in refused("sft", recipe, "--out", tmp_path / "torn")
    monkeypatch.undo()
    assert read_metrics(tmp_path / "torn" / "metrics.jsonl") and (tmp_path / "torn" / "checkpoints" / "000002").exists()
    assert command("sft", recipe, "--out", tmp_path / "torn")[0] == 0
    assert same(tmp_path / "whole", tmp_path / "torn")


def same(one: Path, other: Path) -> bool:
    return all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in ("metrics.jsonl", "checkpoints/final/model.safetensors")
    )

"""A run's checkpoints: whole or not there, the newest whole one found, the old dropped, the best kept."""

import json
import os
import shutil

import pytest
import torch

from afterbase import lineage
from afterbase.errors import CheckpointError, StorageError
from afterbase.train.resume import CONTENTS, STATE, Best, Checkpoints, SavingConfig, check_whole

EVAL = "eval/accuracy/mean"


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", SavingConfig(every=10, keep=2))


def model_of(text):
    return lambda path: (path / "model").write_text(text)


def model_in(path, state):
    """What a run loads: here the text of the model, and its state."""
    return (path / "model").read_text(), state


def names(checkpoints):
    return sorted(path.name for path in checkpoints.directory.iterdir())


def test_they_are_due_every_so_many_steps(checkpoints):
    assert [done for done in range(1, 35) if checkpoints.due(done)] == [10, 20, 30]


def test_they_are_due_when_the_latest_is_old(checkpoints, monkeypatch):
    """Rounds of an hour, one checkpoint every 90 minutes: each second round, counted from what was written last."""
    now = [0.0]
    monkeypatch.setattr("afterbase.train.resume.monotonic", lambda: now[0])
    checkpoints, due = Checkpoints(checkpoints.directory, SavingConfig(every=1000, minutes=90)), []
    for step in range(1, 7):
        now[0] += 3600
        if checkpoints.due(step):
            due.append(step)
            checkpoints.save(step, model_of("x"), {})
    assert due == [2, 4, 6]


def test_what_was_saved_is_found_and_loaded(checkpoints):
    assert checkpoints.resume(model_in) is None
    state = {"done": 10, "cursor": {"rows": [1, (2.5, None)], "text": "a", 7: torch.arange(3)}}
    checkpoints.save(10, model_of("ten"), state)
    model, found = checkpoints.resume(model_in)
    assert model == "ten" and torch.equal(found["cursor"].pop(7), state["cursor"].pop(7)) and found == state


def test_what_could_not_be_loaded_again_is_never_saved(checkpoints):
    with pytest.raises(AssertionError, match="plain containers"):
        checkpoints.save(10, model_of("ten"), {"cursor": [checkpoints.directory]})


def test_only_the_latest_are_kept(checkpoints):
    for done in (10, 20, 30, 40):
        checkpoints.save(done, model_of(str(done)), {})
    assert names(checkpoints) == ["000030", "000040"] and checkpoints.resume(model_in)[0] == "40"


def test_numbers_are_counted_not_spelt(checkpoints):
    """After 999,999 comes 1,000,000, which is spelt before it."""
    for done in (999_990, 1_000_000, 1_000_010):
        checkpoints.save(done, model_of(str(done)), {})
    assert names(checkpoints) == ["1000000", "1000010"] and checkpoints.resume(model_in)[0] == "1000010"


def test_a_checkpoint_is_written_whole_or_not_at_all(checkpoints):
    """A failure on the way leaves the one before as the latest, and nothing half-written in sight."""
    checkpoints.save(10, model_of("ten"), {})

    def fail(path):
        (path / "model").write_text("twen")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(20, fail, {})
    assert names(checkpoints) == ["000010"] and checkpoints.resume(model_in)[0] == "ten"


def test_what_a_kill_left_half_written_is_ignored(checkpoints, capsys):
    checkpoints.save(10, model_of("ten"), {})
    (checkpoints.directory / ".000020.tmp-123").mkdir()
    (checkpoints.directory / "notes").mkdir()
    assert checkpoints.resume(model_in)[0] == "ten"
    checkpoints.save(20, model_of("twenty"), {})
    assert names(checkpoints) == ["000010", "000020", "notes"] and capsys.readouterr().err == ""


def test_a_checkpoint_is_never_written_over(checkpoints):
    checkpoints.save(10, model_of("ten"), {})
    with pytest.raises(StorageError, match="exists already"):
        checkpoints.save(10, model_of("other"), {})
    assert checkpoints.resume(model_in)[0] == "ten"


DAMAGES = {
    "a state cut off": (lambda path: os.truncate(path / STATE, 50), f"{STATE} has 50 bytes of"),
    "an empty state": (lambda path: (path / STATE).write_bytes(b""), f"{STATE} has 0 bytes of"),
    "no state": (lambda path: (path / STATE).unlink(), f"{STATE} is missing"),
    "no weights": (lambda path: (path / "model").unlink(), "model is missing"),
    "empty weights": (lambda path: (path / "model").write_text(""), "model has 0 bytes of 6"),
    "nonsense of the right size": (lambda path: (path / STATE).write_bytes(b"x" * (path / STATE).stat().st_size), "cannot be read"),
    "no list of files": (lambda path: (path / CONTENTS).unlink(), f"{CONTENTS}, which is written last, is missing"),
    "half a list of files": (lambda path: (path / CONTENTS).write_text('{"mod'), "missing or damaged"),
    "an empty directory": (lambda path: (shutil.rmtree(path), path.mkdir()), "missing or damaged"),
    "a list of nothing": (lambda path: (path / CONTENTS).write_text("[1]"), "missing or damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_is_told_of_in_one_line(checkpoints, damage, capsys):
    ruin, said = DAMAGES[damage]
    checkpoints.save(10, model_of("ten"), {"done": 10})
    checkpoints.save(20, model_of("twenty"), {"done": 20})
    ruin(checkpoints.path(20))
    assert checkpoints.resume(model_in) == ("ten", {"done": 10})
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and "it is kept as 000020.damaged" in line and line.endswith(f"going on from {checkpoints.path(10)}")
    checkpoints.save(20, model_of("again"), {"done": 20})  # the way is free
    assert checkpoints.resume(model_in)[0] == "again"
    checkpoints.finish(model_of("done"))
    assert names(checkpoints) == ["final"]


def test_weights_that_do_not_load_count_as_damaged(checkpoints, capsys):
    for done in (10, 20):
        checkpoints.save(done, model_of(str(done)), {})

    def load(path, state):
        if path.name == "000020":
            raise CheckpointError(f"{path}: no tensors")
        return path.name

    assert checkpoints.resume(load) == "000010" and "no tensors" in capsys.readouterr().err


def test_when_none_is_whole_the_error_says_what_to_do(checkpoints):
    for done in (10, 20):
        checkpoints.save(done, model_of("x"), {})
        (checkpoints.path(done) / STATE).unlink()
    with pytest.raises(CheckpointError, match=rf"no checkpoint in {checkpoints.directory} is whole .* delete that directory to begin anew"):
        checkpoints.resume(model_in)
    assert names(checkpoints) == ["000010", "000020"]  # nothing is moved for nothing


def test_the_list_of_files_holds_every_size(checkpoints):
    path = checkpoints.save(10, model_of("ten"), {"done": 10})
    check_whole(path)
    assert json.loads((path / CONTENTS).read_text()) == {"model": 3, STATE: (path / STATE).stat().st_size}


def test_the_final_model_replaces_the_numbered_ones(checkpoints):
    checkpoints.save(10, model_of("ten"), {})
    final = checkpoints.finish(model_of("done"))
    assert names(checkpoints) == ["final"] and (final / "model").read_text() == "done" and not (final / STATE).exists()


def test_finishing_twice_keeps_the_first_final(checkpoints):
    """Killed between the final model and the end of the run, it comes here again."""
    checkpoints.finish(model_of("done"))
    checkpoints.save(10, model_of("ten"), {})
    assert (checkpoints.finish(model_of("other")) / "model").read_text() == "done" and names(checkpoints) == ["final"]


def measured(checkpoints, values):
    for step, value in enumerate(values):
        checkpoints.keep_best(step, {EVAL: value, "train/loss/mean": -value}, model_of(f"model {step}"))
    return (checkpoints.directory / "best" / "model").read_text(), checkpoints.best()


def test_the_best_model_is_kept_of_equals_the_earlier(checkpoints):
    assert measured(checkpoints, [0.1, 0.5, 0.3, 0.5, 0.4]) == ("model 1", Best(EVAL, 0.5, 1))
    checkpoints.save(10, model_of("ten"), {})
    checkpoints.finish(model_of("done"))
    assert names(checkpoints) == ["best", "final"]


def test_a_minus_prefers_small_values(checkpoints):
    least = Checkpoints(checkpoints.directory, SavingConfig(best=f"-{EVAL}"))
    assert measured(least, [0.3, 0.1, 0.1, 0.2]) == ("model 1", Best(EVAL, 0.1, 1))


@pytest.mark.parametrize("best", [None, "", "eval/other/mean"])
def test_without_its_metric_none_is_kept(checkpoints, best):
    none = Checkpoints(checkpoints.directory, SavingConfig(best=best))
    none.keep_best(0, {EVAL: 0.5}, model_of("x"))
    assert not none.directory.exists() and none.best() is None


def test_a_value_that_is_no_number_is_never_the_best(checkpoints):
    assert measured(checkpoints, [0.2, float("nan"), 0.1])[1] == Best(EVAL, 0.2, 0)


def test_doing_the_latest_steps_again_changes_nothing(checkpoints):
    """A run killed after step 3 that goes on from step 1 measures the same once more."""
    before = measured(checkpoints, [0.1, 0.2, 0.2, 0.4])
    for step, value in [(1, 0.2), (2, 0.2), (3, 0.4)]:
        checkpoints.keep_best(step, {EVAL: value}, model_of("again"))
    assert ((checkpoints.directory / "best" / "model").read_text(), checkpoints.best()) == before


def test_a_kill_while_the_best_is_replaced_leaves_one(checkpoints, monkeypatch):
    measured(checkpoints, [0.1])
    renamed = os.rename

    def once(old, new):
        renamed(old, new)
        raise KeyboardInterrupt

    monkeypatch.setattr(lineage.os, "rename", once)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.keep_best(1, {EVAL: 0.9}, model_of("better"))
    monkeypatch.undo()
    assert checkpoints.best() is None
    again = Checkpoints(checkpoints.directory, checkpoints.config)
    assert again.best() == Best(EVAL, 0.1, 0)
    again.keep_best(1, {EVAL: 0.9}, model_of("better"))
    assert again.best() == Best(EVAL, 0.9, 1) and names(again) == ["best"]

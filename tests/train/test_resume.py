"""A run's checkpoints: whole or not there, the latest found, the old dropped."""

import pytest

from afterbase.errors import CheckpointError, StorageError
from afterbase.train.resume import STATE, Checkpoints, SavingConfig


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", SavingConfig(every=10, keep=2))


def model_of(text):
    return lambda path: (path / "model").write_text(text)


def names(checkpoints):
    return sorted(path.name for path in checkpoints.directory.iterdir())


def test_they_are_due_every_so_many_updates(checkpoints):
    assert [done for done in range(1, 35) if checkpoints.due(done)] == [10, 20, 30]


def test_what_was_saved_is_found_and_loaded(checkpoints):
    assert checkpoints.latest() is None
    checkpoints.save(10, model_of("ten"), {"done": 10})
    number, path = checkpoints.latest()
    assert number == 10 and (path / "model").read_text() == "ten" and checkpoints.load_state(path) == {"done": 10}


def test_only_the_latest_are_kept(checkpoints):
    for done in (10, 20, 30, 40):
        checkpoints.save(done, model_of("x"), {})
    assert names(checkpoints) == ["000030", "000040"] and checkpoints.latest()[0] == 40


def test_numbers_are_counted_not_spelt(checkpoints):
    """After 999,999 comes 1,000,000, which is spelt before it."""
    for done in (999_990, 1_000_000, 1_000_010):
        checkpoints.save(done, model_of("x"), {})
    assert names(checkpoints) == ["1000000", "1000010"] and checkpoints.latest()[0] == 1_000_010


def test_a_checkpoint_is_written_whole_or_not_at_all(checkpoints):
    """A failure on the way leaves the one before as the latest, and nothing half-written in sight."""
    checkpoints.save(10, model_of("ten"), {})

    def fail(path):
        (path / "model").write_text("twen")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(20, fail, {})
    assert checkpoints.latest()[0] == 10 and names(checkpoints) == ["000010"]


def test_what_a_kill_left_half_written_is_ignored(checkpoints):
    checkpoints.save(10, model_of("ten"), {})
    (checkpoints.directory / ".000020.tmp-123").mkdir()
    (checkpoints.directory / "notes").mkdir()
    assert checkpoints.latest()[0] == 10
    checkpoints.save(20, model_of("twenty"), {})
    assert names(checkpoints) == ["000010", "000020", "notes"]


def test_a_checkpoint_is_never_written_over(checkpoints):
    checkpoints.save(10, model_of("ten"), {})
    with pytest.raises(StorageError, match="exists already"):
        checkpoints.save(10, model_of("other"), {})
    assert (checkpoints.latest()[1] / "model").read_text() == "ten"


def test_the_final_model_replaces_the_numbered_ones(checkpoints):
    checkpoints.save(10, model_of("ten"), {})
    final = checkpoints.finish(model_of("done"))
    assert names(checkpoints) == ["final"] and (final / "model").read_text() == "done" and not (final / STATE).exists()


def test_finishing_twice_keeps_the_first_final(checkpoints):
    """Killed between the final model and the end of the run, it comes here again."""
    checkpoints.finish(model_of("done"))
    checkpoints.save(10, model_of("ten"), {})
    assert (checkpoints.finish(model_of("other")) / "model").read_text() == "done" and names(checkpoints) == ["final"]


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(p.read_bytes()[:50]), lambda p: p.write_text("hello"), lambda p: p.unlink()])
def test_a_damaged_state_says_how_to_go_on(checkpoints, damage):
    checkpoints.save(10, model_of("ten"), {"done": 10})
    path = checkpoints.latest()[1]
    damage(path / STATE)
    with pytest.raises(CheckpointError, match=f"delete {path} to resume from the one before"):
        checkpoints.load_state(path)

"""A full disk pauses a run: whatever is written waits, says so, and is there in the end."""

import errno
import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from afterbase import lineage, room
from afterbase.errors import FullDisk, StorageError
from afterbase.lineage import fill_directory, storing, write_atomic
from afterbase.track import Tracker, read_metrics


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that were made, none of which lasts; the clock goes by them."""
    made = []
    monkeypatch.setattr(room, "sleep", made.append)
    monkeypatch.setattr(room, "monotonic", lambda: sum(made))
    return made


@pytest.fixture
def full(monkeypatch):
    """Makes a function of the system say that the disk is full, the first `times` times."""

    def fail(owner, name, times):
        whole, left = getattr(owner, name), [times]

        def refused(*arguments, **options):
            if left[0]:
                left[0] -= 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return whole(*arguments, **options)

        monkeypatch.setattr(owner, name, refused)

    return fail


def test_a_file_is_written_when_there_is_room_again(tmp_path: Path, full, pauses, capsys):
    path = tmp_path / "file.json"
    write_atomic(path, "old")
    full(lineage.os, "fsync", 3)
    write_atomic(path, "new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file.json"] and pauses == [0.5, 1.0, 2.0]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"afterbase: the disk is full, {path} waits for room; free some space")


def test_it_is_said_once_a_minute(tmp_path: Path, full, pauses, capsys):
    full(lineage.os, "fsync", 20)
    write_atomic(tmp_path / "file", "x")
    assert max(pauses) == 15.0 and sum(pauses) == 240.5  # .5 + 1 + 2 + 4 + 8, then fifteen times 15
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_lines_are_appended_whole(tmp_path: Path, monkeypatch, pauses):
    tracker, write, left = Tracker(tmp_path), os.write, [2]
    tracker.log(0, {"a/b/c": 1.0})

    def half(handle: int, content: bytes) -> int:
        if left[0] and len(content) < 20:
            left[0] -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, content[:15])

    monkeypatch.setattr(lineage.os, "write", half)
    tracker.log(1, {"a/b/c": 2.0})
    assert read_metrics(tracker.metrics) == [{"step": 0, "a/b/c": 1.0}, {"step": 1, "a/b/c": 2.0}] and len(pauses) == 2


def test_a_checkpoint_is_filled_anew(tmp_path: Path, monkeypatch):
    """torch.save tells of a full disk in words of its own; the disk itself is asked."""
    path, free = tmp_path / "000010", [0, 0, 1 << 30]

    def fill(half: Path) -> None:
        assert os.listdir(half) == []
        (half / "model").write_text("ten")
        if free[0] == 0:
            raise RuntimeError("PytorchStreamWriter failed writing file data/0")
        torch.save({"done": 10}, half / "state.pt")

    monkeypatch.setattr(lineage, "_free", lambda path: free[0])
    monkeypatch.setattr(room, "sleep", lambda seconds: free.pop(0))
    fill_directory(path, fill)
    assert sorted(os.listdir(path)) == ["model", "state.pt"] and os.listdir(tmp_path) == ["000010"] and free == [1 << 30]


def test_a_really_full_device_is_waited_for_until_somebody_interrupts(monkeypatch):
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    def write() -> None:
        with storing(Path("/dev/full")), open("/dev/full", "w") as file:
            file.write("x")

    monkeypatch.setattr(room, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        room.with_room(write, Path("/dev/full"))


def test_sigterm_ends_the_waiting_in_the_words_of_the_error(tmp_path: Path, full, monkeypatch):
    """Nothing can be saved on a full disk, so there is nothing to wait for any more."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("the run's own listener must not hear it"))
    try:
        listener = signal.getsignal(signal.SIGTERM)
        full(lineage.os, "fsync", 5)
        monkeypatch.setattr(room, "sleep", lambda seconds: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(FullDisk, match=r"the disk is full: .* was not written"):
            write_atomic(tmp_path / "file", "x")
        assert signal.getsignal(signal.SIGTERM) is listener
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_thread_waits_as_well(tmp_path: Path, full, pauses):
    full(lineage.os, "fsync", 2)
    thread = threading.Thread(target=write_atomic, args=(tmp_path / "file", "x"))
    thread.start()
    thread.join(10)
    assert (tmp_path / "file").read_text() == "x"


def test_what_is_no_matter_of_room_is_an_error_at_once(tmp_path: Path, monkeypatch, pauses):
    def refused(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / "file"))

    monkeypatch.setattr(lineage.os, "fsync", refused)
    with pytest.raises(StorageError, match="cannot be written"):
        write_atomic(tmp_path / "file", "x")
    assert pauses == []

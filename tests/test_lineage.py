import errno
import json
import os
from pathlib import Path

import pytest

from afterbase import lineage
from afterbase.errors import DataError, StorageError
from afterbase.lineage import (
    access_error,
    atomic_directory,
    digest,
    fill_directory,
    fingerprint,
    mend_directory,
    storage_error,
    storing,
    sweep,
    write_atomic,
)


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_digest_is_of_names_and_bytes_and_nothing_else(tmp_path: Path):
    one = tree(tmp_path / "one", a="1", sub__b="2")
    same = tree(tmp_path / "same", sub__b="2", a="1")
    os.utime(same / "a", (0, 0))
    assert digest(one) == digest(same)
    others = [{"a": "1", "sub__b": "3"}, {"a": "1", "sub__c": "2"}, {"a": "1", "b": "2"}, {"a": "1"}, {"a": "12", "sub__b": ""}]
    assert len({digest(tree(tmp_path / f"other{i}", **files)) for i, files in enumerate(others)} | {digest(one)}) == len(others) + 1


def test_digest_does_not_count_hidden_files(tmp_path: Path):
    before = digest(tree(tmp_path / "one", a="1"))
    assert digest(tree(tmp_path / "one", **{".lock": "77", ".old.tmp-3__b": "half"})) == before


def test_digest_of_nothing_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="nothing at"):
        digest(tmp_path / "absent")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EACCES, "give this user the right to it"), (errno.EIO, "check its disk, or copy it again"), (errno.EISDIR, "name the path")],
)
@pytest.mark.parametrize("inside", [False, True], ids=["a file", "a file in a directory"])
def test_an_input_that_cannot_be_read_is_not_said_to_be_unwritable(tmp_path: Path, monkeypatch, number: int, remedy: str, inside: bool):
    path = tree(tmp_path, data__a="1") / "data" / "a"

    def fail(self, *_):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(DataError, match=remedy) as caught:
        digest(path.parent if inside else path)
    assert str(caught.value).startswith(f"{path} cannot be read ({os.strerror(number)}); ")


def test_a_folder_that_may_not_be_listed_is_not_an_empty_one(tmp_path: Path, monkeypatch):
    tree(tmp_path, data__deep__a="1")
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"data/deep cannot be read \(Permission denied\)"):
        digest(tmp_path / "data")


def test_an_input_that_fails_while_a_file_is_written_is_not_the_files_fault(tmp_path: Path):
    with pytest.raises(PermissionError), storing(tmp_path / "run" / "file.json"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/data.jsonl")


def test_a_refusal_that_nobody_told_names_the_place_and_both_ways():
    told = access_error(PermissionError(errno.EACCES, "Permission denied", "/elsewhere/data.jsonl"))
    assert str(told).startswith("/elsewhere/data.jsonl cannot be read or written (Permission denied); ")
    assert access_error(OSError(errno.EIO, "Input/output error")) and access_error(BrokenPipeError(errno.EPIPE, "Broken pipe")) is None
    assert "the disk is full: /elsewhere/x was not written" in str(access_error(OSError(errno.ENOSPC, "No space", "/elsewhere/x")))


def test_fingerprint_ignores_the_order_of_keys_only():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1}) != fingerprint({"a": 1, "b": [2, 1]})


def test_write_atomic_replaces_the_whole(tmp_path: Path):
    path = tmp_path / "deep" / "file.json"
    write_atomic(path, "old and long")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["file.json"]


@pytest.mark.parametrize(("number", "said"), [(errno.EACCES, "cannot be written"), (errno.EROFS, "cannot be written")])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch, number: int, said: str, call: str):
    path = tmp_path / "file.json"
    write_atomic(path, "old")

    def fail(*_):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(lineage.os, call, fail)
    with pytest.raises(StorageError, match=said) as caught:
        write_atomic(path, "new")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.json"]


def test_a_file_where_a_directory_should_be_is_a_storage_error(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"Not a directory|File exists"):
        write_atomic(tmp_path / "file" / "inner" / "a.json", "x")


def test_a_really_full_device_is_told_as_such():
    with pytest.raises(StorageError, match="the disk is full: /dev/full"), storing(Path("/dev/full")), open("/dev/full", "w") as file:
        file.write("x")


def test_a_library_that_hides_the_full_disk_is_seen_through(tmp_path: Path, monkeypatch):
    with pytest.raises(StorageError, match="the disk is full"), storing(tmp_path / "model.safetensors"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(lineage, "_free", lambda path: 0)
    with pytest.raises(StorageError, match="the disk is full"), storing(tmp_path / "state.pt"):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0")


def test_other_errors_stay_what_they_are(tmp_path: Path):
    assert storage_error(OSError(errno.EPIPE, "broken pipe"), tmp_path) is None
    with pytest.raises(FileNotFoundError), storing(tmp_path / "out" / "a"):
        Path("/nowhere/at/all").read_text()
    with pytest.raises(ValueError, match="bug"), atomic_directory(tmp_path / "checkpoint"):
        raise ValueError("bug")


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "checkpoints" / "7"
    with pytest.raises(KeyboardInterrupt), atomic_directory(path) as half:
        (half / "a").write_text("1")
        raise KeyboardInterrupt
    assert os.listdir(path.parent) == []
    with atomic_directory(path) as whole:
        tree(whole, a="1", sub__b="2")
        assert not path.exists()
    assert os.listdir(path.parent) == ["7"] and (path / "sub/b").read_text() == "2"


def test_leftovers_of_killed_attempts_are_removed_and_neighbours_kept(tmp_path: Path):
    tree(tmp_path, **{".7.tmp-123__half": "x", ".77.tmp-123__half": "x"})
    with atomic_directory(tmp_path / "7") as whole:
        (whole / "a").write_text("1")
    assert sorted(os.listdir(tmp_path)) == [".77.tmp-123", "7"]


def test_an_existing_directory_is_never_replaced(tmp_path: Path):
    tree(tmp_path, seven__a="1")
    with pytest.raises(StorageError, match="exists already"), atomic_directory(tmp_path / "seven"):
        raise AssertionError("must not be reached")
    assert json.loads((tmp_path / "seven" / "a").read_text()) == 1


def test_a_replaced_directory_is_the_old_one_or_the_new_one(tmp_path: Path):
    def fail(half: Path) -> None:
        raise ValueError("bug")

    path = tmp_path / "best"
    fill_directory(path, lambda half: tree(half, a="1"), replace=True)
    with pytest.raises(ValueError, match="bug"):
        fill_directory(path, fail, replace=True)
    assert (path / "a").read_text() == "1"
    fill_directory(path, lambda half: tree(half, b="2"), replace=True)
    assert os.listdir(path) == ["b"] and os.listdir(tmp_path) == ["best"]
    with pytest.raises(StorageError, match="exists already"):
        fill_directory(path, lambda half: None)


def test_a_kill_between_the_two_renames_loses_neither(tmp_path: Path, monkeypatch):
    path, renamed = tmp_path / "best", os.rename
    fill_directory(path, lambda half: tree(half, a="1"))

    def once(old, new):
        renamed(old, new)
        raise KeyboardInterrupt

    monkeypatch.setattr(lineage.os, "rename", once)
    with pytest.raises(KeyboardInterrupt):
        fill_directory(path, lambda half: tree(half, a="2"), replace=True)
    monkeypatch.undo()
    assert not path.exists()
    mend_directory(path)
    assert (path / "a").read_text() == "1" and os.listdir(tmp_path) == ["best"]
    mend_directory(path)
    assert (path / "a").read_text() == "1"


def test_what_killed_writers_left_is_swept_away_wherever_it_lies(tmp_path: Path):
    tree(tmp_path, **{"rollouts__.1.jsonl.tmp-9": "x", "checkpoints__.7.tmp-9__.a.tmp-9": "x", "rollouts__1.jsonl": "x", ".lock": "9"})
    sweep(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"rollouts/1.jsonl", ".lock"} and os.listdir(tmp_path / "checkpoints") == []

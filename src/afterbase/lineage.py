"""What went in and what came out: content hashes to follow a result back, and writes that happen whole or not at all.

`write_atomic`, `append` and `fill_directory` wait while the disk is full; whatever else refuses a write is an error at once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from afterbase.errors import AfterbaseError, DataError, FullDisk, StorageError
from afterbase.room import with_room

FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
MISPLACED = {errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG}
UNREADABLE = {errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ESTALE}
KEPT = "what was written before is whole"
ALMOST_FULL = 1 << 16  # bytes; a library that failed with less than this left on the disk failed because the disk is full


def digest(path: Path) -> str:
    """The content hash of a file, or of a directory's files (relative names, sizes and bytes; names starting with a dot do not count).

    The same bytes under the same names give the same digest wherever they lie and whenever they were written.
    """
    with reading(path):
        if path.is_dir():
            whole = hashlib.blake2b(b"directory", digest_size=16)
            for file in _files(path):
                name = file.relative_to(path).as_posix().encode()
                whole.update(b"%d %b %d %b " % (len(name), name, file.stat().st_size, _bytes_hash(file)))
            return whole.hexdigest()
        if not path.exists():
            raise DataError(f"there is nothing at {path}; give the path of a file or a directory on this machine, nothing is downloaded")
        return _bytes_hash(path).hex()


def fingerprint(value: Any) -> str:
    """The hash of a JSON-able value; the order of a table's keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, a kill or a full disk finds the old content or the new one, never a part."""
    data = content.encode() if isinstance(content, str) else content
    with_room(lambda: _write_once(path, data), path)


def _write_once(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_dir(path.parent)


def append(path: Path, text: str) -> None:
    """Add to the end of a file; where that fails the file stays what it was."""
    content = text.encode()
    with_room(lambda: _append_once(path, content), path)


def _append_once(path: Path, content: bytes) -> None:
    with storing(path), path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            while content:
                content = content[os.write(file.fileno(), content) :]
        except BaseException:
            os.ftruncate(file.fileno(), before)
            raise


def fill_directory(path: Path, fill: Callable[[Path], None], replace: bool = False) -> None:
    """Make a directory that `fill` fills, whole or not at all; with `replace` it takes the place of the one that is there.

    A kill between the two renames of a replacement leaves the old one under a hidden name: `mend_directory` takes it back.
    """
    old = path.with_name(f".{path.name}.old")

    def attempt() -> None:
        if replace and path.exists():
            shutil.rmtree(old, ignore_errors=True)
        with atomic_directory(path, old if replace else None) as half:
            fill(half)

    with_room(attempt, path)
    shutil.rmtree(old, ignore_errors=True)


def mend_directory(path: Path) -> None:
    """Take back what a kill in the middle of a replacement left without its name."""
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        os.rename(old, path)


def sweep(directory: Path) -> None:
    """Remove what killed writers left half done anywhere in a directory that nobody else is writing now."""
    for path in sorted(directory.rglob(".*.tmp-*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # it may have gone with its directory


@contextmanager
def atomic_directory(path: Path, old: Path | None = None) -> Iterator[Path]:
    """A fresh directory beside `path` to fill; it becomes `path` when the block succeeds and vanishes when it fails.

    What stands at `path` already is renamed to `old`, or without `old` refused. What killed attempts left is removed first, so one
    directory must have one writer at a time (a run's lock sees to that).
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with storing(path):
        if path.exists() and old is None:
            raise StorageError(f"{path} exists already and is not overwritten; move it away or choose another place")
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}.tmp-*"):
            shutil.rmtree(leftover)
        temporary.mkdir()
        try:
            with storing(path):  # asks the disk whether it is full before what was half written is taken away again
                yield temporary
                for file in _files(temporary):
                    sync(file)
                for parent, _, _ in os.walk(temporary):
                    sync_dir(Path(parent))
                if old is not None and path.exists():
                    os.rename(path, old)
                os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_dir(path.parent)


def sync_dir(path: Path) -> None:
    """Make the names in a directory (a rename, a new file) survive a power failure."""
    sync(path)


def sync(path: Path) -> None:
    """Make a file's bytes, or a directory's names, survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever the system refuses inside, because `path` or something in it cannot be read, becomes a DataError of one sentence."""
    try:
        yield
    except OSError as error:
        place, why = error.filename or path, error.strerror or error
        raise DataError(f"{place} cannot be read ({why}); {_remedy(error)}") from error


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Whatever fails inside because `path` cannot be written becomes a StorageError of one sentence."""
    try:
        yield
    except AfterbaseError:
        raise
    except Exception as error:
        told = storage_error(error, path)
        if told is None:
            raise
        raise told from error


def storage_error(error: Exception, path: Path) -> StorageError | None:
    """The sentence for a failed write of `path` (full disk, no permission, no such place), or None when `error` is something else."""
    number = error.errno if isinstance(error, OSError) else None
    # safetensors and torch.save wrap the system's error in exceptions of their own, so the disk itself is asked as well.
    if number in FULL or "os error 28" in str(error) or (number is None and _free(path) < ALMOST_FULL):
        return _disk_is_full(path)
    if number is None or not _concerns(error, path):
        return None  # perhaps a file that was read meanwhile
    if number in FORBIDDEN:
        return StorageError(f"{path} cannot be written ({os.strerror(number)}); {KEPT}; make it writable or choose another directory")
    if number in MISPLACED:
        return StorageError(f"{path} cannot be written ({os.strerror(number)}: {error.filename}); choose another directory")
    return None


def access_error(error: OSError) -> AfterbaseError | None:
    """The sentence for a system's refusal that nobody nearer has told, be it of a read or a write; None when it is our own mistake."""
    if error.errno in FULL:
        return _disk_is_full(Path(error.filename or "."))
    if error.errno not in FORBIDDEN | UNREADABLE:
        return None
    place = error.filename or "a file"
    return StorageError(f"{place} cannot be read or written ({os.strerror(error.errno)}); {KEPT}; {_remedy(error)}")


def _disk_is_full(place: Path) -> FullDisk:
    return FullDisk(f"the disk is full: {place} was not written, {KEPT}; free some space and run the same command again")


def _remedy(error: OSError) -> str:
    if error.errno in FORBIDDEN:
        return "give this user the right to it, or name another path"
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return "name the path of a file that exists"
    return "check its disk, or copy it again"


def _files(directory: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(directory, onerror=_raise):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda file: file.relative_to(directory).as_posix())


def _raise(error: OSError) -> None:
    raise error  # os.walk would pass a folder over that it may not list


def _bytes_hash(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()


def _concerns(error: OSError, path: Path) -> bool:
    """Whether an error is about `path`, a place above it or one beside it, and not about a file that was read meanwhile."""
    named = Path(error.filename or path)
    return named in path.parents or path.parent in named.parents


def _free(path: Path) -> int:
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free

"""Every refusal of the operating system becomes a typed error and leaves no mess."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from potsherd.errors import NotFoundError, StorageError
from potsherd.node.real.disk import RealDisk

FAILURES = [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT]


@pytest.fixture
def disk(tmp_path: Path) -> RealDisk:
    disk = RealDisk(tmp_path / "node")
    disk.create("there", 100)
    return disk


def failing(number: int) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", FAILURES)
def test_create_that_finds_no_room_leaves_no_file(
    disk: RealDisk, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(number))
    with pytest.raises(StorageError, match=os.strerror(number).lower()):
        disk.create("f", 100)
    assert [path for path, _, _ in disk.walk("")] == ["there"]
    monkeypatch.undo()
    disk.create("f", 100)


@pytest.mark.parametrize("number", FAILURES)
@pytest.mark.parametrize(
    ("call", "operation"),
    [("pwrite", "write"), ("pread", "read"), ("ftruncate", "truncate"), ("fsync", "sync")],
)
def test_refused_calls_are_storage_errors_and_work_afterwards(
    disk: RealDisk, monkeypatch: pytest.MonkeyPatch, number: int, call: str, operation: str
) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "write": ("there", 0, b"x"),
        "read": ("there", 0, 1),
        "truncate": ("there", 50),
        "sync": ("there",),
    }
    monkeypatch.setattr(os, call, failing(number))
    with pytest.raises(StorageError, match=os.strerror(number).lower()):
        getattr(disk, operation)(*arguments[operation])
    monkeypatch.undo()
    getattr(disk, operation)(*arguments[operation])


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_without_fallocate_zeros_are_written_for_real(
    disk: RealDisk, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(number))
    disk.create("f", 2_500_000)
    sizes = {path: (size, allocated) for path, size, allocated in disk.walk("")}
    size, allocated = sizes["f"]
    assert size == 2_500_000
    assert allocated >= 2_500_000


def test_write_goes_on_after_a_short_one(disk: RealDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nearly full disk takes a part of a write first."""
    pwrite, pread = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:7], offset))
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 5), offset))
    disk.write("there", 3, bytes(range(90)))
    assert disk.read("there", 3, 90) == bytes(range(90))


def test_folder_is_durable_only_with_its_own_name(
    disk: RealDisk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """fsync of `a/b` does not save the name `b` in `a`: power loss would take the whole folder."""
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    disk.create("a/b/f", 1)
    disk.sync_folder("a/b")
    root = str(tmp_path / "node")
    assert synced == [f"{root}/a/b", f"{root}/a", root]
    synced.clear()
    disk.create("a/b/g", 1)
    disk.sync_folder("a/b")
    assert synced == [f"{root}/a/b"]


def test_file_that_vanishes_during_a_walk_is_left_out(
    disk: RealDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.create("zz", 1)
    walk = disk.walk("")
    assert next(walk)[0] == "there"
    disk.remove("zz")
    assert list(walk) == []


def test_root_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((StorageError, NotFoundError)):
        RealDisk(tmp_path / "file" / "node")


def test_garbage_in_place_of_the_index_is_a_storage_error(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    (tmp_path / ".index").mkdir()
    (tmp_path / ".index" / "index").write_bytes(b"this is no database" * 1000)
    with pytest.raises(StorageError, match="cannot be opened"):
        disk.open_index("index")

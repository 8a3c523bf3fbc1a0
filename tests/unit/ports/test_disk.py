"""One contract for every disk: inherited by a real folder and by the disk of the virtual world."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from potsherd.errors import NotFoundError, StorageError
from potsherd.node.real.disk import RealDisk
from potsherd.node.real.open_files import OPEN_FILES_MAX, OpenFiles
from potsherd.ports import Disk
from potsherd.simulations.world import World


class DiskContract:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Disk]:
        raise NotImplementedError

    def test_new_file_is_zeros_with_allocated_blocks(self, disk: Disk) -> None:
        disk.create("shards/ab/one", 100_000)
        assert disk.read("shards/ab/one", 0, 100_000) == bytes(100_000)
        ((path, size, allocated),) = disk.walk("")
        assert (path, size) == ("shards/ab/one", 100_000)
        assert 100_000 <= allocated <= 200_000

    def test_empty_file(self, disk: Disk) -> None:
        disk.create("empty", 0)
        assert disk.read("empty", 0, 0) == b""
        assert list(disk.walk("")) == [("empty", 0, 0)]

    def test_file_is_made_once(self, disk: Disk) -> None:
        disk.create("one", 10)
        disk.write("one", 0, b"x")
        with pytest.raises(StorageError):
            disk.create("one", 10)
        assert disk.read("one", 0, 1) == b"x"

    def test_writes_land_where_they_should(self, disk: Disk) -> None:
        disk.create("f", 10)
        disk.write("f", 2, b"abc")
        disk.write("f", 7, memoryview(bytearray(b"xyz")))
        disk.write("f", 10, b"")
        assert disk.read("f", 0, 10) == b"\0\0abc\0\0xyz"
        assert disk.read("f", 3, 2) == b"bc"

    def test_nothing_is_written_or_read_outside_the_file(self, disk: Disk) -> None:
        disk.create("f", 10)
        for offset, data in ((8, b"abc"), (11, b"a"), (-1, b"a")):
            with pytest.raises(StorageError):
                disk.write("f", offset, data)
        for offset, size in ((0, 11), (10, 1), (-1, 1)):
            with pytest.raises(StorageError):
                disk.read("f", offset, size)
        assert disk.read("f", 0, 10) == bytes(10)

    def test_missing_files_are_not_found(self, disk: Disk) -> None:
        disk.create("there/f", 1)
        for path in ("f", "there/g", "nowhere/f", "there/f2/g"):
            with pytest.raises(NotFoundError):
                disk.read(path, 0, 1)
            with pytest.raises(NotFoundError):
                disk.write(path, 0, b"x")
            with pytest.raises(NotFoundError):
                disk.sync(path)
            with pytest.raises(NotFoundError):
                disk.truncate(path, 0)
            with pytest.raises(NotFoundError):
                disk.rename(path, "elsewhere/f")
            disk.remove(path)
        assert [path for path, _, _ in disk.walk("")] == ["there/f"]

    def test_truncate_frees_blocks(self, disk: Disk) -> None:
        disk.create("f", 1 << 20)
        disk.write("f", 0, b"head")
        disk.truncate("f", 4)
        assert disk.read("f", 0, 4) == b"head"
        ((_, size, allocated),) = disk.walk("")
        assert size == 4
        assert allocated <= 4096
        with pytest.raises(StorageError):
            disk.truncate("f", 5)
        with pytest.raises(StorageError):
            disk.read("f", 0, 5)

    def test_rename_moves_replaces_and_makes_folders(self, disk: Disk) -> None:
        disk.create("tmp/new", 3)
        disk.write("tmp/new", 0, b"new")
        disk.create("kept/ab/f", 3)
        disk.write("kept/ab/f", 0, b"old")
        disk.rename("tmp/new", "kept/ab/f")
        disk.sync_folder("kept/ab")
        disk.sync_folder("tmp")
        assert disk.read("kept/ab/f", 0, 3) == b"new"
        disk.rename("kept/ab/f", "kept/cd/ef/f")
        assert [path for path, _, _ in disk.walk("")] == ["kept/cd/ef/f"]
        disk.write("kept/cd/ef/f", 0, b"mov")
        assert disk.read("kept/cd/ef/f", 0, 3) == b"mov"

    def test_removed_file_can_be_made_anew(self, disk: Disk) -> None:
        """A cached descriptor of the old one must not be used."""
        disk.create("f", 3)
        disk.write("f", 0, b"old")
        disk.remove("f")
        with pytest.raises(NotFoundError):
            disk.read("f", 0, 3)
        disk.create("f", 2)
        disk.write("f", 0, b"ne")
        assert disk.read("f", 0, 2) == b"ne"

    def test_walk_is_sorted_by_path_and_stays_below_its_folder(self, disk: Disk) -> None:
        paths = ["a/b", "a.b", "a/b.c/d", "ab", "b/a", "a/z", "a/b0", "c/\u00e9"]
        for path in paths:
            disk.create(path, 1)
        assert [path for path, _, _ in disk.walk("")] == sorted(paths)
        assert [path for path, _, _ in disk.walk("a")] == ["a/b", "a/b.c/d", "a/b0", "a/z"]
        assert list(disk.walk("nowhere")) == []

    @pytest.mark.parametrize(
        "path", ["/etc/passwd", "../f", "a/../../f", "a//b", "./a", "a/.", "", "a/", ".index/f"]
    )
    def test_no_path_leads_outside(self, disk: Disk, path: str) -> None:
        with pytest.raises(StorageError):
            disk.create(path, 1)
        with pytest.raises(StorageError):
            disk.remove(path)

    def test_free_shrinks_as_files_grow(self, disk: Disk) -> None:
        before = disk.free()
        disk.create("f", 64 << 20)
        assert disk.free() < before

    # the index

    def test_index_keeps_what_was_committed_and_nothing_else(self, disk: Disk) -> None:
        index = disk.open_index("index")
        index.execute("CREATE TABLE t (x)")
        index.execute("BEGIN IMMEDIATE")
        index.execute("INSERT INTO t VALUES (1)")
        index.execute("COMMIT")
        index.execute("BEGIN IMMEDIATE")
        index.execute("INSERT INTO t VALUES (2)")
        index.close()
        index = disk.open_index("index")
        assert index.execute("SELECT x FROM t").fetchall() == [(1,)]
        assert index.execute("PRAGMA page_size").fetchone() == (4096,)
        index.close()

    def test_index_is_no_file_of_the_store(self, disk: Disk) -> None:
        """Reconciling the ledger removes unknown files: it must never see the index."""
        index = disk.open_index("index")
        index.execute("CREATE TABLE t (x)")
        assert list(disk.walk("")) == []
        index.close()

    def test_index_works_from_other_threads(self, disk: Disk) -> None:
        index = disk.open_index("index")
        thread = threading.Thread(target=lambda: index.execute("CREATE TABLE t (x)"))
        thread.start()
        thread.join()
        assert index.execute("SELECT count(*) FROM t").fetchone() == (0,)
        index.close()

    def test_index_stops_at_its_page_limit_and_goes_on_after_a_rollback(self, disk: Disk) -> None:
        index = disk.open_index("index", pages_max=10)
        index.execute("CREATE TABLE t (x)")
        index.execute("BEGIN")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            for _ in range(20):
                index.execute("INSERT INTO t VALUES (?)", (bytes(4000),))
        if index.in_transaction:
            index.execute("ROLLBACK")
        index.execute("INSERT INTO t VALUES (1)")
        assert index.execute("SELECT count(*) FROM t").fetchone() == (1,)
        index.close()


class TestRealDisk(DiskContract):
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Disk]:
        yield RealDisk(tmp_path / "node")


class TestWorldDisk(DiskContract):
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Disk]:
        with World(1) as world:
            yield world.env("a").disk


class TestRealOnly:
    def test_index_is_safe_against_power_loss(self, tmp_path: Path) -> None:
        index = RealDisk(tmp_path).open_index("index")
        assert index.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert index.execute("PRAGMA synchronous").fetchone() == (2,)
        index.close()

    def test_symbolic_link_is_not_followed(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(b"secret")
        disk = RealDisk(tmp_path / "node")
        (tmp_path / "node" / "f").symlink_to(secret)
        with pytest.raises(StorageError):
            disk.read("f", 0, 6)
        with pytest.raises(StorageError):
            disk.write("f", 0, b"public")
        assert list(disk.walk("")) == []
        assert secret.read_bytes() == b"secret"

    def test_files_are_private(self, tmp_path: Path) -> None:
        disk = RealDisk(tmp_path / "node")
        disk.create("a/f", 1)
        disk.open_index("index").close()
        root = tmp_path / "node"
        for path in (root, root / "a", root / "a/f", root / ".index", root / ".index/index"):
            assert path.stat().st_mode & 0o077 == 0

    def test_open_files_are_bounded(self, tmp_path: Path) -> None:
        disk = RealDisk(tmp_path)
        for i in range(3 * OPEN_FILES_MAX):
            disk.create(f"f{i}", 4)
            disk.write(f"f{i}", 0, i.to_bytes(4, "big"))
        assert len(disk._files) <= OPEN_FILES_MAX
        for i in range(3 * OPEN_FILES_MAX):
            assert disk.read(f"f{i}", 0, 4) == i.to_bytes(4, "big")

    def test_descriptor_in_use_outlives_its_name(self, tmp_path: Path) -> None:
        """One thread removes the file while another reads it."""
        path = tmp_path / "f"
        path.write_bytes(b"data")
        files = OpenFiles()
        with files.using(path, writable=False) as descriptor:
            files.forget(path)
            path.unlink()
            assert len(files) == 0
            assert os.pread(descriptor, 4, 0) == b"data"
        with pytest.raises(OSError, match="Bad file"):
            os.pread(descriptor, 4, 0)

"""The scan: everything found once, in the manifest's order, and deliberate answers to odd things."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from potsherd.datasets.pages import FOLDER_DEPTH_MAX, Kind
from potsherd.datasets.scan import Scanner, Summary, readable
from potsherd.datasets.spool import CommittedSegmentRow, FileResult, Found, Spool, path_of
from potsherd.errors import (
    ChangedError,
    LimitError,
    NotFoundError,
    RefusedError,
    StorageError,
    UsageError,
)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool.open(tmp_path / "spool.sqlite")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    folder = tmp_path / "top"
    folder.mkdir()
    return folder


def scan(spool: Spool, *paths: Path | str | bytes) -> tuple[Summary, bool]:
    scanner = Scanner(spool, paths)
    while scanner.step():
        pass
    return scanner.summary, scanner.finish()


def every(spool: Spool) -> list[Found]:
    with spool._lock:
        rows = spool._db.execute("SELECT * FROM entries ORDER BY key").fetchall()
    return [Found(*row) for row in rows]


def paths(spool: Spool) -> list[bytes]:
    return [path_of(found.key) for found in every(spool)]


def test_one_folder_becomes_the_root(spool: Spool, top: Path) -> None:
    (top / "b").mkdir()
    (top / "b" / "c.txt").write_bytes(b"x" * 20_000)
    (top / "b.txt").write_bytes(b"y")
    (top / "empty").mkdir(mode=0o700)
    (top / "link").symlink_to("/nowhere")
    os.utime(top, ns=(1, 1_234_567_891_234_567_891))
    summary, same = scan(spool, top)
    assert paths(spool) == [b"b", b"b/c.txt", b"b.txt", b"empty", b"link"]  # name by name
    assert not same and (summary.files, summary.folders, summary.symlinks) == (2, 2, 1)
    assert summary.content_bytes == 20_001
    assert (summary.small_blocks_bytes, summary.large_blocks_bytes) == (1024, 32768)
    assert summary.root_mtime_ns == 1_234_567_891_234_567_891
    by_path = {path_of(found.key): found for found in every(spool)}
    assert by_path[b"link"].target == b"/nowhere" and by_path[b"link"].kind == Kind.SYMLINK
    assert by_path[b"empty"].mode == 0o700 and by_path[b"b/c.txt"].size == 20_000
    [source] = spool.sources()
    assert source.path_of(by_path[b"b/c.txt"].key) == os.fsencode(top / "b" / "c.txt")


def test_several_paths_become_entries_of_the_root(spool: Spool, top: Path) -> None:
    (top / "z").mkdir()
    (top / "z" / "deep").mkdir()
    (top / "z" / "deep" / "f").write_bytes(b"1")
    (top / "a.txt").write_bytes(b"2")
    summary, _ = scan(spool, top / "z", top / "a.txt")
    assert paths(spool) == [b"a.txt", b"z", b"z/deep", b"z/deep/f"]
    assert summary.root_mtime_ns is None
    sources = spool.sources()
    found = [sources[f.source].path_of(f.key) for f in every(spool)]
    assert found == [os.fsencode(top / path) for path in ("a.txt", "z", "z/deep", "z/deep/f")]


def test_one_file_becomes_the_entry_of_a_root(spool: Spool, top: Path) -> None:
    (top / "f").write_bytes(b"1")
    scan(spool, top / "f")
    assert paths(spool) == [b"f"]
    [source] = spool.sources()
    assert source.path_of(b"f") == os.fsencode(top / "f")


def test_a_given_link_is_followed_under_its_own_name(spool: Spool, top: Path) -> None:
    (top / "real").mkdir()
    (top / "real" / "f").write_bytes(b"1")
    (top / "link").symlink_to("real")
    (top / "other").write_bytes(b"")
    scan(spool, top / "link", top / "other")
    assert paths(spool) == [b"link", b"link/f", b"other"]


def test_odd_names(spool: Spool, top: Path) -> None:
    names = [b"-rf", b"a\nb", b"\xff\xfe", b" ", b"a b", "é".encode(), b"\x01", b"x" * 255, b"..."]
    for name in names:
        with open(os.fsencode(top) + b"/" + name, "wb"):
            pass
    scan(spool, top)
    assert paths(spool) == sorted(names)
    assert readable(b"a\nb\xff\x1b[0m") == "a\\nb\\xff\\x1b[0m"


def test_what_has_no_content_is_passed_over_and_said(spool: Spool, top: Path) -> None:
    os.mkfifo(top / "fifo")
    (top / "f").write_bytes(b"1")
    with socket.socket(socket.AF_UNIX) as sock:
        here = Path.cwd()
        os.chdir(top)  # the path of a socket has at most 108 bytes
        try:
            sock.bind("sock")
        finally:
            os.chdir(here)
        summary, _ = scan(spool, top)
    assert paths(spool) == [b"f"] and summary.passed_over == 2
    assert sorted(summary.passed_over_examples) == [str(top / "fifo"), str(top / "sock")]
    with pytest.raises(UsageError, match="neither"):
        scan(spool, top / "fifo")


def test_hard_links_are_counted_and_kept_apart(spool: Spool, top: Path) -> None:
    (top / "a").write_bytes(b"1")
    os.link(top / "a", top / "b")
    summary, _ = scan(spool, top)
    assert paths(spool) == [b"a", b"b"] and summary.hard_links == 2


@pytest.mark.parametrize(
    "given", [[], ["missing"], [""], ["d", "e/d"], ["/", "d"], ["d/../d", "d"]]
)
def test_wrong_paths(spool: Spool, top: Path, given: list[str]) -> None:
    (top / "d").mkdir()
    (top / "e" / "d").mkdir(parents=True)
    expected = NotFoundError if given == ["missing"] else UsageError
    with pytest.raises(expected):
        scan(spool, *[path if path in ("", "/") else top / path for path in given])


def test_what_cannot_be_read_is_named_before_anything_is_sent(
    spool: Spool, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, who may read everything: so the answer of the system is replaced."""
    for name in ("a", "b", "c"):
        (top / name).write_bytes(b"")
    (top / "secret").mkdir()
    real_access, real_scandir = os.access, os.scandir

    def access(path: bytes, mode: int, **more: bool) -> bool:
        return not path.endswith(b"/b") and real_access(path, mode)

    def scandir(path: bytes) -> object:
        if path.endswith(b"/secret"):
            raise PermissionError(13, "Permission denied")
        return real_scandir(path)

    monkeypatch.setattr(os, "access", access)
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(RefusedError) as caught:
        scan(spool, top)
    assert str(top / "b") in str(caught.value) and str(top / "secret") in str(caught.value)
    assert str(top / "a") not in str(caught.value)
    with pytest.raises(RefusedError):
        scan(spool, top / "b")


def test_a_folder_that_vanishes(spool: Spool, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (top / "gone").mkdir()
    scanner = Scanner(spool, [top])
    (top / "gone").rmdir()
    real = os.scandir

    def scandir(path: bytes) -> object:
        if path == os.fsencode(top):
            (top / "gone").mkdir()
            entries = list(real(path))
            (top / "gone").rmdir()
            return _Listed(entries)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises((ChangedError, StorageError)):
        while scanner.step():
            pass


class _Listed(list["os.DirEntry[bytes]"]):
    def __enter__(self) -> _Listed:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_folders_too_deep(spool: Spool, top: Path) -> None:
    path = top
    for _ in range(FOLDER_DEPTH_MAX + 1):
        path = path / "d"
    path.mkdir(parents=True)
    with pytest.raises(LimitError):
        scan(spool, top)


def result(key: bytes, segment: int) -> FileResult:
    return FileResult(key, bytes(32), bytes(32), bytes(66), ((0, 0, 1024), (segment, 0, 1024)))


def _touch(top: Path) -> None:
    os.utime(top / "f", ns=(5, 5))


def _append(top: Path) -> None:
    status = (top / "f").stat()
    (top / "f").write_bytes(b"12")
    os.utime(top / "f", ns=(status.st_atime_ns, status.st_mtime_ns))


def _replace(top: Path) -> None:
    status = (top / "f").stat()
    (top / "g").write_bytes(b"1")
    os.utime(top / "g", ns=(status.st_atime_ns, status.st_mtime_ns))
    (top / "g").replace(top / "f")


def _add(top: Path) -> None:
    (top / "g").write_bytes(b"")


def _remove(top: Path) -> None:
    (top / "f").unlink()


def _nothing(top: Path) -> None:
    (top / "f").stat()


@pytest.mark.parametrize("change", [_nothing, _touch, _append, _replace, _add, _remove])
def test_a_second_scan_tells_whether_anything_changed(
    spool: Spool, top: Path, change: Callable[[Path], None]
) -> None:
    (top / "f").write_bytes(b"1")
    mtime = top.stat().st_mtime_ns
    scan(spool, top)
    spool.keep_results([result(b"f", 1)])
    spool.commit_segment(CommittedSegmentRow(0, bytes(32), 5))
    change(top)
    os.utime(top, ns=(mtime, mtime))
    _, same = scan(spool, top)
    unchanged = change is _nothing
    assert same == unchanged
    assert spool.done_before([b"f"], 2) == ({b"f"} if unchanged else set())
    assert len(spool.committed()) == unchanged


def test_another_place_is_another_scan(spool: Spool, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    scan(spool, tmp_path / "one")
    _, same = scan(spool, tmp_path / "two")
    assert not same


def test_an_interrupted_scan_leaves_the_earlier_one(spool: Spool, top: Path) -> None:
    (top / "f").write_bytes(b"1")
    scan(spool, top)
    spool.keep_results([result(b"f", 0)])
    Scanner(spool, [top]).step()
    assert paths(spool) == [b"f"] and spool.done_before([b"f"], 1) == {b"f"}


def test_what_the_spool_keeps(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "s")
    spool.remember("what", [1, b"x", "y", None])
    spool.commit_segment(CommittedSegmentRow(0, b"0" * 32, 7))
    spool.commit_segment(CommittedSegmentRow(1, b"1" * 32, 8, b"key", 4, b"d" * 32))
    spool.commit_segment(CommittedSegmentRow(3, b"3" * 32, 8))
    spool.close()
    spool.close()
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
    again = Spool.open(tmp_path / "s")
    assert again.recall("what") == [1, b"x", "y", None] and again.recall("else") is None
    assert again.committed() == [
        CommittedSegmentRow(0, b"0" * 32, 7),
        CommittedSegmentRow(1, b"1" * 32, 8, b"key", 4, b"d" * 32),
    ]
    again._db.execute("PRAGMA user_version = 99")
    again.close()
    with pytest.raises(StorageError):
        Spool.open(tmp_path / "s")
    with pytest.raises(StorageError):
        Spool.open(tmp_path / "no folder" / "s")


def test_a_manifest_needs_all_results(spool: Spool, top: Path) -> None:
    (top / "f").write_bytes(b"1")
    scan(spool, top)
    with pytest.raises(NotFoundError):
        list(spool.manifest_entries())


def test_many_entries_in_many_folders(spool: Spool, top: Path) -> None:
    for number in range(1500):
        folder = top / f"d{number % 7}" / f"e{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(b"")
    summary, _ = scan(spool, top)
    assert summary.files == 1500 and summary.folders == 28 == sum(1 for _ in _folders(top))
    assert paths(spool) == sorted(
        (os.fsencode(p.relative_to(top)) for p in top.rglob("*")), key=lambda p: p.split(b"/")
    )
    seen: list[Found] = []
    while batch := spool.files(seen[-1].key if seen else b"", limit=400):
        seen += batch
    assert len(seen) == 1500


def _folders(top: Path) -> list[Path]:
    return [p for p in top.rglob("*") if p.is_dir()]

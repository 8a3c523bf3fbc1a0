"""A get writes below its destination and nowhere else, replaces nothing unasked, and goes on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets_bench import TINY, Bench, age, snapshot

from potsherd.datasets import fetch, reader
from potsherd.datasets.extract import Extractor, Standing, is_part_name
from potsherd.datasets.get import GetProgress
from potsherd.datasets.manifest import Node, SegmentRef
from potsherd.datasets.pages import Entry, FileContent, Kind
from potsherd.errors import (
    MalformedError,
    NotEnoughShards,
    PartlyDone,
    RefusedError,
    StorageError,
    UsageError,
)


def node(path: bytes, kind: int = Kind.FILE, target: bytes | None = None, length: int = 4) -> Node:
    content = FileContent(length, bytes(32), bytes(32), bytes(66), ((0, 0, 1024),))
    entry = Entry(path.split(b"/")[-1], kind, 0o644, 10**18, target=target)
    return Node(path, replace(entry, content=content) if kind == Kind.FILE else entry, ())


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "victim").write_bytes(b"safe")
    return folder


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_written_through_a_link(tmp_path: Path, outside: Path, overwrite: bool) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "d").symlink_to(outside)
    (target / "victim").symlink_to(outside / "victim")
    extractor = Extractor(target, overwrite=overwrite)
    with pytest.raises(RefusedError, match="link"):
        extractor.file(node(b"d/new"), b"evil")
    with pytest.raises(RefusedError, match="link"):
        extractor.file(node(b"d/victim"), b"evil")
    if overwrite:
        extractor.file(node(b"victim"), b"evil")  # replaces the link, not what it points to
        extractor.folder(node(b"d", Kind.FOLDER))
        extractor.file(node(b"d/new"), b"evil")
    else:
        with pytest.raises(RefusedError, match="already"):
            extractor.file(node(b"victim"), b"evil")
        with pytest.raises(RefusedError, match="link"):
            extractor.folder(node(b"d", Kind.FOLDER))
    extractor.close()
    assert sorted(path.name for path in outside.iterdir()) == ["victim"]
    assert (outside / "victim").read_bytes() == b"safe"
    assert (target / "victim").is_symlink() != overwrite


def test_a_link_that_comes_while_we_write(tmp_path: Path, outside: Path) -> None:
    extractor = Extractor(tmp_path / "target")
    part = extractor.part(node(b"d/victim"))
    part.write(0, b"evil")
    (tmp_path / "target" / "d").rename(tmp_path / "target" / "moved")
    (tmp_path / "target" / "d").symlink_to(outside)
    part.finish()
    part.close()
    extractor.close()
    assert (outside / "victim").read_bytes() == b"safe"
    assert (tmp_path / "target" / "moved" / "victim").read_bytes() == b"evil"


def test_a_link_in_place_of_the_incomplete_file(tmp_path: Path, outside: Path) -> None:
    target = tmp_path / "target"
    extractor = Extractor(target)
    extractor.part(node(b"f")).close()
    [part] = target.iterdir()
    assert is_part_name(os.fsencode(part.name))
    part.unlink()
    part.symlink_to(outside / "victim")
    with pytest.raises(RefusedError):
        extractor.file(node(b"f"), b"evil")
    extractor.close()
    assert (outside / "victim").read_bytes() == b"safe"


@pytest.mark.parametrize("path", [b"../x", b"a/../../x", b"a/..", b"x\0y", b"y" * 256])
def test_paths_that_escape_are_no_paths(tmp_path: Path, path: bytes) -> None:
    """Pages with such names are refused when they are read; this is the second wall."""
    extractor = Extractor(tmp_path / "target")
    for make in (
        lambda: extractor.file(node(path), b"evil"),
        lambda: extractor.standing(node(path)),
    ):
        with pytest.raises(MalformedError):
            make()
    extractor.close()
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_links_come_last_and_replace_nothing(tmp_path: Path) -> None:
    target = tmp_path / "target"
    extractor = Extractor(target)
    extractor.symlink(node(b"d", Kind.SYMLINK, b"/etc"))
    extractor.symlink(node(b"e", Kind.SYMLINK, b"x"))
    assert list(target.iterdir()) == []
    (target / "d").mkdir()
    with pytest.raises(RefusedError, match="already"):
        extractor.finish()
    extractor.close()
    (target / "d").rmdir()
    for overwrite in (False, True):
        (target / "d").unlink(missing_ok=True)
        (target / "d").symlink_to("/etc" if not overwrite else "/else")
        extractor = Extractor(target, overwrite=overwrite)
        extractor.symlink(node(b"d", Kind.SYMLINK, b"/etc"))
        extractor.finish()
        extractor.close()
        assert os.readlink(target / "d") == "/etc"


def test_a_name_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    extractor = Extractor(tmp_path / "target")
    part = extractor.part(node(b"f"))
    part.write(0, b"new!")
    (tmp_path / "target" / "f").write_bytes(b"old")
    with pytest.raises(RefusedError, match="already"):
        part.finish()
    part.close()
    extractor.close()
    assert (tmp_path / "target" / "f").read_bytes() == b"old"


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: Any) -> None:
    def link(*args: Any, **more: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    extractor = Extractor(tmp_path / "target")
    extractor.file(node(b"f"), b"data")
    with pytest.raises(RefusedError):
        extractor.file(node(b"f"), b"else")
    extractor.close()
    assert (tmp_path / "target" / "f").read_bytes() == b"data"


def test_more_folders_than_may_be_open(tmp_path: Path) -> None:
    extractor = Extractor(tmp_path / "target")
    deep = b"/".join([b"d"] * 200)
    extractor.file(node(deep + b"/f"), b"data")
    for number in range(200):
        extractor.file(node(b"%d/f" % number), b"data")
    extractor.file(node(deep + b"/g"), b"data")
    assert len(os.listdir("/proc/self/fd")) < 120
    extractor.close()
    assert sum(1 for p in (tmp_path / "target").rglob("[fg]")) == 202


def test_the_users_own_folder_keeps_its_mode(tmp_path: Path) -> None:
    for name, made in (("there", False), ("new", True)):
        target = tmp_path / name
        if not made:
            target.mkdir(mode=0o755)
        extractor = Extractor(target)
        root = node(b"", Kind.FOLDER)
        extractor.folder(root._replace(entry=replace(root.entry, mode=0o500)))
        extractor.finish()
        extractor.close()
        assert (target.stat().st_mode & 0o777 == 0o500) == made


def test_a_full_disk(tmp_path: Path, monkeypatch: Any) -> None:
    real = os.pwrite

    def pwrite(descriptor: int, data: Any, offset: int) -> int:
        if offset:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:2], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    extractor = Extractor(tmp_path / "target")
    with pytest.raises(StorageError, match="No space left"):
        extractor.file(node(b"f"), b"data")
    extractor.close()
    assert not (tmp_path / "target" / "f").exists()
    with pytest.raises((StorageError, RefusedError)):
        (tmp_path / "file").write_bytes(b"")
        Extractor(tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.write_bytes(b"data"), Standing.DIFFERENT),
        (lambda path: path.write_bytes(b"longer"), Standing.DIFFERENT),
        (lambda path: path.mkdir(), Standing.DIFFERENT),
        (lambda path: path.symlink_to("x"), Standing.DIFFERENT),
        (lambda path: os.mkfifo(path), Standing.DIFFERENT),
        (lambda path: None, Standing.ABSENT),
    ],
)
def test_what_stands_in_the_place_of_a_file(
    tmp_path: Path, make: Callable[[Path], object], expected: Standing
) -> None:
    make(tmp_path / "f")
    extractor = Extractor(tmp_path)
    assert extractor.standing(node(b"f")) is expected
    if expected is Standing.DIFFERENT and (tmp_path / "f").is_file():
        os.utime(tmp_path / "f", ns=(1, 10**18))
        same = (tmp_path / "f").stat().st_size == 4
        assert extractor.standing(node(b"f")) is (Standing.SAME if same else Standing.DIFFERENT)
    assert extractor.standing(node(b"f/below")) is not Standing.SAME
    assert extractor.standing(node(b"none/below")) is Standing.ABSENT
    extractor.close()


# --- whole gets ----------------------------------------------------------------------------------------


async def stored(tmp_path: Path, sizes: dict[str, int]) -> tuple[Bench, Any]:
    bench = Bench(tmp_path, limits=TINY)
    for path, size in sizes.items():
        bench.write(path, size)
    (bench.source / "link").symlink_to("a")
    age(bench.source)
    return bench, await bench.put()


SIZES = {"a": 5, "d/b": 20_000, "d/c": 300_000, "e": 0}


async def test_a_second_get_finds_everything_done(tmp_path: Path) -> None:
    bench, result = await stored(tmp_path, SIZES)
    first = await bench.get(result)
    assert (first.files, first.kept) == (4, 0)
    reads = len(bench.segments.reads)
    again = await bench.get(result)
    assert (again.files, again.kept) == (0, 4)
    assert len(bench.segments.reads) <= reads + 6  # pages only
    assert snapshot(bench.target) == snapshot(bench.source)


@pytest.mark.parametrize("name", ["other", "d/other", "d/sub/other", ".hidden"])
async def test_a_destination_with_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    bench, result = await stored(tmp_path, SIZES)
    path = bench.target / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match="not empty"):
        await bench.get(result)
    files = [p for p in bench.target.rglob("*") if not p.is_dir()]
    assert files == [path]
    await bench.get(result, overwrite=True)
    path.unlink()
    if name == "d/sub/other":
        path.parent.rmdir()
    os.utime(bench.target / "d", ns=(1, (bench.source / "d").stat().st_mtime_ns))
    assert snapshot(bench.target) == snapshot(bench.source)


async def test_a_destination_with_other_content_is_named(tmp_path: Path) -> None:
    bench, result = await stored(tmp_path, SIZES)
    await bench.get(result)
    (bench.target / "d" / "b").write_bytes(b"changed")
    (bench.target / "link").unlink()
    (bench.target / "link").symlink_to("elsewhere")
    before = snapshot(bench.target)
    with pytest.raises(UsageError, match=r"other content at d/b, link"):
        await bench.get(result)
    assert snapshot(bench.target) == before
    await bench.get(result, overwrite=True)
    assert snapshot(bench.target) == snapshot(bench.source)


async def test_the_same_content_with_another_date_is_kept(tmp_path: Path) -> None:
    bench, result = await stored(tmp_path, SIZES)
    await bench.get(result)
    os.utime(bench.target / "d" / "c", ns=(5, 5))
    inode = (bench.target / "d" / "c").stat().st_ino
    assert (await bench.get(result)).kept == 4
    assert snapshot(bench.target) == snapshot(bench.source)
    assert (bench.target / "d" / "c").stat().st_ino == inode


class Interrupted(Exception):  # noqa: N818 (says what happened)
    """The process dies here."""


def stop_after(bench: Bench, reads: int) -> None:
    real = type(bench.segments).read

    async def read(
        segment: SegmentRef, ranges: Sequence[tuple[int, int]]
    ) -> Sequence[reader.Piece]:
        if len(bench.segments.reads) >= reads:
            raise Interrupted
        return await real(bench.segments, segment, ranges)

    bench.segments.read = read  # type: ignore[method-assign]


async def test_an_interrupted_get_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(fetch, "LONG_BYTES_MIN", 100_000)
    monkeypatch.setattr(fetch, "GROUP_FILES_MAX", 2)
    monkeypatch.setattr(reader, "WINDOW_BYTES", 65_536)
    monkeypatch.setattr("potsherd.datasets.get.RESUME_BYTES", 16_384)
    bench, result = await stored(
        tmp_path, SIZES | {f"x{n}": 100 for n in range(9)} | {"y": 500_000}
    )
    stops = 0
    for reads in range(1, 60):
        del bench.segments.reads[:]
        stop_after(bench, reads)
        try:
            await bench.get(result)
            break
        except Interrupted:
            stops += 1
            complete = [
                p
                for p in bench.target.rglob("*")
                if p.is_file() and not is_part_name(os.fsencode(p.name))
            ]
            for path in complete:
                assert (
                    path.read_bytes()
                    == (bench.source / path.relative_to(bench.target)).read_bytes()
                )
    assert stops >= 8
    assert snapshot(bench.target) == snapshot(bench.source)


@pytest.mark.parametrize("damage", [None, 0, 100_000, 400_000])
async def test_what_a_try_left_of_a_long_file_is_used_if_it_is_right(
    tmp_path: Path, monkeypatch: Any, damage: int | None
) -> None:
    monkeypatch.setattr(reader, "WINDOW_BYTES", 65_536)
    monkeypatch.setattr(fetch, "LONG_BYTES_MIN", 100_000)
    monkeypatch.setattr("potsherd.datasets.get.RESUME_BYTES", 65_536)
    bench, result = await stored(tmp_path, {"y": 500_000})
    bench.target.mkdir()
    extractor = Extractor(bench.target)
    target = await (await bench.open(result)).manifest.lookup(b"y")
    part = extractor.part(target)
    data = bytearray((bench.source / "y").read_bytes()[:450_000])
    if damage is not None:
        data[damage] ^= 1
    part.write(0, data)
    part.close()
    extractor.close()
    done = await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)
    resumed = 450_000 // 65_536 * 65_536
    right = damage is None or damage >= resumed
    assert done.content_bytes == (500_000 - resumed if right else 500_000 + 500_000 - resumed)


async def test_progress_counts_what_is_kept(tmp_path: Path) -> None:
    bench, result = await stored(tmp_path, SIZES)
    await bench.get(result)
    (bench.target / "a").unlink()
    seen: list[GetProgress] = []
    await bench.get(result, on_progress=seen.append)
    assert seen[-1].files + seen[-1].kept <= seen[-1].files_total == 4


async def test_a_lost_long_file_leaves_nothing_behind_a_name(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(reader, "WINDOW_BYTES", 65_536)
    monkeypatch.setattr(fetch, "LONG_BYTES_MIN", 100_000)
    bench, result = await stored(tmp_path, {"a": 5, "y": 900_000})
    bench.segments.lost = {bench.segments.order[2]}
    with pytest.raises(PartlyDone) as caught:
        await bench.get(result)
    assert "y (" in str(caught.value) and not isinstance(caught.value, NotEnoughShards)
    assert not (bench.target / "y").exists() and (bench.target / "a").exists()
    bench.segments.lost = set()
    await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)

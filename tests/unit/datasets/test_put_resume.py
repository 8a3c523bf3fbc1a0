"""An interrupted put goes on: nothing is sent twice, and the archive is the one that it would have been."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets_bench
import pytest
from datasets_bench import KIB, TINY, Bench, age, snapshot

from potsherd.datasets import put, put_files, put_pages
from potsherd.datasets.content import SourceFile
from potsherd.erasure.layout import STANDARD, Limits
from potsherd.errors import ChangedError, PeerError

TREE = {"a": 5, "b/c": 14_000, "b/d": 100_000, "b/e": 600_000, "f": 20_000, "g": 300_000, "h": 0}


def bench_of(folder: Path, tree: dict[str, int] = TREE, limits: Limits = TINY) -> Bench:
    bench = Bench(folder, limits=limits)
    for path, size in tree.items():
        bench.write(path, size)
    age(bench.source)
    return bench


async def reference(folder: Path, tree: dict[str, int] = TREE, limits: Limits = TINY) -> Bench:
    """What an undisturbed put gives."""
    bench = bench_of(folder, tree, limits)
    await bench.put()
    return bench


async def interrupted_at_each_call(tmp_path: Path, tree: dict[str, int], limits: Limits) -> None:
    whole = await reference(tmp_path / "whole", tree, limits)
    calls = whole.segments.calls
    for stop in range(calls):
        bench = bench_of(tmp_path / str(stop), tree, limits)
        bench.segments.fail_at = stop
        with pytest.raises(PeerError):
            await bench.put(created=111)
        safe = len(bench.segments.order)
        result = await bench.put(created=222)
        assert result.created == 111  # the root page says when the put began
        assert bench.segments.order[safe:] and len(set(bench.segments.order)) == len(
            result.segments
        )
        lengths = [s.stream_length for s in result.segments[safe:]]
        row = 2 * 32 * KIB
        assert result.bytes_sent <= sum(-(-length // row) * row for length in lengths)
        await bench.get(result)
        assert snapshot(bench.target) == snapshot(bench.source)


@pytest.mark.parametrize("limits", [STANDARD, TINY])
async def test_every_call_may_be_the_last(tmp_path: Path, limits: Limits) -> None:
    await interrupted_at_each_call(tmp_path, TREE, limits)


async def test_a_small_stream_too(tmp_path: Path) -> None:
    await interrupted_at_each_call(tmp_path, {"a": 5, "b": 3000}, STANDARD)


async def test_the_same_archive_comes_out(tmp_path: Path) -> None:
    whole = bench_of(tmp_path / "whole")
    expected = await whole.put()
    bench = bench_of(tmp_path / "broken")
    for path in bench.source.rglob(
        "*"
    ):  # the same inode numbers are not needed, the same dates are
        assert (
            path.lstat().st_mtime_ns
            == (whole.source / path.relative_to(bench.source)).lstat().st_mtime_ns
        )
    for stop in (2, 9, 14, 18):
        bench.segments.fail_at = stop
        with pytest.raises(PeerError):
            await bench.put()
    bench.segments.fail_at = -1
    result = await bench.put()
    assert result.capability == expected.capability
    assert bench.segments.order == whole.segments.order


async def test_what_is_safe_is_not_even_read(tmp_path: Path, monkeypatch: Any) -> None:
    bench = bench_of(tmp_path, {f"{n:03}": 30_000 for n in range(60)})
    bench.segments.fail_at = 20
    with pytest.raises(PeerError):
        await bench.put()
    safe = len(bench.segments.order)
    assert safe >= 4
    opened = []
    real = SourceFile.__init__

    def spy(self: SourceFile, source: Any, found: Any) -> None:
        opened.append(found.key)
        real(self, source, found)

    monkeypatch.setattr(SourceFile, "__init__", spy)
    await bench.put()
    assert len(opened) <= 60 - 8 * safe + 8


async def test_the_manifest_may_go_over_several_segments(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(put_pages, "PAGES_BYTES", 40_000)
    bench = Bench(tmp_path, limits=TINY)
    for number in range(1500):
        (bench.source / f"{number:05}").symlink_to("t" * 300)
    bench.write("file", 300_000)
    age(bench.source)
    bench.segments.fail_at = 7
    with pytest.raises(PeerError):
        await bench.put()
    result = await bench.put()
    assert len(result.segments) >= 4
    await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)


async def test_pages_beyond_the_plan_get_a_segment_of_their_own(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """Holders were asked to reserve what the plan said: an estimate too low must not exceed that."""
    monkeypatch.setattr(put, "ROOT_BYTES_MAX", 0)
    bench = Bench(tmp_path)
    bench.write("f", 100_000)
    for number in range(300):
        (bench.source / f"{number:05}").symlink_to("t" * 300)
    monkeypatch.setattr(put, "scan", _scan_without_estimate(put.scan))
    monkeypatch.setattr(datasets_bench, "scan", put.scan)
    result = await bench.put()
    assert len(result.segments) == 2
    await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)


def _scan_without_estimate(real: Callable[..., Any]) -> Callable[..., Any]:
    async def scan(*args: Any) -> Any:
        summary, same = await real(*args)
        summary.manifest_bytes_max = 0
        return summary, same

    return scan


# --- sources that change -------------------------------------------------------------------------------


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _shorten(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def _replace(path: Path) -> None:
    status = path.stat()
    path.rename(path.with_suffix(".old"))
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.symlink_to(path.with_suffix(".old"))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES = [_append, _shorten, _touch, _replace, _link, _fifo, _folder, Path.unlink]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["a", "b/d", "b/e"])
async def test_a_file_that_changes_is_not_stored(
    tmp_path: Path, change: Callable[[Path], None], name: str, monkeypatch: Any
) -> None:
    """Small, whole and long files alike; between the scan and the reading of it."""
    monkeypatch.setattr(put_files, "WHOLE_BYTES_MAX", 200_000)
    monkeypatch.setattr(put_files, "PIECE_BYTES", 65_536)
    bench = bench_of(tmp_path)
    with pytest.raises(ChangedError) as caught:
        await bench.put(between=lambda: change(bench.source / name))
    assert name in str(caught.value)
    assert all(segment.entry is None for segment in bench.segments.segments.values())


@pytest.mark.parametrize("change", [_append, _shorten, _touch])
async def test_a_long_file_that_changes_while_it_is_read(
    tmp_path: Path, change: Callable[[Path], None], monkeypatch: Any
) -> None:
    monkeypatch.setattr(put_files, "WHOLE_BYTES_MAX", 200_000)
    monkeypatch.setattr(put_files, "PIECE_BYTES", 65_536)
    bench = bench_of(tmp_path)
    done: list[int] = []

    def on_progress(progress: Any) -> None:
        if not done and progress.content_bytes > 300_000:
            done.append(1)
            change(bench.source / "b/e")

    with pytest.raises(ChangedError):
        await bench.put(on_progress=on_progress)
    assert done


async def test_a_change_between_two_tries_begins_anew(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)
    bench.segments.fail_at = 12
    with pytest.raises(PeerError):
        await bench.put(created=1)
    bench.write("f", 20_001)
    result = await bench.put(created=2)
    assert result.created == 2 or result.bytes_sent >= result.stream_bytes
    await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)


@pytest.mark.parametrize("other", [{"secret": b"x" * 32}, {"title": "x"}, {"epoch": 1}, {"n": 5}])
async def test_other_settings_begin_anew(tmp_path: Path, other: dict[str, Any]) -> None:
    bench = bench_of(tmp_path)
    bench.segments.fail_at = 12
    with pytest.raises(PeerError):
        await bench.put(created=1)
    bench.n = other.pop("n", bench.n)
    bench.segments.n = bench.n
    result = await bench.put(created=2, **other)
    assert result.created == 2 and result.bytes_sent >= result.stream_bytes


async def test_a_change_that_no_date_tells_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    """Half of a file lies in a safe segment: it must be the first half of the same file."""
    monkeypatch.setattr(put_files, "WHOLE_BYTES_MAX", 200_000)
    bench = bench_of(tmp_path)
    bench.segments.fail_at = 4
    with pytest.raises(PeerError):
        await bench.put()
    spool = bench.spool()
    [*_, row] = spool.committed()
    spool.close()
    assert row.open_key == b"b\0e" and row.open_bytes == 2 * 32 * KIB
    path = bench.source / "b/e"
    status = path.stat()
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    bench.segments.fail_at = -1
    with pytest.raises(ChangedError, match="though its date"):
        await bench.put()


async def test_cancelling_leaves_no_task_behind(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)

    async def wait(name: str) -> None:
        if len(bench.segments.order) == 1:
            await asyncio.sleep(3600)

    bench.segments.before = wait
    task = asyncio.create_task(bench.put())
    while len(bench.segments.order) < 1:
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    bench.segments.before = None
    bench.segments._open = None
    result = await bench.put()
    await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)

"""A put into memory and a get out of it give back every byte, date and mode, whatever the tree."""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from datasets_bench import KIB, SIZES, TINY, Bench, age, env, snapshot

from potsherd.crypto.eris import NULL_SECRET, ReadCapability
from potsherd.datasets import content, fetch, put_files, reader
from potsherd.datasets.get import cat, verify
from potsherd.datasets.put import Progress, plan
from potsherd.datasets.reader import open_archive
from potsherd.datasets.scan import Scanner
from potsherd.datasets.spool import Spool
from potsherd.datasets.testing import MemorySegment
from potsherd.datasets.window_pace import WindowPace
from potsherd.erasure.layout import STANDARD, Limits
from potsherd.errors import (
    IntegrityError,
    LimitError,
    MalformedError,
    NotEnoughShards,
    NotFoundError,
    PartlyDone,
    UsageError,
)

ROW = 32 * KIB


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("limits", [STANDARD, TINY])
async def test_one_file_of_every_size(tmp_path: Path, size: int, k: int, limits: Limits) -> None:
    bench = Bench(tmp_path, k, k + 2, limits)
    bench.write("f", size)
    result = await bench.put(bench.source / "f")
    await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)
    small = next(iter(bench.segments.segments.values())).small
    assert small == (result.stream_bytes < k * ROW)


@pytest.mark.parametrize("limits", [STANDARD, TINY])
@pytest.mark.parametrize("k", [1, 2, 5])
async def test_files_of_all_sizes_together(tmp_path: Path, k: int, limits: Limits) -> None:
    bench = Bench(tmp_path, k, k + 1, limits)
    for number, size in enumerate([*SIZES, 200 * KIB, 300 * KIB, 3 * KIB, 7]):
        bench.write(f"d{number % 3}/f{number:02}", size)
    age(bench.source)
    result = await bench.put()
    await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)
    assert bench.target.stat().st_mtime_ns == 10**18 - 5
    assert [s.segment_id for s in result.segments] == bench.segments.order
    assert len(result.segments) > 1 or limits is STANDARD
    assert result.bytes_sent >= result.stream_bytes


@pytest.mark.parametrize("files", range(0, 60, 3))
async def test_the_row_is_a_boundary(tmp_path: Path, files: int) -> None:
    """With 1 KiB more each time the stream goes from small to aligned, files first, then by its pages."""
    bench = Bench(tmp_path, 1, 2)
    for number in range(files):
        bench.write(f"{number:03}", 10)
    result = await bench.put()
    await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)
    [segment] = bench.segments.segments.values()
    assert segment.small == (len(segment.data) < ROW)
    if segment.small:
        assert len(segment.data) == result.stream_bytes


async def test_odd_trees(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    source = os.fsencode(bench.source)
    for name in (b"-rf", b"a\nb", b"\xff\xfe", b" ", b"x" * 255, b"...", b"\x01\x7f"):
        with open(source + b"/" + name, "wb") as file:
            file.write(name)
    (bench.source / "empty" / "also empty").mkdir(parents=True)
    (bench.source / "absolute").symlink_to("/etc/passwd")
    (bench.source / "outside").symlink_to("../../../..")
    (bench.source / "dangling").symlink_to("nowhere")
    (bench.source / "itself").symlink_to("itself")
    (bench.source / "to a folder").symlink_to("empty")
    bench.write("read only", 5).chmod(0o400)
    bench.write("locked/f", 5)
    (bench.source / "locked").chmod(0o555)
    age(bench.source)
    result = await bench.put()
    done = await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)
    assert (done.symlinks, done.folders, done.files) == (5, 3, 9)
    assert result.totals.symlinks == 5


async def test_special_bits_are_not_restored(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("program", 5).chmod(0o6755)
    (bench.source / "shared").mkdir()
    (bench.source / "shared").chmod(0o3777)
    await bench.get(await bench.put())
    assert stat.S_IMODE((bench.target / "program").stat().st_mode) == 0o755
    assert stat.S_IMODE((bench.target / "shared").stat().st_mode) == 0o777


async def test_nothing_at_all(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    result = await bench.put()
    assert result.totals.files == 0 and result.stream_bytes == 3 * KIB
    await bench.get(result)
    assert list(bench.target.iterdir()) == []


async def test_deep_and_wide(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limits=TINY)
    bench.write("/".join(["d"] * 150) + "/f", 10)
    for number in range(700):
        (bench.source / f"{number:04}").write_bytes(b"")
    result = await bench.put()
    await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)


async def test_two_thousand_small_files_take_few_requests(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for number in range(2000):
        folder = bench.source / f"{number % 20}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}").write_bytes(b"%d" % number * (number % 50))
    result = await bench.put()
    await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)
    assert len(bench.segments.reads) < 40
    assert result.stream_bytes <= plan_of(bench).stream_bytes < 1.3 * result.stream_bytes


def plan_of(bench: Bench) -> Any:
    """The plan of a put that ran, from the summary of a scan of the same source."""
    scanner = Scanner(Spool.open(bench.folder / "again"), [bench.source])
    while scanner.step():
        pass
    return plan(scanner.summary, bench.k, bench.n, limits=bench.limits)


async def test_sparse_files_stay_sparse(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    path = bench.source / "sparse"
    with path.open("wb") as file:
        file.truncate(6 * 2**20)
        file.seek(2 * 2**20 + 5)
        file.write(b"in the middle")
        file.seek(5 * 2**20)
        file.write(b"x" * 4096)
    if path.stat().st_blocks * 512 > 2**20:
        pytest.skip("this file system has no holes")
    result = await bench.put()
    await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)
    assert (bench.target / "sparse").stat().st_blocks * 512 < 2**20
    archive = await bench.open(result)
    node = await archive.manifest.lookup(b"sparse")
    assert node.entry.content and len(node.entry.content.holes) == 3


async def test_the_same_secret_gives_the_same_archive(tmp_path: Path) -> None:
    capabilities = []
    for number, secret in enumerate([b"s" * 32, b"s" * 32, NULL_SECRET]):
        bench = Bench(tmp_path / str(number))
        for path, size in (("a", 10), ("b", 100_000)):
            os.utime(bench.write(path, size), ns=(1, 1))
        os.utime(bench.source, ns=(1, 1))
        capabilities.append((await bench.put(secret=secret)).capability)
    assert capabilities[0] == capabilities[1] != capabilities[2]


async def test_progress_and_the_root_page(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limits=TINY)
    for number in range(10):
        bench.write(str(number), 50_000)
    seen: list[Progress] = []
    result = await bench.put(title="a title", archive=3, epoch=2, on_progress=seen.append)
    assert seen[-1] == Progress(10, 10, 500_000, 500_000, len(result.segments))
    assert [p.files for p in seen] == sorted(p.files for p in seen)
    info = (await bench.open(result)).manifest.info
    assert (info.title, info.archive, info.epoch, info.created) == ("a title", 3, 2, 1_700_000_000)
    assert (await bench.open(result)).manifest.segments == tuple(
        bench.segments.ref(segment.segment_id) for segment in result.segments
    )


async def test_hardly_anything_of_a_large_file_need_be_kept(tmp_path: Path) -> None:
    """Leaves are made again from the file; what is kept is nodes, one in 16 MiB, and the last leaf.

    The sink compares whatever can be made again with what it was given.
    """
    bench = Bench(tmp_path, 3, 5)
    bench.write("long", 18 * 2**20 + 5)
    bench.write("short", 700 * KIB)
    bench.write("tiny", 10 * KIB)
    await bench.put()
    assert bench.segments.bytes_again >= 18 * 2**20 + 700 * KIB
    stored = sum(len(segment.data) for segment in bench.segments.segments.values())
    assert stored - bench.segments.bytes_again < 300 * KIB


async def test_an_archive_has_a_limit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limits=TINY)
    with bench.write("huge", 0).open("wb") as file:
        file.truncate(2**35)
    with pytest.raises(LimitError):
        await bench.put()
    assert bench.segments.calls == 0


# --- reading -------------------------------------------------------------------------------------------


async def whole(archive: reader.ArchiveReader, path: bytes, *span: int) -> bytes:
    return b"".join([piece async for piece in cat(archive, path, *span)])


@pytest.mark.parametrize("size", [0, 1, 5000, 16384, 100_000])
async def test_ranges_equal_slices(tmp_path: Path, size: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(reader, "WINDOW_BYTES", 40_000)
    bench = Bench(tmp_path, limits=TINY)
    bench.write("other", 130_000)
    data = bench.write("f", size).read_bytes()
    archive = await bench.open(await bench.put())
    assert await whole(archive, b"f") == data
    points = sorted({p for p in (0, 1, 1023, 1024, 32768, 40_000, 70_001, size) if p <= size})
    for start in points:
        for stop in (p for p in points if p >= start):
            assert await whole(archive, b"f", start, stop) == data[start:stop]
    assert await whole(archive, b"f", 0, size + 100) == data
    for start, stop in ((size + 1, size + 2), (-1, 0), (1, 0)):
        with pytest.raises(UsageError):
            await whole(archive, b"f", start, stop)


async def test_a_range_asks_only_for_its_path_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 4, 8)
    data = bench.write("f", 20 * 2**20).read_bytes()
    archive = await bench.open(await bench.put())
    await archive.manifest.lookup(b"f")
    del bench.segments.reads[:]
    assert await whole(archive, b"f", 10 * 2**20, 11 * 2**20) == data[10 * 2**20 : 11 * 2**20]
    [(_, ranges)] = bench.segments.reads
    blocks = sum(length for _, length in ranges) // ROW
    assert blocks == 32 + 2  # the leaves, one inner node, the root


@pytest.mark.parametrize(
    ("seconds", "ends"),
    [
        (0.01, [1, 2, 16, 32, 40]),  # the second is under way before the first has come
        (0.1, [1, 2, 4, 8, 16, 32, 40]),
        (0.5, list(range(1, 41))),
    ],
)
async def test_windows_grow_as_fast_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, ends: list[int]
) -> None:
    bench = Bench(tmp_path, 4, 8)
    data = bench.write("f", 40 * 2**20).read_bytes()
    archive = await bench.open(await bench.put())
    await archive.manifest.lookup(b"f")
    clock, read = 0.0, bench.segments.read

    async def slow_read(*what: Any) -> Any:
        nonlocal clock
        begun = clock
        await asyncio.sleep(0)
        clock = max(clock, begun + seconds)
        return await read(*what)

    monkeypatch.setattr(bench.env, "monotonic", lambda: clock)
    monkeypatch.setattr(bench.segments, "read", slow_read)
    pieces = [bytes(piece) async for piece in cat(archive, b"f")]
    assert b"".join(pieces) == data
    assert [end / 2**20 for end in accumulate(map(len, pieces))] == ends


async def test_a_file_begins_with_windows_as_large_as_came_soon_before(tmp_path: Path) -> None:
    """Of this archive or of another one of the same client."""
    bench = Bench(tmp_path, 4, 8)
    for name in ("f", "g"):
        bench.write(name, 10 * 2**20)
    result = await bench.put()
    pace = WindowPace()
    for path, first in ((b"f", 1), (b"g", 8), (b"f", 8)):
        archive = await reader.open_archive(bench.env, bench.segments, result.capability, pace)
        pieces = [len(piece) async for piece in cat(archive, path)]
        assert pieces[0] == first * 2**20, pieces
        pace.came(bench.env.monotonic(), 8 * 2**20, 0.0)


async def test_what_cat_is_not_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("d/f", 5)
    (bench.source / "link").symlink_to("d/f")
    archive = await bench.open(await bench.put())
    for path in (b"d", b"link", b""):
        with pytest.raises(UsageError):
            await whole(archive, path)
    with pytest.raises(NotFoundError):
        await whole(archive, b"no")


async def test_selected_paths_keep_their_places(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for path in ("a/b/f", "a/b/g", "a/x", "c/d", "e"):
        bench.write(path, 100)
    age(bench.source)
    result = await bench.put()
    done = await bench.get(result, b"a/b", b"a/b/f", b"/e/")
    assert done.files == 3 and done.folders == 2
    kept = {"a", "a/b", "a/b/f", "a/b/g", "e"}
    assert snapshot(bench.target) == {k: v for k, v in snapshot(bench.source).items() if k in kept}


async def test_an_unknown_path_writes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("a", 1)
    result = await bench.put()
    for path in (b"b", b"a/b", b"a\0"):
        with pytest.raises((NotFoundError, MalformedError)):
            await bench.get(result, b"a", path)
    assert not bench.target.exists()


async def test_verify_reads_every_byte(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(fetch, "LONG_BYTES_MIN", 100_000)
    bench = Bench(tmp_path, limits=TINY)
    for number in range(20):
        bench.write(f"s/{number:02}", 1000 * number)
    bench.write("long", 600_000)
    result = await bench.put()
    archive = await bench.open(result)
    found = await verify(bench.env, archive)
    assert (found.files, found.failures) == (21, ()) and found.content_bytes == 790_000
    assert len(result.segments) > 3
    bench.segments.lost = {bench.segments.order[1]}
    found = await verify(bench.env, archive)
    assert 0 < len(found.failures) < 21 and found.files == 21 - len(found.failures)
    assert all(isinstance(f.error, NotEnoughShards) for f in found.failures)
    assert (await verify(bench.env, archive, [b"s/00"])).files == 1


async def test_what_cannot_be_read_does_not_stop_the_rest(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limits=TINY)
    for number in range(40):
        bench.write(f"{number:02}", 20_000)
    result = await bench.put()
    lost = {bench.segments.order[2]}
    bench.segments.lost = lost
    with pytest.raises(PartlyDone, match="could not be read: ") as caught:
        await bench.get(result)
    assert caught.value.exit_code == 3
    got = snapshot(bench.target)
    assert 30 <= len(got) < 40 and got.items() <= snapshot(bench.source).items()
    with pytest.raises(PartlyDone):
        await bench.get(result)
    bench.segments.lost = set()
    done = await bench.get(result)
    assert done.kept == len(got) and done.files == 40 - len(got)
    assert snapshot(bench.target) == snapshot(bench.source)


async def test_nothing_readable_is_its_own_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limits=TINY)
    bench.write("f", 300_000)
    for number in range(600):
        (bench.source / f"{number:04}").symlink_to("x" * 100)
    result = await bench.put()
    bench.segments.lost = set(bench.segments.order[:1])
    with pytest.raises(NotEnoughShards):
        await bench.get(result)
    bench.segments.lost = set(bench.segments.order)
    with pytest.raises(NotEnoughShards):
        await bench.open(result)


async def test_an_unknown_or_foreign_capability(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("f", 50_000)
    result = await bench.put()
    node = await (await bench.open(result)).manifest.lookup(b"f")
    assert node.entry.content is not None
    other = replace(result.capability, root_key=bytes(32))
    for capability in (other, ReadCapability.from_bytes(node.entry.content.capability)):
        with pytest.raises(NotFoundError):
            await open_archive(bench.env, bench.segments, capability)
    with pytest.raises(NotFoundError, match="of a file"):
        await open_archive(bench.env, bench.segments, replace(other, level=0))


async def test_a_false_entry_is_passed_over(tmp_path: Path) -> None:
    """Whoever hears of a locator can announce a segment of his own under it."""
    bench = Bench(tmp_path)
    bench.write("f", 5)
    result = await bench.put()
    true_id, true = bench.segments.order[0], bench.segments.segments[bench.segments.order[0]]
    assert true.entry is not None
    locator, offset, length = true.entry
    false = [
        MemorySegment(0, bytes(20), bytearray(5000), True, (locator, 0, 3072)),
        MemorySegment(0, bytes(20), bytearray(5000), True, (locator, 0, 100)),
        replace(true, data=true.data[::-1]),
        replace(true, placement_key=b"x" * 20),
    ]
    bench.segments.segments = {bytes([n]) * 32: segment for n, segment in enumerate(false)}
    with pytest.raises((IntegrityError, MalformedError)):
        await bench.open(result)
    bench.segments.segments[true_id] = true
    await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)
    assert (offset, length) == true.entry[1:]


@pytest.mark.parametrize("position", range(0, 100, 9))
async def test_a_wrong_byte_never_reaches_a_file(tmp_path: Path, position: int) -> None:
    bench = Bench(tmp_path)
    for name, size in (("a", 5), ("b", 40_000), ("c", 3000)):
        bench.write(name, size)
    result = await bench.put()
    [segment] = bench.segments.segments.values()
    at = len(segment.data) * position // 100
    segment.data[at] ^= 1
    try:
        await bench.get(result)
    except (IntegrityError, PartlyDone):
        pass
    else:
        assert segment.small is False  # it hit padding between the runs
    good = snapshot(bench.source)
    if bench.target.exists():
        assert snapshot(bench.target).items() <= good.items()


async def test_a_wrong_content_hash_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    """Blocks that verify, but a manifest that says the content should be another.

    The bytes are those that the manifest's own capability names, so `get` of a long file does not hash them
    again; `verify` does.
    """
    monkeypatch.setattr(fetch, "LONG_BYTES_MIN", 30_000)
    bench = Bench(tmp_path)
    for name, size in (("a", 5), ("b", 40_000)):
        bench.write(name, size)
    real = content.encode_files

    def wrong(*args: Any) -> Any:
        return [found._replace(blake2b=bytes(32)) for found in real(*args)]

    monkeypatch.setattr(put_files, "encode_files", wrong)
    result = await bench.put()
    with pytest.raises(PartlyDone, match="1 could not be read: a "):
        await bench.get(result)
    assert [path.name for path in bench.target.iterdir()] == ["b"]
    found = await verify(env(), await bench.open(result))
    assert len(found.failures) == 2

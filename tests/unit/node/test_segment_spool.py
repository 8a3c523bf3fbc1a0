"""The stream of the segment in hand: kept where it must be, made again where it can be, and the same bytes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from potsherd.erasure.layout import CELL_SIZE
from potsherd.erasure.merkle import cell_leaves
from potsherd.erasure.segment import Remake, StreamPart
from potsherd.errors import ChangedError, UsageError
from potsherd.node import segment_spool
from potsherd.node.real.disk import RealDisk
from potsherd.node.segment_spool import SegmentSpool

CELLS = 60
SEEDS = range(12)


def part_of(stream: bytearray, start: int, size: int, *, again: bool) -> StreamPart:
    """As a put makes it: what is made again is read from the source when it is wanted."""
    data = bytes(stream[start : start + size])
    references = b"" if size % CELL_SIZE else cell_leaves(data, CELL_SIZE)
    remake = Remake(lambda at, length: bytes(stream[at : at + length]), start) if again else None
    return StreamPart(data, references, remake)


def filled(
    folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[SegmentSpool, bytearray, random.Random, int]:
    """A spool with a random stream in random parts, the source of it, and bytes that had to be kept."""
    print("seed", seed)
    monkeypatch.setattr(segment_spool, "FILE_BYTES", 5 * CELL_SIZE)
    rng = random.Random(seed)
    source = bytearray(rng.randbytes(CELLS * CELL_SIZE))
    spool = SegmentSpool(RealDisk(folder), "put/segments/0", len(source))
    at = must = 0
    while at < len(source):
        size = min(rng.choice((700, CELL_SIZE, 3 * CELL_SIZE, 7 * CELL_SIZE)), len(source) - at)
        if at % CELL_SIZE:
            size = min(-at % CELL_SIZE, len(source) - at)
        again = rng.random() < 0.6
        must += size if not again or size % CELL_SIZE or at % CELL_SIZE else 0
        parts = [part_of(source, at, size, again=again)]
        if rng.random() < 0.5:
            parts = list(parts[0].cut(rng.randrange(0, size, CELL_SIZE), CELL_SIZE))
        spool.write(spool.add(parts))
        at += size
    return spool, source, rng, must


@pytest.mark.parametrize("seed", SEEDS)
def test_every_range_reads_back(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, source, rng, must = filled(tmp_path, seed, monkeypatch)
    assert spool.kept_bytes == must
    for _ in range(40):
        first = rng.randrange(CELLS)
        cells = rng.randint(1, CELLS - first)
        found = spool.read(first * CELL_SIZE, cells * CELL_SIZE)
        assert found == source[first * CELL_SIZE : (first + cells) * CELL_SIZE]


@pytest.mark.parametrize("seed", [1, 2])
def test_what_changed_is_not_given(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, source, _, must = filled(tmp_path, seed, monkeypatch)
    before = bytes(source)
    for place in range(0, len(source), CELL_SIZE):
        source[place + place // CELL_SIZE] ^= 1  # a bit of each cell
    told = 0
    for start in range(0, len(source), CELL_SIZE):
        try:
            assert spool.read(start, CELL_SIZE) == before[start : start + CELL_SIZE]
        except ChangedError:
            told += 1
    assert told == (len(source) - must) // CELL_SIZE > 0


def test_a_source_that_is_cut_short_is_told(tmp_path: Path) -> None:
    data = bytes(2 * CELL_SIZE)
    short = Remake(lambda _start, _size: b"short")
    spool = SegmentSpool(RealDisk(tmp_path), "a/0", 2**20)
    assert not spool.add([StreamPart(data, cell_leaves(data, CELL_SIZE), short)])
    with pytest.raises(ChangedError):
        spool.read(0, CELL_SIZE)


def test_files_are_as_large_as_what_is_kept_and_go(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    size = segment_spool.FILE_BYTES + CELL_SIZE
    spool = SegmentSpool(disk, "put/segments/7", size)
    assert list(disk.walk("put")) == []
    data = random.Random(7).randbytes(size)
    for start in range(0, size, 2**20):
        spool.write(spool.add([StreamPart(data[start : start + 2**20])]))
    sizes = [found for _, found, _ in disk.walk("put")]
    assert sizes == [segment_spool.FILE_BYTES, CELL_SIZE]
    assert spool.read(0, size) == data
    other = SegmentSpool(disk, "put/segments/70", 2**20)
    other.write(other.add([StreamPart(bytes(5))]))
    spool.clear()
    assert [path for path, _, _ in disk.walk("put")] == ["put/segments/70.0"]


def test_no_more_than_was_announced(tmp_path: Path) -> None:
    spool = SegmentSpool(RealDisk(tmp_path), "put/0", CELL_SIZE)
    spool.add([StreamPart(bytes(CELL_SIZE))])
    with pytest.raises(UsageError):
        spool.add([StreamPart(b"1")])

"""Batches of rows into columns and back, against the whole segment done in one go."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potsherd.erasure import Code, merkle
from potsherd.erasure.descriptor import Descriptor, Entry
from potsherd.erasure.layout import Geometry, Limits
from potsherd.erasure.segment import (
    BATCH_BYTES,
    RowBatch,
    SegmentEncoder,
    StreamPart,
    batch_rows,
    column_of,
    join_columns,
    rebuild_rows,
)
from potsherd.errors import LimitError, MalformedError, NotEnoughShards, UsageError

CELL = 32
TINY = Limits(cell_size=CELL, cell_step=8, data_cells=12, block_small=4)
K, N = 3, 7
PLACE, OWNER = b"p" * 20, b"o" * 32


def tiny_encoder() -> SegmentEncoder:
    return SegmentEncoder(Code(K, N), cell_size=CELL, limits=TINY)


def slow_columns(stream: bytes, geometry: Geometry) -> list[bytes]:
    """All n columns, cell by cell by the rule."""
    stream += bytes(geometry.capacity - len(stream))
    cell, k = geometry.cell_size, geometry.k
    cells = [stream[i : i + cell] for i in range(0, len(stream), cell)]
    data = [b"".join(cells[i::k]) for i in range(k)]
    return data + Code(k, geometry.n).parity(data)


def whole_columns(batches: list[RowBatch]) -> list[bytes]:
    return [b"".join(bytes(b.columns[i].cells) for b in batches) for i in range(N)]


@pytest.mark.parametrize("length", [0, 1, 31, 32, 95, 96, 97, 96 * 4 - 1, 96 * 4])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_batches_make_the_same_as_the_whole(length: int, rows: int) -> None:
    stream = random.Random(length).randbytes(length)
    encoder, size = tiny_encoder(), rows * K * CELL
    parts = [stream[i : i + size] for i in range(0, length, size)] or [b""]
    batches = [encoder.encode_rows(part) for part in parts]
    geometry = Geometry.of(K, N, length, limits=TINY)
    assert encoder.geometry() == geometry
    expected = slow_columns(stream, geometry)
    assert whole_columns(batches) == expected
    leaves = [merkle.cell_leaves(column, CELL) for column in expected]
    assert encoder.roots() == tuple(merkle.root(run) for run in leaves)
    assert [b.first_row for b in batches] == [i * rows for i in range(len(batches))]
    for i, run in enumerate(leaves):
        assert b"".join(b.columns[i].leaves for b in batches) == run


def test_known_leaves_are_used_and_not_hashed_again() -> None:
    """A 32 KiB block's reference is its cell's leaf: hashed once, used twice."""
    stream = random.Random(1).randbytes(2 * K * CELL)
    hashed: list[bytes] = []

    def spy(cells: bytes | bytearray | memoryview, cell_size: int) -> bytes:
        hashed.append(bytes(cells))
        return merkle.cell_leaves(cells, cell_size)

    parts = [
        StreamPart(
            part, b"" if part == stream[4 * CELL : 5 * CELL] else merkle.cell_leaves(part, CELL)
        )
        for part in (stream[: 4 * CELL], stream[4 * CELL : 5 * CELL], stream[5 * CELL :])
    ]
    encoder = SegmentEncoder(Code(K, N), cell_size=CELL, hash_cells=spy, limits=TINY)
    batch = encoder.encode_parts(parts)
    plain = tiny_encoder()
    assert batch.columns == plain.encode_rows(stream).columns
    assert encoder.roots() == plain.roots()
    data_cells = [cells for cells in hashed if len(cells) == CELL]
    assert data_cells == [stream[4 * CELL : 5 * CELL]]
    with pytest.raises(UsageError):
        tiny_encoder().encode_parts([StreamPart(stream, b"short")])


@given(st.lists(st.integers(0, 3 * CELL), max_size=8), st.randoms(use_true_random=False))
def test_parts_of_any_size_give_the_same_columns(sizes: list[int], rng: random.Random) -> None:
    parts = []
    for size in sizes:
        data = rng.randbytes(size)
        known = rng.random() < 0.5 and size % CELL == 0
        parts.append(StreamPart(data, merkle.cell_leaves(data, CELL) if known else b""))
    whole = b"".join(part.data for part in parts)[: 4 * K * CELL]
    ours, plain = tiny_encoder(), tiny_encoder()
    if sum(sizes) > len(whole):
        with pytest.raises(LimitError):
            ours.encode_parts(parts)
        return
    assert ours.encode_parts(parts).columns == plain.encode_rows(whole).columns
    assert ours.roots() == plain.roots()


def test_a_part_is_cut_with_what_is_known_of_it() -> None:
    data = random.Random(2).randbytes(3 * CELL)
    part = StreamPart(data, merkle.cell_leaves(data, CELL))
    for at in range(len(data) + 1):
        parts = part.cut(at, CELL)
        assert b"".join(p.data for p in parts) == data
        for p in parts:
            assert p.references == (b"" if at % CELL else merkle.cell_leaves(p.data, CELL))


def test_no_rows_after_one_that_was_not_full_nor_beyond_a_segment() -> None:
    encoder = tiny_encoder()
    encoder.encode_rows(bytes(100))
    with pytest.raises(UsageError):
        encoder.encode_rows(b"x")
    encoder = tiny_encoder()
    encoder.encode_rows(bytes(4 * K * CELL))
    with pytest.raises(LimitError):
        encoder.encode_rows(b"x")
    small = SegmentEncoder(Code(K, N), cell_size=8, limits=TINY)
    with pytest.raises(LimitError):
        small.encode_rows(bytes(25))


def test_a_small_segment_and_its_descriptor() -> None:
    stream = b"potsherd" * 125
    geometry = Geometry.of(4, 12, 1000, small=True)
    encoder = SegmentEncoder(Code(4, 12), cell_size=geometry.cell_size)
    batch = encoder.encode_rows(stream)
    descriptor = encoder.finish(
        r=8, placement_key=PLACE, owner_key=OWNER, entry=Entry(bytes(20), 0, 1000)
    )
    assert Descriptor.decode(descriptor.encode()).geometry == geometry
    assert geometry.shard_size == 256
    assert descriptor.roots == tuple(merkle.cell_leaf(c.cells) for c in batch.columns)
    back = join_columns([c.cells for c in batch.columns[:4]], geometry.cell_size)
    assert bytes(back[:1000]) == stream and not any(back[1000:])


def test_a_segment_of_full_cells() -> None:
    stream = random.Random(3).randbytes(5 * 32768 + 1)
    encoder = SegmentEncoder(Code(2, 3))
    batches = [encoder.encode_rows(stream[:131072]), encoder.encode_rows(stream[131072:])]
    descriptor = encoder.finish(r=3, placement_key=PLACE, owner_key=OWNER)
    assert (descriptor.rows, descriptor.stream_length) == (3, len(stream))
    for index in range(3):
        leaves = b"".join(b.columns[index].leaves for b in batches)
        proof = merkle.prove_range(leaves, 2, 1)
        cell = bytes(batches[1].columns[index].cells)
        merkle.verify_range(descriptor.roots[index], 3, 2, merkle.cell_leaf(cell), proof)


def test_an_empty_segment_has_one_row_of_zeros() -> None:
    encoder = SegmentEncoder(Code(2, 3), cell_size=64)
    descriptor = encoder.finish(r=2, placement_key=PLACE, owner_key=OWNER)
    assert (descriptor.rows, descriptor.stream_length, descriptor.cell_size) == (1, 0, 64)
    assert set(descriptor.roots) == {merkle.cell_leaf(bytes(64))}


def test_finish_refuses_what_no_descriptor_holds() -> None:
    for r, placement_key in ((1, b"p" * 20), (3, b"p" * 19), (4, b"p" * 20)):
        encoder = SegmentEncoder(Code(2, 3))
        encoder.encode_rows(b"x")
        with pytest.raises(MalformedError):
            encoder.finish(r=r, placement_key=placement_key, owner_key=b"o" * 32)


def test_rebuild_of_a_run_of_rows() -> None:
    stream = random.Random(4).randbytes(3 * K * CELL)
    batch = tiny_encoder().encode_rows(stream)
    cells = {i: batch.columns[i].cells for i in (6, 4, 1)}
    rebuilt = rebuild_rows(Code(K, N), cells, [0, 1, 2, 5], CELL)
    for index, run in rebuilt.items():
        assert run.cells == bytes(batch.columns[index].cells)
        assert run.leaves == batch.columns[index].leaves
    assert set(rebuilt) == {0, 1, 2, 5}
    with pytest.raises(NotEnoughShards):
        rebuild_rows(Code(K, N), {0: bytes(CELL), 1: bytes(CELL)}, [2], CELL)


def test_columns_and_tables_are_inverse() -> None:
    table = random.Random(5).randbytes(4 * K * CELL)
    columns = [column_of(table, K, CELL, i) for i in range(K)]
    assert join_columns(columns, CELL) == table
    for bad in ([b"ab", b"a"], [b"abc", b"abc"]):
        with pytest.raises(UsageError):
            join_columns(bad, 2)


def test_batches_have_whole_rows_and_at_least_one() -> None:
    assert batch_rows(4) * 4 * 32768 == BATCH_BYTES
    assert batch_rows(255) == 1

"""Code against reedsolo, which defines it."""

from __future__ import annotations

import itertools
import random

import pytest
from reedsolo import RSCodec

from potsherd.erasure import Code
from potsherd.erasure.code import mother_matrix
from potsherd.errors import NotEnoughShards, UsageError
from potsherd.kernels.gf import PlainEngine

CODES = [(1, 1), (1, 3), (1, 255), (2, 4), (3, 10), (4, 9), (4, 12), (10, 30), (16, 48), (29, 80)]
WIDE = [(100, 140), (127, 255), (128, 255), (253, 255), (254, 255), (255, 255)]


def data_shards(rng: random.Random, k: int, size: int) -> list[bytes]:
    return [rng.randbytes(size) for _ in range(k)]


@pytest.mark.parametrize(("k", "n"), CODES + WIDE)
def test_parity_is_that_of_reedsolo(k: int, n: int) -> None:
    data = data_shards(random.Random(k * 256 + n), k, 5)
    parity = Code(k, n).parity(data)
    assert len(parity) == n - k
    if k == 255:
        return  # no parity symbol: reedsolo has no such code
    codec = RSCodec(255 - k)
    for at in range(5):
        word = codec.encode(bytes(shard[at] for shard in data))
        assert bytes(shard[at] for shard in parity) == bytes(word[k:n])


def test_the_matrix_of_every_k_is_that_of_reedsolo() -> None:
    """Unit vectors give the columns; the first and last of each k, and all of a few."""
    for k in range(1, 255):
        codec, matrix = RSCodec(255 - k), mother_matrix(k)
        columns = range(k) if k in (1, 2, 17, 254) else {0, k - 1}
        for i in columns:
            unit = bytes(int(j == i) for j in range(k))
            assert bytes(row[i] for row in matrix) == bytes(codec.encode(unit)[k:])
    assert mother_matrix(255) == ()


def test_more_shards_leave_the_others_as_they_are() -> None:
    data = data_shards(random.Random(1), 4, 100)
    assert Code(4, 30).parity(data)[:5] == Code(4, 9).parity(data)


@pytest.mark.parametrize(("k", "n"), [(1, 3), (2, 4), (3, 6)])
def test_every_choice_of_k_shards_rebuilds_all(k: int, n: int) -> None:
    code, data = Code(k, n), data_shards(random.Random(n), k, 33)
    shards = dict(enumerate(data + code.parity(data)))
    for chosen in itertools.combinations(range(n), k):
        assert code.rebuild({i: shards[i] for i in chosen}, range(n)) == shards


@pytest.mark.parametrize(("k", "n"), CODES + WIDE)
def test_the_last_k_shards_rebuild_all(k: int, n: int) -> None:
    """All data lost as far as possible: the largest matrix to invert."""
    code, data = Code(k, n), data_shards(random.Random(n), k, 3)
    shards = dict(enumerate(data + code.parity(data)))
    assert code.rebuild({i: shards[i] for i in range(n - k, n)}, range(n)) == shards


def test_more_than_k_shards_and_any_order_are_fine() -> None:
    code, data = Code(3, 8), data_shards(random.Random(2), 3, 10)
    shards = dict(enumerate(data + code.parity(data)))
    some = {i: shards[i] for i in (7, 1, 5, 4, 2)}
    assert code.rebuild(some, [6, 0, 6]) == {6: shards[6], 0: shards[0]}


def test_shards_that_are_there_come_back_as_they_are() -> None:
    """Even when too few are there for anything else."""
    assert Code(4, 9).rebuild({8: b"abc"}, [8]) == {8: b"abc"}
    assert Code(4, 9).rebuild({}, []) == {}


def test_too_few_shards() -> None:
    with pytest.raises(NotEnoughShards, match="3 shards, 4 are needed"):
        Code(4, 9).rebuild({8: b"a", 7: b"b", 6: b"c"}, [8, 0])


def test_into_buffers_of_the_caller() -> None:
    code, data = Code(2, 5), data_shards(random.Random(4), 2, 70)
    arena = bytearray(70 * 5)
    views = [memoryview(arena)[i * 70 : i * 70 + 70] for i in range(5)]
    code.parity_into(data, views[2:])
    parity = code.parity(data)
    assert [bytes(view) for view in views[2:]] == parity
    outputs = {0: bytearray(70), 3: bytearray(70), 4: bytearray(70)}
    code.rebuild_into({4: parity[2], 2: parity[0]}, outputs)
    assert outputs == {0: data[0], 3: parity[1], 4: parity[2]}


def test_a_table_of_rows_gives_columns() -> None:
    code, rng = Code(3, 7), random.Random(6)
    table = rng.randbytes(5 * 3 * 64)
    cells = [table[i : i + 64] for i in range(0, len(table), 64)]
    columns = [b"".join(cells[i::3]) for i in range(3)]
    assert [bytes(c) for c in code.parity_rows(table, 64)] == code.parity(columns)
    assert Code(3, 3).parity_rows(table, 64) == []


def test_any_engine_serves() -> None:
    data = data_shards(random.Random(3), 3, 100)
    assert Code(3, 9, engine=PlainEngine()).parity(data) == Code(3, 9).parity(data)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (-1, 2), (2, 1), (1, 256), (256, 256), (0, 0)])
def test_impossible_codes(k: int, n: int) -> None:
    with pytest.raises(UsageError):
        Code(k, n)


def test_wrong_shapes_and_indices() -> None:
    code = Code(2, 4)
    for data in ([b"a"], [b"a", b"b", b"c"], [b"a", b"bc"]):
        with pytest.raises(UsageError):
            code.parity(data)
    for shards, wanted in (
        ({0: b"a", 4: b"b"}, [1]),
        ({0: b"a", 1: b"b"}, [4]),
        ({0: b"a", -1: b"b"}, [1]),
        ({0: b"a", 1: b"bc"}, [2]),
        ({0: b"a", 1: b"b", 2: b"cc"}, [2, 3]),
    ):
        with pytest.raises(UsageError):
            code.rebuild(shards, wanted)
    for table in (b"abc", b"abcde"):
        with pytest.raises(UsageError):
            code.parity_rows(table, 1)
    with pytest.raises(UsageError):
        code.parity_rows(b"", 0)


def test_codes_compare_by_k_and_n() -> None:
    assert Code(2, 4) == Code(2, 4, engine=PlainEngine())
    assert len({Code(2, 4), Code(2, 4), Code(2, 5)}) == 2
    assert repr(Code(2, 4)) == "Code(2, 4)"

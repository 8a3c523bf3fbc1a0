"""The engines: plain arithmetic against the field's definition, numpy against plain."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from potsherd.errors import UsageError
from potsherd.kernels import gf, gf_numpy
from potsherd.kernels.gf import Engine, Matrix, PlainEngine
from potsherd.kernels.gf_numpy import NumpyEngine

ENGINES: list[Engine] = [PlainEngine(), NumpyEngine()]


def slow_multiply(a: int, b: int) -> int:
    """Schoolbook: shift, add, reduce by the polynomial."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= gf.POLYNOMIAL << (bit - 8)
    return product


def random_matrix(rng: random.Random, m: int, k: int) -> Matrix:
    return tuple(rng.randbytes(k) for _ in range(m))


def test_products_are_those_of_polynomials() -> None:
    for a in range(256):
        assert gf.multiples(a) == bytes(slow_multiply(a, b) for b in range(256))


def test_inverse() -> None:
    assert all(gf.multiply(a, gf.inverse(a)) == 1 for a in range(1, 256))
    with pytest.raises(ZeroDivisionError):
        gf.inverse(0)


@pytest.mark.parametrize("size", [0, 1, 7, 63, 64, 65, 511, 512, 513, 8191, 8192, 20000])
@pytest.mark.parametrize(("m", "k"), [(1, 1), (1, 10), (5, 4), (20, 10)])
def test_numpy_equals_plain(m: int, k: int, size: int) -> None:
    rng = random.Random(m * 1000 + k * 100 + size)
    matrix = random_matrix(rng, m, k)
    inputs = [rng.randbytes(size) for _ in range(k)]
    results = []
    for engine in ENGINES:
        outputs = [bytearray(b"\xff" * size) for _ in range(m)]
        engine.multiply(matrix, inputs, outputs)
        results.append(outputs)
    assert results[0] == results[1]


def test_numpy_equals_plain_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gf_numpy, "CHUNK_BYTES_MAX", 128)
    rng = random.Random(5)
    matrix = random_matrix(rng, 3, 4)
    for size in (127, 128, 129, 1000):
        inputs = [rng.randbytes(size) for _ in range(4)]
        results = []
        for engine in ENGINES:
            outputs = [bytearray(size) for _ in range(3)]
            engine.multiply(matrix, inputs, outputs)
            results.append(outputs)
        assert results[0] == results[1]


@pytest.mark.parametrize("chunk", [64, 256, 1 << 18])
@pytest.mark.parametrize(("rows", "cell"), [(0, 64), (1, 1), (1, 300), (3, 64), (7, 100)])
def test_rows_are_columns(
    monkeypatch: pytest.MonkeyPatch, rows: int, cell: int, chunk: int
) -> None:
    """A table gives the same as its columns, whether a chunk holds many rows or a part of one."""
    monkeypatch.setattr(gf_numpy, "CHUNK_BYTES_MAX", chunk)
    rng = random.Random(rows * 7 + cell)
    k, m = 3, 4
    matrix, table = random_matrix(rng, m, k), rng.randbytes(rows * k * cell)
    cells = [table[i : i + cell] for i in range(0, len(table), cell)]
    columns = [b"".join(cells[i::k]) for i in range(k)]
    expected = [bytearray(rows * cell) for _ in range(m)]
    PlainEngine().multiply(matrix, columns, expected)
    for engine in ENGINES:
        outputs = [bytearray(rows * cell) for _ in range(m)]
        engine.multiply_rows(matrix, memoryview(table), cell, outputs)
        assert outputs == expected


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_shapes_that_do_not_fit_are_refused(engine: Engine) -> None:
    matrix = (b"\x01\x02",)
    for inputs, outputs in (
        ([b"a"], [bytearray(1)]),
        ([b"a", b"bc"], [bytearray(1)]),
        ([b"a", b"b"], [bytearray(2)]),
        ([b"a", b"b"], [bytearray(1), bytearray(1)]),
    ):
        with pytest.raises(UsageError):
            engine.multiply(matrix, inputs, outputs)
    for table, cell, outputs in (
        (b"abc", 1, [bytearray(1)]),
        (b"ab", 0, [bytearray(1)]),
        (b"ab", 1, [bytearray(2)]),
        (b"ab", 1, []),
    ):
        with pytest.raises(UsageError):
            engine.multiply_rows(matrix, table, cell, outputs)


def test_threads_do_not_share_the_workspace() -> None:
    """Engines are called from the pool of `offload`; the numpy engine keeps memory between calls."""
    rng = random.Random(9)
    jobs = []
    for _ in range(16):
        matrix = random_matrix(rng, 4, 4)
        jobs.append((matrix, [rng.randbytes(30000) for _ in range(4)]))

    def run(engine: Engine, job: tuple[Matrix, list[bytes]]) -> list[bytearray]:
        outputs = [bytearray(30000) for _ in range(4)]
        engine.multiply(*job, outputs)
        return outputs

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: run(NumpyEngine(), job), jobs * 4))
    alone = [run(PlainEngine(), job) for job in jobs]
    assert together == alone * 4


def test_wide_codes_get_shorter_chunks() -> None:
    assert gf_numpy._chunk_bytes(12) == gf_numpy.CHUNK_BYTES_MAX
    assert gf_numpy._chunk_bytes(255) * 255 <= gf_numpy.WORKSPACE_BYTES_MAX
    assert gf_numpy._chunk_bytes(10**6) == gf_numpy.CHUNK_BYTES_MIN

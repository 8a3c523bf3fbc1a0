"""The erasure code: systematic Reed-Solomon over GF(2^8), the mother code (docs/spec/erasure.md).

Parity row j is parity byte j of reedsolo's `RSCodec(255 - k)` on k data bytes; a code with n shards uses
the first n - k rows. So any k of n shards give back the others, and shards with higher numbers can be
added later without touching the ones that exist. Test vectors: tests/vectors/erasure.

Bytes at different offsets of a shard do not mix. A run of cells of a shard is therefore coded and rebuilt
like a shard.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence

from potsherd.errors import NotEnoughShards, UsageError
from potsherd.kernels.gf import (
    Engine,
    Matrix,
    WritableBuffer,
    add_scaled,
    inverse,
    multiples,
    multiply,
)
from potsherd.ports import Buffer

__all__ = ["MATRICES_MAX", "N_MAX", "Code", "default_engine", "mother_matrix"]

N_MAX = 255
"""Shards of one segment: the length of the mother code."""
MATRICES_MAX = 64
"""Decoding matrices that are remembered, one for each pattern of loss; older ones are made again."""


@functools.cache
def default_engine() -> Engine:
    """The engine used where none is given: compiled where there is enough to do, else numpy or plain Python."""
    from potsherd.kernels.choice import LazyEngine

    return LazyEngine()


def _generator(parity_count: int) -> bytes:
    """The product of (x - 2^j), j < parity_count, highest power first, without the leading 1."""
    polynomial, root = b"\x01", 1
    for _ in range(parity_count):
        polynomial = add_scaled(polynomial + b"\0", root, b"\0" + polynomial)
        root = multiply(root, 2)
    return polynomial[1:]


@functools.lru_cache(maxsize=N_MAX)
def mother_matrix(k: int) -> Matrix:
    """All 255 - k parity rows for k data shards; row j, column i weighs data shard i in shard k + j."""
    if not 1 <= k <= N_MAX:
        raise UsageError(f"k = {k} is not from 1 to {N_MAX}")
    generator = _generator(N_MAX - k)
    remainder, columns = generator, [generator]
    for _ in range(k - 1):  # column i is x^(254 - i) mod generator: each from the one to its right
        remainder = add_scaled(remainder[1:] + b"\0", remainder[0], generator) if generator else b""
        columns.append(remainder)
    columns.reverse()
    return tuple(bytes(row) for row in zip(*columns, strict=True))


def _solve(square: list[bytes], right: list[bytes]) -> list[bytes]:
    """`square^-1 * right` by Gauss and Jordan. `square` is invertible: the code is MDS."""
    size = len(square)
    rows = [left + row for left, row in zip(square, right, strict=True)]
    for column in range(size):
        pivot = next(r for r in range(column, size) if rows[r][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = rows[column].translate(multiples(inverse(rows[column][column])))
        for other in range(size):
            if other != column and rows[other][column]:
                rows[other] = add_scaled(rows[other], rows[other][column], rows[column])
    return [row[size:] for row in rows]


def _combination(weights: bytes, rows: Sequence[bytes], width: int) -> bytes:
    total = bytes(width)
    for weight, row in zip(weights, rows, strict=True):
        if weight:
            total = add_scaled(total, weight, row)
    return total


def _data_from(k: int, chosen: tuple[int, ...]) -> list[bytes]:
    """Row i gives data shard i from the k chosen shards; a chosen data shard gives itself."""
    mother = mother_matrix(k)
    kept = [index for index in chosen if index < k]
    lost = [index for index in range(k) if index not in set(kept)]
    parity = [mother[index - k] for index in chosen[len(kept) :]]
    # parity = A * lost + B * kept, so lost = A^-1 * (B * kept + parity): minus is plus here
    right = [
        bytes(row[i] for i in kept) + bytes(int(c == r) for c in range(len(parity)))
        for r, row in enumerate(parity)
    ]
    solved = _solve([bytes(row[i] for i in lost) for row in parity], right)
    unit = {index: bytes(int(c == place) for c in range(k)) for place, index in enumerate(kept)}
    return [unit[i] if i in unit else solved[lost.index(i)] for i in range(k)]


@functools.lru_cache(maxsize=MATRICES_MAX)
def _rebuild_matrix(k: int, chosen: tuple[int, ...], wanted: tuple[int, ...]) -> Matrix:
    """Rows that give the wanted shards from the chosen ones (k of them, ascending)."""
    data = _data_from(k, chosen)
    mother = mother_matrix(k)
    return tuple(data[i] if i < k else _combination(mother[i - k], data, k) for i in wanted)


class Code:
    """k data shards, n - k parity shards. Indices are 0 … n - 1, data first.

    A shard, or the same stretch of every shard, is any buffer of bytes; all given to one call have one
    length, which may be zero. Wrong shapes and indices raise UsageError.
    """

    def __init__(self, k: int, n: int, *, engine: Engine | None = None) -> None:
        if not 1 <= k <= n <= N_MAX:
            raise UsageError(f"a code of {k} of {n}: needs 1 <= k <= n <= {N_MAX}")
        self.k = k
        self.n = n
        self._engine = engine

    def __repr__(self) -> str:
        return f"Code({self.k}, {self.n})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Code) and (self.k, self.n) == (other.k, other.n)

    def __hash__(self) -> int:
        return hash((self.k, self.n))

    @property
    def engine(self) -> Engine:
        """What multiplies; the default one is made at its first use."""
        return self._engine or default_engine()

    @property
    def parity_matrix(self) -> Matrix:
        """n - k rows of k coefficients."""
        return mother_matrix(self.k)[: self.n - self.k]

    def parity(self, data: Sequence[Buffer]) -> list[bytes]:
        """The n - k parity shards of k data shards."""
        outputs = [bytearray(_size(data)) for _ in range(self.n - self.k)]
        self.parity_into(data, outputs)
        return [bytes(output) for output in outputs]

    def parity_into(self, data: Sequence[Buffer], outputs: Sequence[WritableBuffer]) -> None:
        """Fill n - k buffers with the parity shards of k data shards."""
        if len(data) != self.k:
            raise UsageError(f"{len(data)} data shards, not {self.k}")
        self.engine.multiply(self.parity_matrix, data, outputs)

    def parity_rows(self, table: Buffer, cell_size: int) -> list[bytearray]:
        """For a row-major table of rows x k cells: each parity column as rows x `cell_size` bytes."""
        column_bytes = memoryview(table).nbytes // self.k
        outputs = [bytearray(column_bytes) for _ in range(self.n - self.k)]
        self.parity_rows_into(table, cell_size, outputs)
        return outputs

    def parity_rows_into(
        self, table: Buffer, cell_size: int, outputs: Sequence[WritableBuffer]
    ) -> None:
        """`parity_rows` into the caller's n - k buffers."""
        if cell_size < 1 or memoryview(table).nbytes % (self.k * cell_size):
            raise UsageError("a table that is not whole rows")
        if self.n > self.k:
            self.engine.multiply_rows(self.parity_matrix, table, cell_size, outputs)

    def rebuild(self, shards: Mapping[int, Buffer], wanted: Iterable[int]) -> dict[int, bytearray]:
        """The wanted shards from any k others; those that are there are returned as they are.

        Data shards are preferred as input. Raises NotEnoughShards when fewer than k are there and one
        of the wanted is not.
        """
        size = _size(list(shards.values()))
        outputs = {index: bytearray(size) for index in dict.fromkeys(wanted)}
        self.rebuild_into(shards, outputs)
        return outputs

    def rebuild_into(
        self, shards: Mapping[int, Buffer], outputs: Mapping[int, WritableBuffer]
    ) -> None:
        """`rebuild` into the caller's buffers, one for each wanted index."""
        self._check_indices(shards)
        self._check_indices(outputs)
        missing = tuple(sorted(index for index in outputs if index not in shards))
        if missing:
            chosen = self._choose(shards)
            matrix = _rebuild_matrix(self.k, chosen, missing)
            inputs = [shards[index] for index in chosen]
            self.engine.multiply(matrix, inputs, [outputs[index] for index in missing])
        for index in outputs.keys() & shards.keys():
            if memoryview(shards[index]).nbytes != memoryview(outputs[index]).nbytes:
                raise UsageError("buffers of different lengths")
            memoryview(outputs[index]).cast("B")[:] = memoryview(shards[index]).cast("B")

    def _check_indices(self, indices: Iterable[int]) -> None:
        for index in indices:
            if not 0 <= index < self.n:
                raise UsageError(f"shard {index} of a code with {self.n}")

    def _choose(self, shards: Mapping[int, Buffer]) -> tuple[int, ...]:
        if len(shards) < self.k:
            raise NotEnoughShards(f"{len(shards)} shards, {self.k} are needed")
        return tuple(sorted(shards)[: self.k])


def _size(buffers: Sequence[Buffer]) -> int:
    return memoryview(buffers[0]).nbytes if buffers else 0

"""The stream of the segment that is being put, for holders that are behind the window (docs/design/put.md).

What can be made again from its source is noted, with the hashes by which it is known; the rest lies in files.
So a put of large files writes next to nothing to the disk it is run on, and needs no room there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from potsherd.erasure.layout import CELL_SIZE
from potsherd.erasure.merkle import HASH_SIZE, cell_leaves_fast
from potsherd.erasure.segment import Remake, StreamPart
from potsherd.errors import ChangedError, UsageError
from potsherd.kernels.buffers import unset
from potsherd.ports import Buffer, Disk

__all__ = ["FILE_BYTES", "SegmentSpool", "Writes"]

FILE_BYTES = 16 * 2**20
"""Of each file. Its room is reserved when its first byte comes."""

Writes: TypeAlias = list[tuple[int, memoryview]]
"""(position behind all that was kept before, bytes)."""


class _Piece(NamedTuple):
    """A run of the stream."""

    size: int
    position: int
    """In the files, one behind the other; of no meaning where it can be made again."""
    again: Remake | None
    leaves: bytes
    """Of its cells, if it can be made again."""


class SegmentSpool:
    """One segment's stream, added in order and read anywhere. `clear` and `write` and `read` block."""

    def __init__(self, disk: Disk, path: str, bytes_max: int) -> None:
        """`bytes_max` of stream at most. Files lie beside each other, their names begin with `path`."""
        self._disk = disk
        self._path = path
        self._bytes_max = bytes_max
        self._starts: list[int] = []  # of the pieces, in the stream
        self._pieces: list[_Piece] = []
        self._size = 0
        self._kept = 0
        self._files = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes in files."""
        return self._kept

    def clear(self) -> None:
        """Remove the files, also those of a run that was killed."""
        folder = self._path.rpartition("/")[0]
        for path, _, _ in list(self._disk.walk(folder)):
            if path.startswith(f"{self._path}."):
                self._disk.remove(path)

    def add(self, parts: Sequence[StreamPart]) -> Writes:
        """The next bytes of the stream; what `write` has to be given before they are read, often nothing."""
        writes: Writes = []
        for part in parts:
            data = memoryview(part.data).cast("B")
            if data.nbytes:
                self._note(part, data, writes)
        return writes

    def _note(self, part: StreamPart, data: memoryview, writes: Writes) -> None:
        if self._size + data.nbytes > self._bytes_max:
            raise UsageError("more bytes than the segment was to have")
        whole = not self._size % CELL_SIZE
        known = len(part.references) * CELL_SIZE == data.nbytes * HASH_SIZE
        if part.again is not None and whole and known:
            self._append(_Piece(data.nbytes, 0, part.again, part.references))
        else:
            writes.append((self._kept, data))
            self._append(_Piece(data.nbytes, self._kept, None, b""))
            self._kept += data.nbytes
        self._size += data.nbytes

    def _append(self, piece: _Piece) -> None:
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.again is None and piece.again is None:
            # what is kept lies behind what was kept before: thousands of small files are one piece
            self._pieces[-1] = last._replace(size=last.size + piece.size)
            return
        self._pieces.append(piece)
        self._starts.append(self._size)

    def write(self, writes: Writes) -> None:
        """Bytes that are kept. Raises StorageError."""
        for position, data in writes:
            rest = data
            while rest.nbytes:
                number, offset = divmod(position, FILE_BYTES)
                if number == self._files:
                    size = min(FILE_BYTES, self._bytes_max - number * FILE_BYTES)
                    self._disk.create(self._name(number), size)
                    self._files += 1
                piece = rest[: FILE_BYTES - offset]
                self._disk.write(self._name(number), offset, piece)
                position, rest = position + piece.nbytes, rest[piece.nbytes :]

    def _name(self, number: int) -> str:
        return f"{self._path}.{number}"

    def read(self, offset: int, size: int) -> bytearray:
        """Whole cells that were added and written. Raises ChangedError, StorageError."""
        table = unset(size)
        view = memoryview(table)
        at = bisect_right(self._starts, offset) - 1
        while view.nbytes:
            piece, within = self._pieces[at], offset - self._starts[at]
            taken = min(piece.size - within, view.nbytes)
            self._fill(piece, within, view[:taken])
            view, offset, at = view[taken:], offset + taken, at + 1
        return table

    def _fill(self, piece: _Piece, start: int, target: memoryview) -> None:
        if piece.again is not None:
            target[:] = _made_again(piece.again, piece.leaves, start, target.nbytes)
            return
        position = piece.position + start
        while target.nbytes:
            number, offset = divmod(position, FILE_BYTES)
            size = min(FILE_BYTES - offset, target.nbytes)
            target[:size] = self._disk.read(self._name(number), offset, size)
            position, target = position + size, target[size:]


def _made_again(again: Remake, leaves: bytes, start: int, size: int) -> Buffer:
    """Cells of a piece as they were, or ChangedError."""
    made = again.make(again.start + start, size)
    first, cells = start // CELL_SIZE, size // CELL_SIZE
    wanted = leaves[first * HASH_SIZE : (first + cells) * HASH_SIZE]
    if memoryview(made).nbytes != size or cell_leaves_fast(made, CELL_SIZE) != wanted:
        raise ChangedError(
            "a file changed while it was being stored, though its date is the same",
            remedy="wait until nothing writes to it, then run the same command again",
        )
    return made

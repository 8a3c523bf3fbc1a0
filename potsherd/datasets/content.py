"""Files of the source, read, hashed and encoded: all of it blocks or works hard, so on `Env.offload`.

A file is what the scan saw, or ChangedError: device, inode, size and modification time are compared when
its last byte has been read.

`LeavesAgain` and `FileAgain` make ciphertext once more that a put has not kept (potsherd.erasure.segment.Remake).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from potsherd.crypto.eris import Encoded, block_size_for, default_backend, encode_many
from potsherd.datasets.pages import HOLES_MAX
from potsherd.datasets.scan import readable
from potsherd.datasets.spool import Found, Source
from potsherd.errors import ChangedError, RefusedError, StorageError
from potsherd.ports import Buffer

__all__ = [
    "HOLE_BYTES_MIN",
    "ContentHash",
    "EncodedFile",
    "FileAgain",
    "LeavesAgain",
    "SourceFile",
    "encode_files",
]

HOLE_BYTES_MIN = 64 * 1024
"""Shorter holes are not worth remembering."""


class ContentHash:
    """BLAKE2b-256 and SHA-256 of a content fed in order, or the one of them that is needed."""

    __slots__ = ("_blake2b", "_sha256")

    def __init__(self, *, blake2b: bool = True, sha256: bool = True) -> None:
        self._blake2b = hashlib.blake2b(digest_size=32) if blake2b else None
        self._sha256 = hashlib.sha256() if sha256 else None

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes."""
        for update in self.updates:
            update(data)

    @property
    def updates(self) -> tuple[Callable[[Buffer], None], ...]:
        """One function for each digest, for threads that work at the same time; each wants all bytes in order."""
        return tuple(hasher.update for hasher in (self._blake2b, self._sha256) if hasher)

    @property
    def digests(self) -> tuple[bytes, bytes]:
        """(BLAKE2b-256, SHA-256), 32 bytes each; empty what was not asked for."""
        blake2b, sha256 = (
            hasher.digest() if hasher else b"" for hasher in (self._blake2b, self._sha256)
        )
        return blake2b, sha256


class EncodedFile(NamedTuple):
    """A whole file, encoded."""

    found: Found
    blake2b: bytes
    sha256: bytes
    encoded: Encoded
    holes: tuple[tuple[int, int], ...]


class SourceFile:
    """An open file of the source. Use as a context manager."""

    def __init__(self, source: Source, found: Found) -> None:
        """Raises ChangedError when it is no longer what the scan saw."""
        self._path = source.path_of(found.key)
        self._found = found
        self._lock = threading.Lock()  # a cancelled caller may close while a thread still reads
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._descriptor = os.open(self._path, flags)
        except OSError as error:
            raise self._error(error) from None
        try:
            self._status = self.check()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Once."""
        with self._lock:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self, size: int) -> bytes:
        """The next bytes, fewer only at the end."""
        parts = []
        while size:
            try:
                with self._lock:
                    part = os.read(self._descriptor, size)
            except OSError as error:
                raise self._error(error) from None
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def seek(self, offset: int) -> None:
        """Read from there next."""
        with self._lock:
            os.lseek(self._descriptor, offset, os.SEEK_SET)

    def check(self) -> os.stat_result:
        """Raises ChangedError when the file is not what the scan saw."""
        status, found = os.fstat(self._descriptor), self._found
        inode = status.st_ino - 2**64 * (status.st_ino >= 2**63)
        now = (status.st_dev, inode, status.st_size, status.st_mtime_ns)
        if not stat.S_ISREG(status.st_mode) or now != (
            found.device,
            found.inode,
            found.size,
            found.mtime_ns,
        ):
            raise self.changed()
        return status

    def changed(self) -> ChangedError:
        """What to raise when the file turns out to be another one than the scan saw."""
        return ChangedError(
            f"{readable(self._path)} changed while it was being stored",
            remedy="wait until nothing writes to it, then run the same command again",
        )

    def _error(self, error: OSError) -> ChangedError | RefusedError | StorageError:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            return self.changed()
        kind = RefusedError if isinstance(error, PermissionError) else StorageError
        return kind(f"cannot read {readable(self._path)}: {error.strerror}")

    def holes(self) -> tuple[tuple[int, int], ...]:
        """(start, length) of the longest holes, in order; the file is read from its start afterwards."""
        size = self._found.size
        if size < HOLE_BYTES_MIN or self._status.st_blocks * 512 >= size:
            return ()
        found = []
        at = 0
        try:
            while at < size:
                start = os.lseek(self._descriptor, at, os.SEEK_HOLE)
                if start >= size:
                    break
                at = self._next_data(start)
                if at - start >= HOLE_BYTES_MIN:
                    found.append((start, at - start))
        except OSError:
            found = []  # this file system does not tell
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return tuple(sorted(sorted(found, key=lambda hole: -hole[1])[:HOLES_MAX]))

    def _next_data(self, start: int) -> int:
        try:
            return os.lseek(self._descriptor, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but hole up to the end
                return self._found.size
            raise


class LeavesAgain(NamedTuple):
    """Makes leaves of a long file, which are its blocks but for one in 512."""

    source: Source
    found: Found
    secret: bytes

    def make(self, start: int, size: int) -> Buffer:
        """The ciphertext of `size` bytes of the content from `start` on. Raises ChangedError and others."""
        block_size = block_size_for(self.found.size)
        before, behind = start % block_size, -(start + size) % block_size
        with SourceFile(self.source, self.found) as file:
            file.seek(start - before)
            plain = file.read(before + size + behind)
            file.check()
            if len(plain) != before + size + behind:
                raise file.changed()
        blocks, _ = default_backend().encrypt_leaves(plain, block_size, self.secret)
        return memoryview(blocks)[before : before + size]

    def __repr__(self) -> str:
        return "LeavesAgain(…)"  # the secret stays out of logs


class FileAgain(NamedTuple):
    """Makes the blocks of a file that is encoded whole."""

    source: Source
    found: Found
    secret: bytes

    def make(self, start: int, size: int) -> Buffer:
        """`size` bytes of its blocks, in post-order, from `start` on. Raises ChangedError and others."""
        (file,) = encode_files([self.source], [self.found._replace(source=0)], self.secret)
        return memoryview(file.encoded.blocks)[start : start + size]

    def __repr__(self) -> str:
        return "FileAgain(…)"


def encode_files(
    sources: Sequence[Source], files: Sequence[Found], secret: bytes
) -> list[EncodedFile]:
    """Files that fit memory all together, encoded in as few backend calls as there are block sizes."""
    contents: list[bytes] = []
    holes = []
    for found in files:
        with SourceFile(sources[found.source], found) as file:
            holes.append(file.holes())
            contents.append(file.read(found.size + 1))
            file.check()
            if len(contents[-1]) != found.size:
                raise file.changed()
    encoded = _encode(contents, secret)
    return [
        EncodedFile(
            found,
            hashlib.blake2b(content, digest_size=32).digest(),
            hashlib.sha256(content).digest(),
            blocks,
            gaps,
        )
        for found, content, blocks, gaps in zip(files, contents, encoded, holes, strict=True)
    ]


def _encode(contents: Sequence[bytes], secret: bytes) -> list[Encoded]:
    by_size: dict[int, list[int]] = {}
    for number, content in enumerate(contents):
        by_size.setdefault(block_size_for(len(content)), []).append(number)
    done: dict[int, Encoded] = {}
    for block_size, numbers in by_size.items():
        group = [contents[number] for number in numbers]
        encoded = encode_many(group, convergence_secret=secret, block_size=block_size)
        done.update(zip(numbers, encoded, strict=True))
    return [done[number] for number in range(len(contents))]

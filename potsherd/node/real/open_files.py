"""A few open files, so that a shard written cell by cell is opened once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from potsherd.classes import dataclass

__all__ = ["OpenFiles"]

OPEN_FILES_MAX = 64
"""Descriptors kept open while nobody uses them; the least recently used is closed first."""


@dataclass(eq=False)
class _Entry:
    descriptor: int
    users: int = 0
    forgotten: bool = False


class OpenFiles:
    """Shared by the threads of the pool: a descriptor is never closed while one of them uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[Path, int], _Entry] = OrderedDict()

    @contextlib.contextmanager
    def using(self, path: Path, *, writable: bool, flags: int = 0) -> Iterator[int]:
        """An open descriptor of the file, `flags` of os.open besides. Raises OSError; never makes a file."""
        mode = (os.O_RDWR if writable else os.O_RDONLY) | flags
        with self._lock:
            entry = self._get(path, mode)
            entry.users += 1
        try:
            yield entry.descriptor
        finally:
            with self._lock:
                entry.users -= 1
                if entry.forgotten and not entry.users:
                    os.close(entry.descriptor)
                self._trim()

    def forget(self, *paths: Path) -> None:
        """The names are about to mean something else."""
        with self._lock:
            modes = {mode for _, mode in self._entries}
            for path in paths:
                for mode in modes:
                    self._drop((path, mode))

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            for place in list(self._entries):
                self._drop(place)

    def __len__(self) -> int:
        return len(self._entries)

    def __del__(self) -> None:
        self.close()

    def _get(self, path: Path, mode: int) -> _Entry:
        if not mode & os.O_ACCMODE and (path, mode | os.O_RDWR) in self._entries:
            mode |= os.O_RDWR
        entry = self._entries.get((path, mode))
        if entry is None:
            # opening under the lock: two threads must not both open the file and lose one descriptor
            entry = _Entry(os.open(path, mode | os.O_NOFOLLOW | os.O_CLOEXEC))
            self._entries[path, mode] = entry
        self._entries.move_to_end((path, mode))
        return entry

    def _trim(self) -> None:
        if len(self._entries) <= OPEN_FILES_MAX:
            return
        for place, entry in list(self._entries.items()):
            if not entry.users:
                self._drop(place)
            if len(self._entries) <= OPEN_FILES_MAX:
                return

    def _drop(self, place: tuple[Path, int]) -> None:
        entry = self._entries.pop(place, None)
        if entry is None:
            return
        entry.forgotten = True
        if not entry.users:
            os.close(entry.descriptor)

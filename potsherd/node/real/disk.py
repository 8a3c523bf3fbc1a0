"""One real folder as `potsherd.ports.Disk`.

Below the root lie the files of the port and, apart from them, `.index/` with the databases: `walk` never
sees those, and no path of the port may begin with a dot.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from potsherd.errors import NotFoundError, StorageError
from potsherd.node.real.direct import Direct
from potsherd.node.real.open_files import OpenFiles
from potsherd.ports import Buffer

__all__ = ["RealDisk"]

INDEX_FOLDER = ".index"
INDEX_PAGE_BYTES = 4096
INDEX_BUSY_TIMEOUT_S = 5.0
ZEROS_BYTES = 1 << 20
FOLDER_MODE = 0o700
FILE_MODE = 0o600


class RealDisk:
    """Files below one root; every error of the system becomes StorageError or NotFoundError."""

    def __init__(self, root: Path) -> None:
        self._root = root
        with _refusals(str(root)):
            root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        self._files = OpenFiles()
        self._direct = Direct(self._files)
        self._rooted: set[str] = {""}
        """Folders whose own names are known to be durable; bounded by the number of folders in use."""

    def create(self, path: str, size: int) -> None:
        full = self._path(path)
        with _refusals(path):
            full.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(full, flags, FILE_MODE)
            try:
                _allocate(descriptor, size)
            except BaseException:
                full.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)

    def write(self, path: str, offset: int, data: Buffer) -> None:
        rest = memoryview(data).cast("B")
        full = self._path(path)
        with _refusals(path), self._files.using(full, writable=True) as descriptor:
            if offset < 0 or offset + rest.nbytes > os.fstat(descriptor).st_size:
                raise StorageError(f"{path}: write beyond the end of the file")
            written = self._direct.write(full, offset, rest)
            while written < rest.nbytes:
                written += os.pwrite(descriptor, rest[written:], offset + written)

    def read(self, path: str, offset: int, size: int) -> Buffer:
        if offset < 0 or size < 0:
            raise StorageError(f"{path}: no such range")
        full = self._path(path)
        buffer = self._direct.buffer(offset, size)
        with _refusals(path), self._files.using(full, writable=False) as descriptor:
            if buffer is None:
                data = os.pread(descriptor, size, offset)
                if len(data) == size:
                    return data
                buffer = memoryview(bytearray(size))
                got = 0
            else:
                got = self._direct.read(full, offset, buffer)
            while got < size:
                more = os.preadv(descriptor, [buffer[got:]], offset + got)
                if not more:
                    raise StorageError(f"{path}: shorter than {offset + size} bytes")
                got += more
            return buffer

    def truncate(self, path: str, size: int) -> None:
        with _refusals(path), self._files.using(self._path(path), writable=True) as descriptor:
            if not 0 <= size <= os.fstat(descriptor).st_size:
                raise StorageError(f"{path}: shorter than {size} bytes")
            os.ftruncate(descriptor, size)

    def sync(self, path: str) -> None:
        with _refusals(path), self._files.using(self._path(path), writable=False) as descriptor:
            _sync(descriptor)

    def sync_folder(self, path: str) -> None:
        folder = self._path(path) if path else self._root
        with _refusals(path):
            _sync_folder(folder)
            # A folder that was made for a file is durable only once its own name is.
            while path not in self._rooted:
                parent, _, _ = path.rpartition("/")
                _sync_folder(self._root / parent)
                self._rooted.add(path)
                path = parent

    def rename(self, old: str, new: str) -> None:
        source, target = self._path(old), self._path(new)
        with _refusals(old):
            if not source.exists():
                raise NotFoundError(f"no file {old}")
            target.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self._files.forget(source, target)
            source.replace(target)

    def remove(self, path: str) -> None:
        full = self._path(path)
        with _refusals(path):
            self._files.forget(full)
            full.unlink(missing_ok=True)

    def walk(self, folder: str) -> Iterator[tuple[str, int, int]]:
        top = self._path(folder) if folder else self._root
        with _refusals(folder):
            yield from _walk(top, f"{folder}/" if folder else "")

    def free(self) -> int:
        with _refusals(str(self._root)):
            found = os.statvfs(self._root)
            return found.f_bavail * found.f_frsize

    def open_index(self, name: str, *, pages_max: int | None = None) -> sqlite3.Connection:
        folder = self._root / INDEX_FOLDER
        path = folder / self._path(name).name
        with _refusals(name):
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE))
            _sync_folder(folder)
            _sync_folder(self._root)
        try:
            return _open_database(path, pages_max)
        except sqlite3.Error as error:
            raise StorageError(f"the index {name} cannot be opened: {error}") from error

    def _path(self, path: str) -> Path:
        parts = path.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts) or path.startswith("."):
            raise StorageError(f"not a path of the store: {path!r}")
        return self._root.joinpath(*parts)


@contextlib.contextmanager
def _refusals(path: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise NotFoundError(f"no file {path}") from error
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise StorageError(f"{path}: {reason}") from error


def _allocate(descriptor: int, size: int) -> None:
    """Real blocks, so that a later write cannot find the disk full."""
    if size <= 0:
        return
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
        else:
            return
    zeros = memoryview(bytes(min(size, ZEROS_BYTES)))
    offset = 0
    while offset < size:
        offset += os.pwrite(descriptor, zeros[: size - offset], offset)


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # fsync there stops at the drive's cache
    else:
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, int, int]]:
    """Depth first, in the order of whole paths: `a.b` comes before `a/b`, as in a sorted list."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    folders = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
    names = [entry.name + "/" * (entry.name in folders) for entry in entries]
    for name in sorted(names):
        if not prefix and name.startswith("."):
            continue
        if name.endswith("/"):
            yield from _walk(folder / name[:-1], prefix + name)
            continue
        try:
            found = (folder / name).lstat()
        except FileNotFoundError:
            continue  # removed while we walk
        if stat.S_ISREG(found.st_mode):
            yield prefix + name, found.st_size, found.st_blocks * 512


def _open_database(path: Path, pages_max: int | None) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=INDEX_BUSY_TIMEOUT_S
    )
    try:
        connection.execute(f"PRAGMA page_size={INDEX_PAGE_BYTES}")
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise StorageError("the file system does not carry SQLite's write-ahead log")
        connection.execute("PRAGMA synchronous=FULL")
        if pages_max is not None:
            connection.execute(f"PRAGMA max_page_count={int(pages_max)}")
    except BaseException:
        connection.close()
        raise
    return connection

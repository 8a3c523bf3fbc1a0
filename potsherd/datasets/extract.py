"""A tree of files, written below a destination that they cannot escape. Everything here blocks.

- Every folder on the way is opened by `openat` with O_NOFOLLOW, so nothing is ever written through a
  symbolic link, whoever put it there; names are single names without `/`, `..` and NUL (pages.py).
- A file grows under a name of its own (`.potsherd-….part`) and gets its name when it is complete and
  verified, by `link`, which never replaces: what is there already is overwritten only when asked for.
- Set-user-ID, set-group-ID and sticky bits are not restored. Symbolic links and the dates of folders come
  last. Holes of sparse files stay holes.
- Run again, it keeps what is complete (same length and date, or same content) and goes on with what is not.
"""

from __future__ import annotations

import enum
import errno
import hashlib
import os
import sqlite3
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from potsherd.datasets.manifest import Node
from potsherd.datasets.pages import FileContent, Kind, split_path
from potsherd.datasets.scan import readable
from potsherd.errors import RefusedError, StorageError, UsageError
from potsherd.ports import Buffer

__all__ = ["Extractor", "PartFile", "Standing", "is_part_name"]

FOLDERS_OPEN_MAX = 64
"""Descriptors of folders kept open; beyond it the one used longest ago is closed."""
MODE_BITS = 0o777
HASH_PIECE_BYTES = 2**20
PART_PREFIX, PART_SUFFIX = b".potsherd-", b".part"


class Standing(enum.Enum):
    """What a destination has where an entry is to go."""

    ABSENT = "absent"
    SAME = "same"
    """Complete, or for a folder: there."""
    DIFFERENT = "different"


def _part_name(name: bytes) -> bytes:
    return PART_PREFIX + hashlib.blake2b(name, digest_size=12).hexdigest().encode() + PART_SUFFIX


def is_part_name(name: bytes) -> bool:
    """Whether a name is that of an incomplete file."""
    return name.startswith(PART_PREFIX) and name.endswith(PART_SUFFIX)


@contextmanager
def _errors(path: bytes) -> Iterator[None]:
    """Disk errors as ours; a link or file where a folder should be is refused."""
    try:
        yield
    except OSError as error:
        where = readable(path)
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise RefusedError(
                f"{where}: there is a link or a file where a folder should be"
            ) from None
        if isinstance(error, PermissionError):
            raise RefusedError(f"cannot write {where}: {error.strerror}") from None
        if error.errno == errno.EISDIR or isinstance(error, FileExistsError):
            raise RefusedError(f"{where} is there already, as something else") from None
        raise StorageError(f"cannot write {where}: {error.strerror}") from None


class Extractor:
    """Writes nodes of a manifest below one folder.

    A cancelled caller leaves threads behind that still call us: descriptors are closed under a lock, and a
    late call finds the extractor closed instead of a number that means another folder by now.
    """

    def __init__(self, destination: Path, *, overwrite: bool = False) -> None:
        """Opens or makes the destination. Raises RefusedError, StorageError."""
        self.path = destination
        self._overwrite = overwrite
        self._made = not destination.exists()
        with _errors(os.fsencode(destination)):
            destination.mkdir(parents=True, exist_ok=True)
            self._root = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folders: OrderedDict[tuple[bytes, ...], int] = OrderedDict()
        self._lock = threading.RLock()
        self._open = True
        # What comes last, in a file that SQLite makes when it grows: there may be any number of it.
        self._later = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._later.execute(
            "CREATE TABLE later (key BLOB PRIMARY KEY, kind INT, mode INT, mtime_ns INT, target BLOB) "
            "WITHOUT ROWID"
        )

    def close(self) -> None:
        """Once; also after an error."""
        with self._use():
            self._open = False
            for descriptor in self._folders.values():
                os.close(descriptor)
            self._folders.clear()
            os.close(self._root)
            self._later.close()

    @contextmanager
    def _use(self) -> Iterator[None]:
        with self._lock:
            if not self._open:
                raise StorageError("the destination has been closed")
            yield

    # --- what is there -------------------------------------------------------------------------------

    def is_empty(self) -> bool:
        """Whether the destination has nothing in it."""
        with self._use(), os.scandir(self._root) as entries:
            return next(entries, None) is None

    def count(self) -> int:
        """Everything in it, incomplete files apart."""
        with self._use():
            return self._count()

    def _count(self) -> int:
        found = 0
        waiting: list[tuple[bytes, ...]] = [()]
        while waiting:
            names = waiting.pop()
            with _errors(b"/".join(names)), os.scandir(self._folder(names)) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    found += not is_part_name(name)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((*names, name))
        return found

    def standing(self, node: Node) -> Standing:
        """Compares an entry with what is there; reads a file only if its date alone differs."""
        with self._use():
            return self._standing(node)

    def _standing(self, node: Node) -> Standing:
        names = split_path(node.path)
        try:
            folder = self._folder(names[:-1])
            status = os.stat(names[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return Standing.ABSENT
        except OSError:
            return Standing.DIFFERENT
        entry = node.entry
        if entry.kind == Kind.FOLDER:
            return _same(stat.S_ISDIR(status.st_mode))
        if entry.kind == Kind.SYMLINK:
            is_link = stat.S_ISLNK(status.st_mode)
            return _same(is_link and os.readlink(names[-1], dir_fd=folder) == entry.target)
        content = entry.content
        if content is None or not stat.S_ISREG(status.st_mode) or status.st_size != content.length:
            return Standing.DIFFERENT
        if status.st_mtime_ns == entry.mtime_ns:
            return Standing.SAME
        return _same(self._same_content(folder, names[-1], node, content))

    def _same_content(self, folder: int, name: bytes, node: Node, content: FileContent) -> bool:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            return False
        with os.fdopen(descriptor, "rb") as file:
            state = hashlib.blake2b(digest_size=32)
            while piece := file.read(HASH_PIECE_BYTES):
                state.update(piece)
            if state.digest() != content.blake2b:
                return False
            with suppress(OSError):  # not ours to change, perhaps; the content is what counts
                _set_attributes(descriptor, node)
            return True

    def kept(self, node: Node) -> None:
        """A file is complete: nothing that an earlier try left of it is needed."""
        names = split_path(node.path)
        with self._use(), suppress(OSError):
            os.unlink(_part_name(names[-1]), dir_fd=self._folder(names[:-1]))

    # --- folders -------------------------------------------------------------------------------------

    def _folder(self, names: tuple[bytes, ...], *, make: bool = False) -> int:
        """A descriptor of a folder below the destination, kept for the next time."""
        if not names:
            return self._root
        if names in self._folders:
            self._folders.move_to_end(names)
            return self._folders[names]
        above = self._folder(names[:-1], make=make)
        if make:
            with suppress(FileExistsError):
                os.mkdir(names[-1], 0o700, dir_fd=above)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(names[-1], flags, dir_fd=above)
        self._folders[names] = descriptor
        if len(self._folders) > FOLDERS_OPEN_MAX:
            _, oldest = self._folders.popitem(last=False)
            os.close(oldest)
        return descriptor

    def folder(self, node: Node) -> None:
        """Make a folder, to be entered by its user alone until `finish`."""
        names = split_path(node.path)
        with self._use(), _errors(node.path):
            if self._overwrite and names:
                self._clear_for_folder(names)
            self._folder(names, make=True)
        self._remember(node)

    def _clear_for_folder(self, names: tuple[bytes, ...]) -> None:
        above = self._folder(names[:-1], make=True)
        with suppress(FileNotFoundError):
            status = os.stat(names[-1], dir_fd=above, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                os.unlink(names[-1], dir_fd=above)

    def symlink(self, node: Node) -> None:
        """Note a symbolic link, which `finish` makes."""
        self._remember(node)

    def _remember(self, node: Node) -> None:
        entry = node.entry
        key = node.path.replace(b"/", b"\0")
        row = (key, entry.kind, entry.mode, entry.mtime_ns, entry.target)
        with self._use():
            self._later.execute("INSERT OR REPLACE INTO later VALUES (?, ?, ?, ?, ?)", row)

    # --- files ---------------------------------------------------------------------------------------

    def file(self, node: Node, data: Buffer) -> None:
        """Write a whole file that has been verified."""
        part = self.part(node, fresh=True)
        try:
            part.write(0, data)
            part.finish()
        finally:
            part.close()

    def part(self, node: Node, *, fresh: bool = False) -> PartFile:
        """The incomplete file of a node: what an earlier try left of it, unless `fresh`."""
        names = split_path(node.path)
        with self._use(), _errors(node.path):
            folder = os.dup(self._folder(names[:-1], make=True))
            try:
                return PartFile(folder, names[-1], node, fresh=fresh, replace=self._overwrite)
            except BaseException:
                os.close(folder)
                raise

    # --- the end -------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Make the symbolic links, then set modes and dates of the folders, the deepest first."""
        with self._use():
            self._finish()

    def _finish(self) -> None:
        for row in self._later.execute("SELECT * FROM later WHERE kind = ?", (Kind.SYMLINK,)):
            self._make_symlink(*row)
        rows = self._later.execute(
            "SELECT * FROM later WHERE kind = ? ORDER BY key DESC", (Kind.FOLDER,)
        )
        for key, _, mode, mtime_ns, _ in rows:
            if not key and not self._made:
                continue  # the user's own folder stays as it is
            names = tuple(key.split(b"\0")) if key else ()
            with _errors(key.replace(b"\0", b"/")):
                descriptor = self._folder(names)
                os.fchmod(descriptor, mode & MODE_BITS)
                os.utime(descriptor, ns=(mtime_ns, mtime_ns))

    def _make_symlink(self, key: bytes, kind: int, mode: int, mtime_ns: int, target: bytes) -> None:
        *above, name = key.split(b"\0")
        with _errors(key.replace(b"\0", b"/")):
            folder = self._folder(tuple(above), make=True)
            try:
                os.symlink(target, name, dir_fd=folder)
            except FileExistsError:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                same = stat.S_ISLNK(status.st_mode) and os.readlink(name, dir_fd=folder) == target
                if not same and not self._overwrite:
                    raise
                if not same:
                    os.unlink(name, dir_fd=folder)
                    os.symlink(target, name, dir_fd=folder)
            with suppress(OSError, NotImplementedError):  # a link's own date is a nicety
                os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=folder, follow_symlinks=False)


def _same(yes: bool) -> Standing:
    return Standing.SAME if yes else Standing.DIFFERENT


def _set_attributes(descriptor: int, node: Node) -> None:
    os.fchmod(descriptor, node.entry.mode & MODE_BITS)
    os.utime(descriptor, ns=(node.entry.mtime_ns, node.entry.mtime_ns))


class PartFile:
    """A file that is not complete. Owns the descriptor of its folder."""

    def __init__(self, folder: int, name: bytes, node: Node, *, fresh: bool, replace: bool) -> None:
        if node.entry.content is None:
            raise UsageError("only files have a content")
        self._folder, self._name, self._node, self._replace = folder, name, node, replace
        self._content = node.entry.content
        self._part = _part_name(name)
        self._lock = threading.Lock()
        self._open = True
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        if fresh:
            flags |= os.O_TRUNC
        self._descriptor = os.open(self._part, flags, 0o600, dir_fd=folder)

    @contextmanager
    def _use(self) -> Iterator[None]:
        """As in Extractor."""
        with self._lock, _errors(self._node.path):
            if not self._open:
                raise StorageError("the file has been closed")
            yield

    @property
    def size(self) -> int:
        """Bytes that an earlier try has left; not to be trusted before they are hashed."""
        with self._use():
            return min(os.fstat(self._descriptor).st_size, self._content.length)

    def read(self, start: int, size: int) -> bytes:
        """Bytes of what is there."""
        with self._use():
            return os.pread(self._descriptor, size, start)

    def write(self, start: int, data: Buffer) -> None:
        """Write at `start`, leaving the holes of the source free where they hold zeros."""
        view = memoryview(data)
        end = start + len(view)
        at = start
        with self._use():
            for hole, length in self._content.holes:
                low, high = max(hole, at), min(hole + length, end)
                if low >= high or _any_nonzero(view[low - start : high - start]):
                    continue
                self._write(at, view[at - start : low - start])
                at = high
            self._write(at, view[at - start :])

    def _write(self, start: int, view: memoryview) -> None:
        while view:
            written = os.pwrite(self._descriptor, view, start)
            start, view = start + written, view[written:]

    def truncate(self) -> None:
        """Begin anew."""
        with self._use():
            os.ftruncate(self._descriptor, 0)

    def finish(self) -> None:
        """The content is complete and verified: give the file its attributes and its name."""
        with self._use():
            if os.fstat(self._descriptor).st_size != self._content.length:
                os.ftruncate(self._descriptor, self._content.length)
            _set_attributes(self._descriptor, self._node)
            if self._replace:
                self._rename()
            else:
                self._link()

    def _rename(self) -> None:
        os.rename(self._part, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _link(self) -> None:
        """Give the name without ever replacing what may have come there meanwhile."""
        try:
            os.link(self._part, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                raise
            # A file system without hard links: look, then rename.
            try:
                os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
            except FileNotFoundError:
                return self._rename()
            raise FileExistsError(errno.EEXIST, "exists") from None
        os.unlink(self._part, dir_fd=self._folder)
        return None

    def remove(self) -> None:
        """Give up what there is."""
        with self._use(), suppress(OSError):
            os.unlink(self._part, dir_fd=self._folder)

    def close(self) -> None:
        """Once. What is incomplete stays for the next try."""
        with self._use():
            self._open = False
            os.close(self._descriptor)
            os.close(self._folder)


def _any_nonzero(view: memoryview) -> bool:
    """Whether a byte is not zero; by comparing, which is quicker than looking at each."""
    return bytes(view) != bytes(len(view))

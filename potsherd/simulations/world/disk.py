"""The disk of a virtual machine: forgets at a power cut what was not synced, by a seeded choice.

Model. A file is an inode with live content, content as of its last sync, and the changes since.
A folder is a table of names, live and as of its last sync, and the operations since. After a power cut
an inode has its synced content plus any of the changes, each whole, torn or not at all, and a folder its
synced names plus a prefix of the operations. A rename within one folder is atomic; between two folders
both names may be there afterwards, never none. This is what POSIX allows and ext4 has been seen to do.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import field
from pathlib import PurePosixPath

from potsherd.classes import dataclass
from potsherd.errors import NotFoundError, StorageError
from potsherd.ports import Buffer
from potsherd.simulations.world.index import IndexConnection
from potsherd.simulations.world.life import Life
from potsherd.simulations.world.log import EventLog

__all__ = ["Platter", "WorldDisk"]

BLOCK_BYTES = 4096
SECTOR_BYTES = 512
CAPACITY_BYTES_DEFAULT = 1 << 40
STOP_SHARE = 0.4
"""At a power cut: the chance that a folder's next unsynced operation, and all after it, is lost."""

Fault = Callable[[str, str], Exception | None]
Watch = Callable[[str, str], None]
"""Called after each call that has changed something, with (operation, path)."""


@dataclass(eq=False)
class _Inode:
    live: bytearray
    synced: bytes = b""
    changes: list[tuple[int, bytes] | int] = field(default_factory=list)
    """Since the last sync, in order: (offset, bytes) written, or the size it was cut or grown to."""

    @property
    def allocated(self) -> int:
        return -(-len(self.live) // BLOCK_BYTES) * BLOCK_BYTES


@dataclass(eq=False)
class _NameChange:
    """One unsynced operation on one folder: names that got an inode (or lost theirs)."""

    folder: str
    names: dict[str, _Inode | None]
    after: _NameChange | None = None
    """Must be durable before this one: the new name of a file moved between folders."""
    durable: bool = False


def _split(path: str) -> tuple[str, str]:
    pure = PurePosixPath(path)
    if path.startswith((".", "/")) or ".." in pure.parts or not pure.name or str(pure) != path:
        raise StorageError(f"not a path of the store: {path!r}")
    folder = str(pure.parent)
    return "" if folder == "." else folder, pure.name


class Platter:
    """What survives the lives of a machine: files and the committed state of its indexes."""

    def __init__(self, capacity_bytes: int = CAPACITY_BYTES_DEFAULT) -> None:
        self.capacity_bytes = capacity_bytes
        self.images: dict[str, bytes | None] = {}
        """The SQLite databases by name; None while one is open."""
        self.fault: Fault | None = None
        self.commit_fault: Callable[[str], Exception | None] | None = None
        """Called before each commit of an index, with its name; what it returns is raised (sqlite3.Error)."""
        self.watch: Watch | None = None
        self._live: dict[str, dict[str, _Inode]] = {}
        self._synced: dict[str, dict[str, _Inode]] = {}
        self._changes: list[_NameChange] = []
        self._links: Counter[_Inode] = Counter()
        self.allocated_bytes = 0

    def find(self, path: str) -> _Inode:
        """The inode of a path. Raises NotFoundError."""
        folder, name = _split(path)
        inode = self._live.get(folder, {}).get(name)
        if inode is None:
            raise NotFoundError(f"no file {path}")
        return inode

    def link(self, path: str, inode: _Inode) -> _NameChange:
        """Give an inode a name; another inode of that name loses it."""
        folder, name = _split(path)
        return self._change(_NameChange(folder, {name: inode}))

    def unlink(self, path: str, after: _NameChange | None = None) -> None:
        """Take a name away."""
        folder, name = _split(path)
        self._change(_NameChange(folder, {name: None}, after))

    def rename(self, old: str, new: str) -> None:
        """Move a name; atomic at a power cut when the folder stays the same."""
        inode = self.find(old)
        if old == new:
            return
        (old_folder, old_name), (new_folder, new_name) = _split(old), _split(new)
        if old_folder == new_folder:
            self._change(_NameChange(old_folder, {new_name: inode, old_name: None}))
        else:
            self.unlink(old, after=self.link(new, inode))

    def resize(self, inode: _Inode, size: int) -> None:
        """Grow with zeros or cut, and account for the blocks. Raises StorageError when full."""
        before = inode.allocated
        grown = -(-size // BLOCK_BYTES) * BLOCK_BYTES - before
        if self.allocated_bytes + grown > self.capacity_bytes:
            raise StorageError("no space left on device")
        if size < len(inode.live):
            del inode.live[size:]
        else:
            inode.live.extend(bytes(size - len(inode.live)))
        inode.changes.append(size)
        if self._links[inode]:
            self.allocated_bytes += grown

    def sync_folder(self, folder: str) -> None:
        """Make the names of a folder durable, and what they depend on."""
        for change in self._changes:
            if change.folder == folder:
                self._settle(change)
        self._changes = [change for change in self._changes if not change.durable]

    def power_cut(self, rng: random.Random) -> None:
        """Forget what was not synced, by a seeded choice."""
        stopped: dict[str, None] = {}
        for change in self._changes:
            blocked = change.after is not None and not change.after.durable
            if change.folder in stopped or blocked or rng.random() < STOP_SHARE:
                stopped[change.folder] = None
            else:
                self._settle(change)
        self._changes.clear()
        self._live = {folder: dict(names) for folder, names in self._synced.items()}
        self._links = Counter()
        for inode in self._all():
            self._links[inode] += 1
        for inode in self._links:
            _crash_content(inode, rng)
        self.allocated_bytes = sum(inode.allocated for inode in self._links)

    def files(self) -> list[tuple[str, _Inode]]:
        """(path, inode) of every file, sorted by path."""
        return sorted(
            (
                (f"{folder}/{name}" if folder else name, inode)
                for folder, names in self._live.items()
                for name, inode in names.items()
            ),
            key=lambda entry: entry[0],
        )

    @property
    def inodes(self) -> int:
        """Files, however many names they have."""
        return len(self._links)

    def content(self, path: str) -> memoryview:
        """What a read would give now. Raises NotFoundError."""
        return memoryview(self.find(path).live)

    def rot(self, path: str, offset: int, mask: int = 1) -> None:
        """Flip bits of one byte, as a failing disk does: now and for ever, and silently."""
        inode = self.find(path)
        inode.live[offset] ^= mask
        if offset < len(inode.synced):
            synced = bytearray(inode.synced)
            synced[offset] ^= mask
            inode.synced = bytes(synced)

    def _all(self) -> Iterator[_Inode]:
        for names in self._live.values():
            yield from names.values()

    def _change(self, change: _NameChange) -> _NameChange:
        names = self._live.setdefault(change.folder, {})
        for name, inode in change.names.items():
            self._release(names.pop(name, None))
            if inode is not None:
                names[name] = inode
                if not self._links[inode]:
                    self.allocated_bytes += inode.allocated
                self._links[inode] += 1
        self._changes.append(change)
        return change

    def _release(self, inode: _Inode | None) -> None:
        if inode is None:
            return
        self._links[inode] -= 1
        if not self._links[inode]:
            del self._links[inode]
            self.allocated_bytes -= inode.allocated

    def _settle(self, change: _NameChange) -> None:
        if change.durable:
            return
        if change.after is not None:
            self._settle(change.after)
        names = self._synced.setdefault(change.folder, {})
        for name, inode in change.names.items():
            names.pop(name, None)
            if inode is not None:
                names[name] = inode
        change.durable = True


def _crash_content(inode: _Inode, rng: random.Random) -> None:
    content = bytearray(inode.synced)
    for change in inode.changes:
        fate = rng.choice(("kept", "torn", "lost"))
        if fate == "lost":
            continue
        if isinstance(change, int):
            _set_size(content, change)
            continue
        offset, data = change
        if fate == "torn":
            offset, data = _tear(offset, data, rng)
        if len(content) < offset + len(data):
            _set_size(content, offset + len(data))
        content[offset : offset + len(data)] = data
    inode.live = content
    inode.synced = bytes(content)
    inode.changes.clear()


def _tear(offset: int, data: bytes, rng: random.Random) -> tuple[int, bytes]:
    """A run of whole sectors of a write, somewhere in it."""
    sectors = -(-len(data) // SECTOR_BYTES)
    first = rng.randrange(sectors + 1)
    last = rng.randrange(first, sectors + 1)
    return offset + first * SECTOR_BYTES, data[first * SECTOR_BYTES : last * SECTOR_BYTES]


def _set_size(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


class WorldDisk:
    """One life's access to its machine's platter (`potsherd.ports.Disk`)."""

    def __init__(self, platter: Platter, life: Life, log: EventLog) -> None:
        self.platter = platter
        self._life = life
        self._log = log

    @property
    def fault(self) -> Fault | None:
        """Called before every call with (operation, path); the exception it returns is raised."""
        return self.platter.fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self.platter.fault = fault

    def create(self, path: str, size: int) -> None:
        self._begin("create", path, str(size))
        platter = self.platter
        try:
            platter.find(path)
        except NotFoundError:
            inode = _Inode(bytearray())
            if platter.allocated_bytes + size > platter.capacity_bytes:
                raise StorageError(f"{path}: no space left on device") from None
            platter.link(path, inode)
            platter.resize(inode, size)
            self._changed("create", path)
        else:
            raise StorageError(f"{path}: exists already")

    def write(self, path: str, offset: int, data: Buffer) -> None:
        payload = bytes(data)
        self._begin("write", path, str(offset), payload)
        inode = self.platter.find(path)
        if offset < 0 or offset + len(payload) > len(inode.live):
            raise StorageError(f"{path}: write beyond the end of the file")
        inode.live[offset : offset + len(payload)] = payload
        inode.changes.append((offset, payload))
        self._changed("write", path)

    def read(self, path: str, offset: int, size: int) -> bytes:
        self._begin("read", path, f"{offset}+{size}")
        inode = self.platter.find(path)
        if offset < 0 or offset + size > len(inode.live):
            raise StorageError(f"{path}: shorter than {offset + size} bytes")
        return bytes(memoryview(inode.live)[offset : offset + size])

    def truncate(self, path: str, size: int) -> None:
        self._begin("truncate", path, str(size))
        inode = self.platter.find(path)
        if size > len(inode.live):
            raise StorageError(f"{path}: shorter than {size} bytes")
        self.platter.resize(inode, size)
        self._changed("truncate", path)

    def sync(self, path: str) -> None:
        self._begin("sync", path)
        inode = self.platter.find(path)
        inode.synced = bytes(inode.live)
        inode.changes.clear()

    def sync_folder(self, path: str) -> None:
        self._begin("sync_folder", path)
        self.platter.sync_folder(path)

    def rename(self, old: str, new: str) -> None:
        self._begin("rename", old, new)
        self.platter.rename(old, new)
        self._changed("rename", new)

    def remove(self, path: str) -> None:
        self._begin("remove", path)
        try:
            self.platter.find(path)
        except NotFoundError:
            return
        self.platter.unlink(path)
        self._changed("remove", path)

    def walk(self, folder: str) -> Iterator[tuple[str, int, int]]:
        self._begin("walk", folder)
        prefix = f"{folder}/" if folder else ""
        entries = [
            (path, len(inode.live), inode.allocated)
            for path, inode in self.platter.files()
            if path.startswith(prefix)
        ]
        return iter(entries)

    def free(self) -> int:
        self._begin("free", "")
        return self.platter.capacity_bytes - self.platter.allocated_bytes

    def open_index(self, name: str, *, pages_max: int | None = None) -> sqlite3.Connection:
        self._begin("open_index", name)
        connection = IndexConnection.open(
            self.platter.images, name, self._note_commit, self._refuse_commit
        )
        if pages_max is not None:
            connection.execute(f"PRAGMA max_page_count={int(pages_max)}")
        self._life.indexes.append(connection)
        return connection

    def _changed(self, operation: str, path: str) -> None:
        if self.platter.watch is not None:
            self.platter.watch(operation, path)

    def _refuse_commit(self, name: str) -> Exception | None:
        fault = self.platter.commit_fault
        return fault(name) if fault is not None else None

    def _note_commit(self, name: str, digest: bytes) -> None:
        self._log.add("commit", self._life.name, name, digest)

    def _begin(self, operation: str, path: str, detail: str = "", data: bytes = b"") -> None:
        self._life.check_disk()
        self._log.add("disk", self._life.name, f"{operation} {path} {detail}", data)
        fault = self.platter.fault
        error = fault(operation, path) if fault is not None else None
        if error is not None:
            raise error
        self._life.check_disk()  # the fault may have been a power cut

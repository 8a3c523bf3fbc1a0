"""Who sees all disks at once, and holds the nodes to their promises at every step.

An observer looks at what lies on the disks, not at what nodes say: after each call that a machine ran off
its loop (a transaction is one such call) and after each change to a file. It asks nothing of the nodes and
changes nothing, so a run is the same with and without it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import field

from potsherd.classes import dataclass
from potsherd.erasure import merkle
from potsherd.erasure.descriptor import Descriptor
from potsherd.errors import NotFoundError
from potsherd.node.store import files
from potsherd.node.store.ledger import INODE_BYTES
from potsherd.simulations.world.world import World

__all__ = ["BrokenPromise", "Observer"]

BROKEN_MAX = 32
"""Broken promises that are written down; more of them say no more."""


class BrokenPromise(AssertionError):  # noqa: N818 (says what happened)
    """A promise of the design was not kept; the message says which, when and where."""


@dataclass(frozen=True)
class _Shard:
    index: int
    good: bool
    """Its bytes fit the root in the descriptor."""


@dataclass(eq=False)
class _Watched:
    quota: int
    shards: dict[bytes, _Shard] = field(default_factory=dict)
    lies: bool = False
    """What it serves is not what it has."""
    rotten: set[bytes] = field(default_factory=set)
    """Segments whose shard here was damaged by the experiment, not by the node."""
    at_stop: dict[bytes, _Shard] = field(default_factory=dict)
    pages: int = 0
    page_bytes: int = 0
    index: sqlite3.Connection | None = None
    changes: int = 0
    """Through which connection the index was looked at last, and how many rows had changed by then."""
    dirty: set[bytes] = field(default_factory=set)
    """Segments whose shard file has changed since it was looked at."""


class Observer:
    """Promises that are checked at every step:

    - no acknowledged segment has fewer than k distinct good indices on all disks together;
    - no node uses more than its quota, at any moment;
    - what an honest node holds fits the shard root, so nothing else can be served;
    - no node holds two indices of a segment;
    - what was held before a crash is held after it.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._machines: dict[str, _Watched] = {}
        self._acknowledged: dict[bytes, Descriptor] = {}
        self.broken: list[str] = []
        """What was not kept, the first first."""
        self.least: dict[bytes, int] = {}
        """Fewest distinct good indices ever, by acknowledged segment."""
        self.steps = 0
        world.on_step = self._step

    # who is watched

    def watch(self, name: str, quota: int) -> None:
        """Watch a machine from now on."""
        self._machines[name] = _Watched(quota)
        self._world.disk(name).watch = lambda operation, path: self._changed(name, path)

    def destroyed(self, name: str) -> None:
        """The machine is gone with its disk, by the experiment's will: it counts no more."""
        del self._machines[name]
        self._world.disk(name).watch = None

    def deceives(self, name: str) -> None:
        """The machine serves other bytes than it has, from now on: its shards count for nothing."""
        self._machines[name].lies = True

    def rotted(self, name: str, path: str) -> None:
        """The experiment has damaged a file of the machine."""
        segment_id = files.segment_of(path)
        if segment_id is not None:
            watched = self._machines[name]
            watched.rotten.add(segment_id)
            watched.dirty.add(segment_id)
            self._refresh(name)

    def stopped(self, name: str) -> None:
        """The machine has lost power or its node was killed: what it holds now it has to hold again."""
        watched = self._machines[name]
        held = watched.shards.items()
        watched.at_stop = {s: shard for s, shard in held if s not in watched.rotten}

    def restarted(self, name: str) -> None:
        """The machine runs again and has opened its store: look at everything, nothing may be missing."""
        watched = self._machines[name]
        watched.dirty |= set(watched.shards)
        self._refresh(name)
        for segment_id, shard in watched.at_stop.items():
            now = watched.shards.get(segment_id)
            if now is None or now.index != shard.index:
                self._break(f"{name} lost shard {shard.index} of {_short(segment_id)} by a restart")

    # what is promised

    def acknowledged(self, descriptor: Descriptor, least: int) -> None:
        """A put was acknowledged: at least `least` indices must be there now, and k always."""
        segment_id = descriptor.segment_id
        self._acknowledged[segment_id] = descriptor
        count = self.distinct(segment_id, lies_count=True)
        self.least[segment_id] = count
        if count < least:
            self._break(f"{_short(segment_id)} was acknowledged with {count} of {least} shards")

    def segments(self) -> Iterator[tuple[bytes, Descriptor]]:
        """All acknowledged ones."""
        return iter(self._acknowledged.items())

    def descriptor(self, segment_id: bytes) -> Descriptor:
        """Of a segment that some running machine holds. Raises NotFoundError."""
        for name in self._machines:
            index = self._world.index(name)
            row = (
                index
                and index.execute(
                    "SELECT descriptor FROM segments WHERE segment_id = ?", (segment_id,)
                ).fetchone()
            )
            if row:
                return Descriptor.decode(row[0])
        raise NotFoundError(f"nobody who runs holds {_short(segment_id)}")

    def distinct(
        self,
        segment_id: bytes,
        *,
        besides: Collection[str] = (),
        among: Collection[str] | None = None,
        lies_count: bool = False,
    ) -> int:
        """Distinct indices on all disks, or those of `among`; good ones, or all with `lies_count`."""
        found = set()
        for name, watched in self._machines.items():
            shard = watched.shards.get(segment_id)
            if shard is None or name in besides or (among is not None and name not in among):
                continue
            if lies_count or (shard.good and not watched.lies):
                found.add(shard.index)
        return len(found)

    def holders(self, segment_id: bytes) -> dict[str, int]:
        """Machines that hold a segment, and which index."""
        return {
            name: watched.shards[segment_id].index
            for name, watched in self._machines.items()
            if segment_id in watched.shards
        }

    def margin(self, *, besides: Collection[str] = ()) -> int:
        """How many more good indices the weakest acknowledged segment has than it needs."""
        found = [self.distinct(s, besides=besides) - d.k for s, d in self._acknowledged.items()]
        return min(found, default=255)

    def check_all(self) -> None:
        """Look at every shard of every running machine, whether it seems to have changed or not."""
        for name, watched in self._machines.items():
            watched.dirty |= set(watched.shards)
            self._refresh(name)

    # every step

    def _changed(self, name: str, path: str) -> None:
        watched = self._machines[name]
        segment_id = files.segment_of(path)
        if segment_id is not None:
            watched.dirty.add(segment_id)
        self._check_quota(name, watched)

    def _step(self, name: str) -> None:
        if name in self._machines:
            self.steps += 1
            self._refresh(name)

    def _refresh(self, name: str) -> None:
        watched, index = self._machines[name], self._world.index(name)
        if index is None:
            return
        if index is watched.index and index.total_changes == watched.changes and not watched.dirty:
            return  # the call has only read, as most do
        if not _has_tables(index):
            return
        watched.index, watched.changes = index, index.total_changes
        (watched.pages,) = index.execute("PRAGMA page_count").fetchone()
        (watched.page_bytes,) = index.execute("PRAGMA page_size").fetchone()
        self._check_quota(name, watched)
        rows = index.execute("SELECT segment_id, idx FROM segments").fetchall()
        if len({row[0] for row in rows}) != len(rows):
            self._break(f"{name} holds two indices of one segment")
        now = {bytes(segment_id): int(number) for segment_id, number in rows}
        changed = [s for s in watched.shards if s not in now]
        changed += [s for s in now if s in watched.dirty or now[s] != _index(watched.shards.get(s))]
        for segment_id in changed:
            self._look(name, watched, index, segment_id, now.get(segment_id))
        watched.dirty.clear()
        for segment_id in changed:
            self._count(segment_id)

    def _look(
        self,
        name: str,
        watched: _Watched,
        index: sqlite3.Connection,
        segment_id: bytes,
        number: int | None,
    ) -> None:
        if number is None:
            del watched.shards[segment_id]
            watched.rotten.discard(segment_id)
            return
        good = self._is_good(name, index, segment_id, number)
        watched.shards[segment_id] = _Shard(number, good)
        if good:
            watched.rotten.discard(segment_id)
        elif not watched.lies and segment_id not in watched.rotten:
            self._break(f"shard {number} of {_short(segment_id)} on {name} fails its root")

    def _is_good(
        self, name: str, index: sqlite3.Connection, segment_id: bytes, number: int
    ) -> bool:
        encoded, size, data = index.execute(
            "SELECT descriptor, size, data FROM segments LEFT JOIN shards ON segment = id "
            "WHERE segment_id = ?",
            (segment_id,),
        ).fetchone()
        descriptor = Descriptor.decode(encoded)
        if data is None:
            try:
                data = self._world.disk(name).content(files.shard_path(segment_id))[:size]
            except NotFoundError:
                return False
        if descriptor.segment_id != segment_id or len(data) != descriptor.geometry.shard_size:
            return False
        leaves = merkle.cell_leaves(data, descriptor.cell_size)
        return merkle.root(leaves) == descriptor.roots[number]

    def _count(self, segment_id: bytes) -> None:
        descriptor = self._acknowledged.get(segment_id)
        if descriptor is None:
            return
        count = self.distinct(segment_id)
        self.least[segment_id] = min(self.least[segment_id], count)
        if count < descriptor.k:
            self._break(f"{_short(segment_id)} has {count} good indices left of k = {descriptor.k}")

    def _check_quota(self, name: str, watched: _Watched) -> None:
        disk = self._world.disk(name)
        index = watched.pages * watched.page_bytes
        used = disk.allocated_bytes + INODE_BYTES * disk.inodes + index
        if used > watched.quota:
            self._break(f"{name} uses {used} bytes of a quota of {watched.quota}")

    def _break(self, what: str) -> None:
        if len(self.broken) < BROKEN_MAX:
            self.broken.append(f"at {self._world.loop.time():.3f} s: {what}")


def _has_tables(index: sqlite3.Connection) -> bool:
    found = index.execute("SELECT 1 FROM sqlite_schema WHERE name = 'segments'").fetchone()
    return found is not None


def _index(shard: _Shard | None) -> int:
    return -1 if shard is None else shard.index


def _short(segment_id: bytes) -> str:
    return segment_id.hex()[:12]

"""Material for tests of the shard store: segments, statements about them, disks that measure.

Signatures are made up: the store does not look at them, its callers have verified them.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from potsherd.erasure import merkle
from potsherd.erasure.descriptor import Descriptor, Entry
from potsherd.erasure.layout import CELL_SIZE, STANDARD
from potsherd.node.real.disk import RealDisk
from potsherd.node.real.env import ThreadOffload, real_env
from potsherd.node.records import (
    Head,
    Lease,
    LeasePath,
    ProvisionalLease,
    RosterEntry,
    Ticket,
)
from potsherd.node.store import ShardStore
from potsherd.ports import Buffer, Disk, Env
from potsherd.simulations.world import World
from potsherd.wire import Record

T = TypeVar("T")

ME = b"m" * 32
MEMBER = b"c" * 32
DATE = 1_800_000_000
PORTION = 200_000
"""Bytes that `push` sends at once: neither whole cells nor whole shards."""


def sign(record: Record) -> bytes:
    """`signature ‖ encoding` with something that looks like a signature."""
    body = record.encode()
    return blake2b(body, digest_size=64).digest() + body


@dataclass(frozen=True)
class Specimen:
    """A segment with all its shards. The shards are random: the store does not decode."""

    descriptor: Descriptor
    shards: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"Specimen({self.id.hex()[:8]}, {len(self.shards[0])} bytes)"

    @property
    def id(self) -> bytes:
        """The segment id."""
        return self.descriptor.segment_id

    @property
    def owner(self) -> bytes:
        """The dataset's key."""
        return self.descriptor.owner_key

    def ticket(self, size_max: int | None = None) -> Ticket:
        """A ticket for exactly one shard, or for more."""
        size = self.descriptor.geometry.shard_size if size_max is None else size_max
        return Ticket(self.owner, self.descriptor.placement_key, 0, ME, size, DATE)

    def provisional(self, until: int = DATE) -> bytes:
        """The signed provisional lease."""
        return sign(ProvisionalLease(self.owner, self.id, until))

    def entry(self, index: int, node: bytes = ME, counter: int = 1, held: bool = True) -> bytes:
        """A signed entry of the roster."""
        return sign(RosterEntry(self.id, index, node, counter, held))

    def leaves(self, index: int) -> bytes:
        """Leaf hashes of a shard."""
        return merkle.cell_leaves(self.shards[index], self.descriptor.cell_size)


def small_segment(rng: random.Random, k: int = 4, n: int = 12, length: int = 6144) -> Specimen:
    """A segment of one row of small cells."""
    return _segment(rng, k, n, STANDARD.small_cell(k, length), 1, length)


def large_segment(rng: random.Random, rows: int, k: int = 2, n: int = 3) -> Specimen:
    """A segment of `rows` rows of full-size cells."""
    return _segment(rng, k, n, CELL_SIZE, rows, rows * k * CELL_SIZE)


def _segment(rng: random.Random, k: int, n: int, cell: int, rows: int, length: int) -> Specimen:
    shards = tuple(rng.randbytes(cell * rows) for _ in range(n))
    roots = tuple(merkle.root(merkle.cell_leaves(shard, cell)) for shard in shards)
    placement, owner, locator = rng.randbytes(20), rng.randbytes(32), rng.randbytes(20)
    entry = Entry(locator, 0, min(length, 1024)) if length else None
    r = k + -(-(n - k) // 2)
    descriptor = Descriptor(k, n, r, cell, rows, length, placement, owner, roots, entry)
    return Specimen(descriptor, shards)


async def push(
    store: ShardStore, specimen: Specimen, index: int, *, size_max: int | None = None
) -> int:
    """Stage a whole shard; the stage's number."""
    ticket, shard = specimen.ticket(size_max), specimen.shards[index]
    state = await store.stage(ticket, index, MEMBER)
    for at in range(state.size, len(shard), PORTION):
        await store.append(state.stage, at, shard[at : at + PORTION])
    return state.stage


async def commit(store: ShardStore, specimen: Specimen, index: int, stage: int) -> None:
    """Commit a stage with honest statements."""
    await store.commit(
        stage, specimen.descriptor.encode(), specimen.provisional(), specimen.entry(index)
    )


async def put(
    store: ShardStore, specimen: Specimen, index: int, *, size_max: int | None = None
) -> None:
    """Push and commit one shard."""
    await commit(store, specimen, index, await push(store, specimen, index, size_max=size_max))


async def check_readable(store: ShardStore, specimen: Specimen, index: int) -> None:
    """The whole shard reads back, with proofs that hold against the descriptor."""
    descriptor = specimen.descriptor
    step = min(descriptor.rows, 64)
    for first in range(0, descriptor.rows, step):
        count = min(step, descriptor.rows - first)
        data, (proof,) = await store.read(specimen.id, index, [(first, count)])
        cell = descriptor.cell_size
        assert data == specimen.shards[index][first * cell : (first + count) * cell]
        leaves = merkle.cell_leaves(data, cell)
        root = descriptor.roots[index]
        merkle.verify_range(root, descriptor.rows, first, leaves, proof)


def lease_over(
    specimens: Sequence[Specimen], *, archive: int = 0, sequence: int = 1, until: int = 0
) -> tuple[bytes, list[LeasePath]]:
    """A signed lease of the first specimen's owner over all, and the path of each."""
    ids = b"".join(specimen.id for specimen in specimens)
    tree = merkle.MerkleTree(ids, tree=merkle.LEASE_TREE)
    lease = Lease(
        owner=specimens[0].owner,
        archive=archive,
        sequence=sequence,
        root=tree.root,
        segments=len(specimens),
        total_bytes=sum(specimen.descriptor.stream_length for specimen in specimens),
        until=until,
        keepers=(),
        withdraw_key=blake2b(specimens[0].owner, digest_size=32).digest(),
        grace_s=86400 * 30,
        repair_below=0,
    )
    paths = []
    for position, specimen in enumerate(specimens):
        proof = tree.prove_range(position, 1)
        hashes = tuple(proof[i : i + 32] for i in range(0, len(proof), 32))
        paths.append(LeasePath(specimen.id, position, hashes))
    return sign(lease), paths


def head_of(owner: bytes, number: int = 1, salt: bytes = b"") -> tuple[bytes, bytes, bytes]:
    """(dataset id, genesis, signed head) of the dataset of an owner."""
    genesis = b"\x93\x01\x01\xc4\x20" + owner
    dataset = blake2b(genesis, digest_size=32).digest()
    noise = blake2b(owner + bytes([number % 256]) + salt, digest_size=64).digest()
    previous = bytes(32) if number == 1 else noise[:32]
    head = Head(dataset, 0, number, previous, noise[:24], noise + noise[:18], DATE, owner)
    return dataset, genesis, sign(head)


class MeasuringDisk:
    """A real disk that measures the whole folder before and after each call and SQL statement."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.disk: Disk = RealDisk(root)
        self.peak = 0
        """Most bytes ever seen: allocated blocks, and 512 bytes an inode."""
        self.log_peak = 0
        """Most bytes ever seen in the index's write-ahead log."""

    def measure(self) -> int:
        """Bytes that the folder occupies now."""
        total = 0
        for folder, names, files in os.walk(self.root):
            total += sum(os.lstat(os.path.join(folder, name)).st_blocks * 512 for name in names)
            for name in files:
                total += self._file(os.path.join(folder, name))
        self.peak = max(self.peak, total)
        return total

    def _file(self, path: str) -> int:
        try:
            found = os.lstat(path)
        except FileNotFoundError:  # SQLite's own
            return 0
        if path.endswith("-wal"):
            self.log_peak = max(self.log_peak, found.st_size)
        return found.st_blocks * 512 + 512

    def open_index(self, name: str, *, pages_max: int | None = None) -> sqlite3.Connection:
        """See ports.Disk."""
        connection = self.disk.open_index(name, pages_max=pages_max)
        connection.set_trace_callback(lambda statement: self.measure() and None)
        return connection

    def walk(self, folder: str) -> Iterator[tuple[str, int, int]]:
        """See ports.Disk."""
        return self.disk.walk(folder)

    def free(self) -> int:
        """See ports.Disk."""
        return self.disk.free()

    def read(self, path: str, offset: int, size: int) -> Buffer:
        """See ports.Disk."""
        return self.disk.read(path, offset, size)

    def create(self, path: str, size: int) -> None:
        """See ports.Disk."""
        self._do(self.disk.create, path, size)

    def write(self, path: str, offset: int, data: Buffer) -> None:
        """See ports.Disk."""
        self._do(self.disk.write, path, offset, data)

    def truncate(self, path: str, size: int) -> None:
        """See ports.Disk."""
        self._do(self.disk.truncate, path, size)

    def sync(self, path: str) -> None:
        """See ports.Disk."""
        self._do(self.disk.sync, path)

    def sync_folder(self, path: str) -> None:
        """See ports.Disk."""
        self._do(self.disk.sync_folder, path)

    def rename(self, old: str, new: str) -> None:
        """See ports.Disk."""
        self._do(self.disk.rename, old, new)

    def remove(self, path: str) -> None:
        """See ports.Disk."""
        self._do(self.disk.remove, path)

    def _do(self, call: Any, *arguments: Any) -> None:
        self.measure()
        call(*arguments)
        self.measure()


def with_disk(env: Env, disk: Disk) -> Env:
    """The same ports with another disk."""
    return replace(env, disk=disk)


class Bench:
    """One machine to try a store on: `run` drives a coroutine, `env` are its ports."""

    env: Env

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end."""
        raise NotImplementedError

    def close(self) -> None:
        """Free everything."""


class WorldBench(Bench):
    """Virtual time, no sockets, no files."""

    def __init__(self, seed: int = 5) -> None:
        self.world = World(seed)
        self.env = self.world.env("a")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """See Bench."""
        return self.world.run(work)

    def close(self) -> None:
        """See Bench."""
        self.world.close()


class RealBench(Bench):
    """A folder on the disk, threads, SQLite in WAL mode."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or asyncio.new_event_loop()
        self._owns_loop = loop is None
        self.env = self._loop.run_until_complete(self._make(folder))

    def sibling(self, folder: Path) -> RealBench:
        """Another machine on the same event loop."""
        return RealBench(folder, self._loop)

    async def _make(self, folder: Path) -> Env:
        return real_env(folder, threads=2)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """See Bench."""
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        """See Bench."""
        assert isinstance(self.env.offload, ThreadOffload)
        self.env.offload.close()
        if self._owns_loop:
            self._loop.close()


BENCHES = ("world", "real")


def open_bench(kind: str, folder: Path) -> Iterator[Bench]:
    """The body of a fixture over BENCHES."""
    made: Bench = WorldBench() if kind == "world" else RealBench(folder / "store")
    yield made
    made.close()

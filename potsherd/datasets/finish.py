"""What comes after the last segment of a `put`: lease, head, announcements (design: docs/design/put.md).

Every step may be done again: the same lease and head come out of the same put, and holders that have them
already say so. A holder that misses one is no failure while enough others took it: the rule is the same
w as for shards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from potsherd.classes import dataclass
from potsherd.crypto.boxes import secret_seal
from potsherd.crypto.eris import ReadCapability
from potsherd.crypto.hashing import digest
from potsherd.crypto.keys import DatasetKeys
from potsherd.erasure.merkle import HASH_SIZE, LEASE_TREE, prove, root
from potsherd.errors import PotsherdError, RefusedError
from potsherd.node.client import Peer
from potsherd.node.records import LEASE_GRACE_S, SEGMENTS_PER_MESSAGE_MAX, Head, Lease, LeasePath
from potsherd.node.session import Session
from potsherd.ports import Address

__all__ = ["ArchiveHolders", "Finisher", "Tell", "sign_head", "tell"]

ANNOUNCERS = 8
"""Holders of a segment that announce it: the first eight (design.md section 6)."""
CALLS_AT_ONCE = 32

Tell: TypeAlias = Callable[[Peer, Sequence[int]], Awaitable[None]]
"""(node, numbers of the archive's segments that it keeps) → told. Raises PotsherdError."""


@dataclass(frozen=True)
class ArchiveHolders:
    """Who keeps an archive: for each segment in the manifest's order its id and its holders by index."""

    segment_ids: tuple[bytes, ...]
    holders: tuple[Mapping[int, tuple[bytes, Address | None]], ...]
    w: int

    def by_node(self, first: int | None = None) -> dict[bytes, tuple[Address | None, list[int]]]:
        """Node key → address and the segments it keeps; only the `first` lowest indices of each if given."""
        nodes: dict[bytes, tuple[Address | None, list[int]]] = {}
        for number, holders in enumerate(self.holders):
            for index in sorted(holders)[:first]:
                key, address = holders[index]
                nodes.setdefault(key, (address, []))[1].append(number)
        return nodes


def sign_head(
    keys: DatasetKeys,
    network_id: bytes,
    capability: ReadCapability,
    *,
    number: int,
    previous: bytes,
    date: int,
    nonce: bytes,
) -> bytes:
    """A signed head of epoch 0; `previous` is the head before it as it was signed, empty for number 1."""
    head = Head(
        dataset_id=keys.dataset_id,
        epoch=0,
        number=number,
        previous=digest(previous) if previous else bytes(32),
        nonce=nonce,
        sealed=secret_seal(keys.read(0), nonce, capability.to_bytes()),
        date=date,
        writer=keys.owner.verify_key,
    )
    return head.signed(keys.owner.sign, network_id)


class Finisher:
    """Makes an archive that is stored one that is kept, found and dated."""

    def __init__(self, session: Session, keys: DatasetKeys, archive: ArchiveHolders) -> None:
        self._session = session
        self._network_id = session.identity.network_id
        self._keys = keys
        self._archive = archive

    async def lease(
        self,
        *,
        number: int,
        total_bytes: int,
        until: int = 0,
        sequence: int = 1,
        keepers: Sequence[bytes] = (),
        least: int | None = None,
    ) -> tuple[Lease, int]:
        """Sign the lease and give it to the holders; with it, how many took it in the segment with fewest.

        Raises RefusedError when a segment has fewer than `least` holders (w unless given) that take it.
        """
        ids = self._archive.segment_ids
        leaves = b"".join(ids)
        lease = Lease(
            owner=self._keys.owner.verify_key,
            archive=number,
            sequence=sequence,
            root=root(leaves, tree=LEASE_TREE),
            segments=len(ids),
            total_bytes=total_bytes,
            until=until,
            keepers=tuple(sorted(set(keepers))),
            withdraw_key=self._keys.withdraw.verify_key,
            grace_s=LEASE_GRACE_S,
            repair_below=0,
        )
        signed = lease.signed(self._keys.owner.sign, self._network_id)
        paths = [_path(leaves, position) for position in range(len(ids))]

        async def give(peer: Peer, numbers: Sequence[int]) -> None:
            await peer.put_lease(signed, [paths[number] for number in numbers])

        told = await self._tell(self._archive.by_node(), give, "took the lease", least=least)
        return lease, told

    async def _tell(
        self,
        nodes: Mapping[bytes, tuple[Address | None, list[int]]],
        call: Tell,
        done: str,
        *,
        least: int | None = None,
    ) -> int:
        needed = self._archive.w if least is None else least
        return await tell(self._session, nodes, call, done, least=needed)

    async def head(self, signed: bytes) -> None:
        """Give a signed head to the holders of the entry segment, the last one.

        Raises RefusedError when fewer than w of them take it.
        """
        entry = len(self._archive.segment_ids) - 1
        genesis = self._keys.genesis.encode()
        segment_id = self._archive.segment_ids[entry]

        async def give(peer: Peer, _: Sequence[int]) -> None:
            await peer.put_head(segment_id, genesis, signed)

        keepers = {
            key: (address, [entry]) for key, address in self._archive.holders[entry].values()
        }
        await self._tell(keepers, give, "took the head")

    async def announce(self) -> None:
        """Have the first eight holders of every segment announce it now: what `put` says can be found.

        Raises RefusedError when nobody announces a segment.
        """
        ids = self._archive.segment_ids

        async def announce(peer: Peer, numbers: Sequence[int]) -> None:
            await peer.announce([ids[number] for number in numbers])

        await self._tell(self._archive.by_node(ANNOUNCERS), announce, "announced it", least=1)


async def tell(
    session: Session,
    nodes: Mapping[bytes, tuple[Address | None, list[int]]],
    call: Tell,
    done: str,
    *,
    least: int,
) -> int:
    """Call all nodes in messages of bounded size; how many did it, of the segment with fewest.

    Raises RefusedError when that is less than `least`; `done` says in words what they did.
    """
    told: dict[int, int] = {}
    failures: set[str] = set()
    gate = asyncio.Semaphore(CALLS_AT_ONCE)

    async def one(key: bytes, address: Address | None, numbers: Sequence[int]) -> None:
        async with gate:
            try:
                peer = await session.peer(key, address)
                for part in _parts(numbers):
                    await call(peer, part)
            except PotsherdError as error:
                failures.add(str(error))
                return
        for number in numbers:
            told[number] = told.get(number, 0) + 1

    await asyncio.gather(*(one(k, a, numbers) for k, (a, numbers) in nodes.items()))
    asked = {number for _, numbers in nodes.values() for number in numbers}
    worst = min((told.get(number, 0) for number in asked), default=0)
    if worst < least:
        reasons = "; ".join(sorted(failures)[:3])
        raise RefusedError(
            f"only {worst} of the {least} holders that are needed {done}: {reasons}",
            remedy="run the same command again: it goes on where it stopped",
        )
    return worst


def _parts(numbers: Sequence[int]) -> Iterable[Sequence[int]]:
    for start in range(0, len(numbers), SEGMENTS_PER_MESSAGE_MAX):
        yield numbers[start : start + SEGMENTS_PER_MESSAGE_MAX]


def _path(leaves: bytes, position: int) -> LeasePath:
    proof = prove(leaves, position, tree=LEASE_TREE)
    hashes = tuple(proof[at : at + HASH_SIZE] for at in range(0, len(proof), HASH_SIZE))
    own = leaves[position * HASH_SIZE : (position + 1) * HASH_SIZE]
    return LeasePath(own, position, hashes)

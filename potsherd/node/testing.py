"""Small networks, hand-made segments and how to store them, for tests and simulations. No node or client imports this.

Everything follows from numbers that the caller gives: no randomness, no clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import field

from potsherd.classes import dataclass
from potsherd.crypto.invitations import invite
from potsherd.crypto.keys import Genesis, Master
from potsherd.crypto.membership import NetworkConfig, create_network, open_config
from potsherd.crypto.signing import SigningKey
from potsherd.erasure.code import Code
from potsherd.erasure.descriptor import Descriptor, Entry
from potsherd.erasure.layout import CELL_SIZE
from potsherd.erasure.merkle import LEASE_TREE, MerkleTree
from potsherd.erasure.segment import SegmentEncoder
from potsherd.node.placement import place
from potsherd.node.records import (
    PROVISIONAL_LEASE_S,
    Head,
    Lease,
    LeasePath,
    ProvisionalLease,
    RosterEntry,
    Ticket,
)
from potsherd.node.session import Session
from potsherd.ports import Address, Identity

__all__ = ["HandMade", "SmallNetwork", "lasting_lease", "push_all", "push_one", "seed_of"]


def seed_of(*parts: object) -> bytes:
    """32 bytes that follow from the parts."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=32).digest()


class SmallNetwork:
    """A network with one invitation; its bootstrap is donor 0 at `bootstrap`."""

    def __init__(self, seed: int, bootstrap: Address | None = None, *, nodes: int = 1000) -> None:
        self._seed = seed
        first = self.key(0)
        known = ((first.verify_key, *bootstrap),) if bootstrap else ()
        network_key, self.signed_config = create_network("test", seed_of(seed, "network"), known)
        self.network_key = network_key
        self.config: NetworkConfig = open_config(self.signed_config)
        self.network_id = self.config.network_id
        self.invitation = invite(
            network_key, self.signed_config, seed_of(seed, "invitation"), 1, "operator", nodes
        )

    def key(self, number: int) -> SigningKey:
        """The node key of donor `number`."""
        return SigningKey(seed_of(self._seed, "node", number))

    def donor(self, number: int) -> tuple[Identity, bytes]:
        """Identity and credential chain of donor `number`."""
        key = self.key(number)
        chain = self.invitation.certify_node(key.verify_key, number)
        return self._identity(key), chain

    def client(self, number: int, now: float) -> tuple[Identity, bytes]:
        """Identity and credential chain of a client."""
        key = SigningKey(seed_of(self._seed, "client", number))
        return self._identity(key), self.invitation.certify_client(key.verify_key, now)

    def _identity(self, key: SigningKey) -> Identity:
        return Identity(key.seed, key.verify_key, self.network_id)


@dataclass
class HandMade:
    """A segment coded in one piece: its shards and everything that is signed about it."""

    network_id: bytes
    stream: bytes
    k: int = 2
    n: int = 4
    number: int = 0
    with_entry: bool = False
    r: int = 0
    """Repair starts below; 0: k, that is never."""
    descriptor: Descriptor = field(init=False)
    shards: tuple[bytes, ...] = field(init=False)

    def __post_init__(self) -> None:
        keys = Master(seed_of("master")).dataset(self.number)
        self.owner = keys.owner
        self.genesis: Genesis = keys.genesis
        small = len(self.stream) < self.k * CELL_SIZE
        cell_size = max(64, -(-len(self.stream) // self.k // 64) * 64) if small else CELL_SIZE
        encoder = SegmentEncoder(Code(self.k, self.n), cell_size=cell_size)
        batch = encoder.encode_rows(self.stream)
        self.shards = tuple(bytes(column.cells) for column in batch.columns)
        entry = Entry(hashlib.blake2b(self.stream, digest_size=20).digest(), 0, 1)
        self.descriptor = encoder.finish(
            r=self.r or self.k,
            placement_key=hashlib.blake2b(b"place" + self.stream, digest_size=20).digest(),
            owner_key=self.owner.verify_key,
            entry=entry if self.with_entry else None,
        )

    @property
    def segment_id(self) -> bytes:
        """32 bytes."""
        return self.descriptor.segment_id

    def ticket(self, now: float, index: int, holder: bytes, *, life_s: int = 3600) -> bytes:
        """A signed ticket for one shard and the node that is to keep it."""
        ticket = self.ticket_for(now, index, holder, life_s=life_s)
        return ticket.signed(self.owner.sign, self.network_id)

    def ticket_for(self, now: float, index: int, holder: bytes, *, life_s: int = 3600) -> Ticket:
        """The ticket as a record."""
        size = max(len(shard) for shard in self.shards)
        key = self.descriptor.placement_key
        expires = int(now) + life_s
        return Ticket(self.owner.verify_key, key, index, holder, size, expires)

    def lease(self, now: float) -> bytes:
        """The signed provisional lease."""
        until = int(now) + PROVISIONAL_LEASE_S
        lease = ProvisionalLease(self.owner.verify_key, self.segment_id, until)
        return lease.signed(self.owner.sign, self.network_id)

    def entry(
        self, holder: SigningKey, index: int, *, counter: int = 1, held: bool = True
    ) -> bytes:
        """A roster entry signed by a holder."""
        entry = RosterEntry(self.segment_id, index, holder.verify_key, counter, held)
        return entry.signed(holder.sign, self.network_id)

    def heads(self, dates: Sequence[float]) -> list[bytes]:
        """A chain of signed heads, numbered from 1."""
        signed: list[bytes] = []
        for number, date in enumerate(dates, start=1):
            previous = hashlib.blake2b(signed[-1], digest_size=32).digest() if signed else bytes(32)
            head = Head(
                dataset_id=self.genesis.dataset_id,
                epoch=0,
                number=number,
                previous=previous,
                nonce=seed_of("nonce", number)[:24],
                sealed=bytes(82),
                date=int(date),
                writer=self.owner.verify_key,
            )
            signed.append(head.signed(self.owner.sign, self.network_id))
        return signed


def lasting_lease(made: HandMade) -> tuple[bytes, list[LeasePath]]:
    """A signed lease without end over one segment, and the segment's path in it."""
    lease = Lease(
        owner=made.owner.verify_key,
        archive=0,
        sequence=1,
        root=MerkleTree(made.segment_id, tree=LEASE_TREE).root,
        segments=1,
        total_bytes=len(made.stream),
        until=0,
        keepers=(),
        withdraw_key=Master(seed_of("master")).dataset(made.number).withdraw.verify_key,
        grace_s=0,
        repair_below=0,
    )
    signed = lease.signed(made.owner.sign, made.network_id)
    return signed, [LeasePath(made.segment_id, 0, ())]


async def push_one(session: Session, made: HandMade, index: int, key: bytes) -> bytes:
    """Store one shard on the node; its receipt."""
    now = session.env.utc()
    peer = await session.peer(key)
    stage = (await peer.push_open(made.ticket(now, index, key))).stage
    await peer.push(stage, 0, made.shards[index])
    return await peer.commit(stage, made.descriptor.encode(), made.lease(now))


async def push_all(session: Session, made: HandMade) -> dict[int, bytes]:
    """Place and store all shards as a client would, for the time of a provisional lease; holders' keys by index."""
    donors = await session.donors(made.descriptor.placement_key, 4 * made.n)
    holders = place(donors, made.n, made.k, made.descriptor.r, rng=session.env.rng).holders
    receipts = []
    for index, holder in enumerate(holders):
        receipt = await push_one(session, made, index, holder.key)
        receipts.append((receipt, holder.address))
    for holder in holders:
        peer = await session.peer(holder.key, holder.address)
        await peer.merge_roster(made.segment_id, receipts)
    return {index: holder.key for index, holder in enumerate(holders)}

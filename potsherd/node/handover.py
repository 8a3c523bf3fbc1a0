"""One shard of this node goes to another node, with everything that is kept beside it.

The shard is on the new holder's disk and has been proved, and the other holders have been told, before this node
lets go of it. A repairer hands over the statements by the same function.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from potsherd.crypto.keys import Genesis
from potsherd.crypto.signing import SigningKey
from potsherd.erasure.merkle import cell_leaves, verify_range
from potsherd.errors import IntegrityError, NotFoundError, PotsherdError, RefusedError
from potsherd.node.client import Peer
from potsherd.node.placement import Candidate
from potsherd.node.records import READ_MAX, HolderTicket, RosterEntry
from potsherd.node.rosters import Rosters
from potsherd.node.session import Session
from potsherd.node.store import Held, ShardStore
from potsherd.ports import Address, Env

__all__ = ["Handover", "hand_statements"]

TICKET_LIFE_S = 12 * 3600
"""Longer than one shard takes, however slow the line."""
PART_BYTES = 2**20
"""Bytes read and sent at a time."""
TELL_TIMEOUT_S = 30.0
"""Seconds for one other holder to be told; who misses it learns it from the rest."""
TOLD_PARALLEL = 8
SIGNATURE_SIZE = 64

Progress = Callable[[int], None]
"""Called with the number of bytes that have been sent since the last call."""


async def hand_statements(store: ShardStore, peer: Peer, held: Held) -> None:
    """Give a new holder the leases, extensions, withdrawals and heads that are kept beside a segment.

    Raises what the peer answers; leases first, because the others need them.
    """
    owner = held.descriptor.owner_key
    for lease, path in await store.leases(held.segment_id):
        await peer.put_lease(lease, [path])
    kept = await store.kept(held.segment_id)
    for state in kept.leases if kept else ():
        scope = state.lease.owner, state.lease.archive
        for extension in await store.extensions(*scope):
            with suppress(NotFoundError):  # its lease is not the one that counts there
                await peer.extend(extension)
        ended = await store.withdrawal(*scope)
        if ended is not None:
            await peer.withdraw(ended.withdrawal)
    dataset_id = Genesis(owner).dataset_id
    before = (int.from_bytes(dataset_id, "big") - 1) % 2**256
    if (dataset_id, held.segment_id) in await store.datasets(before.to_bytes(32, "big"), 1):
        genesis, heads = await store.heads(dataset_id)
        for head in reversed(heads):
            await peer.put_head(held.segment_id, genesis, head)


class Handover:
    """Moves shards of this node. Methods raise PotsherdError when a step fails; then the shard is still here."""

    def __init__(
        self,
        env: Env,
        store: ShardStore,
        session: Session,
        rosters: Rosters,
        address_of: Callable[[bytes], Address | None],
    ) -> None:
        self._env = env
        self._store = store
        self._session = session
        self._rosters = rosters
        self._address_of = address_of
        self._key = SigningKey(session.identity.seed)
        self._network_id = session.identity.network_id

    async def move(self, held: Held, target: Candidate, progress: Progress) -> None:
        """Bring a shard to a node that holds none of its segment, and let go of it here."""
        peer = await self._session.peer(target.key, target.address)
        receipt = await self._send(held, peer, progress)
        await hand_statements(self._store, peer, held)
        await self.settle(held, peer, receipt)

    async def settle(self, held: Held, peer: Peer, receipt: bytes) -> None:
        """`peer` says by `receipt` that it holds this very index: have it proved, tell the others, let go."""
        await self._prove(held, peer)
        await self._store.merge_roster(held.segment_id, [receipt])
        released = await self._rosters.sign(held.segment_id, held.index, held=False)
        known = [
            entry for entry in await self._store.roster(held.segment_id) if not self._mine(entry)
        ]
        hints = [(entry, self._address(entry, peer)) for entry in [*known, released]]
        await peer.merge_roster(held.segment_id, hints)
        others = await self._others(held, peer)
        # First let go, then say so: while the shard is here, this node would contradict.
        await self._store.drop(held.segment_id, "moved", f"to node {peer.key.hex()[:16]}")
        await self._tell(held, others, [(receipt, peer.address), (released, None)])

    def _mine(self, signed: bytes) -> bool:
        return RosterEntry.decode(signed[SIGNATURE_SIZE:]).node == self._session.identity.key

    def _address(self, signed: bytes, peer: Peer) -> Address | None:
        node = RosterEntry.decode(signed[SIGNATURE_SIZE:]).node
        return peer.address if node == peer.key else self._address_of(node)

    async def _send(self, held: Held, peer: Peer, progress: Progress) -> bytes:
        own = await self._rosters.own(held.segment_id)
        if own is None:
            raise NotFoundError("the shard is not in the roster")
        ticket = HolderTicket(
            segment_id=held.segment_id,
            index=held.index,
            signer=self._session.identity.key,
            holder=peer.key,
            expires=int(self._env.utc()) + TICKET_LIFE_S,
        )
        signed = ticket.signed(self._key.sign, self._network_id)
        encoding = held.descriptor.encode()
        staged = await peer.holder_open(signed, encoding, own[1])
        if staged.size:  # of a try that broke off: one shard again is cheaper than comparing it
            await peer.push_abort(staged.stage)
            staged = await peer.holder_open(signed, encoding, own[1])
        try:
            await self._push(held, peer, staged.stage, progress)
            lease = await self._store.provisional_lease(held.segment_id) or b""
            return await self._commit(peer, staged.stage, encoding, lease)
        except PotsherdError:
            with suppress(PotsherdError):
                await peer.push_abort(staged.stage)
            raise

    async def _push(self, held: Held, peer: Peer, stage: int, progress: Progress) -> None:
        cell, rows = held.descriptor.cell_size, held.descriptor.rows
        step = max(1, min(PART_BYTES, READ_MAX) // cell)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            data, _ = await self._store.read(held.segment_id, held.index, [(first, count)])
            await peer.push(stage, first * cell, data)
            progress(len(data))

    async def _commit(self, peer: Peer, stage: int, encoding: bytes, lease: bytes) -> bytes:
        """With the provisional lease, if one is here and still good."""
        if lease:
            with suppress(RefusedError):  # it has ended meanwhile
                return await peer.commit(stage, encoding, lease)
        return await peer.commit(stage, encoding, b"")

    async def _prove(self, held: Held, peer: Peer) -> None:
        """Have the new holder prove a random cell. Raises IntegrityError when it does not."""
        d = held.descriptor
        row = self._env.rng.randrange(d.rows)
        data, proofs = await peer.read(held.segment_id, held.index, [(row, 1)])
        if len(data) != d.cell_size or len(proofs) != 1:
            raise IntegrityError("the new holder does not prove the shard")
        leaves = await self._env.offload(cell_leaves, data, d.cell_size)
        verify_range(d.roots[held.index], d.rows, row, leaves, proofs[0])

    async def _others(self, held: Held, peer: Peer) -> list[bytes]:
        entries = await self._rosters.entries(held.segment_id)
        besides = (peer.key, self._session.identity.key)
        return [entry.node for entry in entries if entry.held and entry.node not in besides]

    async def _tell(
        self, held: Held, others: Sequence[bytes], news: Sequence[tuple[bytes, Address | None]]
    ) -> None:
        gate = asyncio.Semaphore(TOLD_PARALLEL)

        async def tell(key: bytes) -> None:
            near = held.descriptor.placement_key
            async with gate:
                with suppress(PotsherdError, TimeoutError):
                    async with asyncio.timeout(TELL_TIMEOUT_S):
                        other = await self._session.peer(key, self._address_of(key), near=near)
                        await other.merge_roster(held.segment_id, news)

        await asyncio.gather(*(tell(key) for key in others))

    async def elsewhere(self, held: Held) -> tuple[Peer, bytes] | None:
        """Another node that answers and says to hold this index: of a move that broke off near its end."""
        near = held.descriptor.placement_key
        for data in await self._store.roster(held.segment_id):
            entry = RosterEntry.decode(data[SIGNATURE_SIZE:])
            if not entry.held or entry.index != held.index or self._mine(data):
                continue
            try:
                peer = await self._session.peer(entry.node, self._address_of(entry.node), near=near)
                roster = await peer.roster(held.segment_id)
            except PotsherdError:
                continue
            for said, signed, _ in roster:
                if said.node == entry.node and said.held and said.index == held.index:
                    return peer, signed
        return None

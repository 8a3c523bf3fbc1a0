"""Taking in, and handing on, what says how long segments are to be kept (docs/spec/retention.md).

The same rules whoever brings a statement: its owner, a keeper, or another holder that passes it on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

from potsherd.crypto.signing import open_signed
from potsherd.errors import NotFoundError, PotsherdError, RefusedError
from potsherd.node.lease_records import (
    KEEPING_LEASES_MAX,
    STATEMENTS_MAX,
    Extension,
    KeepingQuery,
    KeepingReply,
    KeptSegment,
    Withdrawal,
)
from potsherd.node.records import Lease, LeasePath
from potsherd.node.retention import Scope, lease_end
from potsherd.node.statements import CLOCK_SKEW_S, check_lease_path, open_lease
from potsherd.node.store import Kept, ShardStore, Tombstone

__all__ = [
    "accept_extension",
    "accept_lease",
    "accept_withdrawal",
    "answer",
    "learn",
    "open_extension",
    "open_withdrawal",
]


def open_extension(data: bytes, network_id: bytes) -> Extension:
    """An extension signed by the keeper that it names; whether the lease names it is the store's."""
    return open_signed(Extension, data, network_id, lambda e: e.keeper)


def open_withdrawal(data: bytes, network_id: bytes, now: float) -> Withdrawal:
    """A withdrawal signed by the key that it names; whether the lease names it is the store's."""
    withdrawal = open_signed(Withdrawal, data, network_id, lambda w: w.withdraw_key)
    if withdrawal.date > now + CLOCK_SKEW_S:
        raise RefusedError("the withdrawal is dated in the future", remedy="check the clock")
    return withdrawal


async def accept_lease(
    store: ShardStore, network_id: bytes, data: bytes, paths: Sequence[LeasePath]
) -> None:
    """Keep a lease for those of its segments that are here.

    Raises IntegrityError for a wrong signature or path, RefusedError when it is not by a segment's owner
    or changes the withdraw key, NotFoundError when none of the segments is held.
    """
    lease = open_lease(data, network_id)
    kept = []
    for path in paths:
        check_lease_path(lease, path)
        held = await store.held(path.segment_id)
        if held is not None and held.descriptor.owner_key != lease.owner:
            raise RefusedError("the lease is not by the segment's owner")
        if held is not None:
            kept.append(path)
    if not kept:
        raise NotFoundError("none of the lease's segments is here")
    await store.put_lease(data, kept)


async def accept_extension(store: ShardStore, network_id: bytes, data: bytes) -> None:
    """Keep an extension of a lease that is here. Raises IntegrityError, RefusedError, NotFoundError."""
    open_extension(data, network_id)
    await store.put_extension(data)


async def accept_withdrawal(
    store: ShardStore, network_id: bytes, data: bytes, now: float
) -> Tombstone:
    """Keep a withdrawal; the one that counts in its scope. Raises as `accept_extension`."""
    open_withdrawal(data, network_id, now)
    return await store.put_withdrawal(data)


# --- asking one another -----------------------------------------------------------------------------


async def answer(store: ShardStore, query: KeepingQuery, now: float) -> KeepingReply:
    """What this node knows of the segments asked for; statements beyond the bounds are left out."""
    segments: list[KeptSegment] = []
    told: dict[Scope, None] = {}
    ended: dict[Scope, Tombstone] = {}
    for segment_id in query.segment_ids:
        kept = await store.kept(segment_id)
        leases = await store.leases(segment_id)
        longest = _longest(kept, leases)
        segments.append(KeptSegment(segment_id, kept is not None, tuple(longest)))
        for signed, _ in longest:
            told[_scope(Lease.decode(signed[64:]))] = None
        ended |= await _ended(store, kept, segment_id)
    longer = [data for scope in told for data in await store.extensions(*scope)]
    return KeepingReply(
        utc=int(now),
        segments=tuple(segments),
        extensions=tuple(longer[:STATEMENTS_MAX]),
        withdrawals=tuple((t.withdrawal, t.seen) for t in list(ended.values())[:STATEMENTS_MAX]),
    )


def _scope(statement: Lease | Extension | Withdrawal) -> Scope:
    return statement.owner, statement.archive


def _longest(
    kept: Kept | None, leases: Sequence[tuple[bytes, LeasePath]]
) -> list[tuple[bytes, LeasePath]]:
    """The leases that last longest: any one keeps the segment."""
    ends = {_scope(s.lease): lease_end(s) for s in (kept.leases if kept else ())}
    order = sorted(leases, key=lambda pair: -ends.get(_scope(Lease.decode(pair[0][64:])), 0))
    return order[:KEEPING_LEASES_MAX]


async def _ended(store: ShardStore, kept: Kept | None, segment_id: bytes) -> dict[Scope, Tombstone]:
    """The withdrawals that bear on a segment, held or dropped."""
    if kept is None:
        grave = await store.tombstone(segment_id)
        if grave is None:
            return {}
        return {_scope(Withdrawal.decode(grave.withdrawal[64:])): grave}
    found = {}
    for state in kept.leases:
        known = await store.withdrawal(*_scope(state.lease)) if state.withdrawal else None
        if known is not None:
            found[_scope(state.lease)] = known
    return found


async def learn(store: ShardStore, network_id: bytes, reply: KeepingReply, now: float) -> int:
    """Take in what another node knows; how many statements were new and good. A bad one spoils no other."""
    works: list[Awaitable[object]] = []
    for segment in reply.segments:
        known = {signed for signed, _ in await store.leases(segment.segment_id)}
        for lease, path in segment.leases:
            if path.segment_id == segment.segment_id and lease not in known:
                works.append(accept_lease(store, network_id, lease, [path]))
    leases = await _all(works)
    works = []
    for data in reply.extensions:
        if data not in await store.extensions(*_scope(Extension.decode(data[64:]))):
            works.append(accept_extension(store, network_id, data))
    for data, _ in reply.withdrawals:
        ended = await store.withdrawal(*_scope(Withdrawal.decode(data[64:])))
        if ended is None or ended.withdrawal != data:
            works.append(accept_withdrawal(store, network_id, data, now))
    return leases + await _all(works)


async def _all(works: Sequence[Awaitable[object]]) -> int:
    """How many did not fail."""
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, PotsherdError):
            raise outcome
    return sum(not isinstance(outcome, BaseException) for outcome in outcomes)

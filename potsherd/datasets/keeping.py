"""For how long a dataset is to be kept: `renew`, `withdraw`, and what its holders say about it.

What is told to some holders reaches the others by their asking one another (docs/spec/retention.md): one
holder that takes a statement is enough, and the reports say how many took it now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from potsherd.classes import dataclass
from potsherd.crypto.keys import Master
from potsherd.crypto.signing import SigningKey
from potsherd.datasets.context import Context
from potsherd.datasets.finish import ArchiveHolders, Finisher, Tell, tell
from potsherd.datasets.library import Dataset, Keeping, Library
from potsherd.datasets.manifest import SegmentRef
from potsherd.errors import NotFoundError, PotsherdError, RefusedError, UsageError
from potsherd.node.client import Peer
from potsherd.node.lease_exchange import open_extension, open_withdrawal
from potsherd.node.lease_records import Extension, KeepingReply, Withdrawal
from potsherd.node.reader import SegmentReader
from potsherd.node.records import Lease
from potsherd.node.retention import Scope, Verdict, judge
from potsherd.node.session import Session
from potsherd.node.statements import check_lease_path, open_lease
from potsherd.node.store import Kept, LeaseState
from potsherd.ports import Address

__all__ = ["Facts", "RenewReport", "WithdrawReport", "extend", "keeping_of", "renew", "withdraw"]

ASKED_MAX = 8
"""Holders asked for what they know of the keeping."""
SEGMENTS_AT_ONCE = 8
ASK_TIMEOUT_S = 20.0

T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """What holders of a segment say about its keeping, signatures checked."""

    kept: Kept
    """With the newest statements of all who answered."""
    signed: Mapping[Scope, bytes]
    """The newest signed withdrawal of each scope."""
    answered: int
    """Holders that answered."""

    @property
    def verdict(self) -> Verdict:
        """When it ends, and why."""
        return judge(self.kept)

    def lease(self, owner: bytes, archive: int | None = None) -> LeaseState:
        """The owner's lease of an archive, or of the highest. Raises NotFoundError."""
        found = [s for s in self.kept.leases if s.lease.owner == owner]
        found = [s for s in found if archive in (None, s.lease.archive)]
        if not found:
            raise NotFoundError("its holders know of no lease")
        return max(found, key=lambda s: s.lease.archive)


async def keeping_of(session: Session, reader: SegmentReader) -> Facts:
    """Ask some holders of a located segment. Raises NotFoundError when none answers."""
    holders = {h.key: h.address for held in reader.holders.values() for h in held}
    asked = list(holders.items())[:ASKED_MAX]
    near = reader.descriptor.placement_key

    async def ask(key: bytes, address: Address | None) -> KeepingReply:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            peer = await session.peer(key, address, near=near)
            return await peer.keeping([reader.segment_id])

    outcomes = await asyncio.gather(*(ask(*one) for one in asked), return_exceptions=True)
    replies = [outcome for outcome in outcomes if isinstance(outcome, KeepingReply)]
    if not replies:
        raise NotFoundError("no holder says for how long it is to be kept")
    return _combine(session, reader, replies)


def _combine(session: Session, reader: SegmentReader, replies: Sequence[KeepingReply]) -> Facts:
    """The newest of everything; what is not properly signed counts for nothing."""
    network_id, now = session.identity.network_id, session.env.utc()
    owner = reader.descriptor.owner_key
    leases: dict[Scope, Lease] = {}
    extensions: dict[tuple[Scope, bytes], Extension] = {}
    ended: dict[Scope, tuple[Withdrawal, int, bytes]] = {}
    for reply in replies:
        for lease in _leases(reply, network_id, owner):
            scope = (lease.owner, lease.archive)
            if scope not in leases or lease.sequence > leases[scope].sequence:
                leases[scope] = lease
        for data in reply.extensions:
            longer = _quietly(open_extension, data, network_id)
            if longer is not None:
                key = ((longer.owner, longer.archive), longer.keeper)
                best = extensions.get(key, longer)
                extensions[key] = max(best, longer, key=lambda e: (not e.until, e.until))
        for data, seen in reply.withdrawals:
            new = _quietly(open_withdrawal, data, network_id, now)
            if new is not None:
                scope = (new.owner, new.archive)
                known = ended.get(scope)
                if known is None or (new.number, -seen) > (known[0].number, -known[1]):
                    ended[scope] = new, seen, data
    states = tuple(_state(lease, extensions, ended) for lease in leases.values())
    d = reader.descriptor
    kept = Kept(reader.segment_id, 0, d.geometry.shard_size, owner, d.placement_key, 0, states)
    signed = {
        (s.lease.owner, s.lease.archive): ended[s.lease.owner, s.lease.archive][2]
        for s in states
        if s.withdrawal is not None
    }
    return Facts(kept, signed, len(replies))


def _leases(reply: KeepingReply, network_id: bytes, owner: bytes) -> Iterable[Lease]:
    for segment in reply.segments:
        for data, path in segment.leases:
            lease = _quietly(open_lease, data, network_id)
            if lease is None or lease.owner != owner or path.segment_id != segment.segment_id:
                continue
            try:
                check_lease_path(lease, path)
            except PotsherdError:
                continue
            yield lease


def _quietly(opener: Callable[..., T], *arguments: object) -> T | None:
    """The record, or None for one that is not properly signed."""
    try:
        return opener(*arguments)
    except PotsherdError:
        return None


def _state(
    lease: Lease,
    extensions: Mapping[tuple[Scope, bytes], Extension],
    ended: Mapping[Scope, tuple[Withdrawal, int, bytes]],
) -> LeaseState:
    scope = (lease.owner, lease.archive)
    longer = [
        extensions[scope, keeper] for keeper in lease.keepers if (scope, keeper) in extensions
    ]
    found = ended.get(scope)
    if found is None or found[0].withdraw_key != lease.withdraw_key:
        return LeaseState(lease, tuple(longer), None, 0, 0)
    return LeaseState(lease, tuple(longer), found[0], found[1], 0)


# --- everybody who keeps an archive -----------------------------------------------------------------


async def _locate(context: Context, segments: Sequence[SegmentRef]) -> list[SegmentReader]:
    """Readers of all segments. Raises NotFoundError when nobody who keeps one of them answers."""
    gate = asyncio.Semaphore(SEGMENTS_AT_ONCE)
    done = 0

    async def one(name: SegmentRef) -> SegmentReader:
        nonlocal done
        async with gate:
            reader = SegmentReader(context.session, name.segment_id, name.placement_key)
            await reader.locate()
        done += 1
        context.on_progress("segments", done, len(segments))
        return reader

    return await asyncio.gather(*(one(name) for name in segments))


def _archive(readers: Sequence[SegmentReader]) -> ArchiveHolders:
    """All who say to keep a piece, two holders of one index counted singly."""
    everybody = []
    for reader in readers:
        keys = {h.key: h.address for held in reader.holders.values() for h in held}
        everybody.append(dict(enumerate(keys.items())))
    return ArchiveHolders(tuple(r.segment_id for r in readers), tuple(everybody), 1)


async def _own_segments(context: Context, dataset: Dataset) -> list[SegmentRef]:
    def read() -> list[SegmentRef]:
        with Library(context.home.library_path) as library:
            rows = library.segments(dataset.number, dataset.newest.archive)
        return [SegmentRef(r.segment_id, r.placement_key, r.k, r.n) for r in rows]

    return await context.env.offload(read)


async def _record(context: Context, dataset: Dataset, keeping: Keeping) -> None:
    def write() -> None:
        with Library(context.home.library_path) as library:
            library.set_keeping(dataset.number, dataset.newest.archive, keeping)

    await context.env.offload(write)


async def _known(context: Context, dataset: Dataset) -> Keeping | None:
    def read() -> Keeping | None:
        with Library(context.home.library_path) as library:
            return library.keeping(dataset.number, dataset.newest.archive)

    return await context.env.offload(read)


# --- renewing ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RenewReport:
    """What was asked of whom."""

    until: int
    """Date; 0: without end."""
    before: int
    """What it was before, extensions of keepers counted; 0: without end."""
    sequence: int
    """Of the new lease; 0 for a keeper's extension."""
    holders: int
    """Holders of the segment with fewest."""
    told: int
    """Of these, how many took it now."""


async def renew(
    context: Context,
    dataset: Dataset,
    until: int,
    *,
    keep_s: int = 0,
    keepers: Sequence[bytes] | None = None,
) -> RenewReport:
    """The owner's new lease, until a date or (0) without end; keepers stay unless they are given.

    Raises NotFoundError when a segment has no holder that answers, RefusedError after a withdrawal.
    """
    master = await context.env.offload(context.home.master)
    keys = master.dataset(dataset.number)
    readers = await _locate(context, await _own_segments(context, dataset))
    facts = await keeping_of(context.session, readers[-1])
    old = facts.lease(keys.owner.verify_key, dataset.newest.archive)
    if old.withdrawal is not None and old.withdrawal.active:
        raise RefusedError("it has been withdrawn", remedy="First: potsherd withdraw NAME --cancel")
    before = facts.verdict.ends
    archive = _archive(readers)
    finisher = Finisher(context.session, keys, archive)
    lease, told = await finisher.lease(
        number=old.lease.archive,
        total_bytes=old.lease.total_bytes,
        until=until,
        sequence=old.lease.sequence + 1,
        keepers=old.lease.keepers if keepers is None else keepers,
        least=1,
    )
    await _record(context, dataset, Keeping(keep_s, until, 0))
    return RenewReport(until, _shown(before), lease.sequence, _fewest(archive), told)


def _shown(date: int) -> int:
    return 0 if date >= 2**40 else date


def _fewest(archive: ArchiveHolders) -> int:
    return min(map(len, archive.holders))


async def extend(context: Context, segments: Sequence[SegmentRef], until: int) -> RenewReport:
    """A keeper's extension of every lease that names this person's key.

    Raises RefusedError when no lease names it.
    """
    key = (await context.env.offload(context.home.master)).identity_sign()
    readers = await _locate(context, segments)
    facts = await keeping_of(context.session, readers[-1])
    states = [s for s in facts.kept.leases if key.verify_key in s.lease.keepers]
    if not states:
        raise RefusedError(
            "this dataset is not yours, and its lease does not name you as a keeper",
            remedy="Its owner names keepers: potsherd renew NAME --keeper KEY (yours: potsherd init)",
        )
    archive, told = _archive(readers), 0
    for state in states:
        scope = state.lease.owner, state.lease.archive
        signed = Extension(*scope, key.verify_key, until).signed(
            key.sign, context.session.identity.network_id
        )
        told = await _tell(context, archive, "took the extension", _extension_giver(signed))
    return RenewReport(until, _shown(facts.verdict.ends), 0, _fewest(archive), told)


def _extension_giver(signed: bytes) -> Tell:
    async def give(peer: Peer, _: Sequence[int]) -> None:
        await peer.extend(signed)

    return give


async def _tell(context: Context, archive: ArchiveHolders, done: str, give: Tell) -> int:
    return await tell(context.session, archive.by_node(), give, done, least=1)


# --- withdrawing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WithdrawReport:
    """What was asked of whom."""

    cancelled: bool
    gone: int
    """Date from which holders may drop it; 0 when cancelled."""
    grace_s: int
    holders: int
    """Holders of the segment with fewest."""
    told: int
    """Of these, how many took it now."""


async def withdraw(
    context: Context, dataset: Dataset, *, cancel: bool = False, key: SigningKey | None = None
) -> WithdrawReport:
    """End the keeping of a dataset after its lease's grace, or with `cancel` take that back.

    `key`: the withdraw key, where it is kept elsewhere than the master. Asked again, tells the same again. Raises
    NotFoundError when nobody keeps it, RefusedError when there is nothing to cancel.
    """
    master: Master = await context.env.offload(context.home.master)
    keys = master.dataset(dataset.number)
    readers = await _locate(context, await _own_segments(context, dataset))
    facts = await keeping_of(context.session, readers[-1])
    state = facts.lease(keys.owner.verify_key, dataset.newest.archive)
    signed = _statement(context, facts, state, key or keys.withdraw, cancel=cancel)
    archive = _archive(readers)

    async def give(peer: Peer, _: Sequence[int]) -> None:
        await peer.withdraw(signed)

    told = await _tell(context, archive, "took the withdrawal", give)
    record = Withdrawal.decode(signed[64:])
    seen = state.seen if record == state.withdrawal else int(context.env.utc())
    ended = replace(facts.kept, leases=(replace(state, withdrawal=record, seen=seen),))
    gone = 0 if cancel else judge(ended).gone
    known = await _known(context, dataset) or Keeping(0, state.lease.until, 0)
    await _record(context, dataset, replace(known, gone=gone))
    return WithdrawReport(cancel, gone, state.lease.grace_s, _fewest(archive), told)


def _statement(
    context: Context, facts: Facts, state: LeaseState, key: SigningKey, *, cancel: bool
) -> bytes:
    """The signed withdrawal or cancellation; the one that is known already, if it says the same."""
    lease, known = state.lease, state.withdrawal
    if key.verify_key != lease.withdraw_key:
        raise RefusedError("the lease names another key for withdrawing")
    if known is not None and known.active != cancel:
        return facts.signed[lease.owner, lease.archive]
    if known is None and cancel:
        raise UsageError("it has not been withdrawn")
    record = Withdrawal(
        owner=lease.owner,
        archive=lease.archive,
        number=known.number + 1 if known else 1,
        date=int(context.env.utc()),
        active=not cancel,
        withdraw_key=key.verify_key,
    )
    return record.signed(key.sign, context.session.identity.network_id)

"""What this node says about its own holdings, and what it takes from others (docs/design/rosters.md).

The roster of a segment is the set of all holders' newest signed entries. `Rosters` signs, merges and
compares; who is asked and when is the reconciler's business.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence

from potsherd.crypto.signing import SigningKey
from potsherd.errors import IntegrityError, NotFoundError
from potsherd.node.records import RosterEntry
from potsherd.node.statements import open_roster, open_roster_entry
from potsherd.node.store import Held, ShardStore
from potsherd.node.store.types import ROSTER_MAX
from potsherd.ports import Address, Env, Identity

__all__ = ["DIGEST_SIZE", "Rosters", "next_counter", "roster_digest"]

DIGEST_SIZE = 16
COUNTER_MAX = 2**32 - 1
COUNTER_DATE_MAX = 2**32 - 2**24
"""Dates beyond it (the year 2105, or a clock gone mad) are not used as counters: room to go on stays."""
SIGNATURE_SIZE = 64
SIGNED_MAX = 4096
"""Own entries remembered as signed by this process."""

Told = Callable[[bytes, bytes, Address | None], None]
"""(node key, placement key, address hint): somebody says that this node holds a shard of ours."""


def roster_digest(entries: Iterable[RosterEntry]) -> bytes:
    """16 bytes that are equal when two holders know the same entries, whatever the signatures.

    BLAKE2b-128 over the encodings in order of the node keys.
    """
    hasher = hashlib.blake2b(digest_size=DIGEST_SIZE, person=b"potsherd roster")
    for entry in sorted(entries, key=lambda entry: entry.node):
        hasher.update(entry.encode())
    return hasher.digest()


def next_counter(before: int | None, utc: float) -> int:
    """Higher than `before`, and where the clock is sane at least the date.

    So an entry wins also over those that this node signed before it lost its index.
    """
    date = int(utc) if 0 <= utc <= COUNTER_DATE_MAX else 0
    return min(COUNTER_MAX, max(date, 0 if before is None else before + 1))


def _is_news(entry: RosterEntry, known: RosterEntry | None) -> bool:
    """Whether it says that the node holds something that it was not known to hold."""
    if not entry.held or known is None:
        return entry.held
    return entry.counter > known.counter and (not known.held or known.index != entry.index)


async def _pass(entry: RosterEntry) -> None:
    """Nobody wants to know."""


class Rosters:
    """See the module's text. Methods raise StorageError when the disk refuses."""

    def __init__(
        self,
        env: Env,
        store: ShardStore,
        identity: Identity,
        *,
        told: Told,
        proven: Callable[[bytes], bool],
        lost: Callable[[bytes], bool],
        came_up: Callable[[Held, Sequence[RosterEntry]], Awaitable[None]],
    ) -> None:
        """`proven(node key)`: whether a node of this key has shown that it is a member, `lost(node key)`:
        whether it is given up. `came_up` is told of entries that say something new about who holds which index, before they are taken in."""
        self._env = env
        self._store = store
        self._identity = identity
        self._key = SigningKey(identity.seed)
        self.contradicted: Callable[[RosterEntry], None] = lambda entry: None
        """Told of entries by our key that win over ours and that this process has not signed."""
        self.renewed: Callable[[RosterEntry], Awaitable[None]] = _pass
        """Told of newer entries that say the same as the ones before."""
        self._signed: OrderedDict[tuple[bytes, int], None] = OrderedDict()
        self._told = told
        self._proven = proven
        self._lost = lost
        self._came_up = came_up

    # our own entries

    async def own(self, segment_id: bytes) -> tuple[RosterEntry, bytes] | None:
        """The newest entry that this node has signed about a segment it holds."""
        for data in await self._store.roster(segment_id):
            entry = RosterEntry.decode(data[SIGNATURE_SIZE:])
            if entry.node == self._identity.key:
                return entry, data
        return None

    async def sign(
        self, segment_id: bytes, index: int, *, held: bool = True, above: int | None = None
    ) -> bytes:
        """A signed entry with a counter higher than in our own before and than `above`."""
        own = await self.own(segment_id)
        known = [c for c in (above, own[0].counter if own else None) if c is not None]
        counter = next_counter(max(known, default=None), self._env.utc())
        return self._sign(RosterEntry(segment_id, index, self._identity.key, counter, held))

    def sign_first(self, segment_id: bytes, index: int) -> bytes:
        """The same for a segment that is not held here yet: there is no roster to look into."""
        counter = next_counter(None, self._env.utc())
        return self._sign(RosterEntry(segment_id, index, self._identity.key, counter, True))

    def _sign(self, entry: RosterEntry) -> bytes:
        self._signed[entry.segment_id, entry.counter] = None
        if len(self._signed) > SIGNED_MAX:
            self._signed.popitem(last=False)
        return entry.signed(self._key.sign, self._identity.network_id)

    async def confirm(self, said: bytes) -> bytes:
        """Our newest entry about the segment of `said`, an earlier entry of ours that others show us.

        A shard that is not here any more (a lost disk, an old backup) is released by this. Raises
        IntegrityError for an entry that this node has not signed.
        """
        network_id = self._identity.network_id
        shown = open_roster_entry(
            said, network_id, RosterEntry.decode(said[SIGNATURE_SIZE:]).segment_id
        )
        if shown.node != self._identity.key:
            raise IntegrityError("the entry is about another node")
        held = await self._store.held(shown.segment_id)
        if held is None:
            if not shown.held:
                return said
            return await self.sign(shown.segment_id, shown.index, held=False, above=shown.counter)
        return await self._settle(held, shown)

    async def _settle(self, held: Held, shown: RosterEntry) -> bytes:
        """Our entry about a held shard; a newer one if `shown` would win over it."""
        own = await self.own(held.segment_id)
        if own is not None and (own[0] == shown or own[0].counter > shown.counter):
            return own[1]
        if (shown.segment_id, shown.counter) not in self._signed:
            self.contradicted(shown)
        signed = await self.sign(held.segment_id, held.index, above=shown.counter)
        await self._store.merge_roster(held.segment_id, [signed])
        return signed

    # everybody's

    async def entries(self, segment_id: bytes) -> list[RosterEntry]:
        """All entries of a segment that is held here, sorted by index and node."""
        return [
            RosterEntry.decode(data[SIGNATURE_SIZE:])
            for data in await self._store.roster(segment_id)
        ]

    async def digest(self, segment_id: bytes) -> bytes | None:
        """See `roster_digest`; None when the segment is not held here."""
        found = await self.entries(segment_id)
        return roster_digest(found) if found else None

    async def merge(self, held: Held, hints: Sequence[tuple[bytes, Address | None]]) -> int:
        """Verify and take in signed entries with address hints; how many changed something.

        One wrong signature refuses all (IntegrityError). An entry of ours that would win over the one
        kept here is answered by a newer one; indices beyond n are passed over.
        """
        signed = [data for data, _ in hints]
        entries = await self._env.offload(
            open_roster, signed, self._identity.network_id, held.segment_id
        )
        accepted: list[bytes] = []
        known = {entry.node: entry for entry in await self.entries(held.segment_id)}
        news: list[RosterEntry] = []
        for entry, (data, address) in zip(entries, hints, strict=True):
            if entry.index >= held.descriptor.n:
                continue
            if entry.node == self._identity.key:
                if entry != known.get(entry.node):
                    await self._settle(held, entry)
                continue
            accepted.append(data)
            before = known.get(entry.node)
            if _is_news(entry, before):
                news.append(entry)
            elif before is not None and entry.held and entry.counter > before.counter:
                await self.renewed(entry)
            if entry.held:
                self._told(entry.node, held.descriptor.placement_key, address)
        if len(known) + len(accepted) > ROSTER_MAX:
            await self._make_room(held.segment_id, accepted)
        if news:
            await self._came_up(held, news)
        try:
            return await self._store.merge_roster(held.segment_id, accepted)
        except NotFoundError:  # released meanwhile
            return 0

    async def _make_room(self, segment_id: bytes, coming: Sequence[bytes]) -> None:
        """In a roster that would be too long, forget entries of keys that no member has shown, and then
        as many as must be of nodes that are given up or have let go, the oldest first."""
        kept = await self.entries(segment_id)
        known = {entry.node for entry in kept} | {self._identity.key}
        wanted = len({RosterEntry.decode(data[SIGNATURE_SIZE:]).node for data in coming} - known)
        if len(kept) + wanted <= ROSTER_MAX:
            return
        others = [entry for entry in kept if entry.node != self._identity.key]
        strangers = [entry.node for entry in others if not self._proven(entry.node)]
        former = [e for e in others if self._proven(e.node) and (self._lost(e.node) or not e.held)]
        former.sort(key=lambda entry: (entry.counter, entry.node))
        more = max(0, len(kept) - len(strangers) + wanted - ROSTER_MAX)
        await self._store.forget_entries(
            segment_id, [*strangers, *(entry.node for entry in former[:more])]
        )

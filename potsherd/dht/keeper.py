"""Answers requests of others: pages of contacts and records, storing under tokens. Sans-IO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from potsherd.dht.addresses import Contact, pack_address, prefix_of
from potsherd.dht.config import DhtConfig
from potsherd.dht.exchange import Request
from potsherd.dht.membrane import Membrane, Peer
from potsherd.dht.records import Admissions, open_announcement, open_presence
from potsherd.dht.routing import Table, number
from potsherd.dht.store import Entry, RecordStore, StoreLimits
from potsherd.dht.tokens import Tokens
from potsherd.dht.wire import (
    TAG_SIZE,
    Find,
    Found,
    Kind,
    Ping,
    Pong,
    Presences,
    PresencesFound,
    Reason,
    Refusal,
    Store,
    StoreCode,
    Stored,
)
from potsherd.errors import PotsherdError, RefusedError
from potsherd.ports import Rng
from potsherd.wire import Record

__all__ = ["Keeper"]

_FOUND_FIXED = 26
"""Bytes of a Found without its items: array, version, suite, token, two list headers, next."""
_PRESENCES_FIXED = 8
RIVALS_MAX = 1024
"""Places that two keys asked for and whose first holder is to be told; the oldest are forgotten."""
HANDED_OVER_BY = 2
"""How many of the nodes nearest to a key hand its records to a new neighbour."""
_NOT_HERE_FACTOR = 2
"""A record is refused when this many times `keepers` nodes heard of lately are nearer to its key."""


class Keeper:
    """What one donor node keeps and tells."""

    def __init__(
        self, membrane: Membrane, config: DhtConfig, rng: Rng, table: Table, admissions: Admissions
    ) -> None:
        self._membrane = membrane
        self._config = config
        self._table = table
        self._admissions = admissions
        self._own = number(membrane.my_id)
        self._rivals: dict[bytes, bool] = {}
        self._tokens = Tokens(rng, config.token_period_s)
        self.announcements = RecordStore(
            StoreLimits(
                total=config.announcements_max,
                per_key=config.announcements_per_key,
                per_member=config.announcements_per_member,
                per_member_and_key=config.announcements_per_member_and_key,
                per_prefix_and_key=config.announcements_per_prefix_and_key,
            )
        )
        self.presences = RecordStore(
            StoreLimits(
                total=config.presences_max,
                per_key=1,  # one key for one place of the network: the first one stays
                per_member=config.presences_per_member,
                per_prefix=config.presences_per_prefix,
            )
        )

    def records(self, kind: Kind) -> RecordStore | None:
        """The store of one kind of record."""
        match kind:
            case Kind.ANNOUNCEMENTS:
                return self.announcements
            case Kind.PRESENCE:
                return self.presences
            case Kind.NODES:
                return None
            case _:
                assert_never(kind)

    def answer(self, request: Request, now: float, utc: float) -> Record | None:
        """The reply, within the request's room; None for what a donor does not answer."""
        message = request.message
        if isinstance(message, Find):
            return self._find(message, request, now, utc)
        if isinstance(message, Presences):
            return self._presences(message, request.room, utc)
        if isinstance(message, Store):
            return self._store(message, request, now, utc)
        return Pong() if isinstance(message, Ping) else None

    # Finding

    def _find(self, find: Find, request: Request, now: float, utc: float) -> Record | None:
        store = self.records(Kind(find.kind))
        records = [entry.data for entry in store.get(find.target, utc)] if store else []
        contacts = self._table.nearest(
            find.target, self._config.keepers, exclude=request.peer.dht_id
        )
        token = self._tokens.issue(request.key, request.address, now)
        return _page(token, records, contacts, find.cursor, request.room)

    def _presences(self, asked: Presences, room: int, utc: float) -> Record:
        target, after = number(asked.target), number(asked.after)
        known = {asked.known[i : i + TAG_SIZE] for i in range(0, len(asked.known), TAG_SIZE)}
        ids = self.presences.nearest(lambda i: number(i) ^ target, self._config.presences_max)
        room -= _PRESENCES_FIXED
        records: list[bytes] = []
        for dht_id in ids:
            if dht_id[-TAG_SIZE:] in known or number(dht_id) ^ target < after:
                continue
            for entry in self.presences.get(dht_id, utc):
                room -= _packed_size(entry.data)
                if room < 0 or len(records) == 16:
                    return PresencesFound(tuple(records), 1)
                records.append(entry.data)
        return PresencesFound(tuple(records), 0)

    # Storing

    def _store(self, store: Store, request: Request, now: float, utc: float) -> Record:
        if request.peer.role != "donor":
            return Refusal(int(Reason.NOT_FOR_CLIENTS))
        if not self._tokens.check(store.token, request.key, request.address, now):
            return Refusal(int(Reason.BAD_TOKEN))
        codes = [int(self._store_one(store, data, request, now, utc)) for data in store.records]
        return Stored(tuple(codes))

    def _store_one(
        self, store: Store, data: bytes, request: Request, now: float, utc: float
    ) -> StoreCode:
        prefix = prefix_of(request.address)
        try:
            if store.kind == Kind.PRESENCE:
                return self.keep_presence(data, prefix, now, utc)
            if store.chain is not None:
                return self.keep_announcement(data, store.chain, prefix, now, utc)
            return self.keep_announcement(
                data, request.chain, prefix, now, utc, publisher=(request.key, request.peer)
            )
        except PotsherdError:
            return StoreCode.REFUSED

    def keep_announcement(
        self,
        data: bytes,
        chain: bytes,
        prefix: str | None,
        now: float,
        utc: float,
        *,
        publisher: tuple[bytes, Peer] | None = None,
    ) -> StoreCode:
        """Verify and keep. `publisher` is (key, peer) when the node itself stores.

        Raises MalformedError, RefusedError, IntegrityError.
        """
        record = open_announcement(data, self._membrane, utc)
        key, peer = publisher or (record.node_key, None)
        if peer is None:
            peer = self._admissions.admit(chain, key, utc)
        if key != record.node_key or peer.dht_id != record.node_id or peer.role != "donor":
            raise RefusedError("an announcement is not that of the donor who stores it")
        if not self._is_near(record.key, now):
            return StoreCode.NOT_HERE
        entry = Entry(
            data, record.expires, record.expires, record.node_key, peer.member, prefix, chain
        )
        identity = record.node_key + record.segment
        return self.announcements.put(record.key, identity, entry, utc)

    def keep_presence(self, data: bytes, prefix: str | None, now: float, utc: float) -> StoreCode:
        """Verify and keep; raises as `keep_announcement`."""
        record = open_presence(data, self._membrane, self._admissions, utc)
        if not self._is_near(record.dht_id, now):
            return StoreCode.NOT_HERE
        if record.address is not None:
            prefix = prefix_of(record.address)
        kept = self.presences.get(record.dht_id, utc)
        if kept and kept[0].publisher != record.key:
            self._note_rival(record.dht_id)
            return StoreCode.TAKEN
        entry = Entry(
            data, record.issued, record.expires, record.key, record.member, prefix, record.chain
        )
        code = self.presences.put(record.dht_id, record.key, entry, utc)
        if code is StoreCode.STORED and self._rivals.pop(record.dht_id, False):
            return StoreCode.STORED_RIVAL
        return code

    def _note_rival(self, dht_id: bytes) -> None:
        """The one who was first is told when it renews; the second is told at once."""
        self._rivals[dht_id] = True
        if len(self._rivals) > RIVALS_MAX:
            del self._rivals[next(iter(self._rivals))]

    def _is_near(self, key: bytes, now: float) -> bool:
        """Whether it is for us. Who may be asleep does not count: in the evening of an office nobody else is there."""
        since = now - self._config.questionable_s
        return self._table.nearer(key, since) < _NOT_HERE_FACTOR * self._config.keepers

    # Handing over

    def due_to(self, newcomer: Contact, keys: Sequence[bytes]) -> list[bytes]:
        """Those of `keys` that a new node should keep and that it is our part to hand over.

        It should when it is among the nearest `keepers`; it is our part when we are one of the two
        nearest of the others, so that a record is handed over twice and not twenty times.
        """
        near = self._table.nearest(
            self._membrane.my_id, 2 * self._config.keepers, exclude=newcomer.dht_id
        )
        others = [number(contact.dht_id) for contact in near]
        return [key for key in keys if self._is_due(number(newcomer.dht_id), key, others)]

    def _is_due(self, new_id: int, key: bytes, others: list[int]) -> bool:
        """`others`: our neighbours; most keys are decided by them, without asking the table."""
        target = number(key)
        own, new = self._own ^ target, new_id ^ target
        if sum(other ^ target < own for other in others) >= HANDED_OVER_BY:
            return False
        nearest = self._table.nearest(key, self._config.keepers + 1)
        known = [i for i in (number(contact.dht_id) for contact in nearest) if i != new_id]
        nearer = sum(i ^ target < own for i in known)
        ahead = sum(i ^ target < new for i in known) + (own < new)
        return nearer < HANDED_OVER_BY and ahead < self._config.keepers


def _packed_size(data: bytes) -> int:
    return len(data) + (2 if len(data) < 256 else 3)


def _page(
    token: bytes, records: list[bytes], contacts: list[Contact], cursor: int, room: int
) -> Found:
    """As much of records ‖ contacts as fits, from `cursor` on; an empty page still says where."""
    room -= _FOUND_FIXED
    total = len(records) + len(contacts)
    some_records: list[bytes] = []
    some_contacts: list[Contact] = []
    place = cursor
    while place < total:
        if place < len(records):
            data = records[place]
            room -= _packed_size(data)
            if room < 0 or len(some_records) == 64:
                break
            some_records.append(data)
        else:
            contact = contacts[place - len(records)]
            room -= 54 + len(pack_address(contact.address))
            if room < 0 or len(some_contacts) == 20:
                break
            some_contacts.append(contact)
        place += 1
    following = place if place < total else None
    return Found(token, tuple(some_records), tuple(some_contacts), following)

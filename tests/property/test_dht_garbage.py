"""Whatever arrives, the DHT raises nothing but its typed errors, and its receive path nothing at all."""

from __future__ import annotations

import random

import pytest
from dht_network import NETWORK, UTC, announcement, contact, presence, signed_presence
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_membrane import PlainMembrane

from potsherd.dht.addresses import Contact, ContactField, unpack_address
from potsherd.dht.config import DhtConfig
from potsherd.dht.exchange import Exchange, Request, Target
from potsherd.dht.keeper import Keeper
from potsherd.dht.lookup import Candidate, Lookup
from potsherd.dht.records import (
    Admissions,
    Announcement,
    PresenceRecord,
    open_announcement,
    open_presence,
    sign_record,
)
from potsherd.dht.routing import Table, number
from potsherd.dht.statistics import Counters
from potsherd.dht.store import Entry, RecordStore, StoreLimits
from potsherd.dht.wire import (
    DATAGRAM_MAX,
    REPLIES,
    REQUESTS,
    Find,
    Flag,
    Found,
    Frame,
    Ping,
    Presences,
    Store,
    StoreCode,
    build_datagram,
    build_frame,
    parse_datagram,
    parse_frame,
)
from potsherd.errors import MalformedError, PotsherdError
from potsherd.ports import Address
from potsherd.wire import Record, pack

ME, PEER = PlainMembrane(NETWORK, 1), PlainMembrane(NETWORK, 2)
HERE, THERE = Address("10.0.1.1", 4000), Address("10.0.2.1", 4000)
RECORDS = [*REQUESTS.values(), *REPLIES.values(), Announcement, PresenceRecord]
EXAMPLES: list[Record] = [
    Ping(),
    Find(1, b"k" * 20, 3),
    Found(b"t" * 8, (b"record",), (contact(3), contact(4)), 7),
    Store(b"t" * 8, 1, None, (sign_record(announcement(PEER, b"k" * 20), PEER),)),
    Store(b"t" * 8, 2, None, (signed_presence(PEER),)),
    Presences(b"k" * 20, bytes(20), b"abcdef" * 3),
    announcement(PEER, b"k" * 20),
    presence(PEER, address=THERE),
]

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 2**64 - 1)
    | st.binary(max_size=70)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=12,
)
BODIES = (
    st.binary(max_size=200)
    | st.lists(PLAIN, max_size=12).map(lambda p: pack([1, 1, *p]))
    | st.sampled_from(EXAMPLES).map(lambda record: record.encode())
)


@st.composite
def damaged(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    """Cut, lengthened or with changed bytes; sometimes as it was."""
    data = bytearray(draw(good))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(data)) | st.just(len(data)))
    return bytes(data[:cut]) + draw(st.just(b"") | st.binary(max_size=5))


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@settings(max_examples=60)
@given(data=damaged(BODIES))
def test_a_parser_takes_exactly_what_its_encoder_writes(kind: type[Record], data: bytes) -> None:
    try:
        record = kind.decode(data)
    except MalformedError:
        return
    assert record.encode() == data


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_no_cut_of_a_record_is_a_record(record: Record) -> None:
    data = record.encode()
    assert type(record).decode(data) == record
    for cut in range(len(data)):
        with pytest.raises(MalformedError):
            type(record).decode(data[:cut])


@given(data=st.binary(max_size=80))
def test_addresses_and_contacts_of_any_bytes(data: bytes) -> None:
    for parse in (unpack_address, lambda d: ContactField().lift(d, "here")):
        try:
            parse(data)
        except MalformedError:
            continue
        assert len(data) in (6, 18, 58, 70)


@given(data=damaged(st.sampled_from([r.encode() for r in EXAMPLES])) | st.binary(max_size=1300))
def test_frames_and_datagrams_of_any_bytes(data: bytes) -> None:
    for parse in (parse_datagram, parse_frame):
        try:
            parse(data)
        except MalformedError:
            continue


@given(data=damaged(st.just(sign_record(announcement(PEER, b"k" * 20), PEER))))
def test_a_damaged_announcement_is_refused(data: bytes) -> None:
    good = sign_record(announcement(PEER, b"k" * 20), PEER)
    try:
        open_announcement(data, ME, UTC)
    except PotsherdError:
        assert data != good
    else:
        assert data == good


@given(data=damaged(st.just(signed_presence(PEER))))
def test_a_damaged_presence_is_refused(data: bytes) -> None:
    admissions = Admissions(ME, entries_max=5, ttl_s=60.0)
    try:
        open_presence(data, ME, admissions, UTC)
    except PotsherdError:
        assert data != signed_presence(PEER)
    else:
        assert data == signed_presence(PEER)


class Node:
    """Exchange, keeper and table of one donor, with one request under way to PEER."""

    def __init__(self) -> None:
        config = DhtConfig()
        self.table = Table(ME.my_id, config, 0.0)
        for serial in range(3, 40):
            self.table.seen(contact(serial), 0.0)
        admissions = Admissions(ME, entries_max=50, ttl_s=3600.0)
        self.keeper = Keeper(ME, config, random.Random(1), self.table, admissions)
        self.counters = Counters()
        self.exchange = Exchange(ME, config, random.Random(2), admissions, self, self.counters)
        self.ends = 0
        self.exchange.request(Target(PEER.my_key, THERE), Find(0, bytes(20), 0), 0.0, self.ended)
        self.asked = next(iter(self.exchange._pending))
        self.sent = self.exchange.drain()

    def ended(self, outcome: object) -> None:
        self.ends += 1

    def answer(self, request: Request, now: float, utc: float) -> Record | None:
        return self.keeper.answer(request, now, utc)

    def heard(self, one: Contact, now: float, *, greets: bool) -> None:
        self.table.wants(one)

    def take(self, data: bytes) -> None:
        """One datagram; whatever goes back is no longer than it."""
        self.exchange.receive(data, THERE, 1.0, UTC)
        for reply, to in self.exchange.drain():
            assert to == THERE
            assert len(reply) <= max(len(data), DATAGRAM_MAX if self.ends == 0 else 0)


def boxed(plain: bytes, nonce: bytes = bytes(24)) -> bytes:
    return build_datagram(PEER.my_key, nonce, PEER.seal(ME.my_key, nonce, plain))


GREATER = Flag.GREATER if PEER.my_key > ME.my_key else 0


@given(data=st.binary(max_size=1300) | damaged(st.just(boxed(bytes(100)))))
def test_any_datagram_from_the_network_is_survived(data: bytes) -> None:
    Node().take(data)


@given(plain=st.binary(max_size=1126))
def test_any_plaintext_of_a_peer_is_survived(plain: bytes) -> None:
    Node().take(boxed(plain))


@settings(max_examples=300)
@given(
    flags=st.sampled_from([0, Flag.REPLY]),
    more=st.sampled_from([0, Flag.WANTS_CHAIN]),
    type_=st.sampled_from([1, 2, 3, 4, 15, 77]),
    mine=st.booleans(),
    chain=st.none() | st.just(PEER.my_chain) | damaged(st.just(PEER.my_chain)),
    body=BODIES | damaged(BODIES),
    size=st.sampled_from([0, 128, 1200]),
)
def test_any_frame_of_a_member_is_survived(
    flags: int, more: int, type_: int, mine: bool, chain: bytes | None, body: bytes, size: int
) -> None:
    node = Node()
    flags |= GREATER | (more if not flags else 0)
    flags |= Flag.CHAIN if chain is not None else 0
    frame = Frame(flags, type_, node.asked if mine else bytes(16), chain, body[:500])
    node.take(boxed(build_frame(NETWORK, frame, size)))
    assert node.ends <= 1


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    share=st.sampled_from([0.05, 0.3, 0.7, 1.0]),
    seeds=st.integers(1, 25),
    paths=st.integers(1, 3),
)
def test_a_look_up_always_ends_and_finds_the_nearest_it_was_told_of(
    seed: int, share: float, seeds: int, paths: int
) -> None:
    """Whoever answers knows the 60 nearest; answers, failures and silences come in any order."""
    order = random.Random(seed)
    everybody = [contact(serial) for serial in range(1, 121)]
    target = b"x" * 20
    near = sorted(everybody, key=lambda c: number(c.dht_id) ^ number(target))
    alive = {one for one in everybody if order.random() < share}
    seeded = order.sample(everybody, seeds)
    lookup = Lookup(target, seeded, DhtConfig(keepers=8, paths=paths))
    waiting: list[Candidate] = []
    while not lookup.done():
        waiting += lookup.next_asks()
        if not waiting:
            break
        candidate = waiting.pop(order.randrange(len(waiting)))
        if order.random() < 0.3:
            lookup.silent(candidate)
            waiting.append(candidate)
        elif candidate.contact in alive:
            lookup.told(candidate, near[:60])
            lookup.answered(candidate)
        else:
            lookup.failed(candidate)
    assert lookup.done()
    if not alive.isdisjoint(seeded):
        expected = [c for c in near if c in alive and (c in near[:60] or c in seeded)]
        assert [c.contact for c in lookup.nearest()] == expected[:8]


@settings(max_examples=60)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 2),  # key
            st.integers(0, 5),  # publisher
            st.integers(0, 2),  # member
            st.sampled_from([None, "a", "b"]),
            st.integers(1, 30),  # lifetime
            st.integers(0, 5),  # time that passes
        ),
        max_size=60,
    )
)
def test_a_store_keeps_its_caps_whatever_happens(
    steps: list[tuple[int, int, int, str | None, int, int]],
) -> None:
    store = RecordStore(StoreLimits(7, 4, 5, 2, 3, 6))
    utc = 0
    for place, publisher, member, prefix, lifetime, pause in steps:
        utc += pause
        key, name = bytes([place]), bytes([publisher])
        before = [e.publisher for e in store.get(key, utc)]
        new = Entry(b"", utc + lifetime, utc + lifetime, name, member, prefix, b"")
        code = store.put(key, name, new, utc)
        after = [e.publisher for e in store.get(key, utc)]
        added = code is StoreCode.STORED and name not in before
        assert after == ([*before, name] if added else before)
        kept = [entry for _, entry in store]
        assert len(store) == len(kept) <= 7
        assert len(after) <= 4
    store.sweep(utc + 100)
    assert len(store) == 0
    assert not store._members
    assert not store._prefixes

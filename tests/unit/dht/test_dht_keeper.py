"""What a keeper stores, refuses and tells."""

from __future__ import annotations

import dataclasses
import random

import pytest
from dht_network import NETWORK, UTC, announcement, contact, presence, signed_presence
from plain_membrane import PlainMembrane

from potsherd.dht.addresses import Contact
from potsherd.dht.config import DhtConfig
from potsherd.dht.exchange import Request
from potsherd.dht.keeper import Keeper
from potsherd.dht.membrane import Peer
from potsherd.dht.records import Admissions, Announcement, sign_record
from potsherd.dht.routing import Table, number
from potsherd.dht.wire import (
    BODY_MAX,
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
from potsherd.ports import Address
from potsherd.wire import Record

KEY = b"k" * 20
HERE = Address("8.8.8.8", 4000)


class Case:
    """A keeper (serial 0) and requests of others to it."""

    def __init__(self, config: DhtConfig | None = None, known: int = 0) -> None:
        config = config or DhtConfig()
        self.me = PlainMembrane(NETWORK, 0)
        self.table = Table(self.me.my_id, config, 0.0)
        for serial in range(1, known + 1):
            self.table.seen(contact(serial), 0.0)
        admissions = Admissions(self.me, entries_max=100, ttl_s=3600.0)
        self.keeper = Keeper(self.me, config, random.Random(1), self.table, admissions)
        self.utc, self.now = UTC, 0.0

    def request(
        self,
        who: PlainMembrane,
        message: Record,
        *,
        address: Address = HERE,
        room: int = BODY_MAX,
    ) -> Record | None:
        peer = self.me.admit(who.my_chain, who.my_key, self.utc)
        asked = Request(peer, who.my_key, address, who.my_chain, message, room)
        return self.keeper.answer(asked, self.now, self.utc)

    def find(
        self,
        kind: Kind,
        target: bytes,
        *,
        cursor: int = 0,
        who: int | PlainMembrane = 99,
        address: Address = HERE,
        room: int = BODY_MAX,
    ) -> Found:
        membrane = PlainMembrane(NETWORK, who) if isinstance(who, int) else who
        reply = self.request(membrane, Find(int(kind), target, cursor), address=address, room=room)
        assert isinstance(reply, Found)
        assert len(reply.encode()) <= room
        return reply

    def store(
        self,
        who: PlainMembrane,
        kind: Kind,
        *records: bytes,
        chain: bytes | None = None,
        address: Address = HERE,
    ) -> list[int]:
        token = self.find(Kind.NODES, KEY, who=who, address=address).token
        reply = self.request(who, Store(token, int(kind), chain, records), address=address)
        assert isinstance(reply, Stored)
        return list(reply.codes)


def member(serial: int, number: int = 0) -> PlainMembrane:
    return PlainMembrane(NETWORK, serial, number)


def signed(who: PlainMembrane, segment: int = 0, *, key: bytes = KEY, ends: int = 80_000) -> bytes:
    record = announcement(who, key, segment=segment.to_bytes(32, "big"), expires=UTC + ends)
    return sign_record(record, who)


def test_what_was_stored_is_found_by_others() -> None:
    case = Case()
    data = signed(member(1))
    assert case.store(member(1), Kind.ANNOUNCEMENTS, data) == [StoreCode.STORED]
    assert case.find(Kind.ANNOUNCEMENTS, KEY).records == (data,)
    assert case.find(Kind.PRESENCE, KEY).records == ()
    assert case.find(Kind.NODES, KEY).records == ()
    case.utc += 80_000
    assert case.find(Kind.ANNOUNCEMENTS, KEY).records == ()


def test_storing_needs_a_token_for_this_key_and_address() -> None:
    case = Case()
    token = case.find(Kind.NODES, KEY, who=1).token
    store = Store(token, int(Kind.ANNOUNCEMENTS), None, (signed(member(1)),))
    refused = Refusal(int(Reason.BAD_TOKEN))
    assert case.request(member(2), store) == refused
    assert case.request(member(1), store, address=Address("8.8.8.9", 4000)) == refused
    assert case.request(member(1), dataclasses.replace(store, token=bytes(8))) == refused
    assert case.request(member(1), store) == Stored((0,))


def test_a_client_stores_nothing() -> None:
    case = Case()
    client = PlainMembrane(NETWORK, 1, 0, "client")
    reply = case.request(client, Store(bytes(8), 1, None, (signed(client),)))
    assert reply == Refusal(int(Reason.NOT_FOR_CLIENTS))


def test_each_record_is_judged_by_itself() -> None:
    case = Case()
    good, other = member(1), member(2)
    forged = bytearray(signed(good, 1))
    forged[70] ^= 1
    wrong_id = sign_record(
        Announcement(KEY, bytes(32), 0, other.my_id, good.my_key, int(UTC) + 9), good
    )
    records = [
        signed(good, 2),
        bytes(forged),
        signed(other, 3),  # true, but not the sender's
        wrong_id,
        signed(good, 4, ends=-1),
        signed(good, 5, ends=90_000),
        b"rubbish",
        signed(good, 6),
    ]
    codes = case.store(good, Kind.ANNOUNCEMENTS, *records)
    no = StoreCode.REFUSED
    assert codes == [StoreCode.STORED, no, no, no, no, no, no, StoreCode.STORED]


def test_a_keeper_hands_over_what_others_have_announced_with_their_chain() -> None:
    case = Case()
    keeper, publisher = member(1), member(2)
    data = signed(publisher)
    assert case.store(keeper, Kind.ANNOUNCEMENTS, data) == [StoreCode.REFUSED]
    chain = member(3).my_chain
    assert case.store(keeper, Kind.ANNOUNCEMENTS, data, chain=chain) == [StoreCode.REFUSED]
    chain = publisher.my_chain
    assert case.store(keeper, Kind.ANNOUNCEMENTS, data, chain=chain) == [StoreCode.STORED]
    assert case.store(keeper, Kind.PRESENCE, signed_presence(publisher)) == [StoreCode.STORED]


def test_one_member_gets_a_bounded_number_of_places_under_a_key() -> None:
    case = Case(DhtConfig(announcements_per_member_and_key=3, announcements_per_key=5))
    codes = []
    for node in range(5):  # one member, several nodes
        who = member(1, node)
        codes += case.store(who, Kind.ANNOUNCEMENTS, signed(who, node))
    assert codes == [StoreCode.STORED] * 3 + [StoreCode.FULL] * 2
    for serial in (2, 3, 4):
        codes = case.store(member(serial), Kind.ANNOUNCEMENTS, signed(member(serial)))
    assert codes == [StoreCode.FULL]  # of five places three and two are taken


def test_one_public_prefix_gets_a_bounded_number_of_places_under_a_key() -> None:
    case = Case(DhtConfig(announcements_per_prefix_and_key=2))
    codes = []
    for serial in range(1, 5):
        at = Address(f"8.8.8.{serial}", 4000)
        codes += case.store(member(serial), Kind.ANNOUNCEMENTS, signed(member(serial)), address=at)
    for serial in range(5, 9):
        at = Address(f"10.0.0.{serial}", 4000)
        codes += case.store(member(serial), Kind.ANNOUNCEMENTS, signed(member(serial)), address=at)
    assert codes == [StoreCode.STORED] * 2 + [StoreCode.FULL] * 2 + [StoreCode.STORED] * 4


def test_pages_lead_through_all_records_and_contacts() -> None:
    case = Case(known=60)
    key = case.me.my_id
    for serial in range(1, 14):
        case.store(member(serial), Kind.ANNOUNCEMENTS, signed(member(serial), key=key))
    records: list[bytes] = []
    contacts: list[Contact] = []
    cursor: int | None = 0
    pages = 0
    while cursor is not None:
        page = case.find(Kind.ANNOUNCEMENTS, key, cursor=cursor)
        records += page.records
        contacts += page.contacts
        cursor = page.next
        pages += 1
    assert len(records) == 13
    assert contacts == case.table.nearest(key, 20)
    assert pages <= 5


def test_eight_contacts_fit_even_beside_a_long_chain() -> None:
    case = Case(known=60)
    assert len(case.find(Kind.NODES, KEY, room=BODY_MAX - 512).contacts) >= 8
    assert len(case.find(Kind.NODES, KEY).contacts) == 17


def test_an_empty_page_says_where_to_go_on() -> None:
    case = Case()
    case.store(member(1), Kind.PRESENCE, signed_presence(member(1)))
    page = case.find(Kind.PRESENCE, member(1).my_id, room=100)
    assert (page.records, page.next) == ((), 0)
    assert len(case.find(Kind.PRESENCE, member(1).my_id, cursor=0).records) == 1


def test_a_cursor_beyond_the_end_gives_an_empty_last_page() -> None:
    page = Case(known=3).find(Kind.NODES, KEY, cursor=4000)
    assert (page.contacts, page.next) == ((), None)


def test_who_asks_is_not_told_of_itself() -> None:
    case = Case(known=30)
    told = case.find(Kind.NODES, contact(7).dht_id, who=7).contacts
    assert contact(7) not in told


def test_a_key_that_many_others_are_nearer_to_is_not_for_us() -> None:
    case = Case(DhtConfig(keepers=3), known=100)
    ranked = sorted((number(contact(s).dht_id) for s in range(101)), key=lambda i: i ^ number(KEY))
    far = next(
        i.to_bytes(20, "big")
        for i in reversed(ranked)
        if len(case.table.nearest(i.to_bytes(20, "big"), 6)) == 6
    )
    assert case.store(member(1), Kind.ANNOUNCEMENTS, signed(member(1), key=far)) == [
        StoreCode.NOT_HERE
    ]
    near = case.me.my_id
    assert case.store(member(1), Kind.ANNOUNCEMENTS, signed(member(1), key=near)) == [0]


def test_who_may_be_asleep_does_not_make_a_record_somebody_elses() -> None:
    """In the evening of an office the few that were left refused it for those that had gone home."""
    case = Case(DhtConfig(keepers=3), known=100)
    far = bytes(b ^ 255 for b in case.me.my_id)
    case.now += 600
    record = signed(member(1), key=far)
    assert case.store(member(1), Kind.ANNOUNCEMENTS, record) == [StoreCode.NOT_HERE]
    case.now += 600
    assert case.store(member(1), Kind.ANNOUNCEMENTS, record) == [StoreCode.STORED]


def test_two_keys_on_one_place_the_second_is_refused_and_both_are_told() -> None:
    """Two holders of one invitation took the same number."""
    case = Case()
    first, second = member(1), SecondKey(NETWORK, 1)
    assert first.my_id == second.my_id
    assert case.store(first, Kind.PRESENCE, signed_presence(first)) == [StoreCode.STORED]
    assert case.store(second, Kind.PRESENCE, signed_presence(second)) == [StoreCode.TAKEN]
    later = signed_presence(first, issued=UTC + 60)
    assert case.store(first, Kind.PRESENCE, later) == [StoreCode.STORED_RIVAL]
    assert case.store(first, Kind.PRESENCE, later) == [StoreCode.STORED]  # told once
    case.utc += 20_000  # the first has gone
    late = signed_presence(second, issued=case.utc)
    assert case.store(second, Kind.PRESENCE, late) == [StoreCode.STORED]


class SecondKey(PlainMembrane):
    """Another key with a credential of the same serial and number."""

    def __init__(self, network_id: bytes, serial: int) -> None:
        super().__init__(network_id, serial)
        self.my_key = b"second key" * 3 + b"!!"
        self.my_chain = self._chain(self.my_chain[:9], self.my_key)


def test_an_older_presence_does_not_replace_a_newer_one() -> None:
    case = Case()
    who = member(1)
    new, old = signed_presence(who, issued=UTC + 5), signed_presence(who, issued=UTC)
    assert case.store(who, Kind.PRESENCE, new, old) == [StoreCode.STORED, StoreCode.OLDER]
    assert case.find(Kind.PRESENCE, who.my_id).records == (new,)


def ask_presences(
    case: Case, *, after: int = 0, known: list[bytes] | None = None
) -> PresencesFound:
    tags = b"".join(i[-TAG_SIZE:] for i in known or [])
    reply = case.request(member(99), Presences(KEY, after.to_bytes(20, "big"), tags))
    assert isinstance(reply, PresencesFound)
    assert len(reply.encode()) <= BODY_MAX
    return reply


def test_presences_come_by_rising_distance_without_those_known() -> None:
    case = Case()
    everybody = [member(serial) for serial in range(1, 30)]
    for who in everybody:
        case.store(who, Kind.PRESENCE, signed_presence(who))
    everybody.sort(key=lambda m: number(m.my_id) ^ number(KEY))
    told: list[bytes] = []
    more = 1
    while more:
        page = ask_presences(case, known=[m.my_id for m in everybody[: len(told)]])
        told += page.records
        more = page.more
    assert told == [signed_presence(m) for m in everybody]
    after = number(everybody[10].my_id) ^ number(KEY)
    assert ask_presences(case, after=after).records[0] == signed_presence(everybody[10])


def test_presences_that_have_expired_are_not_told() -> None:
    case = Case()
    case.store(member(1), Kind.PRESENCE, signed_presence(member(1)))
    case.utc += 10_800
    assert ask_presences(case) == PresencesFound((), 0)


def test_a_ping_is_answered_and_nothing_else_is() -> None:
    case = Case()
    assert case.request(member(1), Ping()) == Pong()
    assert case.request(member(1), Pong()) is None


@pytest.mark.parametrize("serial", range(201, 206))
def test_a_record_is_handed_over_by_the_two_nearest_and_by_nobody_else(serial: int) -> None:
    newcomer = contact(serial)
    config = DhtConfig(keepers=4)
    everybody = [contact(s) for s in range(1, 60)]
    rng = random.Random(serial)
    keys = [rng.randbytes(20) for _ in range(40)]
    givers: dict[bytes, list[int]] = {key: [] for key in keys}
    for mine in range(1, 60):
        membrane = PlainMembrane(NETWORK, mine)
        table = Table(membrane.my_id, config, 0.0)
        for one in [*everybody, newcomer]:
            table.seen(one, 0.0)
        admissions = Admissions(membrane, entries_max=1, ttl_s=1.0)
        keeper = Keeper(membrane, config, random.Random(1), table, admissions)
        for key in keeper.due_to(newcomer, keys):
            givers[key].append(mine)
    for key in keys:
        others = sorted(everybody, key=lambda c: number(c.dht_id) ^ number(key))
        ahead = sum(
            number(c.dht_id) ^ number(key) < number(newcomer.dht_id) ^ number(key) for c in others
        )
        two = sorted(everybody.index(c) + 1 for c in others[:2])
        assert givers[key] == (two if ahead < 4 else [])


def test_a_presence_without_its_own_chain_is_refused() -> None:
    case = Case()
    who = member(1)
    bare = sign_record(dataclasses.replace(presence(who), chain=b""), who)
    assert case.store(who, Kind.PRESENCE, bare) == [StoreCode.REFUSED]
    assert isinstance(case.me.admit(who.my_chain, who.my_key, UTC), Peer)

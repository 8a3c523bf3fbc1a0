"""Presences and announcements: what a keeper and a finder believe."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from dht_network import NETWORK, UTC, announcement, presence
from plain_membrane import PlainMembrane

from potsherd.dht.records import (
    Admissions,
    Announcement,
    PresenceRecord,
    open_announcement,
    open_presence,
    sign_record,
)
from potsherd.errors import IntegrityError, MalformedError, MembershipError, RefusedError
from potsherd.ports import Address

ME = PlainMembrane(NETWORK, 1)
OTHER = PlainMembrane(NETWORK, 2)
KEY = b"k" * 20


def admissions() -> Admissions:
    return Admissions(ME, entries_max=10, ttl_s=3600.0)


def test_an_announcement_can_be_read_by_anybody() -> None:
    record = announcement(ME, KEY)
    assert open_announcement(sign_record(record, ME), OTHER, UTC) == record


def test_an_announcement_signed_by_another_is_refused() -> None:
    with pytest.raises(IntegrityError):
        open_announcement(sign_record(announcement(ME, KEY), OTHER), OTHER, UTC)


@pytest.mark.parametrize(
    ("ahead", "good"),
    [
        (-1, False),
        (0, False),
        (1, True),
        (86_400, True),
        (86_400 + 600, True),
        (86_400 + 601, False),
    ],
)
def test_an_announcement_ends_within_a_day_by_a_clock_at_most_ten_minutes_ahead(
    ahead: int, good: bool
) -> None:
    data = sign_record(announcement(ME, KEY, expires=UTC + ahead), ME)
    if good:
        open_announcement(data, ME, UTC)
    else:
        with pytest.raises(RefusedError):
            open_announcement(data, ME, UTC)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", b"k" * 19),
        ("segment", b"s" * 33),
        ("index", 255),
        ("index", -1),
        ("node_key", b""),
        ("expires", 2**41),
    ],
)
def test_an_announcement_out_of_bounds_is_not_written(field: str, value: Any) -> None:
    record = dataclasses.replace(announcement(ME, KEY), **{field: value})
    with pytest.raises(MalformedError):
        record.encode()


def test_a_presence_is_verified_by_who_never_met_the_node() -> None:
    address = Address("8.8.8.8", 4800)
    record = presence(ME, address=address)
    seen = open_presence(sign_record(record, ME), OTHER, admissions(), UTC)
    assert (seen.dht_id, seen.key, seen.address) == (ME.my_id, ME.my_key, address)
    assert (seen.operator, seen.site, seen.free_class) == ("lab", "cellar", 40)
    assert (seen.member, seen.chain, seen.expires) == (1, ME.my_chain, record.expires)


def _changed(**fields: Any) -> bytes:
    return sign_record(dataclasses.replace(presence(ME), **fields), ME)


def test_a_presence_with_another_nodes_id_or_chain_is_refused() -> None:
    client = PlainMembrane(NETWORK, 1, 0, "client")
    for data in (
        _changed(dht_id=OTHER.my_id),
        _changed(chain=OTHER.my_chain),
        sign_record(presence(client), client),
    ):
        with pytest.raises(RefusedError):
            open_presence(data, ME, admissions(), UTC)


def test_a_presence_signed_by_another_is_refused() -> None:
    with pytest.raises(IntegrityError):
        open_presence(sign_record(presence(ME), OTHER), ME, admissions(), UTC)


def test_a_presence_dated_ahead_or_expired_is_refused() -> None:
    for issued in (UTC + 601, UTC - 10_800):
        with pytest.raises(RefusedError):
            open_presence(sign_record(presence(ME, issued=issued), ME), ME, admissions(), UTC)
    for issued in (UTC + 600, UTC - 10_799):
        open_presence(sign_record(presence(ME, issued=issued), ME), ME, admissions(), UTC)


def test_a_presence_that_nobody_could_dial_is_refused() -> None:
    with pytest.raises(RefusedError):
        open_presence(_changed(address=Address("224.0.0.1", 9)), ME, admissions(), UTC)


def test_a_presence_lives_a_day_at_most() -> None:
    for lifetime in (0, -5, 86_401):
        with pytest.raises(MalformedError):
            _changed(expires=int(UTC) + lifetime)


def test_the_longest_presence_and_announcement_are_within_their_sizes() -> None:
    longest = dataclasses.replace(
        presence(ME),
        address=Address("2a00:1450::1", 65535),
        relay=bytes(32),
        operator="o" * 64,
        site="s" * 64,
        issued=2**40 - 1,
        expires=2**40,
        chain=bytes(512),
    )
    assert len(longest.encode()) <= PresenceRecord.SIZE_MAX
    assert len(announcement(ME, KEY, expires=2**40).encode()) <= Announcement.SIZE_MAX


@pytest.mark.parametrize("cut", [0, 1, 63, 64, 65, 100])
def test_a_cut_record_is_malformed(cut: int) -> None:
    with pytest.raises(MalformedError):
        open_announcement(sign_record(announcement(ME, KEY), ME)[:cut], ME, UTC)
    with pytest.raises(MalformedError):
        open_presence(sign_record(presence(ME), ME)[:cut], ME, admissions(), UTC)


class Counting(PlainMembrane):
    """Counts how often a chain is verified."""

    calls = 0

    def admit(self, chain: bytes, node_key: bytes, now: float) -> Any:
        self.calls += 1
        return super().admit(chain, node_key, now)


def test_a_chain_is_verified_once_and_again_after_its_time() -> None:
    membrane = Counting(NETWORK, 1)
    known = Admissions(membrane, entries_max=2, ttl_s=100.0)
    for utc in (0.0, 50.0, 99.0):
        known.admit(OTHER.my_chain, OTHER.my_key, utc)
    assert membrane.calls == 1
    known.admit(OTHER.my_chain, OTHER.my_key, 100.0)
    assert membrane.calls == 2
    known.admit(OTHER.my_chain, OTHER.my_key, 20.0)  # the calendar was set back
    assert membrane.calls == 3


def test_a_refusal_is_not_remembered_and_the_cache_is_bounded() -> None:
    membrane = Counting(NETWORK, 1)
    known = Admissions(membrane, entries_max=2, ttl_s=100.0)
    for _ in range(2):
        with pytest.raises(MembershipError):
            known.admit(OTHER.my_chain, ME.my_key, 0.0)
    assert membrane.calls == 2
    for serial in range(5):
        peer = PlainMembrane(NETWORK, serial)
        known.admit(peer.my_chain, peer.my_key, 0.0)
    assert len(known) == 2

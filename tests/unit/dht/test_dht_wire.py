"""Frames and messages: sizes, strictness, and how much fits one datagram."""

from __future__ import annotations

import pytest
from dht_network import NETWORK, contact

from potsherd.dht.addresses import Contact
from potsherd.dht.wire import (
    BODY_MAX,
    DATAGRAM_MAX,
    DATAGRAM_MIN,
    HEADER_SIZE,
    OVERHEAD,
    REPLIES,
    REQUESTS,
    TYPES,
    Find,
    Flag,
    Found,
    Frame,
    Ping,
    Presences,
    Reason,
    Refusal,
    Store,
    build_datagram,
    build_frame,
    parse_datagram,
    parse_frame,
)
from potsherd.errors import MalformedError
from potsherd.ports import Address

FRAME = Frame(int(Flag.CHAIN | Flag.WANTS_CHAIN), 2, bytes(range(16)), b"chain", b"body!")


def test_a_frame_goes_both_ways_padded_or_not() -> None:
    for size in (0, DATAGRAM_MIN, DATAGRAM_MAX):
        plain = build_frame(NETWORK, FRAME, size)
        assert parse_frame(plain) == (NETWORK[:8], FRAME)
        assert OVERHEAD - HEADER_SIZE + len(plain) == max(size, OVERHEAD + 10)


def test_no_chain_and_an_empty_chain_differ() -> None:
    """An open network has empty chains."""
    empty = FRAME._replace(chain=b"")
    none = FRAME._replace(chain=None, flags=0)
    assert parse_frame(build_frame(NETWORK, empty))[1].chain == b""
    assert parse_frame(build_frame(NETWORK, none))[1].chain is None


def test_every_cut_of_a_frame_is_malformed() -> None:
    plain = build_frame(NETWORK, FRAME)
    for cut in range(len(plain)):
        with pytest.raises(MalformedError):
            parse_frame(plain[:cut])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (8, 16),
        (8, 255),
        (8, int(Flag.REPLY | Flag.WANTS_CHAIN)),
        (8, 0),
        (26, 2),
        (27, 255),
        (29, 9),
    ],
)
def test_unknown_flags_and_wrong_sizes_are_malformed(place: int, value: int) -> None:
    plain = bytearray(build_frame(NETWORK, FRAME))
    plain[place] = value
    with pytest.raises(MalformedError):
        parse_frame(bytes(plain))


def test_padding_must_be_zeros() -> None:
    plain = bytearray(build_frame(NETWORK, FRAME, DATAGRAM_MAX))
    plain[-1] = 1
    with pytest.raises(MalformedError):
        parse_frame(bytes(plain))


def test_what_does_not_fit_a_datagram_is_not_built() -> None:
    build_frame(NETWORK, FRAME._replace(chain=bytes(500), body=bytes(BODY_MAX - 500)))
    with pytest.raises(MalformedError):
        build_frame(NETWORK, FRAME._replace(chain=bytes(500), body=bytes(BODY_MAX - 499)))
    with pytest.raises(MalformedError):
        build_frame(NETWORK, FRAME._replace(chain=bytes(513), body=b""))


def test_a_datagram_goes_both_ways() -> None:
    data = build_datagram(b"k" * 32, b"n" * 24, bytes(60))
    assert parse_datagram(data) == (b"k" * 32, b"n" * 24, bytes(60))


@pytest.mark.parametrize("size", [0, 1, OVERHEAD - 1, DATAGRAM_MAX + 1, 60_000])
def test_a_datagram_of_impossible_size_is_malformed(size: int) -> None:
    with pytest.raises(MalformedError):
        parse_datagram(b"\1\1" + bytes(max(0, size - 2)))


@pytest.mark.parametrize("start", [b"\0\1", b"\1\0", b"\2\1", b"\1\2"])
def test_another_version_or_suite_is_refused(start: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_datagram(start + bytes(200))


def found(contacts: int, *, host: str = "8.8.8.8", records: tuple[bytes, ...] = ()) -> Found:
    one = Contact(bytes(20), bytes(32), Address(host, 4000))
    return Found(bytes(8), records, (one,) * contacts, 4095)


def test_seventeen_ipv4_contacts_fit_and_eight_beside_a_chain() -> None:
    assert len(found(17, host="8.8.8.8").encode()) <= BODY_MAX
    assert len(found(14, host="2a00::1").encode()) <= BODY_MAX
    assert len(found(9).encode()) + 512 <= BODY_MAX
    assert len(found(8, host="2a00::1").encode()) + 448 <= BODY_MAX


def test_five_announcements_or_one_presence_of_any_size_fit() -> None:
    assert len(found(0, records=(bytes(192),) * 5).encode()) <= BODY_MAX
    assert len(found(2, records=(bytes(864),)).encode()) <= BODY_MAX
    assert len(Store(bytes(8), 2, None, (bytes(864),)).encode()) <= BODY_MAX
    assert len(Store(bytes(8), 1, bytes(512), (bytes(192),) * 2).encode()) <= BODY_MAX


def test_all_known_tags_fit() -> None:
    known = bytes(6 * Presences.KNOWN_MAX)
    assert len(Presences(bytes(20), bytes(20), known).encode()) <= BODY_MAX
    with pytest.raises(MalformedError):
        Presences(bytes(20), bytes(20), bytes(7)).encode()


def test_any_refusal_fits_the_smallest_request() -> None:
    assert OVERHEAD + len(Refusal(255).encode()) <= DATAGRAM_MIN
    assert OVERHEAD + len(Ping().encode()) <= DATAGRAM_MIN
    assert OVERHEAD + len(Find(1, bytes(20), 4095).encode()) <= DATAGRAM_MAX
    assert max(Reason) < 256


def test_every_message_has_one_type() -> None:
    for table in (REQUESTS, REPLIES):
        assert all(TYPES[cls] == number for number, cls in table.items())
    assert set(REPLIES) - set(REQUESTS) == {15}


def test_contacts_survive_the_journey() -> None:
    some = tuple(contact(serial) for serial in range(3))
    message = Found(bytes(8), (b"x",), some, None)
    assert Found.decode(message.encode()) == message

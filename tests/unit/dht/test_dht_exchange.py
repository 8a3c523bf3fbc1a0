"""Requests and replies between two exchanges: chains, limits, retransmission, attacks."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from dht_network import NETWORK, UTC, Side, deliver
from plain_membrane import PlainMembrane

from potsherd.dht.config import DhtConfig
from potsherd.dht.exchange import Answer, Target
from potsherd.dht.statistics import Drop
from potsherd.dht.wire import (
    DATAGRAM_MAX,
    DATAGRAM_MIN,
    OVERHEAD,
    Find,
    Flag,
    Found,
    Frame,
    Ping,
    Pong,
    Store,
    Stored,
    build_datagram,
    build_frame,
)
from potsherd.ports import Address

CONFIG = DhtConfig()
FIND = Find(0, bytes(20), 0)
EMPTY = Found(bytes(8), (), (), None)


def side(serial: int, *, config: DhtConfig = CONFIG, host: str = "", **fields: Any) -> Side:
    address = Address(host or f"10.0.{serial}.1", 4000)
    return Side(serial, address, config, random.Random(serial), **fields)


def pair(**fields: Any) -> tuple[Side, Side]:
    return side(1), side(2, **fields)


def dropped(who: Side) -> dict[str, int]:
    return dict(who.counters.dropped)


def test_two_strangers_get_to_know_each_other_in_one_round_trip() -> None:
    a, b = pair()
    a.ask(b)
    carried = deliver([a, b])
    assert len(carried[0]) == DATAGRAM_MAX  # the address is not proven yet
    answer = a.outcomes[0]
    assert isinstance(answer, Answer)
    assert answer.peer.dht_id == PlainMembrane(NETWORK, 2).my_id
    assert b.requests[0].peer.dht_id == PlainMembrane(NETWORK, 1).my_id
    assert [contact.address for contact in b.met] == [a.address]
    assert len(carried) == 2


def test_later_pings_are_short_and_carry_no_chain() -> None:
    a, b = pair()
    a.ask(b)
    deliver([a, b])
    a.ask(b)
    again = deliver([a, b])
    assert [len(data) for data in again] == [DATAGRAM_MIN, OVERHEAD + len(Pong().encode())]
    assert not any(PlainMembrane(NETWORK, s).my_chain in data for data in again for s in (1, 2))


@pytest.mark.parametrize("message", [Ping(), FIND, Store(bytes(8), 1, None, (b"x",))])
def test_a_reply_is_never_longer_than_its_request(message: Any) -> None:
    a, b = pair()
    for answer in (EMPTY, Stored((0,)), Found(bytes(8), (bytes(700),), (), None)):
        b.reply = answer
        a.ask(b, message)
        sizes = [len(data) for data in deliver([a, b])]
        assert all(
            reply <= request for request, reply in zip(sizes[::2], sizes[1::2], strict=False)
        )


def test_a_handler_is_told_how_much_room_there_is_and_too_much_is_dropped() -> None:
    a, b = pair(reply=EMPTY)
    a.ask(b, FIND)
    deliver([a, b])
    chain = len(PlainMembrane(NETWORK, 2).my_chain)
    assert b.requests[0].room == DATAGRAM_MAX - OVERHEAD - chain
    b.reply = Found(bytes(8), (bytes(800), bytes(300)), (), None)
    a.ask(b, FIND)
    deliver([a, b])
    assert b.requests[1].room == DATAGRAM_MAX - OVERHEAD
    assert dropped(b) == {Drop.TOO_LONG: 1}


def test_who_has_forgotten_us_asks_who_we_are_and_is_told() -> None:
    a, b = pair()
    a.ask(b)
    deliver([a, b])
    reborn = side(2)
    a.ask(reborn)
    carried = deliver([a, reborn])
    assert len(carried) == 4
    assert isinstance(a.outcomes[1], Answer)
    assert len(reborn.requests) == 1


def test_a_long_store_to_who_has_forgotten_us_gets_there_too() -> None:
    """Chain and records do not fit one datagram: a ping carries the chain."""
    a, b = pair()
    a.ask(b)
    deliver([a, b])
    reborn = side(2, reply=Stored((0,)))
    store = Store(bytes(8), 1, None, (bytes(720), bytes(335)))
    a.ask(reborn, store)
    deliver([a, reborn])
    answer = a.outcomes[1]
    assert isinstance(answer, Answer)
    assert answer.message == Stored((0,))
    assert reborn.requests[-1].message == store


def test_who_never_learns_who_we_are_gets_one_introduction() -> None:
    """A peer that answers WHO_ARE_YOU for ever must not keep us busy."""
    a, b = pair()
    a.ask(b)
    deliver([a, b])
    for _ in range(50):
        b = side(2)
        for data, _ in a.exchange.drain():
            forgetful = data
            b.take(forgetful, a.address)
            for reply, _ in b.exchange.drain():
                a.take(reply, b.address)
    a.ask(b)
    sent = 0
    for _ in range(50):
        for data, _ in a.exchange.drain():
            sent += 1
            fresh = side(2, membrane=Forgetful(NETWORK, 2))
            fresh.take(data, a.address)
            for reply, _ in fresh.exchange.drain():
                a.take(reply, b.address)
    assert sent <= 3


class Forgetful(PlainMembrane):
    """Admits nobody."""

    def admit(self, chain: bytes, node_key: bytes, now: float) -> Any:
        return super().admit(b"", node_key, now)


def test_a_chain_of_another_network_is_refused_and_the_asker_is_told() -> None:
    a = side(1, membrane=WrongChain(NETWORK, 1))
    b = side(2)
    a.ask(b)
    deliver([a, b])
    assert a.outcomes == ["membership"]
    assert b.requests == []
    assert b.met == []
    assert dropped(b) == {Drop.MEMBERSHIP: 1}


class WrongChain(PlainMembrane):
    """Shows a chain that was made for another key."""

    @property
    def my_chain(self) -> bytes:
        return PlainMembrane(NETWORK, 9).my_chain

    @my_chain.setter
    def my_chain(self, value: bytes) -> None:
        pass


def test_who_answers_with_a_chain_that_is_not_its_own_is_not_believed() -> None:
    a, b = side(1), side(2, membrane=WrongChain(NETWORK, 2))
    a.ask(b)
    deliver([a, b])
    assert a.outcomes == ["membership"]
    assert a.exchange.session_count == 0


def test_another_networks_datagrams_are_dropped() -> None:
    a = side(1, membrane=OtherNetwork(NETWORK, 1))
    b = side(2)
    a.ask(b)
    deliver([a, b])
    assert dropped(b) == {Drop.NETWORK: 1}


class OtherNetwork(PlainMembrane):
    """Boxes as in this network, but names another one inside."""

    def seal(self, peer_key: bytes, nonce: bytes, plaintext: bytes) -> bytes:
        return super().seal(peer_key, nonce, b"\xff" * 8 + plaintext[8:])


def test_a_request_is_sent_three_times_at_growing_intervals_then_given_up() -> None:
    a, b = pair()
    silent: list[float] = []
    now = 0.0
    a.exchange.request(
        Target(b.my_key, b.address), Ping(), now, a.outcomes.append, lambda: silent.append(now)
    )
    sent = []
    while (wakeup := a.exchange.wakeup_at()) is not None:
        sent += [(now, data) for data, _ in a.exchange.drain()]
        now = wakeup
        a.exchange.tick(now)
    assert [at for at, _ in sent] == [0.0, 0.5, 1.5]
    assert len({data for _, data in sent}) == 1  # the same bytes: boxed once
    assert silent == [0.5]
    assert a.outcomes == ["timeout"]
    assert now == 3.5
    assert (a.counters.retransmissions, a.counters.timeouts) == (2, 1)


def test_a_lost_datagram_costs_a_retransmission_not_the_request() -> None:
    """kademlia does not retransmit: at 1 % loss 80 of 100 gets succeeded at 1,000 nodes."""
    a, b = pair()
    a.ask(b)
    a.exchange.drain()  # lost
    a.exchange.tick(0.5)
    deliver([a, b], 0.5)
    assert isinstance(a.outcomes[0], Answer)
    a.exchange.tick(100.0)
    assert len(a.outcomes) == 1
    assert a.exchange.wakeup_at() is None


def test_a_second_reply_is_unsolicited() -> None:
    a, b = pair()
    a.ask(b)
    (data, _), *_ = a.exchange.drain()
    b.take(data, a.address)
    b.take(data, a.address)  # doubled on the way
    replies = [reply for reply, _ in b.exchange.drain()]
    for reply in replies:
        a.take(reply, b.address)
    assert len(a.outcomes) == 1
    assert dropped(a) == {Drop.UNSOLICITED: 1}


def test_a_reply_from_another_address_or_key_is_unsolicited() -> None:
    a, b = pair()
    c = side(3)
    a.ask(b)
    (data, _), *_ = a.exchange.drain()
    b.take(data, a.address)
    (reply, _), *_ = b.exchange.drain()
    a.take(reply, c.address)
    assert a.outcomes == []
    assert dropped(a) == {Drop.UNSOLICITED: 1}


def test_a_request_cannot_be_reflected_to_its_sender() -> None:
    """Both keys share one box key, so our own datagram under the peer's key would open."""
    a, b = pair()
    a.ask(b)
    (data, _), *_ = a.exchange.drain()
    reflected = data[:2] + b.my_key + data[34:]
    a.take(reflected, b.address)
    assert dropped(a) == {Drop.REFLECTED: 1}
    a.take(data, b.address)  # under our own key
    assert dropped(a) == {Drop.REFLECTED: 2}
    assert a.requests == []


def _garbled(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_garbled, Drop.BOX),
        (lambda d: b"\2" + d[1:], Drop.VERSION),
        (lambda d: d[:100], Drop.MALFORMED),
        (lambda d: d + bytes(1), Drop.MALFORMED),
        (lambda d: b"", Drop.VERSION),
    ],
)
def test_a_datagram_changed_on_the_way_is_dropped(
    change: Callable[[bytes], bytes], why: Drop
) -> None:
    a, b = pair()
    a.ask(b)
    (data, _), *_ = a.exchange.drain()
    b.take(change(data), a.address)
    assert dropped(b) == {why: 1}
    assert b.exchange.drain() == []


def sealed(sender: Side, to: Side, frame: Frame, size: int = DATAGRAM_MAX) -> bytes:
    """A datagram that `sender` could send, with whatever inside."""
    membrane = PlainMembrane(NETWORK, sender.serial)
    flags = frame.flags | (Flag.GREATER if sender.my_key > to.my_key else 0)
    flags |= Flag.CHAIN if frame.chain is not None else 0
    plain = build_frame(NETWORK, frame._replace(flags=flags), size)
    return build_datagram(sender.my_key, bytes(24), membrane.seal(to.my_key, bytes(24), plain))


@pytest.mark.parametrize(
    "frame",
    [
        Frame(0, 9, bytes(16), None, Ping().encode()),
        Frame(0, 1, bytes(16), None, b""),
        Frame(0, 1, bytes(16), None, b"\xc1"),
        Frame(0, 2, bytes(16), None, Ping().encode()),
        Frame(0, 15, bytes(16), None, b"\x93\x01\x01\x01"),
    ],
)
def test_a_member_that_sends_nonsense_is_dropped(frame: Frame) -> None:
    a, b = pair()
    chain = PlainMembrane(NETWORK, 1).my_chain
    b.take(sealed(a, b, frame._replace(chain=chain)), a.address)
    assert dropped(b) == {Drop.MALFORMED: 1}
    assert b.requests == []


def test_a_reply_of_the_wrong_type_leaves_the_request_open() -> None:
    a, b = pair()
    a.ask(b)
    (data, _), *_ = a.exchange.drain()
    pending = next(iter(a.exchange._pending))
    chain = PlainMembrane(NETWORK, 2).my_chain
    for frame in (
        Frame(Flag.REPLY, 2, pending, chain, EMPTY.encode()),
        Frame(Flag.REPLY, 1, pending, chain, b"rubbish"),
    ):
        a.take(sealed(b, a, frame), b.address)
    assert a.outcomes == []
    assert dropped(a) == {Drop.MALFORMED: 2}
    b.take(data, a.address)
    deliver([a, b])
    assert isinstance(a.outcomes[0], Answer)


def test_a_prefix_has_its_rate_before_any_public_key_work() -> None:
    config = DhtConfig(prefix_rate_per_s=10.0, prefix_burst=20.0)
    b = side(2, config=config, membrane=CountingBoxes(NETWORK, 2))
    for i in range(100):
        b.take(b"\1\1" + bytes([i]) * 200, Address(f"8.8.8.{i}", 4000))
    assert dropped(b) == {Drop.BOX: 20, Drop.RATE: 80}
    assert CountingBoxes.opened == 20
    b.take(b"\1\1" + bytes(200), Address("8.8.9.1", 4000))
    assert CountingBoxes.opened == 21


class CountingBoxes(PlainMembrane):
    """Counts boxes that were tried."""

    opened = 0

    def open(self, peer_key: bytes, nonce: bytes, ciphertext: bytes) -> bytes | None:
        CountingBoxes.opened += 1
        return super().open(peer_key, nonce, ciphertext)


def test_strangers_of_all_prefixes_together_are_bounded_but_friends_are_not() -> None:
    a, b = side(1), side(2, config=DhtConfig(strangers_burst=3.0, strangers_per_s=0.0))
    a.ask(b)
    deliver([a, b])
    for i in range(10):
        b.take(b"\1\1" + bytes([i]) * 200, Address(f"8.8.{i}.1", 4000))
    assert dropped(b) == {Drop.BOX: 2, Drop.STRANGERS: 8}
    a.ask(b)
    deliver([a, b])
    assert len(b.requests) == 2


def test_an_address_that_does_not_answer_is_not_flooded() -> None:
    """Others name addresses to us; none of them is made a victim."""
    a = side(1, config=DhtConfig(dial_burst=3.0, dial_rate_per_s=0.1))
    victim = Address("8.8.8.8", 53)
    for i in range(10):
        a.exchange.request(Target(bytes([i]) * 32, victim), Ping(), 0.0, a.outcomes.append)
    assert a.outcomes == ["busy"] * 7
    assert len(a.exchange.drain()) == 3
    a.exchange.request(Target(b"x" * 32, victim), Ping(), 10.0, a.outcomes.append)
    assert len(a.exchange.drain()) == 1


def test_requests_in_flight_are_bounded() -> None:
    a = side(1, config=DhtConfig(requests_max=5))
    for i in range(9):
        target = Target(bytes([i]) * 32, Address(f"10.0.9.{i + 1}", 4000))
        a.exchange.request(target, Ping(), 0.0, a.outcomes.append)
    assert a.outcomes == ["busy"] * 4


def test_sessions_are_bounded_and_the_forgotten_introduce_themselves_again() -> None:
    b = side(2, config=DhtConfig(sessions_max=3))
    others = [side(serial) for serial in range(10, 16)]
    for other in others:
        other.ask(b)
        deliver([other, b])
    assert b.exchange.session_count == 3
    for other in others:
        other.ask(b)
        deliver([other, b])
        assert isinstance(other.outcomes[1], Answer)


def test_unusable_addresses_are_neither_heard_nor_asked() -> None:
    a, b = pair()
    a.ask(b)
    (data, _), *_ = a.exchange.drain()
    b.take(data, Address("224.0.0.1", 4000))
    assert dropped(b) == {Drop.ADDRESS: 1}
    for at in (Address("224.0.0.1", 1), Address("nowhere", 1), Address("8.8.8.8", 0)):
        a.exchange.request(Target(b.my_key, at), Ping(), 0.0, a.outcomes.append)
    a.exchange.request(Target(a.my_key, b.address), Ping(), 0.0, a.outcomes.append)
    assert a.outcomes == ["address"] * 4


def test_a_clients_request_is_answered_but_it_is_not_met() -> None:
    a = side(1, membrane=PlainMembrane(NETWORK, 1, 0, "client"))
    b = side(2)
    a.ask(b)
    deliver([a, b])
    assert isinstance(a.outcomes[0], Answer)
    assert b.met == []


def test_when_nothing_at_all_is_heard_silence_says_nothing() -> None:
    a, b = pair()
    a.ask(b)
    deliver([a, b], 5.0)
    assert not a.exchange.deaf_since(4.0)
    assert a.exchange.deaf_since(6.0)


def test_after_closing_every_request_has_its_outcome() -> None:
    a, b = pair()
    a.ask(b)
    a.exchange.abandon()
    assert a.outcomes == ["timeout"]
    assert a.exchange.wakeup_at() is None


def test_a_membership_that_ends_ends_the_session() -> None:
    a, b = side(1), side(2, membrane=Ending(NETWORK, 2))
    a.ask(b)
    deliver([a, b])
    a.ask(b, now=3599.0)
    deliver([a, b], 3599.0)
    a.ask(b, now=3601.0)
    deliver([a, b], 3601.0)
    assert isinstance(a.outcomes[1], Answer)
    assert a.outcomes[2] == "membership"
    assert b.exchange.session_count == 0


class Ending(PlainMembrane):
    """Everybody's membership ends at some date; chains are verified again each hour."""

    def admit(self, chain: bytes, node_key: bytes, now: float) -> Any:
        if now > UTC + 3600.0:
            chain = b"ended"
        return super().admit(chain, node_key, now)

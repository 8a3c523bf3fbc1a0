"""Addresses, their prefixes, and who may lead us where."""

from __future__ import annotations

import pytest

from potsherd.dht.addresses import (
    Scope,
    canonical,
    diallable,
    host_of,
    pack_address,
    prefix_of,
    scope_of,
    unpack_address,
)
from potsherd.errors import MalformedError
from potsherd.ports import Address


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("127.0.0.1", Scope.LOOPBACK),
        ("::1", Scope.LOOPBACK),
        ("10.1.2.3", Scope.PRIVATE),
        ("192.168.0.9", Scope.PRIVATE),
        ("169.254.1.1", Scope.PRIVATE),
        ("fe80::1", Scope.PRIVATE),
        ("fd00::1", Scope.PRIVATE),
        ("8.8.8.8", Scope.PUBLIC),
        ("2a00:1450::1", Scope.PUBLIC),
        ("224.0.0.1", Scope.UNUSABLE),
        ("255.255.255.255", Scope.UNUSABLE),
        ("0.0.0.0", Scope.UNUSABLE),  # noqa: S104
        ("::", Scope.UNUSABLE),
        ("ff02::1", Scope.UNUSABLE),
        ("example.org", Scope.UNUSABLE),
        ("", Scope.UNUSABLE),
    ],
)
def test_scope(host: str, scope: Scope) -> None:
    assert scope_of(Address(host, 4000)) is scope


def test_a_port_outside_1_to_65535_makes_an_address_unusable() -> None:
    assert [scope_of(Address("8.8.8.8", port)) for port in (0, -1, 65536)] == [Scope.UNUSABLE] * 3


def test_public_hosts_of_one_network_share_a_prefix_and_private_ones_do_not() -> None:
    assert prefix_of(Address("8.8.8.8", 1)) == prefix_of(Address("8.8.8.200", 2))
    assert prefix_of(Address("8.8.8.8", 1)) != prefix_of(Address("8.8.9.8", 1))
    assert prefix_of(Address("2a00:1:2:3::4", 1)) == prefix_of(Address("2a00:1:2:ffff::9", 1))
    assert prefix_of(Address("2a00:1:2::", 1)) != prefix_of(Address("2a00:1:3::", 1))
    assert prefix_of(Address("10.0.0.1", 1)) != prefix_of(Address("10.0.0.1", 2))
    assert host_of(Address("8.8.8.8", 1)) == host_of(Address("8.8.8.8", 2))
    assert host_of(Address("127.0.0.1", 1)) != host_of(Address("127.0.0.1", 2))


@pytest.mark.parametrize("address", [Address("8.8.4.4", 65535), Address("2a00:1450::1", 1)])
def test_packing_goes_both_ways(address: Address) -> None:
    packed = pack_address(address)
    assert len(packed) in (6, 18)
    assert unpack_address(packed) == address


@pytest.mark.parametrize(
    "data", [b"", bytes(6), bytes(5), bytes(7), b"\1" * 17, b"\1" * 16 + b"\0\0"]
)
def test_bytes_that_are_no_address_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        unpack_address(data)


def test_what_cannot_be_packed_is_refused() -> None:
    for address in (Address("localhost", 1), Address("8.8.8.8", 0), Address("8.8.8.8", 70000)):
        with pytest.raises(MalformedError):
            pack_address(address)


def test_nobody_reached_in_public_leads_us_into_a_private_network() -> None:
    public, private, loopback = (Address(h, 1) for h in ("8.8.8.8", "10.0.0.1", "127.0.0.1"))
    assert diallable(public, public)
    assert not diallable(private, public)
    assert not diallable(loopback, public)
    assert diallable(public, private)
    assert diallable(private, private)
    assert not diallable(loopback, private)
    assert diallable(loopback, loopback)
    assert not diallable(Address("0.0.0.0", 1), loopback)  # noqa: S104


def test_two_spellings_of_one_ipv6_address_become_one() -> None:
    assert canonical(Address("2A00:0:0:0::1", 5)) == Address("2a00::1", 5)
    assert canonical(Address("8.8.8.8", 5)) == Address("8.8.8.8", 5)

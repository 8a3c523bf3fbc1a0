"""Addresses on the wire, their prefixes for limits, and where they may be dialled from."""

from __future__ import annotations

import enum
import functools
import ipaddress
from typing import Any

from potsherd.classes import dataclass
from potsherd.errors import MalformedError
from potsherd.ports import Address
from potsherd.wire import Field

__all__ = [
    "AddressField",
    "Contact",
    "ContactField",
    "Scope",
    "canonical",
    "diallable",
    "host_of",
    "pack_address",
    "prefix_of",
    "scope_of",
    "unpack_address",
]

_HOSTS_CACHED = 8192
_CONTACTS_CACHED = 16_384
"""Contacts read lately, some 7 MB: look-ups are told the same ones again and again."""


class Scope(enum.IntEnum):
    """How far an address reaches; a higher one never leads to a lower one."""

    UNUSABLE = 0
    LOOPBACK = 1
    PRIVATE = 2
    PUBLIC = 3


@dataclass(frozen=True)
class Contact:
    """A donor node that can be asked: its DHT id (20 bytes), key (32 bytes) and address."""

    dht_id: bytes
    key: bytes
    address: Address


@functools.lru_cache(maxsize=_HOSTS_CACHED)
def _host(host: str) -> tuple[Scope, bytes, str]:
    """Scope, packed form and name of the prefix."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return Scope.UNUSABLE, b"", host
    scope = Scope.PUBLIC
    if ip.is_loopback:
        scope = Scope.LOOPBACK
    elif ip.is_multicast or ip.is_unspecified or str(ip) == "255.255.255.255":
        scope = Scope.UNUSABLE
    elif ip.is_private or ip.is_link_local or ip.is_reserved:
        scope = Scope.PRIVATE
    packed = ip.packed
    return scope, packed, packed[: 3 if len(packed) == 4 else 6].hex()


def scope_of(address: Address) -> Scope:
    """How far `address` reaches; UNUSABLE for what is no unicast address and port."""
    return _host(address.host)[0] if 0 < address.port < 65536 else Scope.UNUSABLE


def prefix_of(address: Address) -> str:
    """What limits count by: the /24 or /48; the whole address for loopback and private ones."""
    scope, _, prefix = _host(address.host)
    return prefix if scope is Scope.PUBLIC else f"{address.host}:{address.port}"


def diallable(address: Address, teller: Address) -> bool:
    """Whether an address learnt from `teller` may be dialled.

    Private addresses are dialled only in local networks: who was reached at a public address leads
    us to public addresses only, and only a loopback teller leads to loopback.
    """
    scope = scope_of(address)
    return scope is not Scope.UNUSABLE and scope >= scope_of(teller)


def host_of(address: Address) -> str:
    """What the dial budget counts by: the host, with the port for loopback and private ones."""
    if scope_of(address) is Scope.PUBLIC:
        return address.host
    return f"{address.host}:{address.port}"


@functools.lru_cache(maxsize=_HOSTS_CACHED)
def _canonical_host(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def canonical(address: Address) -> Address:
    """The one spelling of an IPv6 address that is compared; others as they are."""
    if ":" not in address.host:
        return address
    return Address(_canonical_host(address.host), address.port)


def pack_address(address: Address) -> bytes:
    """4 or 16 bytes of IP address and 2 of port, big-endian. Raises MalformedError."""
    packed = _host(address.host)[1]
    if not packed or not 0 < address.port < 65536:
        raise MalformedError("not an IP address and port")
    return packed + address.port.to_bytes(2, "big")


@functools.lru_cache(maxsize=_HOSTS_CACHED)
def _name(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


def unpack_address(data: bytes) -> Address:
    """The inverse of `pack_address`. Raises MalformedError."""
    if len(data) not in (6, 18) or data[-2:] == b"\0\0":
        raise MalformedError("not an IP address and port")
    return Address(_name(data[:-2]), int.from_bytes(data[-2:], "big"))


class AddressField(Field):
    """Wire field: an `Address` as 6 (IPv4) or 18 (IPv6) bytes."""

    def lower(self, value: Any, where: str) -> Any:
        """See `potsherd.wire.Field`."""
        if type(value) is not Address:
            raise MalformedError(f"{where}: not an address")
        return pack_address(value)

    def lift(self, plain: Any, where: str) -> Any:
        """See `potsherd.wire.Field`."""
        if type(plain) is not bytes:
            raise MalformedError(f"{where}: not a byte string")
        return unpack_address(plain)


@functools.lru_cache(maxsize=_CONTACTS_CACHED)
def _contact(data: bytes) -> Contact:
    return Contact(data[:20], data[20:52], unpack_address(data[52:]))


class ContactField(Field):
    """Wire field: a `Contact` as id ‖ key ‖ address in one byte string of 58 or 70 bytes."""

    def lower(self, value: Any, where: str) -> Any:
        """See `potsherd.wire.Field`."""
        if type(value) is not Contact or len(value.dht_id) != 20 or len(value.key) != 32:
            raise MalformedError(f"{where}: not a contact")
        return value.dht_id + value.key + pack_address(value.address)

    def lift(self, plain: Any, where: str) -> Any:
        """See `potsherd.wire.Field`."""
        if type(plain) is not bytes or len(plain) not in (58, 70):
            raise MalformedError(f"{where}: not a contact")
        return _contact(plain)

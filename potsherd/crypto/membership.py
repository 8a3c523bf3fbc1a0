"""Who may take part in a network: configuration, invitations, credentials (docs/spec/membership.md).

Chain: network key → (inviter certificate) → invitation → credential; no deeper. Everything is decided
from the arguments: `now` is seconds since 1970, keys come from 32-byte seeds.
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar, Final, TypeVar

from potsherd.classes import dataclass
from potsherd.crypto import hashing
from potsherd.crypto.signing import SigningKey, open_signed
from potsherd.errors import IntegrityError, MalformedError, MembershipError, UsageError
from potsherd.wire import Bool, Bytes, ListOf, Opt, Record, Text, Tuple, Uint, pack, unpack

__all__ = [
    "CHAIN_BYTES_MAX",
    "CLIENT_LIFETIME_S",
    "Credential",
    "InvitationCertificate",
    "InviterCertificate",
    "Member",
    "NetworkConfig",
    "Role",
    "certify_open_client",
    "create_network",
    "open_config",
    "sign_config",
    "update_config",
    "verify_chain",
]

CHAIN_BYTES_MAX: Final = 512
CLIENT_LIFETIME_S: Final = 7 * 24 * 3600
CLOCK_SKEW_S: Final = 600
"""How far ahead of ours the clock may be that wrote a date."""
SERIAL_MAX: Final = 2**32 - 1
INVITER_SERIALS_MAX: Final = 1000
NODES_MAX: Final = 2**16 - 1
"""Nodes of one invitation; they are numbered from 0."""
OPERATOR_BYTES_MAX: Final = 31
DATE_MAX: Final = 2**40
BOOTSTRAP_MAX: Final = 16
REMOVED_MAX: Final = 1000
"""Ranges of removed serials in one configuration."""

_Key = Annotated[bytes, Bytes(32)]
_Serial = Annotated[int, Uint(SERIAL_MAX)]
_Date = Annotated[int | None, Opt(Uint(DATE_MAX))]
R = TypeVar("R", bound=Record)


class Role(enum.StrEnum):
    """What a credential admits to."""

    DONOR = "donor"
    CLIENT = "client"
    """Reads and writes; never in tables, results or pools."""


@dataclass(frozen=True)
class NetworkConfig(Record):
    """The facts of a network, signed by its key; of two with one key the higher number holds."""

    TYPE: ClassVar[str] = "network-config"
    SIZE_MAX: ClassVar[int] = 16 * 1024
    name: Annotated[str, Text(64, min=1)]
    verify_key: _Key
    number: Annotated[int, Uint(2**32 - 1)]
    is_open: Annotated[bool, Bool()]
    code: Annotated[
        tuple[int, int, int] | None, Opt(Tuple(Uint(255, 1), Uint(255, 1), Uint(255, 1)))
    ]
    """Default (k, n, r) of a dataset, or None for the table by number of donors."""
    bootstrap: Annotated[
        tuple[tuple[bytes, str, int], ...],
        ListOf(Tuple(Bytes(32), Text(255, min=1), Uint(65535, 1)), BOOTSTRAP_MAX),
    ]
    """Node key, host, port."""
    removed: Annotated[
        tuple[tuple[int, int], ...], ListOf(Tuple(Uint(SERIAL_MAX), Uint(SERIAL_MAX)), REMOVED_MAX)
    ]
    """Ranges (first, last) of serials that are members no more, ascending, apart from each other."""

    def check(self) -> None:
        """See Record.check."""
        before = -2
        for first, last in self.removed:
            if not before + 1 < first <= last:
                raise MalformedError("NetworkConfig.removed: not in order")
            before = last
        if self.code is not None and not self.code[0] <= self.code[2] <= self.code[1]:
            raise MalformedError("NetworkConfig.code: not k ≤ r ≤ n")

    @property
    def network_id(self) -> bytes:
        """32 bytes."""
        return hashing.network_id(self.verify_key)

    def is_removed(self, serial: int) -> bool:
        """Whether the signed list names this serial."""
        return any(first <= serial <= last for first, last in self.removed)


@dataclass(frozen=True)
class InviterCertificate(Record):
    """Lets another key issue invitations of a range of serials. Signed by the network key."""

    TYPE: ClassVar[str] = "inviter"
    SIZE_MAX: ClassVar[int] = 96
    key: _Key
    serial_first: _Serial
    serial_last: _Serial
    until: _Date

    def check(self) -> None:
        """See Record.check."""
        if not 0 <= self.serial_last - self.serial_first < INVITER_SERIALS_MAX:
            raise MalformedError("InviterCertificate: not a range of 1 to 1,000 serials")


@dataclass(frozen=True)
class InvitationCertificate(Record):
    """Lets the holder of a fresh key certify `nodes` nodes. Signed by the network key or an inviter."""

    TYPE: ClassVar[str] = "invitation"
    SIZE_MAX: ClassVar[int] = 96
    key: _Key
    serial: _Serial
    operator: Annotated[str, Text(OPERATOR_BYTES_MAX)]
    """Label of the person or institute that runs the nodes: a failure domain."""
    nodes: Annotated[int, Uint(NODES_MAX, 1)]
    join_by: _Date
    """A convenience, checked by the joiner and the first node it meets."""
    until: _Date
    """End of membership."""


@dataclass(frozen=True)
class Credential(Record):
    """Says that a node key is node `number` of an invitation, or a client. Signed by its key."""

    TYPE: ClassVar[str] = "credential"
    SIZE_MAX: ClassVar[int] = 56
    node_key: _Key
    number: Annotated[int | None, Opt(Uint(NODES_MAX - 1))]
    """None for a client."""
    until: _Date
    """None for a donor."""

    def check(self) -> None:
        """See Record.check."""
        if (self.number is None) == (self.until is None):
            raise MalformedError("Credential: a donor has a number, a client an end")

    @property
    def role(self) -> Role:
        """Donor or client."""
        return Role.CLIENT if self.number is None else Role.DONOR


@dataclass(frozen=True)
class Member:
    """A node whose chain was verified."""

    node_key: bytes
    dht_id: bytes
    role: Role
    serial: int | None
    """None where there is no invitation (open network)."""
    number: int | None
    operator: str
    """Empty where nobody vouches for it."""
    until: int | None
    """Seconds since 1970 from which the chain holds no more; None: no end."""

    @property
    def is_donor(self) -> bool:
        """May stand in tables, results and pools."""
        return self.role is Role.DONOR


def create_network(
    name: str,
    seed: bytes,
    bootstrap: tuple[tuple[bytes, str, int], ...],
    open_: bool = False,
    code: tuple[int, int, int] | None = None,
) -> tuple[SigningKey, bytes]:
    """A network key from a 32-byte seed, and the signed configuration number 1."""
    key = SigningKey(seed)
    config = NetworkConfig(name, key.verify_key, 1, open_, code, tuple(bootstrap), ())
    return key, sign_config(key, config)


def sign_config(network_key: SigningKey, config: NetworkConfig) -> bytes:
    """The signed configuration. Raises UsageError when the key is another network's."""
    if network_key.verify_key != config.verify_key:
        raise UsageError("this is not the key of the network")
    return config.signed(network_key.sign, config.network_id)


def open_config(data: bytes, *, network_id: bytes | None = None) -> NetworkConfig:
    """Parse and verify a signed configuration, of this network if one is given.

    Raises MalformedError, IntegrityError, MembershipError for another network's.
    """
    config = NetworkConfig.decode(data[64:])
    if network_id is not None and config.network_id != network_id:
        raise MembershipError("this is the configuration of another network")
    return open_signed(NetworkConfig, data, config.network_id, lambda found: found.verify_key)


def update_config(current: NetworkConfig, data: bytes) -> NetworkConfig:
    """The newer of the two; `data` is a signed configuration. Raises like `open_config`."""
    offered = open_config(data, network_id=current.network_id)
    return offered if offered.number > current.number else current


def encode_chain(*certificates: bytes) -> bytes:
    """Signed certificates from the network's side to the node's, as one byte string."""
    chain = pack(list(certificates))
    if len(chain) > CHAIN_BYTES_MAX:
        raise UsageError("a chain has at most 512 bytes")
    return chain


def certify_open_client(node_key: SigningKey, config: NetworkConfig, now: float) -> bytes:
    """A chain by which a node of an open network says that it is only a client."""
    credential = Credential(node_key.verify_key, None, int(now) + CLIENT_LIFETIME_S)
    return encode_chain(credential.signed(node_key.sign, config.network_id))


def verify_chain(
    chain: bytes, node_key: bytes, config: NetworkConfig, now: float, *, joining: bool = False
) -> Member:
    """Who a node is, by the chain it shows. Raises MembershipError that says why it is nobody.

    `node_key` has been proven by the connection. `joining` also checks `join_by`.
    """
    try:
        certificates = _split_chain(chain)
        if not certificates or len(certificates) == 1:
            return _verify_open(certificates, node_key, config, now)
        return _verify_invited(certificates, node_key, config, now, joining)
    except (MalformedError, IntegrityError) as error:
        raise MembershipError(f"a credential that does not hold: {error.message}") from None


def _split_chain(chain: bytes) -> list[bytes]:
    if not chain:
        return []
    plain = unpack(chain, size_max=CHAIN_BYTES_MAX)
    if type(plain) is not list or not 1 <= len(plain) <= 3:
        raise MalformedError("a chain has one to three certificates")
    if any(type(item) is not bytes for item in plain):
        raise MalformedError("a chain is made of byte strings")
    return plain


def _verify_open(
    certificates: list[bytes], node_key: bytes, config: NetworkConfig, now: float
) -> Member:
    """No invitation: a donor shows nothing, a client a credential signed by itself."""
    if not config.is_open:
        raise MembershipError("this network admits by invitation only")
    dht_id = hashing.open_dht_id(node_key)
    if not certificates:
        return Member(node_key, dht_id, Role.DONOR, None, None, "", None)
    credential = _open(Credential, certificates[0], config, node_key)
    if credential.role is not Role.CLIENT:
        raise MembershipError("a donor of an open network needs no credential")
    _check_credential(credential, node_key, now)
    return Member(node_key, dht_id, Role.CLIENT, None, None, "", credential.until)


def _verify_invited(
    certificates: list[bytes], node_key: bytes, config: NetworkConfig, now: float, joining: bool
) -> Member:
    issuer, ends = config.verify_key, []
    serials = range(SERIAL_MAX + 1)
    if len(certificates) == 3:
        inviter = _open(InviterCertificate, certificates[0], config, issuer)
        _check_date(inviter.until, now, "the right to invite")
        issuer, serials = inviter.key, range(inviter.serial_first, inviter.serial_last + 1)
        ends.append(inviter.until)
    invitation = _open(InvitationCertificate, certificates[-2], config, issuer)
    if invitation.serial not in serials:
        raise MembershipError("the inviter had no right to this serial")
    if config.is_removed(invitation.serial):
        raise MembershipError("this member has been removed from the network")
    _check_date(invitation.until, now, "the membership")
    if joining:
        _check_date(invitation.join_by, now, "the invitation")
    credential = _open(Credential, certificates[-1], config, invitation.key)
    _check_credential(credential, node_key, now)
    if credential.number is not None and credential.number >= invitation.nodes:
        raise MembershipError("the credential's number is beyond the invitation")
    ends += [invitation.until, credential.until]
    return Member(
        node_key,
        _dht_id(config, node_key, invitation.serial, credential.number),
        credential.role,
        invitation.serial,
        credential.number,
        invitation.operator,
        min((end for end in ends if end is not None), default=None),
    )


def _dht_id(config: NetworkConfig, node_key: bytes, serial: int, number: int | None) -> bytes:
    if number is None or config.is_open:
        return hashing.open_dht_id(node_key)
    return hashing.member_dht_id(config.network_id, serial, number)


def _open(record_cls: type[R], data: bytes, config: NetworkConfig, key: bytes) -> R:
    return open_signed(record_cls, data, config.network_id, lambda _: key)


def _check_credential(credential: Credential, node_key: bytes, now: float) -> None:
    if credential.node_key != node_key:
        raise MembershipError("the credential is for another node key")
    _check_date(credential.until, now, "the client's credential")
    if credential.until is not None and credential.until > now + CLIENT_LIFETIME_S + CLOCK_SKEW_S:
        raise MembershipError("the client's credential lasts longer than seven days")


def _check_date(until: int | None, now: float, what: str) -> None:
    if until is not None and now >= until:
        raise MembershipError(f"{what} has expired")

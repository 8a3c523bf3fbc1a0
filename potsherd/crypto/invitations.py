"""Making and using invitations (docs/spec/membership.md): the side that holds private keys."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from potsherd.classes import dataclass
from potsherd.crypto import armour
from potsherd.crypto.membership import (
    CLIENT_LIFETIME_S,
    Credential,
    InvitationCertificate,
    InviterCertificate,
    NetworkConfig,
    encode_chain,
    open_config,
)
from potsherd.crypto.signing import SigningKey, open_signed
from potsherd.errors import MalformedError, MembershipError, UsageError
from potsherd.wire import Bytes, Opt, Record

__all__ = [
    "InvitationFile",
    "Inviter",
    "appoint_inviter",
    "decode_network",
    "encode_network",
    "invite",
]

SIGNED_CERTIFICATE_MAX: Final = 64 + 96
SIGNED_CONFIG_MAX: Final = 64 + NetworkConfig.SIZE_MAX


@dataclass(frozen=True)
class Inviter:
    """A key that may invite within the range of its certificate (signed by the network key)."""

    key: SigningKey
    certificate: bytes


def appoint_inviter(
    network_key: SigningKey,
    config: NetworkConfig,
    inviter_key: bytes,
    serial_first: int,
    serial_last: int,
    until: int | None = None,
) -> bytes:
    """The signed certificate that lets `inviter_key` issue these serials, at most 1,000."""
    certificate = InviterCertificate(inviter_key, serial_first, serial_last, until)
    try:
        return certificate.signed(network_key.sign, config.network_id)
    except MalformedError as error:
        raise UsageError(error.message) from None


def invite(
    issuer: SigningKey | Inviter,
    config: bytes,
    seed: bytes,
    serial: int,
    operator: str,
    nodes: int,
    join_by: int | None = None,
    until: int | None = None,
) -> InvitationFile:
    """Issue an invitation for the fresh key of `seed` (32 bytes).

    `config` is the signed configuration; dates are whole seconds since 1970. Raises UsageError for a
    serial or a key that is not the issuer's to use.
    """
    opened = open_config(config)
    key, inviter = (
        (issuer, None) if isinstance(issuer, SigningKey) else (issuer.key, issuer.certificate)
    )
    try:
        certificate = InvitationCertificate(
            SigningKey(seed).verify_key, serial, operator, nodes, join_by, until
        ).signed(key.sign, opened.network_id)
    except MalformedError as error:
        raise UsageError(error.message) from None
    invitation = InvitationFile(config, inviter, certificate, bytes(seed))
    if opened.is_removed(serial):
        raise UsageError("this serial is among the removed ones")
    return invitation


@dataclass(frozen=True)
class _Body(Record):
    """What an invitation file holds."""

    TYPE: ClassVar[str] = "invitation-file"
    SIZE_MAX: ClassVar[int] = 1024 + SIGNED_CONFIG_MAX
    config: Annotated[bytes, Bytes(max=SIGNED_CONFIG_MAX)]
    inviter: Annotated[bytes | None, Opt(Bytes(max=SIGNED_CERTIFICATE_MAX))]
    certificate: Annotated[bytes, Bytes(max=SIGNED_CERTIFICATE_MAX)]
    seed: Annotated[bytes, Bytes(32)]


class InvitationFile:
    """A verified invitation with its private key: certifies nodes and clients. Secret; safe `repr`."""

    __slots__ = ("_body", "_key", "certificate", "config")

    def __init__(
        self, config: bytes, inviter: bytes | None, certificate: bytes, seed: bytes
    ) -> None:
        """Raises MalformedError, IntegrityError or MembershipError when the parts do not fit."""
        self._body = _Body(config, inviter, certificate, seed)
        self._key = SigningKey(seed)
        self.config: NetworkConfig = open_config(config)
        network, issuer = self.config.network_id, self.config.verify_key
        serials = None
        if inviter is not None:
            right = open_signed(
                InviterCertificate, inviter, network, lambda _: self.config.verify_key
            )
            issuer, serials = right.key, range(right.serial_first, right.serial_last + 1)
        self.certificate = open_signed(
            InvitationCertificate, certificate, network, lambda _: issuer
        )
        if serials is not None and self.certificate.serial not in serials:
            raise MembershipError("the inviter had no right to this serial")
        if self.certificate.key != self._key.verify_key:
            raise MembershipError("the key in the invitation is not the one it certifies")

    @property
    def config_bytes(self) -> bytes:
        """The signed configuration."""
        return self._body.config

    def certify_node(self, node_key: bytes, number: int) -> bytes:
        """The chain of donor node `number`, 0 … nodes-1."""
        if not 0 <= number < self.certificate.nodes:
            raise MembershipError("the invitation has no node of this number")
        return self._chain(Credential(node_key, number, None))

    def certify_client(self, node_key: bytes, now: float) -> bytes:
        """The chain of a client; it holds for seven days."""
        return self._chain(Credential(node_key, None, int(now) + CLIENT_LIFETIME_S))

    def check_join(self, now: float) -> None:
        """Raises MembershipError when the invitation has expired or has been withdrawn."""
        for date in (self.certificate.join_by, self.certificate.until):
            if date is not None and now >= date:
                raise MembershipError("the invitation has expired")
        if self.config.is_removed(self.certificate.serial):
            raise MembershipError("the invitation has been withdrawn")

    def _chain(self, credential: Credential) -> bytes:
        signed = credential.signed(self._key.sign, self.config.network_id)
        above = [] if self._body.inviter is None else [self._body.inviter]
        return encode_chain(*above, self._body.certificate, signed)

    def encode(self) -> str:
        """Text to hand over through a channel that keeps secrets."""
        return armour.wrap("INVITATION", self._body.encode())

    @classmethod
    def decode(cls, text: str) -> InvitationFile:
        """Raises MalformedError, IntegrityError or MembershipError; accepts `encode`'s text only."""
        body = _Body.decode(armour.unwrap("INVITATION", text, size_max=_Body.SIZE_MAX))
        return cls(body.config, body.inviter, body.certificate, body.seed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InvitationFile) and self._body == other._body

    def __hash__(self) -> int:
        return hash(self._body)

    def __repr__(self) -> str:
        facts = self.certificate
        return f"InvitationFile(network={self.config.name!r}, serial={facts.serial}, nodes={facts.nodes})"


def encode_network(config: bytes) -> str:
    """A signed configuration as text: all that is needed to join an open network. Not secret."""
    open_config(config)
    return armour.wrap("NETWORK", config)


def decode_network(text: str) -> bytes:
    """The signed configuration, verified. Raises MalformedError or IntegrityError."""
    config = armour.unwrap("NETWORK", text, size_max=SIGNED_CONFIG_MAX)
    open_config(config)
    return config

"""Certificates and contexts: TLS 1.3 in which both sides prove their Ed25519 node key.

Python's `ssl` cannot accept an unknown self-signed client certificate (cpython#75425). So every node
issues its own certificate in the name of one certification authority whose private key is published here.
**That authority adds no trust**: anybody can issue a certificate for any key. What TLS proves is that the
other side owns the private key of the certificate it shows; who that is, the caller decides by comparing
the key (`proven_key`). Both sides ask for a certificate; names are not checked, there are none.

There are no session tickets and no resumption, so each connection proves both keys anew. The network is
named in ALPN: peers of different networks part before the first byte.

TLS carries the handshake and one greeting each way (`opening`); what follows is sealed by `sealing`.

Certificates are a function of the key: fixed dates (so that clock skew does not matter), the serial number
a hash of the key, and Ed25519 signatures, which are deterministic.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import os
import ssl
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from potsherd.errors import PeerError, UsageError
from potsherd.ports import Identity

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["AUTHORITY_SEED", "Contexts", "alpn", "node_certificate", "proven_key"]

AUTHORITY_SEED = hashlib.blake2b(
    b"potsherd/1 published TLS authority: adds no trust", digest_size=32
).digest()
"""The authority's Ed25519 private key. Published on purpose."""

AUTHORITY_NAME = "potsherd published authority (adds no trust)"
VALID_FROM = datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC)
VALID_UNTIL = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)

CONTEXTS_MAX = 16
"""Identities whose contexts are kept; beyond it the least recently used is made anew when needed."""

CERTIFICATE_BYTES_MAX = 4096


def alpn(network_id: bytes) -> str:
    """The name under which peers of one network speak."""
    return f"potsherd/1:{network_id[:8].hex()}"


def node_certificate(seed: bytes) -> bytes:
    """The certificate of the node key with this seed, in DER; the same bytes every time."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding

    key = Ed25519PrivateKey.from_private_bytes(seed)
    name = key.public_key().public_bytes_raw().hex()
    return _certificate(name, key, is_authority=False).public_bytes(Encoding.DER)


def proven_key(connection: ssl.SSLObject, network_id: bytes) -> bytes:
    """The node key that the other side of a finished handshake owns. Raises PeerError.

    Also raises PeerError when it belongs to another network: OpenSSL lets a connection without a common
    protocol name pass.
    """
    if connection.selected_alpn_protocol() != alpn(network_id):
        raise PeerError("the peer belongs to another network")
    der = connection.getpeercert(binary_form=True)
    if der is None or len(der) > CERTIFICATE_BYTES_MAX:
        raise PeerError("the peer shows no certificate of a node")
    return _key_of(der)


class Contexts:
    """Makes and keeps the client and server contexts of a few identities.

    Making one takes some 40 ms, the first one twice that: on a thread, so that the loop goes on.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[bytes, bytes, ssl._SSLMethod], ssl.SSLContext] = OrderedDict()
        self._making = asyncio.Lock()

    async def client(self, identity: Identity) -> ssl.SSLContext:
        """For dialling."""
        return await self._context(identity, ssl.PROTOCOL_TLS_CLIENT)

    async def server(self, identity: Identity) -> ssl.SSLContext:
        """For listening."""
        return await self._context(identity, ssl.PROTOCOL_TLS_SERVER)

    async def _context(self, identity: Identity, protocol: ssl._SSLMethod) -> ssl.SSLContext:
        place = (identity.seed, identity.network_id, protocol)
        async with self._making:
            context = self._kept.get(place)
            if context is None:
                context = await asyncio.to_thread(_context, identity, protocol)
                self._kept[place] = context
            self._kept.move_to_end(place)
            while len(self._kept) > CONTEXTS_MAX:
                self._kept.popitem(last=False)
        return context


def _key_of(der: bytes) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except Exception as error:  # whatever a hostile certificate provokes
        raise PeerError("the peer's certificate cannot be read") from error
    if not isinstance(key, Ed25519PublicKey):
        raise PeerError("the peer's key is not an Ed25519 key")
    return key.public_bytes_raw()


def _context(identity: Identity, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    context.set_alpn_protocols([alpn(identity.network_id)])
    context.load_verify_locations(cadata=_authority_certificate())
    _load_own(context, identity)
    return context


def _load_own(context: ssl.SSLContext, identity: Identity) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = Ed25519PrivateKey.from_private_bytes(identity.seed)
    if key.public_key().public_bytes_raw() != identity.key:
        raise UsageError("the identity's key does not belong to its seed")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = ssl.DER_cert_to_PEM_cert(node_certificate(identity.seed)).encode()
    _load_from_memory(context, pem + certificate)


def _load_from_memory(context: ssl.SSLContext, pem: bytes) -> None:
    """`load_cert_chain` only reads files: give it one that never reaches a disk, where there is such."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory() as folder:  # 0700
        path = Path(folder) / "certificate"
        path.write_bytes(pem)
        context.load_cert_chain(path)


def _authority_certificate() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding

    key = Ed25519PrivateKey.from_private_bytes(AUTHORITY_SEED)
    certificate = _certificate(AUTHORITY_NAME, key, is_authority=True)
    return certificate.public_bytes(Encoding.DER)


def _certificate(name: str, key: Ed25519PrivateKey, *, is_authority: bool) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.x509.oid import NameOID

    authority = Ed25519PrivateKey.from_private_bytes(AUTHORITY_SEED)
    raw = key.public_key().public_bytes_raw()
    serial = int.from_bytes(hashlib.blake2b(raw, digest_size=16).digest(), "big") + 1
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, AUTHORITY_NAME)]))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(VALID_FROM)
        .not_valid_after(VALID_UNTIL)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(_usage(is_authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
            critical=False,
        )
        .sign(authority, None)
    )


def _usage(is_authority: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

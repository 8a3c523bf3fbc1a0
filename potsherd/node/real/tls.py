"""Certificates and contexts: TLS 1.3 in which both sides prove their Ed25519 node key.

Python's `ssl` cannot accept an unknown self-signed client certificate (cpython#75425). So every node
issues its own certificate in the name of one certification authority whose private key is published here.
**That authority adds no trust**: anybody can issue a certificate for any key. What TLS proves is that the
other side owns the private key of the certificate it shows; who that is, the caller decides by comparing
the key (`proven_key`). Both sides ask for a certificate; names are not checked, there are none.

There are no session tickets and no resumption, so each connection proves both keys anew. The network is
named in ALPN: peers of different networks part before the first byte.

TLS carries the handshake and one greeting each way (`opening`); what follows is sealed by `sealing`.

How certificates are made stands in `certificates`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
from collections import OrderedDict
from pathlib import Path

from potsherd.crypto.signing import SigningKey
from potsherd.errors import PeerError, UsageError
from potsherd.node.real.certificates import (
    authority_certificate,
    key_of,
    node_certificate,
    private_key_pem,
)
from potsherd.ports import Identity

__all__ = ["Contexts", "alpn", "proven_key"]

CONTEXTS_MAX = 16
"""Identities whose contexts are kept; beyond it the least recently used is made anew when needed."""

CERTIFICATE_BYTES_MAX = 4096


def alpn(network_id: bytes) -> str:
    """The name under which peers of one network speak."""
    return f"potsherd/1:{network_id[:8].hex()}"


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
    return key_of(der)


class Contexts:
    """Makes and keeps the client and server contexts of a few identities.

    Making one takes some milliseconds: on a thread, so that the loop goes on.
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


def _context(identity: Identity, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    context.set_alpn_protocols([alpn(identity.network_id)])
    context.load_verify_locations(cadata=authority_certificate())
    _load_own(context, identity)
    return context


def _load_own(context: ssl.SSLContext, identity: Identity) -> None:
    if SigningKey(identity.seed).verify_key != identity.key:
        raise UsageError("the identity's key does not belong to its seed")
    certificate = ssl.DER_cert_to_PEM_cert(node_certificate(identity.key)).encode()
    _load_from_memory(context, private_key_pem(identity.seed) + certificate)


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

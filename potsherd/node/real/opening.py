"""How a stream begins: the TLS handshake over a plain socket, and the greeting inside it (docs/spec/streams.md).

The handshake runs over memory buffers and takes TLS records one at a time, so that it is known to the byte
where TLS ends and sealed records begin.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import field

from potsherd.classes import dataclass
from potsherd.errors import PeerError
from potsherd.node.real import sealing

__all__ = ["TLS_PREFIX_BYTES", "Handshake", "shake_hands", "tls_record_size"]

TLS_PREFIX_BYTES = 5
TLS_RECORD_MAX = (16 << 10) + 256
"""What a TLS 1.3 record may hold (RFC 8446, section 5.2), without its prefix."""

TLS_TYPES = range(20, 25)
"""Of TLS records: from change cipher spec to heartbeat."""

GREETING_RECORDS_MAX = 4
"""TLS records that may come before the other side's greeting; none has to."""


def tls_record_size(prefix: memoryview) -> int:
    """Bytes of the TLS record that begins with these five. Raises PeerError when it cannot be one."""
    size = int.from_bytes(prefix[3:TLS_PREFIX_BYTES], "big")
    if prefix[0] not in TLS_TYPES or prefix[1] != 3 or size > TLS_RECORD_MAX:
        raise PeerError("the peer does not speak TLS")
    return TLS_PREFIX_BYTES + size


@dataclass
class Handshake:
    """A TLS connection whose handshake is done, and which still owes us the other side's greeting."""

    connection: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    _others: int = field(default=0, init=False)

    def greet(self) -> tuple[bytes, bytes]:
        """The key of what we send, and the TLS record that tells it to the other side."""
        said = sealing.greeting(self.connection.get_channel_binding("tls-unique") or b"")
        self.connection.write(said)
        return sealing.greeted_key(said), self.outgoing.read()

    def greeted(self, record: memoryview) -> bytes | None:
        """Take a TLS record; the key of what the other side sends, once it has said so. Raises PeerError."""
        self.incoming.write(record)
        try:
            said = self.connection.read(sealing.GREETING_BYTES + 1)
        except ssl.SSLWantReadError:
            self._others += 1
            if self._others > GREETING_RECORDS_MAX:
                raise PeerError("the peer does not say how it seals its stream") from None
            return None
        except ssl.SSLError as error:  # in TLS 1.3 a refusal is learnt here
            raise PeerError(f"the peer broke off: {error.reason}") from error
        return sealing.greeted_key(said)


async def shake_hands(sock: socket.socket, context: ssl.SSLContext, *, listens: bool) -> Handshake:
    """Do the handshake on a connected socket that does not block.

    Raises ssl.SSLError, OSError or PeerError; an alert that TLS wants to send has been sent then.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_side=listens)
    loop = asyncio.get_running_loop()
    done = False
    while not done:
        try:
            connection.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        finally:
            if outgoing.pending:
                await loop.sock_sendall(sock, outgoing.read())
        if not done:
            incoming.write(await _tls_record(sock))
    return Handshake(connection, incoming, outgoing)


async def _tls_record(sock: socket.socket) -> bytes:
    prefix = await _exactly(sock, TLS_PREFIX_BYTES)
    size = tls_record_size(memoryview(prefix))
    return prefix + await _exactly(sock, size - TLS_PREFIX_BYTES)


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    found = b""
    while len(found) < size:
        part = await loop.sock_recv(sock, size - len(found))
        if not part:
            raise ConnectionResetError("the connection ended in the handshake")
        found += part
    return found

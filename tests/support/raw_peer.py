"""The other side of a stream, written from docs/spec/streams.md alone, that also does what no node would do."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from potsherd.ports import Address

RECORD_MAX = 262_144
TAG = 16
RECORDS_A_KEY = 1_048_576


@dataclass
class Direction:
    """One direction of a stream: its key and the number of its next record."""

    key: bytes
    number: int = 0
    records_a_key: int = RECORDS_A_KEY

    def seal(self, plain: bytes) -> bytes:
        size = len(plain).to_bytes(4, "big")
        nonce = self._nonce()  # first: it may change the key
        return size + AESGCM(self.key).encrypt(nonce, plain, size)

    def open(self, record: bytes) -> bytes:
        """Raises cryptography's InvalidTag."""
        nonce = self._nonce()
        return AESGCM(self.key).decrypt(nonce, record[4:], record[:4])

    def _nonce(self) -> bytes:
        if self.number == self.records_a_key:
            person = b"potsherd-stream".ljust(16, b"\0")
            self.key = hashlib.blake2b(b"", key=self.key, digest_size=32, person=person).digest()
            self.number = 0
        self.number += 1
        return bytes(4) + (self.number - 1).to_bytes(8, "big")


@dataclass
class RawPeer:
    """A TLS connection, and what it takes to seal and open records by hand."""

    sock: socket.socket
    tls: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    ours: Direction = field(default_factory=lambda: Direction(os.urandom(32)))
    theirs: Direction | None = None

    @classmethod
    async def dial(cls, address: Address, context: ssl.SSLContext) -> RawPeer:
        """Raises OSError when the connection or TLS fails."""
        sock = socket.create_connection(address)
        return await cls.begin(sock, context, listens=False)

    @classmethod
    async def begin(cls, sock: socket.socket, context: ssl.SSLContext, *, listens: bool) -> RawPeer:
        """Do the handshake on a connected socket."""
        sock.setblocking(False)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        peer = cls(
            sock,
            context.wrap_bio(incoming, outgoing, server_side=listens),
            incoming,
            outgoing,
        )
        try:
            await peer._shake_hands()
        except BaseException:
            sock.close()
            raise
        return peer

    async def _shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.send(self.outgoing.read())
                await self.take_tls()
            else:
                await self.send(self.outgoing.read())
                return

    async def take_tls(self) -> None:
        """Give TLS its next record."""
        prefix = await self.receive(5)
        self.incoming.write(prefix + await self.receive(int.from_bytes(prefix[3:], "big")))

    def in_tls(self, data: bytes) -> bytes:
        """One TLS record that carries this."""
        self.tls.write(data)
        return self.outgoing.read()

    def greeting(self) -> bytes:
        """The TLS record that tells our key."""
        return self.in_tls(b"\x01" + self.ours.key)

    async def greeted(self) -> None:
        """Take the other side's greeting. Raises OSError when there is none."""
        said = b""
        while not said:
            await self.take_tls()
            try:
                said = self.tls.read(100)
            except ssl.SSLWantReadError:
                continue
        assert len(said) == 33
        assert said[0] == 1
        self.theirs = Direction(said[1:])

    async def read_record(self) -> bytes:
        """What the next record carries. Raises OSError when the connection ends."""
        if self.theirs is None:
            await self.greeted()
        assert self.theirs is not None
        size = await self.receive(4)
        return self.theirs.open(size + await self.receive(int.from_bytes(size, "big") + TAG))

    async def read(self, size: int) -> bytes:
        """Records until they carry this many bytes."""
        found = b""
        while len(found) < size:
            found += await self.read_record()
        return found

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self, size: int) -> bytes:
        """Raises ConnectionError at the end."""
        found = b""
        while len(found) < size:
            part = await asyncio.get_running_loop().sock_recv(self.sock, size - len(found))
            if not part:
                raise ConnectionError("ended")
            found += part
        return found

    async def ended(self) -> bool:
        """Read until the other side has ended the connection; whether it did so in an orderly way."""
        try:
            while await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20):
                pass
        except ConnectionError:
            return False
        return True

    def close(self) -> None:
        self.sock.close()

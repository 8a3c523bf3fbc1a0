"""Streams of sealed records on a TCP connection: two that face each other, or one against a raw peer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from raw_peer import RawPeer

from potsherd.errors import PeerError
from potsherd.node.real import tls
from potsherd.node.real.opening import shake_hands
from potsherd.node.real.streams import SealedStream
from potsherd.ports import Identity

NETWORK = b"n" * 32
LONG = 3_000_000
"""More than both kernels and both buffers of ours hold on a connection whose kernel buffers are small."""


def identity(number: int) -> Identity:
    seed = bytes([number]) * 32
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return Identity(seed, key, NETWORK)


@functools.cache
def context(protocol: ssl._SSLMethod) -> ssl.SSLContext:
    return tls._context(identity(1), protocol)


def connected() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection whose kernel buffers hold little."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
    return ours, theirs


def noted_failures() -> list[dict[str, Any]]:
    """What the loop is going to complain of; a stream gives it no reason to."""
    noted: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: noted.append(what))
    return noted


def left_over() -> tuple[int, int]:
    """Open descriptors, and those that the loop watches (where it lets one look)."""
    selector = getattr(asyncio.get_running_loop(), "_selector", None)
    watched = 0 if selector is None else len(selector.get_map())
    return len(os.listdir("/proc/self/fd")), watched


def settled() -> tuple[int, int]:
    """`left_over`, without what earlier tests have left as garbage."""
    gc.collect()
    return left_over()


def assert_no_more(before: tuple[int, int]) -> None:
    """Fewer is no leak: threads of earlier tests may close something meanwhile."""
    now = left_over()
    assert all(n <= b for n, b in zip(now, before, strict=True)), f"{now} after {before}"


async def sealed(sock: socket.socket, protocol: ssl._SSLMethod) -> SealedStream:
    listens = protocol == ssl.PROTOCOL_TLS_SERVER
    handshake = await shake_hands(sock, context(protocol), listens=listens)
    return SealedStream(sock, handshake, identity(1).key)


@contextlib.asynccontextmanager
async def facing(
    server: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[SealedStream, RawPeer]]:
    """A stream, and a raw peer (the server when it is given a context) that has greeted nobody yet."""
    failures = noted_failures()
    before = settled()
    ours, theirs = connected()
    other = server or context(ssl.PROTOCOL_TLS_CLIENT)
    stream, raw = await asyncio.gather(
        sealed(ours, ssl.PROTOCOL_TLS_CLIENT if server else ssl.PROTOCOL_TLS_SERVER),
        RawPeer.begin(theirs, other, listens=server is not None),
    )
    try:
        yield stream, raw
    finally:
        stream.abort()
        raw.close()
    await asyncio.sleep(0)
    assert_no_more(before)
    assert failures == []


@contextlib.asynccontextmanager
async def both() -> AsyncIterator[tuple[SealedStream, SealedStream]]:
    """Two streams that face each other."""
    failures = noted_failures()
    before = settled()
    ours, theirs = connected()
    pair = await asyncio.gather(
        sealed(ours, ssl.PROTOCOL_TLS_SERVER), sealed(theirs, ssl.PROTOCOL_TLS_CLIENT)
    )
    try:
        yield pair[0], pair[1]
    finally:
        for stream in pair:
            stream.abort()
    await asyncio.sleep(0)
    assert_no_more(before)
    assert failures == []


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes in which no piece can stand for another."""
    words = ((i * 0x9E3779B1 + seed) & 0xFFFFFFFF for i in range(size // 4 + 1))
    return b"".join(word.to_bytes(4, "big") for word in words)[:size]


async def refused(stream: SealedStream, size: int = 1, match: str | None = None) -> None:
    """A read fails, and so does every later one, and every write."""
    with pytest.raises(PeerError, match=match):
        await stream.read_exactly(size)
    with pytest.raises(PeerError, match=match):
        await stream.read_exactly(1)
    with pytest.raises(PeerError, match=match):
        await stream.write(b"x")

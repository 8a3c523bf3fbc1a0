"""Nodes that lie: the node's own code on ports that deceive.

A liar behaves in all that does not cost it: it joins, answers heartbeats, says what it keeps. What it
serves is worth nothing. Nothing here knows what the node does with its ports.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from enum import StrEnum
from typing import Any

from potsherd.ports import Address, Buffer, Env, Identity, Listener, Rng, Stream

__all__ = ["Deceit", "deceiving"]


class Deceit(StrEnum):
    """What is wrong with a liar."""

    GARBAGE = "garbage"
    """Of every read of a shard one bit is another; short shards are zeros."""
    MUTE = "mute"
    """It takes every connection and never answers on it."""


def deceiving(env: Env, deceit: Deceit) -> Env:
    """The same ports, one of which lies."""
    if deceit is Deceit.GARBAGE:
        return replace(env, disk=_GarbageDisk(env.disk, env.rng))
    return replace(env, net=_MuteNet(env.net))


class _GarbageDisk:
    """Everything else as the disk below; see Deceit.GARBAGE."""

    def __init__(self, disk: Any, rng: Rng) -> None:
        self._disk = disk
        self._rng = rng

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def read(self, path: str, offset: int, size: int) -> bytes:
        data = bytearray(self._disk.read(path, offset, size))
        if path.startswith("shards/") and data:
            data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
        return bytes(data)

    def open_index(self, name: str, *, pages_max: int | None = None) -> sqlite3.Connection:
        connection: sqlite3.Connection = self._disk.open_index(name, pages_max=pages_max)
        if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'shards'").fetchone():
            connection.execute("UPDATE shards SET data = zeroblob(length(data))")
            connection.execute(
                "CREATE TEMP TRIGGER lie AFTER INSERT ON shards BEGIN "
                "UPDATE shards SET data = zeroblob(length(data)) WHERE segment = NEW.segment; END"
            )
        return connection


class _MuteNet:
    """See Deceit.MUTE."""

    def __init__(self, net: Any) -> None:
        self._net = net

    def __getattr__(self, name: str) -> Any:
        return getattr(self._net, name)

    async def listen(
        self, at: Address, identity: Identity, accept: Callable[[Stream], Awaitable[None]]
    ) -> Listener:
        async def take(stream: Stream) -> None:
            await accept(_MuteStream(stream))

        listener: Listener = await self._net.listen(at, identity, take)
        return listener


class _MuteStream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def write(self, *buffers: Buffer) -> None:
        """Nothing is sent."""

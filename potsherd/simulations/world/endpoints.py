"""asyncio's own datagram endpoints in the virtual world, so that packages built on them run unmodified.

`asyncio_dgram.bind` and `kademlia` work; a program finds its machine by `CURRENT_LIFE`, so start it with
`World.spawn`. TCP endpoints of asyncio are not there: streams of the world come from `Env.net`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from potsherd.errors import UsageError
from potsherd.ports import Address
from potsherd.simulations.world.life import CURRENT_LIFE
from potsherd.simulations.world.net import ANY_HOSTS, Fabric, WorldDatagrams

__all__ = ["open_datagram_endpoint"]

SockAddress = tuple[str, int]


class _Endpoint(WorldDatagrams):
    """A socket that hands its datagrams to a protocol instead of queueing them."""

    protocol: asyncio.DatagramProtocol
    peer: SockAddress | None = None

    def put(self, payload: bytes, source: Address) -> bool:
        if self.peer is None or self.peer == tuple(source):
            self.protocol.datagram_received(payload, tuple(source))
        return True


class _Transport(asyncio.DatagramTransport):
    def __init__(self, endpoint: _Endpoint) -> None:
        names = {"sockname": tuple(endpoint.address), "peername": endpoint.peer}
        super().__init__(extra=names)
        self._endpoint = endpoint
        self._closing = False

    def sendto(self, data: Any, addr: Any = None) -> None:
        to = self._endpoint.peer if addr is None else addr
        if to is None:
            raise ValueError("no address to send to")
        if not self._closing:
            self._endpoint.send(data, Address(to[0], to[1]))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._endpoint.close()
            loop = self._endpoint.fabric.loop
            if not loop.is_closed():  # the package's destructor may come after the world's end
                loop.call_soon(self._endpoint.protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()


def open_datagram_endpoint(
    fabric: Fabric,
    protocol: asyncio.DatagramProtocol,
    local: SockAddress | None,
    remote: SockAddress | None,
) -> tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol]:
    """What `loop.create_datagram_endpoint` gives. Raises PeerError if the address is taken."""
    life = CURRENT_LIFE.get()
    if life is None:
        raise UsageError("only tasks of a machine have a network: use World.spawn")
    at = Address(ANY_HOSTS[0], 0) if local is None else Address(local[0], local[1])
    fabric.begin("bind", life, at.host)
    port = fabric.bind(life, at, fabric.sockets)  # type: ignore[arg-type] # reads keys only
    endpoint = _Endpoint(fabric, life, at.host, port)
    endpoint.protocol = protocol
    endpoint.peer = None if remote is None else (remote[0], remote[1])
    fabric.sockets[life.host, port] = endpoint
    transport = _Transport(endpoint)
    protocol.connection_made(transport)
    return transport, protocol

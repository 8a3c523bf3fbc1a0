"""Nodes in virtual time: donors on machines of their own, and clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from potsherd.node.node import Node
from potsherd.node.session import Session
from potsherd.node.settings import NodeSettings
from potsherd.node.testing import HandMade, SmallNetwork, push_all, push_one
from potsherd.ports import Address
from potsherd.simulations.world import World

__all__ = ["PORT", "SETTINGS", "Town", "in_town", "push_all", "push_one"]

PORT = 4800
SETTINGS = NodeSettings(quota_bytes=2**30)


class Town:
    """Donors `node0` … with one address each; donor 0 is the bootstrap."""

    def __init__(self, world: World, donors: int) -> None:
        self.world = world
        self.network = SmallNetwork(world.seed, Address(self.host(0), PORT))
        self.nodes: dict[int, Node] = {}
        self.settings: dict[str, Any] = {}
        self._clients = 0
        for i in range(donors):
            world.env(self.name(i), self.host(i))

    @staticmethod
    def name(number: int) -> str:
        return f"node{number}"

    @staticmethod
    def host(number: int) -> str:
        return f"10.0.{number}.1"

    def key(self, number: int) -> bytes:
        return self.network.key(number).verify_key

    def address(self, number: int) -> Address:
        return Address(self.host(number), PORT)

    async def start(self, number: int, *, port: int = PORT) -> Node:
        """Start the donor's node on its machine."""
        identity, chain = self.network.donor(number)
        settings = replace(SETTINGS, listen=Address(self.host(number), port), **self.settings)
        env = self.world.env(self.name(number))
        task = self.world.spawn(
            self.name(number), Node.start(env, identity, self.network.config, chain, settings)
        )
        node = self.nodes[number] = await task
        return node

    def kill(self, number: int) -> None:
        """End the process of a node."""
        del self.nodes[number]
        self.world.kill(self.name(number))

    async def restart(self, number: int) -> Node:
        """Start the node again on a machine that was killed or crashed."""
        self.world.restart(self.name(number))
        return await self.start(number)

    async def session(self) -> Session:
        """A new client on a machine of its own."""
        self._clients += 1
        env = self.world.env(f"client{self._clients}", f"10.9.{self._clients}.1")
        identity, chain = self.network.client(self._clients, env.utc())
        return await Session.open(env, self.network.config, chain, identity)

    def made(self, size: int, *, k: int = 2, n: int = 4, **more: Any) -> HandMade:
        """A segment of that many bytes."""
        stream = (b"potsherd" * (size // 8 + 1))[:size]
        return HandMade(self.network.network_id, stream, k, n, **more)


def in_town(
    donors: int,
    scenario: Callable[[Town], Awaitable[None]],
    *,
    seed: int = 3,
    loss: float = 0.0,
    settings: dict[str, Any] | None = None,
    days: float = 2,
    running: int | None = None,
    kind: type[Town] | None = None,
) -> str:
    """Run a scenario in a town of which all donors, or the first `running`, have joined.

    The digest of everything that happened.
    """
    with World(seed, loss=loss) as world:
        town = (kind or Town)(world, donors)
        town.settings = settings or {}

        async def main() -> None:
            for i in range(donors if running is None else running):
                await town.start(i)
            await scenario(town)
            for node in town.nodes.values():
                await node.stop()

        world.run(main(), time_max_s=days * 86_400)
        return str(world.log.digest())

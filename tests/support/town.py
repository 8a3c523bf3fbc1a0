"""A small virtual network: donors on machines of their own, and clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from potsherd.node.node import Node
from potsherd.node.session import Session
from potsherd.node.settings import NodeSettings
from potsherd.node.testing import SmallNetwork
from potsherd.ports import Address
from potsherd.simulations.world import World

PORT = 4800


class Town:
    """Donors on machines of their own, and client machines."""

    def __init__(self, world: World, donors: int, quota: int = 2**28) -> None:
        self.world, self.donors, self.quota = world, donors, quota
        self.network = SmallNetwork(world.seed, Address("10.0.0.1", PORT))
        self.keys: dict[bytes, int] = {}

    async def start(self) -> None:
        for number in range(self.donors):
            await self.start_node(number)

    async def start_node(self, number: int) -> Node:
        env = self.world.env(f"node{number}", f"10.0.{number}.1")
        identity, chain = self.network.donor(number)
        self.keys[identity.key] = number
        listen = Address(f"10.0.{number}.1", PORT)
        settings = NodeSettings(quota_bytes=self.quota, listen=listen, site=f"site{number}")
        started = Node.start(env, identity, self.network.config, chain, settings)
        return await self.world.spawn(f"node{number}", started)

    async def session(self, number: int = 1) -> Session:
        env = self.world.env(f"client{number}", f"10.0.200.{number}")
        identity, chain = self.network.client(number, env.utc())
        return await Session.open(env, self.network.config, chain, identity)

    def crash(self, key: bytes) -> None:
        self.world.crash(f"node{self.keys[key]}")


def in_town(
    scenario: Callable[[Town], Awaitable[None]],
    *,
    donors: int = 9,
    quota: int = 2**28,
    seed: int = 5,
) -> None:
    print("seed", seed)
    with World(seed) as world:
        town = Town(world, donors, quota)

        async def play() -> None:
            await town.start()
            await scenario(town)

        world.run(play())

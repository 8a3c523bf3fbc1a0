"""A network of whole nodes in a virtual world, with timers so short that a day holds what a year does."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from potsherd.classes import dataclass
from potsherd.dht import DhtConfig
from potsherd.errors import PotsherdError
from potsherd.node.habits import LossPolicy
from potsherd.node.liveness import FreezePolicy
from potsherd.node.node import Node
from potsherd.node.repair.settings import RepairSettings
from potsherd.node.session import Session
from potsherd.node.settings import NodeSettings
from potsherd.node.testing import SmallNetwork
from potsherd.ports import Address
from potsherd.simulations.world.deceit import Deceit, deceiving
from potsherd.simulations.world.world import World

__all__ = ["FAST", "PORT", "NodeTown"]

PORT = 4800
HOUR = 3600.0
BOOTSTRAP_NODES = 3

FAST = NodeSettings(
    quota_bytes=2**24,
    loss=LossPolicy(prior_s=2 * HOUR, learned_s=24 * HOUR, floor_s=HOUR, missed_s=HOUR / 2),
    freeze=FreezePolicy(freeze_max_s=6 * HOUR, memory_s=12 * HOUR),
    repair=RepairSettings(
        round_s=600.0, tick_s=30.0, standby_s=300.0, retry_s=1800.0, settle_s=300.0
    ),
    reconcile_round_s=HOUR,
    move_retry_s=60.0,
    # its own upkeep is most of the work of a long run, and seldom what is looked for
    dht=DhtConfig(tick_s=240.0, contact_ping_s=2 * HOUR, bucket_refresh_s=6 * HOUR),
)
"""A silent node is given up after one to two hours, and what it held is repaired within another."""


@dataclass(eq=False)
class _Resident:
    number: int
    node: Node | None = None
    deceit: Deceit | None = None


class NodeTown:
    """Nodes `node0` …, each on a machine of its own; `node0` is the configuration's bootstrap node."""

    def __init__(self, world: World, settings: NodeSettings = FAST, *, sites: int = 0) -> None:
        """`sites`: nodes declare one of so many sites, in turn; 0: none."""
        self.world = world
        self.settings = settings
        self.network = SmallNetwork(world.seed, Address(self.host(0), PORT))
        self._sites = sites
        self._residents: dict[str, _Resident] = {}
        self._clients = 0
        self._rng = world.rng("town")

    @staticmethod
    def host(number: int) -> str:
        """Address of a machine."""
        return f"10.0.{number}.1"

    def names(self) -> list[str]:
        """Machines that are part of the town, running or not."""
        return list(self._residents)

    def running(self) -> list[str]:
        """Those whose node runs, asleep or not."""
        return [name for name, resident in self._residents.items() if resident.node is not None]

    def node(self, name: str) -> Node:
        """The running node of a machine."""
        node = self._residents[name].node
        if node is None:
            raise KeyError(f"{name} is down")
        return node

    def lies(self, name: str) -> bool:
        """Whether the machine's ports deceive."""
        return self._residents[name].deceit is not None

    def name_of(self, key: bytes) -> str | None:
        """The machine whose node has a key."""
        for name, resident in self._residents.items():
            if self.network.key(resident.number).verify_key == key:
                return name
        return None

    def add(self, number: int, **env: Any) -> str:
        """Make a machine, with what `World.env` takes; its name. `start` starts its node."""
        name = f"node{number}"
        self.world.env(name, self.host(number), **env)
        self._residents[name] = _Resident(number)
        return name

    async def start(self, name: str) -> Node:
        """Start the node of a machine that runs none. Raises what `Node.start` does."""
        resident = self._residents[name]
        identity, chain = self.network.donor(resident.number)
        env = self.world.env(name)
        if resident.deceit is not None:
            env = deceiving(env, resident.deceit)
        settings = replace(
            self.settings,
            listen=Address(self.host(resident.number), PORT),
            site=f"site{resident.number % self._sites}" if self._sites else "",
            bootstrap=self._known([n for n in self.running() if n != name]),
        )
        starting = Node.start(env, identity, self.network.config, chain, settings)
        resident.node = await self.world.spawn(name, starting)
        return resident.node

    def stop(self, name: str, *, power_cut: bool = False) -> None:
        """Kill the node's process, or cut the machine's power."""
        self._residents[name].node = None
        if power_cut:
            self.world.crash(name)
        else:
            self.world.kill(name)

    async def restart(self, name: str) -> Node:
        """Start machine and node again; a node that refuses to start leaves the machine down."""
        self.world.restart(name)
        try:
            return await self.start(name)
        except PotsherdError:
            self.world.kill(name)
            raise

    def turn(self, name: str, deceit: Deceit) -> None:
        """From its next start on the node lies."""
        self._residents[name].deceit = deceit

    def remove(self, name: str) -> None:
        """The machine is gone for good, with its disk."""
        if self._residents[name].node is not None:
            self.stop(name)
        del self._residents[name]

    async def session(self, knows: Collection[str] = ()) -> Session:
        """A new client on a machine of its own; it `knows` some nodes, or a few that run."""
        self._clients += 1
        number = self._clients
        env = self.world.env(f"client{number}", f"10.200.{number // 250}.{number % 250}")
        identity, chain = self.network.client(number, env.utc())
        known = self._known(knows)
        return await Session.open(env, self.network.config, chain, identity, bootstrap=known)

    def _known(self, among: Collection[str]) -> tuple[tuple[bytes, Address], ...]:
        """Some nodes: what an invitation or a peer cache would name."""
        up = [self._residents[name] for name in among or self.running()]
        some = self._rng.sample(up, min(BOOTSTRAP_NODES, len(up)))
        return tuple(
            (self.network.key(r.number).verify_key, Address(self.host(r.number), PORT))
            for r in some
        )

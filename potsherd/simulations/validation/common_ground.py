"""The product's nodes in the virtual world beside the Monte Carlo engine, on ground that both can stand on.

A town of donors whose lives are exponential and short; timers scaled by configuration, so that a dead node is given
up after hours instead of weeks. Who dies is replaced by a new node without shards. Segments of a few KiB are placed
as a client places them, and left to their holders. In the Monte Carlo engine the same town is nodes, lives, and a
time from loss to repair. Every hour it is counted how many distinct indices of each segment are there.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from potsherd.classes import dataclass
from potsherd.dht import DhtConfig
from potsherd.node.habits import LossPolicy
from potsherd.node.liveness import FreezePolicy
from potsherd.node.node import Node
from potsherd.node.placement import place
from potsherd.node.repair.settings import RepairSettings
from potsherd.node.session import Session
from potsherd.node.settings import NodeSettings
from potsherd.node.testing import HandMade, SmallNetwork
from potsherd.ports import Address
from potsherd.simulations.montecarlo.distributions import Exponential
from potsherd.simulations.montecarlo.replicates import replicate
from potsherd.simulations.montecarlo.scenario import NodeClass, Repair, Scenario
from potsherd.simulations.quantities import SECONDS_PER_YEAR
from potsherd.simulations.validation.page import Table, number
from potsherd.simulations.world import World

__all__ = ["Ground", "Observed", "Within", "compare", "in_the_world", "sampled", "table", "tables"]

PORT = 4800
HOUR = 3600.0
STREAM_BYTES = 3072
LOOK_S = 600.0
"""In a town it is looked every so many seconds which shards there are; what is compared is counted every hour."""
NEVER = 10**6


@dataclass(frozen=True)
class Ground:
    """What both models are given."""

    nodes: int = 16
    segments: int = 12
    k: int = 3
    n: int = 7
    r: int = 5
    life_h: float = 20.0
    """Mean, exponential."""
    hours: float = 48.0
    patience_h: float = 2.0
    """Silence after which a node is given up."""
    heartbeat_s: float = 1800.0
    round_s: float = 600.0
    """In which holders look at each segment once."""

    @property
    def noticed_h(self) -> float:
        """From a death to its repair: half a heartbeat, the silence, half a round."""
        return self.patience_h + (self.heartbeat_s + self.round_s) / 2 / HOUR

    def settings(self) -> NodeSettings:
        """Of every node."""
        return NodeSettings(
            quota_bytes=2**26,
            heartbeat_s=self.heartbeat_s,
            away_after_s=1.5 * self.heartbeat_s,
            # no habits are learned, and no deaths are taken for a cut cable: the engine knows neither
            loss=LossPolicy(
                prior_s=self.patience_h * HOUR, learned_s=1e12, missed_s=self.patience_h * HOUR / 2
            ),
            freeze=FreezePolicy(together_min=NEVER, domain_min=NEVER),
            repair=RepairSettings(
                round_s=self.round_s,
                pool_life_s=1800.0,
                standby_s=300.0,
                retry_s=1800.0,
                settle_s=300.0,
            ),
            reconcile_round_s=HOUR,
            dht=DhtConfig(tick_s=240.0, contact_ping_s=2 * HOUR, bucket_refresh_s=6 * HOUR),
        )

    def scenario(self) -> Scenario:
        """Of the engine."""
        return Scenario(
            (NodeClass(self.nodes, Exponential(self.life_h * HOUR / SECONDS_PER_YEAR)),),
            k=self.k,
            n=self.n,
            r=self.r,
            segments=self.segments,
            segment_bytes=float(STREAM_BYTES),
            repair=Repair("timed", notice_years=self.noticed_h * HOUR / SECONDS_PER_YEAR),
            years=self.hours * HOUR / SECONDS_PER_YEAR,
            pool=self.nodes,
        )


@dataclass
class Observed:
    """One town, or one replicate."""

    live: float
    """Distinct indices of a segment, mean over the hours and the segments that are not lost."""
    lost: float
    """Share of the segments with fewer than k at the end."""
    made: float
    """Shards made anew, per segment."""
    waits: tuple[float, ...] = ()
    """Hours from the loss that was one too many to its repair, as seen when looking; towns only."""
    left: int = 0
    """Shards that were lost when a repair was seen, and not made anew by it; towns only."""


@dataclass
class _Town:
    """Donors that die and are replaced."""

    world: World
    ground: Ground
    network: SmallNetwork
    nodes: dict[int, Node] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    made: Counter[int] = field(default_factory=Counter)
    deaths: dict[int, float] = field(default_factory=dict)
    """When donors died, by the loop's clock."""

    async def add(self, number: int, *, quota: int | None = None) -> None:
        host = f"10.{number // 250}.{number % 250}.1"
        env = self.world.env(f"node{number}", host)
        identity, chain = self.network.donor(number)
        settings = replace(self.ground.settings(), listen=Address(host, PORT))
        if quota is not None:
            settings = replace(settings, quota_bytes=quota)
        starting = Node.start(env, identity, self.network.config, chain, settings)
        self.nodes[number] = await self.world.spawn(f"node{number}", starting)

    async def live_on(self, until: float) -> None:
        """One donor after another in one place, each as long as it happens to live."""
        rng = self.world.rng("lives")
        loop = asyncio.get_running_loop()
        deaths = [(loop.time() + rng.expovariate(1 / self.life_s), n) for n in self.nodes if n]
        while deaths:
            at, number = min(deaths)
            if at >= until:
                return
            await asyncio.sleep(max(0.0, at - loop.time()))
            self.count()
            self.nodes.pop(number)
            self.deaths[number] = loop.time()
            self.world.kill(f"node{number}")
            following = next(self.numbers)
            await self.add(following)
            deaths.remove((at, number))
            deaths.append((loop.time() + rng.expovariate(1 / self.life_s), following))

    @property
    def life_s(self) -> float:
        return self.ground.life_h * HOUR

    def count(self) -> None:
        """What repairs of the running nodes have made; they forget it when they die."""
        for donor, node in self.nodes.items():
            self.made[donor] = node.status().upkeep.repairer.repaired

    async def look(self, segments: Sequence[HandMade]) -> _Look:
        """What is on the disks of running nodes."""
        found: list[dict[int, list[int]]] = []
        for made in segments:
            holders: dict[int, list[int]] = {}
            for donor, node in list(self.nodes.items()):
                held = await node.store.held(made.segment_id)
                if held is not None:
                    holders.setdefault(held.index, []).append(donor)
            found.append(holders)
        return _Look(asyncio.get_running_loop().time(), found)


class _Look(NamedTuple):
    """What there is at one moment."""

    at: float
    holders: list[dict[int, list[int]]]
    """Donors by index, of each segment."""


def _repairs(ground: Ground, town: _Town, looks: Sequence[_Look]) -> tuple[tuple[float, ...], int]:
    """`waits` and `left` of Observed."""
    waits: list[float] = []
    left = 0
    for segment in range(ground.segments):
        lost: dict[int, float] = {}
        for before, now in itertools.pairwise(looks):
            had, has = before.holders[segment], now.holders[segment]
            for index in had.keys() - has.keys():
                lost[index] = max(town.deaths.get(donor, now.at) for donor in had[index])
            back = lost.keys() & (has.keys() - had.keys())
            if back:
                due = sorted(lost.values())[: ground.n - ground.r + 1]
                if len(due) > ground.n - ground.r:
                    waits.append((now.at - due[-1]) / HOUR)
                left += len(lost) - len(back)
            for index in back:
                del lost[index]
    return tuple(waits), left


def in_the_world(ground: Ground, seed: int) -> Observed:
    """Play it; the same for the same seed."""
    with World(seed) as world:
        network = SmallNetwork(seed, Address("10.0.0.1", PORT))
        town = _Town(world, ground, network)
        looks: list[_Look] = []

        async def main() -> None:
            # The bootstrap lives on, and has no room for a shard.
            await town.add(0, quota=2**20)
            for _ in range(ground.nodes):
                await town.add(next(town.numbers))
            segments = [await _put(town, number) for number in range(ground.segments)]
            start = asyncio.get_running_loop().time()
            looks.append(await town.look(segments))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(town.live_on(start + ground.hours * HOUR))
                for which in range(1, int(ground.hours * HOUR / LOOK_S) + 1):
                    now = asyncio.get_running_loop().time()
                    await asyncio.sleep(max(0.0, start + which * LOOK_S - now))
                    looks.append(await town.look(segments))
            town.count()
            for node in list(town.nodes.values()):
                await node.stop()

        world.run(main(), time_max_s=(ground.hours + 48) * HOUR)
    hourly = looks[:: int(HOUR / LOOK_S)][1:]
    seen = np.array([[len(holders) for holders in look.holders] for look in hourly])
    kept = seen >= ground.k
    waits, left = _repairs(ground, town, looks)
    return Observed(
        live=float(seen[kept].mean()),
        lost=float((seen[-1] < ground.k).mean()),
        made=sum(town.made.values()) / ground.segments,
        waits=waits,
        left=left,
    )


async def _put(town: _Town, number: int) -> HandMade:
    """Place and store all shards as a client does."""
    stream = number.to_bytes(4, "big") * (STREAM_BYTES // 4)
    g = town.ground
    made = HandMade(town.network.network_id, stream, g.k, g.n, r=g.r)
    env = town.world.env(f"client{number}", f"10.200.{number}.1")
    identity, chain = town.network.client(number, env.utc())
    async with await Session.open(env, town.network.config, chain, identity) as session:
        donors = await session.donors(made.descriptor.placement_key, 4 * g.n)
        roomy = [donor for donor in donors if donor.key != town.network.key(0).verify_key]
        holders = place(roomy, g.n, g.k, g.r, rng=env.rng).holders
        receipts = []
        for index, holder in enumerate(holders):
            peer = await session.peer(holder.key, holder.address)
            now = env.utc()
            stage = (await peer.push_open(made.ticket(now, index, holder.key))).stage
            await peer.push(stage, 0, made.shards[index])
            receipts.append(
                (
                    await peer.commit(stage, made.descriptor.encode(), made.lease(now)),
                    holder.address,
                )
            )
        for holder in holders:
            peer = await session.peer(holder.key, holder.address)
            await peer.merge_roster(made.segment_id, receipts)
    return made


def sampled(ground: Ground, replicates: int, seed: int = 1) -> list[Observed]:
    """The same town in the engine, again and again."""
    scenario = replace(ground.scenario(), seed=seed)
    found = []
    for which in range(replicates):
        outcome = replicate(scenario, which, "numpy")
        numbers = np.arange(outcome.live.shape[1])
        after = outcome.live[1:]
        found.append(
            Observed(
                live=float((after @ numbers).sum() / max(1, after.sum())),
                lost=outcome.lost / scenario.segments,
                made=float(outcome.made.sum()) / scenario.segments,
            )
        )
    return found


@dataclass(frozen=True)
class Within:
    """One number: mean over towns, and where the mean of as many replicates lies 95 times in 100."""

    name: str
    world: float
    low: float
    middle: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether the towns could be replicates."""
        return self.low <= self.world <= self.high


def compare(ground: Ground, towns: Sequence[Observed], replicates: int = 400) -> list[Within]:
    """Towns that have been played beside the engine."""
    engine = sampled(ground, replicates)
    rng = np.random.default_rng(1)
    chosen = rng.integers(len(engine), size=(4000, len(towns)))
    found = []
    for name in ("live", "lost", "made"):
        values: NDArray[np.float64] = np.array([getattr(o, name) for o in engine])
        low, middle, high = np.quantile(values[chosen].mean(axis=1), (0.025, 0.5, 0.975))
        world = float(np.mean([getattr(o, name) for o in towns]))
        found.append(Within(name, world, float(low), float(middle), float(high)))
    return found


def tables(towns: int) -> list[Table]:
    """Section of the page; plays the towns of the first seeds."""
    ground = Ground()
    return [table(ground, [in_the_world(ground, seed) for seed in range(1, towns + 1)])]


def table(ground: Ground, towns: Sequence[Observed]) -> Table:
    """Section of the page, from towns that have been played."""
    words = {
        "live": "live indices of a segment that is not lost",
        "lost": "share of the segments lost",
        "made": "shards made anew, per segment",
    }
    rows = [
        (
            words[w.name],
            number(w.world),
            number(w.middle),
            f"{number(w.low)} … {number(w.high)}",
            "yes" if w.inside else "no",
        )
        for w in compare(ground, towns)
    ]
    waits = [wait for town in towns for wait in town.waits]
    low, high = np.quantile(waits, (0.025, 0.975))
    left = sum(town.left for town in towns)
    says = (
        f"{len(towns)} town{'s' if len(towns) > 1 else ''} of {ground.nodes} donors that run the product's node code in virtual "
        f"time, for {ground.hours:g} h; lives exponential with a mean of {ground.life_h:g} h, who dies is replaced; {ground.segments} segments of "
        f"code {ground.k}-of-{ground.n}, r = {ground.r}, repaired by their holders {ground.noticed_h:.1f} h after a death.\n"
        f"Seen every {LOOK_S / 60:g} minutes, the {len(waits)} repairs of the towns were there {np.mean(waits):.2f} h after the loss that was one too many "
        f"(95 of 100 within {low:.2f} … {high:.2f} h).\n"
        f"{left} shards in all had been lost by then and were not made anew, most of them for so short a time that nobody knew; the engine leaves such, too.\n"
        "The interval is where the mean of as many replicates of the engine lies 95 times in 100."
    )
    columns = ("", "world", "engine", "95 %", "inside")
    return Table("The virtual world beside the engine", "both of ours.", says, columns, rows)

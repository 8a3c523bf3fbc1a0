"""Towns whose nodes give up and repair within hours instead of weeks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from node_town import Town, in_town, push_all

from potsherd.dht import DhtConfig
from potsherd.node.habits import LossPolicy
from potsherd.node.liveness import FreezePolicy
from potsherd.node.repair.claims import ClaimPolicy
from potsherd.node.repair.settings import RepairSettings
from potsherd.node.testing import HandMade

HOUR = 3600.0
LOSS = LossPolicy(prior_s=2 * HOUR, learned_s=86_400, floor_s=HOUR, missed_s=HOUR / 2)
FREEZE = FreezePolicy(freeze_max_s=6 * HOUR, memory_s=12 * HOUR)
REPAIR = RepairSettings(
    round_s=600.0,
    tick_s=30.0,
    standby_s=300.0,
    retry_s=1800.0,
    settle_s=300.0,
    claims=ClaimPolicy(),
)
SETTINGS: dict[str, Any] = {
    "loss": LOSS,
    "freeze": FREEZE,
    "repair": REPAIR,
    "reconcile_round_s": HOUR,
    # the DHT's own upkeep is most of the work of a long run, and not what is tested here
    "dht": DhtConfig(tick_s=240.0, contact_ping_s=2 * HOUR, bucket_refresh_s=6 * HOUR),
}


class RepairTown(Town):
    """A town that can be looked into."""

    async def placed(
        self, size: int, *, k: int = 3, n: int = 7, r: int = 5, **more: Any
    ) -> tuple[HandMade, dict[int, int]]:
        """A segment on n holders; node numbers by index."""
        made = self.made(size, k=k, n=n, r=r, **more)
        async with await self.session() as session:
            holders = await push_all(session, made)
        numbers = {self.key(i): i for i in range(1000) if i in self.nodes}
        return made, {index: numbers[key] for index, key in holders.items()}

    async def holdings(self, made: HandMade) -> dict[int, list[int]]:
        """From the disks of running nodes: node numbers by index they hold."""
        found: dict[int, list[int]] = {}
        for number, node in self.nodes.items():
            held = await node.store.held(made.segment_id)
            if held is not None:
                found.setdefault(held.index, []).append(number)
        return found

    async def check(self, made: HandMade) -> None:
        """Every byte on every running holder is right, and no node holds two indices."""
        holdings = await self.holdings(made)
        counts = Counter(number for numbers in holdings.values() for number in numbers)
        assert all(count == 1 for count in counts.values())
        for index, numbers in holdings.items():
            for number in numbers:
                rows = made.descriptor.rows
                data = b""
                for first in range(0, rows, 64):
                    run = (first, min(64, rows - first))
                    part, _ = await self.nodes[number].store.read(made.segment_id, index, [run])
                    data += part
                assert data == made.shards[index]

    def repair_bytes(self) -> int:
        """What repairs of the running nodes have moved."""
        found = [node.status().upkeep.repairer for node in self.nodes.values()]
        return sum(s.bytes_in + s.bytes_out for s in found)

    def journal(self) -> str:
        """What all nodes have noted, for a failing test."""
        lines = [
            f"{line.date - 1_767_225_600:8} node{number} {line.text}"
            for number, node in self.nodes.items()
            for line in node.why()
        ]
        return "\n".join(sorted(lines))


def in_repair_town(
    donors: int,
    scenario: Callable[[RepairTown], Awaitable[None]],
    *,
    days: float = 5,
    seed: int = 3,
    settings: dict[str, Any] | None = None,
    **more: Any,
) -> str:
    """See node_town.in_town."""
    return in_town(
        donors,
        scenario,  # type: ignore[arg-type] # it makes a RepairTown
        days=days,
        seed=seed,
        settings={**SETTINGS, **(settings or {})},
        **{"kind": RepairTown, **more},
    )

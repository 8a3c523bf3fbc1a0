"""Repairers that stall or feed garbage are noted and passed over; what was coded wrongly is not repaired for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from repair_town import HOUR, REPAIR, RepairTown, in_repair_town

from potsherd.crypto.signing import SigningKey
from potsherd.erasure.layout import CELL_SIZE
from potsherd.erasure.merkle import MerkleTree, cell_leaves
from potsherd.errors import IntegrityError
from potsherd.node.node import Node
from potsherd.node.records import HolderTicket
from potsherd.node.repair.claims import ClaimPolicy
from potsherd.node.repair.plan import Standing
from potsherd.node.testing import HandMade

pytestmark = pytest.mark.slow


def spoil(made: HandMade, places: dict[int, int]) -> None:
    """As if its owner had coded it so: in each of these indices the cell of one row is not of the code word."""
    shards = [bytearray(shard) for shard in made.shards]
    for index, row in places.items():
        shards[index][row * CELL_SIZE + 7] ^= 1
    roots = tuple(MerkleTree(cell_leaves(shard, CELL_SIZE)).root for shard in shards)
    made.shards = tuple(bytes(shard) for shard in shards)
    made.descriptor = replace(made.descriptor, roots=roots)


class SpoiledTown(RepairTown):
    """The segment that is placed is coded wrongly."""

    places: dict[int, int]

    def made(self, size: int, *, k: int = 2, n: int = 4, **more: Any) -> HandMade:
        made = super().made(size, k=k, n=n, **more)
        spoil(made, self.places)
        return made


def test_a_segment_that_was_coded_wrongly_is_proven_so_to_all_and_left_alone() -> None:
    async def scenario(town: RepairTown) -> None:
        town.__class__ = SpoiledTown
        town.places = {4: 2, 5: 2}  # type: ignore[attr-defined]
        made, holders = await town.placed(5 * 3 * CELL_SIZE)
        await asyncio.sleep(HOUR)
        for index in (0, 4, 6):
            town.kill(holders[index])
        await asyncio.sleep(3.5 * HOUR)
        print(town.journal())
        left = [holders[index] for index in (1, 2, 3, 5)]
        for number in left:
            upkeep = town.nodes[number].status().upkeep
            assert upkeep.repairer.inconsistent == (made.segment_id,)
            assert upkeep.doubted == 0, "nobody is to blame"
            assert await town.nodes[number].store.audits.bad_proof(made.segment_id)
        passes = sum(town.nodes[i].status().upkeep.repairer.passes for i in left)
        assert passes <= 2, "one repairer's work serves all"
        assert sorted(await town.holdings(made)) == [1, 2, 3, 5]
        town.kill(left[0])
        again = await town.restart(left[0])
        assert again.status().upkeep.repairer.inconsistent == (made.segment_id,)

    in_repair_town(12, scenario)


@pytest.mark.nightly
def test_where_only_lost_shards_are_wrong_each_repairer_stops_by_itself() -> None:
    async def scenario(town: RepairTown) -> None:
        town.__class__ = SpoiledTown
        town.places = {4: 2}  # type: ignore[attr-defined]
        made, holders = await town.placed(5 * 3 * CELL_SIZE)
        await asyncio.sleep(HOUR)
        for index in (0, 4, 6):
            town.kill(holders[index])
        await asyncio.sleep(3.8 * HOUR)
        left = [holders[index] for index in (1, 2, 3, 5)]
        bad = [town.nodes[i].status().upkeep.repairer.inconsistent for i in left]
        passes = [town.nodes[i].status().upkeep.repairer.passes for i in left]
        print(town.journal(), passes)
        assert (made.segment_id,) in bad
        assert max(passes) == 1, "nobody tries twice"

    in_repair_town(12, scenario)


async def feed(feeder: Node, target: Node, made: HandMade, index: int) -> None:
    """Bring a shard that is none, with all the statements that a repairer has."""
    signed = await feeder.store.roster(made.segment_id)
    own = next(data for data in signed if feeder.identity.key in data)
    expires = int(feeder.env.utc()) + 600
    key = SigningKey(feeder.identity.seed)
    ticket = HolderTicket(made.segment_id, index, key.verify_key, target.identity.key, expires)
    peer = await feeder.session.peer(target.identity.key, target.address)
    descriptor = made.descriptor.encode()
    staged = await peer.holder_open(ticket.signed(key.sign, made.network_id), descriptor, own)
    await peer.push(staged.stage, 0, bytes(len(made.shards[index])))
    with pytest.raises(IntegrityError):
        await peer.commit(staged.stage, descriptor, b"")


def test_a_repairer_that_feeds_garbage_is_refused_and_noted() -> None:
    async def scenario(town: RepairTown) -> None:
        made, holders = await town.placed(5 * 3 * CELL_SIZE)
        await asyncio.sleep(HOUR)
        free = next(i for i in sorted(town.nodes) if i not in holders.values())
        target, feeder = town.nodes[free], town.nodes[holders[2]]
        before = target.store.usage().used
        await feed(feeder, target, made, 0)
        assert await target.store.held(made.segment_id) is None
        assert target.store.usage().staged == 0
        assert target.store.usage().used - before < 65536, "nothing of it stays"
        (line,) = target.why(made.segment_id)
        assert line.text.startswith(f"{feeder.identity.key.hex()[:16]} brought index 0")
        assert "refused" in line.text

    in_repair_town(9, scenario)


def stall_first(nodes: Sequence[Node]) -> list[Node]:
    """Whoever begins a repair first says again and again that it is at it, and does nothing; the list names it.

    Who that is follows from who notices the loss first and from rank: a stand-by may be early.
    """
    stalled: list[Node] = []

    def spoil_one(node: Node) -> None:
        repairer = node.caretaker.repairer
        honest = repairer._work

        async def work(seen: Any, view: Any, missing: Sequence[int]) -> Any:
            if stalled and stalled[0] is not node:
                return await honest(seen, view, missing)
            stalled[:] = [node]
            told = node.caretaker.claiming.progress(seen)
            while True:
                await asyncio.sleep(60)
                await told(missing, 0)

        repairer._work = work  # type: ignore[method-assign]

    for node in nodes:
        spoil_one(node)
    return stalled


@pytest.mark.parametrize(
    "seed", [1, 3, *(pytest.param(s, marks=pytest.mark.nightly) for s in (2, 4, 5, 6, 7, 8))]
)
def test_a_repairer_that_only_says_that_it_repairs_is_passed_over(seed: int) -> None:
    print("seed", seed)

    async def scenario(town: RepairTown) -> None:
        made, holders = await town.placed(5 * 3 * CELL_SIZE)
        await asyncio.sleep(HOUR)
        lost = (0, 3, 6)
        for index in lost:
            town.kill(holders[index])
        left = {town.key(i): i for index, i in holders.items() if index not in lost}
        stalled = stall_first([town.nodes[number] for number in left.values()])
        await asyncio.sleep(3.8 * HOUR)
        print(town.journal())
        assert sorted(await town.holdings(made)) == list(range(7))
        await town.check(made)
        first = left[stalled[0].identity.key]
        others = [number for number in left.values() if number != first]
        name = town.key(first).hex()[:16]
        noted = [
            number
            for number in others
            if any(f"{name} let its claim" in line.text for line in town.nodes[number].why())
        ]
        assert noted, "who was waited for in vain is on record"
        repaired = {i: town.nodes[i].status().upkeep.repairer.repaired for i in left.values()}
        assert repaired[first] == 0
        assert sum(repaired.values()) == 3
        held = await town.nodes[others[0]].store.held(made.segment_id)
        assert held is not None
        seen = await town.nodes[others[0]].caretaker.view.look(held)
        assert seen.standings[town.key(first)] is Standing.LIVE, "its shard is right, and counts"

    claims = ClaimPolicy(lapse_s=1200.0, total_s=1200.0)
    in_repair_town(12, scenario, seed=seed, settings={"repair": replace(REPAIR, claims=claims)})

"""Auditors find what is wrong, liars find nothing to say, and one's own rot is mended (docs/design/audit.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from repair_town import HOUR, RepairTown, in_repair_town

from potsherd.errors import IntegrityError, NotFoundError, PotsherdError, RefusedError
from potsherd.node.audit.accusations import open_evidence
from potsherd.node.audit.records import Accusation
from potsherd.node.audit.settings import AuditSettings
from potsherd.node.node import Node
from potsherd.node.repair.doubts import Reason
from potsherd.node.repair.plan import Standing
from potsherd.node.testing import HandMade

pytestmark = pytest.mark.slow

DAY = 86_400.0
AUDIT = AuditSettings(period_s=2 * HOUR, round_s=600.0, tick_s=30.0, scrub_round_s=30 * DAY)
CELL = 32768


def audited(**more: Any) -> dict[str, Any]:
    """A shard is audited every two hours instead of once a week."""
    return {"audit": replace(AUDIT, **more)}


def lie(node: Node) -> None:
    """From now on this node gives other bytes than it should, with a proof that was right for the right ones."""
    honest = node.store.read

    async def read(
        segment_id: bytes, index: int, runs: Sequence[tuple[int, int]]
    ) -> tuple[bytes, list[bytes]]:
        data, proofs = await honest(segment_id, index, runs)
        return bytes(len(data)), proofs

    node.store.read = read  # type: ignore[method-assign]


async def accuse(node: Node, made: HandMade, accused: bytes, told: Sequence[bytes]) -> None:
    """This node says of another one, without any reason, that its shard is wrong."""
    for key in told:
        try:
            peer = await node.session.peer(key, node.peers.address_of(key))
            await peer.accuse(Accusation(made.segment_id, accused, 0, b""))
        except PotsherdError:
            continue


def doubted(town: RepairTown, number: int, made: HandMade) -> set[int]:
    """Node numbers of holders that this node has found wrong."""
    doubts = town.nodes[number].caretaker.doubts.of(Reason.WRONG)
    numbers = {town.key(i): i for i in town.nodes}
    return {numbers[d.node] for d in doubts if d.segment_id == made.segment_id}


def test_every_shard_is_audited_once_in_a_period_and_the_last_proof_is_known() -> None:
    async def scenario(town: RepairTown) -> None:
        made, holders = await town.placed(40 * 3 * CELL)
        await asyncio.sleep(7 * HOUR)
        proven: dict[int, int] = {}
        passed = 0
        for number in holders.values():
            audits = town.nodes[number].status().upkeep.auditing.audits
            assert not audits.failed
            passed += audits.passed
            for proof in await town.nodes[number].store.audits.proofs(made.segment_id):
                proven[proof.idx] = max(proof.date, proven.get(proof.idx, 0))
        now = town.nodes[holders[0]].env.utc()
        assert sorted(proven) == list(range(7)), "every index has a proof"
        assert max(now - date for date in proven.values()) < 4 * HOUR
        assert 3 * 7 <= passed <= 5 * 7, "one auditor for each shard and period"
        async with await town.session() as session:
            peer = await session.peer(town.key(holders[0]))
            told = await peer.proven(made.segment_id)
            assert told, "a holder says what it has seen proven"

    in_repair_town(8, scenario, settings=audited())


def test_a_third_of_the_holders_lies_in_audits() -> None:
    """They give wrong bytes, accuse honest holders, and are found out; nobody honest is doubted."""

    async def scenario(town: RepairTown) -> None:
        made, holders = await town.placed(6 * 3 * CELL, k=3, n=9, r=7)
        await asyncio.sleep(HOUR)
        liars = {holders[index] for index in (1, 4, 7)}
        honest = set(holders.values()) - liars
        for number in liars:
            lie(town.nodes[number])
        for pause in (60.0, 60.0, 2 * HOUR, 2 * HOUR):
            for number in sorted(liars):
                for victim in sorted(honest):
                    told = [town.key(i) for i in sorted(honest - {victim})]
                    await accuse(town.nodes[number], made, town.key(victim), told)
            await asyncio.sleep(pause)
        print(town.journal())
        for number in honest:
            assert doubted(town, number, made) <= liars, "nobody honest is doubted"
            text = "\n".join(line.text for line in town.nodes[number].why(made.segment_id))
            for liar in liars:
                assert f"at {town.key(liar).hex()[:16]} is wrong" in text, "every liar is known"
            assert text.count(" is wrong: cells that do not lead to the Merkle root") >= len(liars)
        holdings = await town.holdings(made)
        right = {i for i, numbers in holdings.items() if set(numbers) - liars}
        assert right == set(range(9)), "what liars hold lies elsewhere as well"
        heard = [town.nodes[i].status().upkeep.auditing.accusations for i in sorted(honest)]
        assert min(s.refuted for s in heard) >= 5, "each accusation was looked into once"
        assert sum(s.ignored for s in heard), (
            "and then those who had made them were not heard any more"
        )

    in_repair_town(13, scenario, settings=audited())


def test_a_wrong_answer_is_evidence_that_others_can_judge() -> None:
    async def scenario(town: RepairTown) -> None:
        made, holders = await town.placed(2 * 3 * CELL, r=3)
        await asyncio.sleep(HOUR)
        lie(town.nodes[holders[2]])
        await asyncio.sleep(3 * HOUR)
        liar, evidence = town.key(holders[2]), b""
        for number in holders.values():
            found = await town.nodes[number].store.care.evidence(made.segment_id, liar)
            evidence = evidence or found
        assert evidence
        judge = town.nodes[holders[0]]
        held = await judge.store.held(made.segment_id)
        assert held is not None
        node, index, row = open_evidence(held, evidence, made.network_id)
        assert (node, index) == (liar, 2)
        flipped = bytearray(evidence)
        flipped[len(flipped) // 2] ^= 1
        accusation = Accusation(made.segment_id, liar, row, bytes(flipped))
        peer = await town.nodes[holders[1]].session.peer(judge.identity.key)
        try:
            await peer.accuse(accusation)
        except (IntegrityError, RefusedError):
            return
        raise AssertionError("bytes that the liar has not signed are no evidence")

    in_repair_town(8, scenario, settings=audited())


def test_silence_means_away_and_a_right_answer_is_no_evidence() -> None:
    async def scenario(town: RepairTown) -> None:
        made, holders = await town.placed(2 * 3 * CELL, r=3)
        await asyncio.sleep(HOUR)
        town.world.partition([[town.name(holders[3])]])
        await asyncio.sleep(2.5 * HOUR)
        for index, number in holders.items():
            if index != 3:
                assert doubted(town, number, made) == set()

    in_repair_town(8, scenario, settings=audited())


def deny(node: Node) -> None:
    """From now on this node says that it has nothing, and goes on signing that it has."""

    async def read(
        segment_id: bytes, index: int, runs: Sequence[tuple[int, int]]
    ) -> tuple[bytes, list[bytes]]:
        raise NotFoundError("nothing here")

    node.store.read = read  # type: ignore[method-assign]


async def audit(town: RepairTown, number: int, made: HandMade, index: int) -> bool:
    """Have a node audit a shard as its roster names it now; whether it was proven."""
    node = town.nodes[number]
    held = await node.store.held(made.segment_id)
    assert held is not None
    seen = await node.caretaker.view.look(held)
    [entry] = [e for e in seen.holding(Standing.LIVE) if e.index == index]
    return await node.caretaker.auditing.auditor.audit(seen, entry)


def test_an_auditor_whose_roster_is_old_accuses_nobody() -> None:
    """The holder has let go, and nobody has heard of it yet; one that only denies is found out."""

    async def scenario(town: RepairTown) -> None:
        made, holders = await town.placed(6 * 3 * CELL, r=3)
        await asyncio.sleep(HOUR)
        left, liar, judge = (holders[index] for index in (0, 1, 2))
        await town.nodes[left].store.drop(made.segment_id, "surplus", "for this test")
        deny(town.nodes[liar])
        assert not await audit(town, judge, made, 0)
        assert doubted(town, judge, made) == set()
        statistics = town.nodes[judge].status().upkeep.auditing
        assert (statistics.audits.failed, statistics.audits.silent) == (0, 0)
        assert not await audit(town, judge, made, 1)
        assert doubted(town, judge, made) == {liar}
        held = await town.nodes[judge].store.held(made.segment_id)
        assert held is not None
        seen = await town.nodes[judge].caretaker.view.look(held)
        assert town.key(left) not in {e.node for e in seen.entries if e.held}
        await asyncio.sleep(2 * HOUR)
        print(town.journal())
        for number in set(holders.values()) - {left}:
            assert doubted(town, number, made) <= {liar}
            assert not town.nodes[number].status().upkeep.auditing.accusations.refuted

    in_repair_town(8, scenario, settings=audited())


def rot(town: RepairTown, number: int, offsets: Sequence[int]) -> None:
    """Flip a bit at each of these places of the node's only shard file."""
    disk = town.world.disk(town.name(number))
    ((path, _, _),) = list(town.world.env(town.name(number)).disk.walk("shards"))
    for offset in offsets:
        disk.rot(path, offset, 1)


def test_damage_that_cannot_be_mended_yet_is_said_and_not_served() -> None:
    async def scenario(town: RepairTown) -> None:
        made, holders = await town.placed(5 * 3 * CELL, r=3)
        await asyncio.sleep(HOUR)
        others = [holders[index] for index in range(2, 7)]
        for number in others:
            town.kill(number)
        rot(town, holders[0], [2 * CELL + 1])
        await asyncio.sleep(HOUR)
        for _ in range(2):
            node = town.nodes[holders[0]]
            assert node.status().upkeep.auditing.scrub.damaged == 1
            assert [t.kind for t in node.troubles.all() if t.now] == ["rot"]
            async with await town.session() as session:
                peer = await session.peer(node.identity.key, node.address)
                await peer.read(made.segment_id, 0, [(1, 1)])
                await asyncio.sleep(120)
                with pytest.raises(IntegrityError, match="damaged here"):
                    await peer.read(made.segment_id, 0, [(1, 2)])
            town.kill(holders[0])
            await town.restart(holders[0])
        for number in others:
            await town.restart(number)
        await asyncio.sleep(2 * HOUR)
        print(town.journal())
        await town.check(made)
        assert not town.nodes[holders[0]].status().upkeep.auditing.scrub.damaged

    in_repair_town(8, scenario, settings=audited(scrub_round_s=1800.0))


def test_a_scrub_goes_on_after_a_restart_where_it_was() -> None:
    """Four shards of 50 rows at 2,000 bytes a second: a round takes 55 minutes."""

    async def scenario(town: RepairTown) -> None:
        for rows in (50, 51, 52, 53):
            await town.placed(rows * 3 * CELL, n=4, r=3)
        await asyncio.sleep(2000)
        before = town.nodes[2].status().upkeep.auditing.scrub
        assert before.began
        assert before.bytes > 60 * CELL, "more than one shard is done"
        town.kill(2)
        node = await town.restart(2)
        after = node.status().upkeep.auditing.scrub
        assert after.began == before.began
        assert after.bytes > 49 * CELL, "what was done is not done again"
        await asyncio.sleep(HOUR)
        done = node.status().upkeep.auditing.scrub
        assert done.finished
        assert done.bytes == (50 + 51 + 52 + 53) * CELL
        assert done.finished - before.began < 5000

    in_repair_town(4, scenario, settings=audited(scrub_bytes_per_s=2000.0))


def test_a_file_that_has_vanished_is_given_up_at_once_and_rebuilt_elsewhere() -> None:
    async def scenario(town: RepairTown) -> None:
        made, holders = await town.placed(5 * 3 * CELL, r=7)
        await asyncio.sleep(HOUR)
        disk = town.world.env(town.name(holders[0])).disk
        ((path, _, _),) = list(disk.walk("shards"))
        disk.remove(path)
        await asyncio.sleep(1.5 * HOUR)
        print(town.journal())
        assert sorted(await town.holdings(made)) == list(range(7))
        await town.check(made)
        dropped = await town.nodes[holders[0]].store.dropped()
        assert [(d.index, d.reason) for d in dropped] == [(0, "lost")]

    in_repair_town(9, scenario, settings=audited(scrub_round_s=1800.0))


def test_own_rot_is_found_said_and_mended_from_k_others() -> None:
    """Cells, leaf hashes, and both at once, on three holders."""

    async def scenario(town: RepairTown) -> None:
        rows = 50
        made, holders = await town.placed(rows * 3 * CELL)
        await asyncio.sleep(HOUR)
        rot(town, holders[0], [5, 7 * CELL + 9, 49 * CELL])
        rot(town, holders[1], [rows * CELL + 40])
        rot(town, holders[2], [rows * CELL + 40, 3 * CELL])
        await asyncio.sleep(HOUR)
        print(town.journal())
        await town.check(made)
        for index in (0, 2):
            node = town.nodes[holders[index]]
            scrub = node.status().upkeep.auditing.scrub
            assert (scrub.mended, scrub.damaged) == (1, 0)
            assert scrub.found == (3 if index == 0 else rows)
            assert any("damaged" in trouble.text for trouble in node.troubles.all())
        assert not town.nodes[holders[1]].status().upkeep.auditing.scrub.found
        assert any("written anew" in line.text for line in town.nodes[holders[1]].why())
        assert sorted(await town.holdings(made)) == list(range(7))
        for number in holders.values():
            assert doubted(town, number, made) == set()

    in_repair_town(8, scenario, settings=audited(scrub_round_s=1800.0))

"""`repair NAME` and `why SHARD` on a virtual network: asked for, done, explained, or told why not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from repair_town import HOUR, RepairTown, in_repair_town

from potsherd.cli.repairing import _why_text
from potsherd.datasets import operations
from potsherd.datasets.context import Context
from potsherd.datasets.home import Home
from potsherd.datasets.library import Library
from potsherd.datasets.operations import PutOptions
from potsherd.errors import NotFoundError, UsageError
from potsherd.node.audit.asking import STUCK, WHOLE
from potsherd.service.explaining import explain

pytestmark = pytest.mark.slow


async def put_one(folder: Path, town: RepairTown) -> Context:
    """A dataset of one segment, 2-of-6 with r = 4, on six of the nodes."""
    home = Home(folder / "home")
    home.networks.add(town.network.invitation.encode())
    session = await town.session()
    home.make_master(session.env.rng)
    context = Context(session.env, home, home.networks.choose(None), session)
    (folder / "source").mkdir()
    (folder / "source" / "a.bin").write_bytes(bytes(range(256)) * 800)
    options = PutOptions(name="one", k=2, n=6)
    await operations.put(context, [folder / "source"], options)
    return context


def test_what_is_missing_is_rebuilt_when_somebody_asks_and_explained(tmp_path: Path) -> None:
    async def scenario(town: RepairTown) -> None:
        context = await put_one(tmp_path, town)
        with Library(context.home.library_path) as library:
            capability = library.dataset("one").newest.capability
            segment_id = library.segments(0, 0)[-1].segment_id
        holders = [i for i, n in town.nodes.items() if await n.store.held(segment_id)]
        await asyncio.sleep(HOUR)
        for number in holders[:2]:
            town.kill(number)
        await asyncio.sleep(4 * HOUR)
        before = await operations.stat(context, capability)
        assert before.health.weakest.live == 4, "r = 4: by itself nobody repairs yet"
        assert before.health.on_target
        report = await operations.repair(context, capability)
        print(town.journal(), report)
        assert report.complete
        assert {segment.state for segment in report.segments} == {WHOLE}
        await _explained(town, segment_id)
        town.kill(holders[2])
        report = await operations.repair(context, capability)
        assert not report.complete
        assert report.health.weakest.live == 5, "who was there a minute ago is not given up"
        await asyncio.sleep(HOUR)
        report = await operations.repair(context, capability)
        assert report.segments[-1].state == STUCK
        assert "away" in report.segments[-1].reason
        await context.session.close()

    in_repair_town(9, scenario)


async def _explained(town: RepairTown, segment_id: bytes) -> None:
    """The repairer knows from whom to whom, the new holders who brought their pieces."""
    texts = []
    keepers = [n for n in town.nodes.values() if await n.store.held(segment_id) is not None]
    for node in keepers:
        facts = await explain(node, segment_id.hex()[:12])
        assert facts["segment"] == segment_id.hex()
        assert len([h for h in facts["holders"] if h["standing"] == "live"]) == 6
        assert {h["key"] for h in facts["holders"]} >= {n.identity.key.hex() for n in keepers}
        assert facts["key"] == node.identity.key.hex()
        texts.append(_why_text(facts))
    everything = "\n".join(texts)
    print(everything)
    assert everything.count("was brought here by another holder") == 2
    assert everything.count("was brought here with its owner's ticket") == 4
    assert "begun by us, rank" in everything
    assert "repaired indices:" in everything
    node = next(iter(town.nodes.values()))
    with pytest.raises(NotFoundError):
        await explain(node, "00" * 32)
    for wrong in ("abc", "xyz0", "0" * 65):
        with pytest.raises(UsageError):
            await explain(node, wrong)

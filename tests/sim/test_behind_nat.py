"""Nodes that cannot be dialled are no harm: what they cannot take goes elsewhere, what they hold is rebuilt."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from node_town import Town, in_town, push_all
from town import Town as DataTown
from town import in_town as in_data_town

from potsherd.datasets import operations
from potsherd.datasets.home import Home
from potsherd.datasets.library import Library
from potsherd.datasets.operations import Context, PutOptions
from potsherd.node.reader import SegmentReader

pytestmark = pytest.mark.slow


def test_a_reader_does_without_those_it_cannot_dial() -> None:
    async def scenario(town: Town) -> None:
        made = town.made(300_000, k=2, n=5)
        async with await town.session() as session:
            holders = await push_all(session, made)
        behind = [i for i in town.nodes if town.key(i) in list(holders.values())[:3]]
        for number in behind:
            town.world.nat(town.name(number))
        await asyncio.sleep(600)
        async with await town.session() as session:
            reader = SegmentReader(session, made.segment_id, made.descriptor.placement_key)
            assert bytes(await reader.read(0, len(made.stream))) == made.stream

    in_town(7, scenario)


def test_a_put_goes_to_those_that_can_be_dialled(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "data").write_bytes(bytes(range(256)) * 1500)

    async def scenario(town: DataTown) -> None:
        home = Home(tmp_path / "home")
        home.networks.add(town.network.invitation.encode())
        behind = {3, 6}
        for number in behind:
            town.world.nat(f"node{number}")
        session = await town.session()
        context = Context(session.env, home, home.networks.choose(None), session)
        report = await operations.put(context, [source], PutOptions(name="one", k=3, n=6))
        assert report.placed == 6
        with Library(home.library_path) as library:
            capability = library.dataset("one").newest.capability
        found = await operations.stat(context, capability)
        holders = {town.keys[shard.key] for shard in found.health.segments[0].shards}
        assert len(holders) == 6 and not holders & behind
        await session.close()

    in_data_town(scenario, donors=9)

"""How often a node goes where going is dear."""

from __future__ import annotations

from typing import Any

import pytest
from node_town import Town, in_town

from potsherd.node.store import index as store_index


def test_a_commit_goes_to_the_index_for_few_things(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is it here or withdrawn, is it still not here once it is checked, and what is here then: three turns to read."""
    turns: list[int] = []
    before = store_index._read_all

    def read_all(connection: Any, works: list[Any]) -> Any:
        turns.append(len(works))
        return before(connection, works)

    async def scenario(town: Town) -> None:
        session = await town.session()
        peer = await session.peer(town.key(0))
        made, now = town.made(2_000_000, k=2, n=3), session.env.utc()
        stage = (await peer.push_open(made.ticket(now, 1, peer.key))).stage
        await peer.push(stage, 0, made.shards[1])
        turns.clear()
        await peer.commit(stage, made.descriptor.encode(), made.lease(now))
        assert turns == [2, 1, 1]
        await session.close()

    monkeypatch.setattr(store_index, "_read_all", read_all)
    in_town(1, scenario)

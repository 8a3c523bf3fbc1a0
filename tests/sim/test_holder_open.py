"""A holder brings a shard to another node, without any key of the owner."""

from __future__ import annotations

import pytest
from leases import lease_over, withdrawal_of
from node_town import Town, in_town, push_one

from potsherd.crypto.signing import SigningKey
from potsherd.errors import IntegrityError, PotsherdError, RefusedError
from potsherd.node.client import Peer
from potsherd.node.records import HolderTicket
from potsherd.node.testing import HandMade

pytestmark = pytest.mark.slow


async def open_as(town: Town, peer: Peer, made: HandMade, signer: SigningKey, index: int) -> int:
    node = town.nodes[0]
    ticket = HolderTicket(
        made.segment_id, index, signer.verify_key, peer.key, int(node.env.utc()) + 600
    )
    signed = ticket.signed(signer.sign, made.network_id)
    return (await peer.holder_open(signed, made.descriptor.encode(), made.entry(signer, 0))).stage


@pytest.mark.parametrize("size", [5_000, 200_000])
def test_a_shard_is_brought_and_refused_where_it_must_be(size: int) -> None:
    async def scenario(town: Town) -> None:
        made = town.made(size)
        session = await town.session()
        await push_one(session, made, 0, town.key(0))
        me = town.nodes[0].session
        signer = town.network.key(0)
        peer = await me.peer(town.key(1))
        wrong = await open_as(town, peer, made, signer, 2)
        await peer.push(wrong, 0, made.shards[3])
        with pytest.raises(IntegrityError):
            await peer.commit(wrong, made.descriptor.encode(), b"")
        stage = await open_as(town, peer, made, signer, 2)
        await peer.push(stage, 0, made.shards[2])
        await peer.commit(stage, made.descriptor.encode(), b"")
        held = await town.nodes[1].store.held(made.segment_id)
        assert held is not None
        assert held.index == 2
        kept = await town.nodes[1].store.kept(made.segment_id)
        assert kept is not None
        assert kept.unleased_until > town.nodes[1].env.utc()  # the leases follow
        with pytest.raises(RefusedError, match="another shard"):
            await open_as(town, peer, made, signer, 1)
        with pytest.raises(RefusedError, match="another node"):
            await open_as(town, await session.peer(town.key(2)), made, signer, 1)
        with pytest.raises(PotsherdError):  # who has no stage of that kind needs the owner
            await peer.commit(999, made.descriptor.encode(), b"")
        third = town.nodes[2].store
        await push_one(session, made, 3, town.key(2))
        lease, paths = lease_over([made])
        await third.put_lease(lease, paths)
        await third.put_withdrawal(withdrawal_of(made, 0))
        await third.drop(made.segment_id, "withdrawn", "", (made.owner.verify_key, 0))
        with pytest.raises(RefusedError, match="withdrawn"):
            await open_as(town, await me.peer(town.key(2)), made, signer, 1)

    in_town(3, scenario)

"""What a node serves, refuses and survives, one node and some clients in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from node_town import PORT, Town, in_town, push_one

from potsherd.crypto.membership import sign_config
from potsherd.erasure.merkle import LEASE_TREE, MerkleTree
from potsherd.errors import (
    IntegrityError,
    LimitError,
    MalformedError,
    MembershipError,
    NotFoundError,
    PeerError,
    PotsherdError,
    QuotaError,
    RefusedError,
    UnreachableError,
)
from potsherd.node import records
from potsherd.node.client import Peer
from potsherd.node.membrane import Gate
from potsherd.node.records import Lease, LeasePath, RosterEntry
from potsherd.node.rpc import Answer, Caller, Methods, Request, Responder, Work
from potsherd.node.session import Session
from potsherd.node.settings import ServerLimits
from potsherd.node.testing import HandMade, SmallNetwork
from potsherd.ports import Address, Stream


def with_peer(
    scenario: Callable[[Town, Session, Peer], Awaitable[None]],
    *,
    limits: ServerLimits | None = None,
) -> None:
    """One node, one client that has dialled it."""

    async def main(town: Town) -> None:
        async with await town.session() as session:
            await scenario(town, session, await session.peer(town.key(0)))

    in_town(1, main, settings={"server": limits or ServerLimits()})


async def connect(town: Town, number: int) -> Peer:
    """A connection by a client of its own, outside any session."""
    env = town.world.env(f"lone{number}", f"10.8.{number}.1")
    identity, chain = town.network.client(100 + number, env.utc())
    gate = Gate(town.network.config, env.utc)
    return await Peer.connect(
        env, identity, town.key(0), town.address(0), chain=chain, admit=gate.admit
    )


# --- storing --------------------------------------------------------------------------------------


def test_pushes_in_flight_together_keep_their_order() -> None:
    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        made = town.made(2_000_000, k=2, n=3)
        now, shard = session.env.utc(), made.shards[1]
        stage = (await peer.push_open(made.ticket(now, 1, peer.key))).stage
        step = 50_000
        pushes = []
        for offset in range(0, len(shard), step):
            part = shard[offset : offset + step]
            pushes.append(asyncio.ensure_future(peer.push(stage, offset, part)))
            await asyncio.sleep(1e-6)
        commit = asyncio.ensure_future(
            peer.commit(stage, made.descriptor.encode(), made.lease(now))
        )
        await asyncio.gather(*pushes)
        assert RosterEntry.decode((await commit)[64:]).index == 1

    with_peer(scenario)


def test_a_lost_connection_resumes_where_the_stage_ends() -> None:
    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        made = town.made(1_000_000)
        now = session.env.utc()
        stage = (await peer.push_open(made.ticket(now, 0, peer.key))).stage
        await peer.push(stage, 0, made.shards[0][:300_000])
        session.drop(peer.key)
        peer = await session.peer(town.key(0))
        with pytest.raises(NotFoundError):
            await peer.push(stage, 300_000, made.shards[0][300_000:])
        staged = await peer.push_open(made.ticket(now, 0, peer.key))
        assert staged.size == 300_000
        with pytest.raises(RefusedError):
            await peer.push(staged.stage, 0, made.shards[0])
        await peer.push(staged.stage, 300_000, made.shards[0][300_000:])
        await peer.commit(staged.stage, made.descriptor.encode(), made.lease(now))

    with_peer(scenario)


def test_a_commit_asked_again_gives_the_same_receipt() -> None:
    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        made = town.made(1000)
        receipt = await push_one(session, made, 3, town.key(0))
        entry = RosterEntry.decode(receipt[64:])
        assert (entry.node, entry.index, entry.held) == (town.key(0), 3, True)
        now = session.env.utc()
        assert await peer.commit(77, made.descriptor.encode(), made.lease(now)) == receipt
        assert await push_one(session, made, 3, town.key(0)) == receipt
        with pytest.raises(RefusedError, match="another shard"):
            await push_one(session, made, 2, town.key(0))
        assert (await peer.status()).shards == 1

    with_peer(scenario)


def test_what_does_not_fit_the_descriptor_is_not_kept() -> None:
    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        made, other = town.made(1000), town.made(1000, number=1)
        now = session.env.utc()
        changed = bytes([made.shards[0][0] ^ 1]) + made.shards[0][1:]
        cases: list[tuple[type[PotsherdError], HandMade, bytes, int, bytes]] = [
            (IntegrityError, made, changed, 0, made.lease(now)),
            (IntegrityError, made, made.shards[1], 0, made.lease(now)),
            (PotsherdError, made, made.shards[0][:-64], 0, made.lease(now)),
            (IntegrityError, made, made.shards[0], 0, other.lease(now)),
            (RefusedError, made, made.shards[0], 0, made.lease(now - 32 * 86_400)),
            (RefusedError, made, made.shards[0], 9, made.lease(now)),
        ]
        for error, what, shard, index, lease in cases:
            stage = (await peer.push_open(what.ticket(now, index, peer.key))).stage
            await peer.push(stage, 0, shard)
            with pytest.raises(error):
                await peer.commit(stage, made.descriptor.encode(), lease)
            with pytest.raises(NotFoundError):
                await peer.descriptor(made.segment_id)
            with pytest.raises(PotsherdError):
                await peer.push_abort(stage)
                raise NotFoundError
        with pytest.raises(MalformedError):
            await peer.commit(1, b"\x90", made.lease(now))
        assert (await peer.status()).shards == 0

    with_peer(scenario)


def test_a_ticket_of_another_owner_opens_nothing_for_a_segment() -> None:
    """The ticket's owner pays with the pusher's room; the descriptor must be the same owner's."""

    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        made, other = town.made(1000), town.made(1000, number=1)
        now = session.env.utc()
        stage = (await peer.push_open(other.ticket(now, 0, peer.key))).stage
        await peer.push(stage, 0, made.shards[0])
        with pytest.raises(RefusedError):
            await peer.commit(stage, made.descriptor.encode(), made.lease(now))
        with pytest.raises(RefusedError):
            await peer.push_open(made.ticket(now - 5000, 0, peer.key))
        with pytest.raises(RefusedError, match="another node"):
            await peer.push_open(made.ticket(now, 0, town.key(1)))
        with pytest.raises(IntegrityError):
            await peer.push_open(made.ticket(now, 0, peer.key)[:-1] + b"\0")

    with_peer(scenario)


def test_more_than_the_ticket_allows_is_refused() -> None:
    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        made = town.made(1000)
        stage = (await peer.push_open(made.ticket(session.env.utc(), 0, peer.key))).stage
        with pytest.raises(RefusedError):
            await peer.push(stage, 0, bytes(len(made.shards[0]) + 1))
        await peer.push_abort(stage)

    with_peer(scenario)


def test_stages_of_one_connection_are_out_of_reach_for_others() -> None:
    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        made = town.made(1000)
        stage = (await peer.push_open(made.ticket(session.env.utc(), 0, peer.key))).stage
        thief = await connect(town, 1)
        with pytest.raises(NotFoundError):
            await thief.push(stage, 0, b"spoilt")
        with pytest.raises(NotFoundError):
            await thief.push_abort(stage)
        await thief.close()
        await peer.push(stage, 0, made.shards[0])

    with_peer(scenario)


def test_a_full_node_says_so() -> None:
    async def scenario(town: Town) -> None:
        made = town.made(64 * 2**20, k=1, n=2)
        async with await town.session() as session:
            peer = await session.peer(town.key(0))
            with pytest.raises(QuotaError):
                await peer.push_open(made.ticket(session.env.utc(), 0, peer.key))
            assert (await peer.status()).quota == 24 * 2**20

    in_town(1, scenario, settings={"quota_bytes": 24 * 2**20})


# --- reading --------------------------------------------------------------------------------------


def test_reads_that_make_no_sense_are_refused() -> None:
    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        made = town.made(500_000)
        await push_one(session, made, 1, peer.key)
        rows = made.descriptor.rows
        for error, segment_id, index, runs in (
            (NotFoundError, bytes(32), 1, [(0, 1)]),
            (NotFoundError, made.segment_id, 0, [(0, 1)]),
            (RefusedError, made.segment_id, 1, [(rows, 1)]),
            (RefusedError, made.segment_id, 1, [(0, rows + 1)]),
            (LimitError, made.segment_id, 1, [(0, 129)]),
            (MalformedError, made.segment_id, 1, []),
            (MalformedError, made.segment_id, 1, [(0, 0)]),
            (MalformedError, made.segment_id, 1, [(i, 1) for i in range(129)]),
        ):
            with pytest.raises((error, LimitError)):
                await peer.read(segment_id, index, runs)
        cells, proofs = await peer.read(made.segment_id, 1, [(2, 1), (0, 1)])
        assert len(cells) == 2 * 32768
        assert cells[:32768] == made.shards[1][2 * 32768 : 3 * 32768]
        assert len(proofs) == 2

    with_peer(scenario)


# --- statements -----------------------------------------------------------------------------------


def test_a_roster_takes_what_nodes_say_of_themselves() -> None:
    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        made = town.made(1000, n=4)
        receipt = await push_one(session, made, 0, peer.key)
        key = town.network.key
        told = [
            (made.entry(key(5), 1), Address("10.0.5.1", PORT)),
            (made.entry(key(6), 2), None),
            (made.entry(key(7), 200), None),  # the segment has no such shard
            (made.entry(key(0), 3, counter=99), None),  # about the asked node itself
        ]
        await peer.merge_roster(made.segment_id, told)
        await peer.merge_roster(made.segment_id, [(made.entry(key(6), 2, counter=0), None)])
        found = {e.node: (data, hint) for e, data, hint in await peer.roster(made.segment_id)}
        assert found == {
            key(0).verify_key: (receipt, town.address(0)),
            key(5).verify_key: told[0],
            key(6).verify_key: told[1],
        }
        forged = told[0][0][:-1] + bytes([told[0][0][-1] ^ 1])
        with pytest.raises((IntegrityError, MalformedError)):
            await peer.merge_roster(made.segment_id, [(forged, None)])
        with pytest.raises(NotFoundError):
            await peer.merge_roster(bytes(32), [])
        with pytest.raises(NotFoundError):
            await peer.roster(bytes(32))

    with_peer(scenario)


def test_leases_are_kept_for_segments_of_their_owner() -> None:
    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        made = [town.made(1000), town.made(2000)]
        for one in made:
            await push_one(session, one, 0, peer.key)
        ids = [made[0].segment_id, bytes(32), made[1].segment_id]
        tree = MerkleTree(b"".join(ids), tree=LEASE_TREE)
        paths = []
        for position, segment_id in enumerate(ids):
            proof = tree.prove_range(position, 1)
            hashes = tuple(proof[i : i + 32] for i in range(0, len(proof), 32))
            paths.append(LeasePath(segment_id, position, hashes))
        owner = made[0].owner
        lease = Lease(owner.verify_key, 0, 1, tree.root, 3, 3000, 0, (), bytes(32), 86_400, 0)
        signed = lease.signed(owner.sign, town.network.network_id)
        await peer.put_lease(signed, paths)
        for one, path in zip(made, (paths[0], paths[2]), strict=True):
            assert await peer.leases(one.segment_id) == [(signed, path)]
        with pytest.raises(NotFoundError):
            await peer.put_lease(signed, [paths[1]])
        with pytest.raises(IntegrityError):
            await peer.put_lease(signed, [replace(paths[0], position=1)])
        thief = town.made(3, number=1).owner
        stolen = replace(lease, owner=thief.verify_key, sequence=2)
        with pytest.raises(RefusedError):
            await peer.put_lease(stolen.signed(thief.sign, town.network.network_id), paths)
        assert await peer.leases(made[0].segment_id) == [(signed, paths[0])]

    with_peer(scenario)


def test_heads_stay_beside_segments_of_their_owner() -> None:
    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        made, other = town.made(1000, with_entry=True), town.made(1000, number=1)
        await push_one(session, made, 0, peer.key)
        now = session.env.utc()
        with pytest.raises(RefusedError):
            await peer.put_head(made.segment_id, other.genesis.encode(), other.heads([now])[0])
        with pytest.raises(NotFoundError):
            await peer.put_head(bytes(32), made.genesis.encode(), made.heads([now])[0])
        assert await peer.heads(made.genesis.dataset_id) == (b"", [])
        await peer.put_head(made.segment_id, made.genesis.encode(), made.heads([now])[0])
        assert len((await peer.heads(made.genesis.dataset_id))[1]) == 1

    with_peer(scenario)


def test_only_what_is_held_is_announced() -> None:
    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        with pytest.raises(NotFoundError):
            await peer.announce([bytes(32)])

    with_peer(scenario)


# --- who is admitted ------------------------------------------------------------------------------


def test_strangers_removed_members_and_expired_clients_are_refused() -> None:
    async def scenario(town: Town) -> None:
        env = town.world.env("visitor", "10.7.0.1")
        mine, good = town.network.client(50, env.utc())
        gate = Gate(town.network.config, env.utc)

        async def knock(chain: bytes) -> Peer:
            return await Peer.connect(
                env, mine, town.key(0), town.address(0), chain=chain, admit=gate.admit
            )

        _, foreign = SmallNetwork(99).client(50, env.utc())
        _, someone = town.network.client(51, env.utc())
        _, old = town.network.client(50, env.utc() - 8 * 86_400)
        for chain in (foreign, someone, old, b"", b"\x91\x01", bytes(400)):
            with pytest.raises((MembershipError, MalformedError)):
                await knock(chain)
        peer = await knock(good)
        await peer.status()
        await peer.close()
        config = replace(town.network.config, number=2, removed=((1, 1),))
        signed = sign_config(town.network.network_key, config)
        assert town.nodes[0].gate.update(signed)
        with pytest.raises(MembershipError, match="removed"):
            await knock(good)

    in_town(1, scenario)


def test_a_client_refuses_a_node_that_is_no_member() -> None:
    async def scenario(town: Town) -> None:
        env = town.world.env("visitor", "10.7.0.1")
        identity, chain = town.network.client(50, env.utc())
        removed = replace(town.network.config, number=2, removed=((1, 1),))
        gate = Gate(removed, env.utc)
        with pytest.raises(MembershipError, match="removed"):
            await Peer.connect(
                env, identity, town.key(0), town.address(0), chain=chain, admit=gate.admit
            )

    in_town(1, scenario)


def test_connections_are_bounded_per_key_and_per_member() -> None:
    limits = ServerLimits(connections_per_key=2, connections_per_member=4)

    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        same = [await connect(town, 1), await connect(town, 1)]
        with pytest.raises(LimitError):
            await connect(town, 1)
        await connect(town, 2)
        with pytest.raises(LimitError):
            await connect(town, 3)
        await same[0].close()
        await asyncio.sleep(1)
        await connect(town, 3)

    with_peer(scenario, limits=limits)


def test_open_stages_are_bounded_per_connection() -> None:
    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        now = session.env.utc()
        for size in (1000, 2000):
            await peer.push_open(town.made(size).ticket(now, 0, peer.key))
        with pytest.raises(LimitError):
            await peer.push_open(town.made(3000).ticket(now, 0, peer.key))

    with_peer(scenario, limits=ServerLimits(stages_per_connection=2))


# --- listeners that misbehave ---------------------------------------------------------------------


def facing(
    accept: Callable[[Stream], Awaitable[None]],
    scenario: Callable[[Town, Session], Awaitable[None]],
) -> None:
    """A client, one honest node, and at 10.6.0.1 a donor's key whose listener does `accept`."""

    async def main(town: Town) -> None:
        env = town.world.env("liar", "10.6.0.1")
        identity, _ = town.network.donor(9)
        listener = await env.net.listen(Address("10.6.0.1", PORT), identity, accept)
        async with await town.session() as session:
            await scenario(town, session)
            assert await (await session.peer(town.key(0))).status()
        await listener.close()

    in_town(1, main)


LIAR = Address("10.6.0.1", PORT)


@pytest.mark.parametrize("noise", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(5000)])
def test_a_listener_that_sends_garbage_is_no_peer(noise: bytes) -> None:
    async def accept(stream: Stream) -> None:
        await stream.write(noise)
        await asyncio.sleep(1)
        stream.abort()

    async def scenario(town: Town, session: Session) -> None:
        with pytest.raises(PeerError):
            await session.peer(town.key(9), LIAR)

    facing(accept, scenario)


def test_a_listener_that_says_nothing_costs_a_bounded_time() -> None:
    async def accept(stream: Stream) -> None:
        await asyncio.sleep(10**6)

    async def scenario(town: Town, session: Session) -> None:
        start = session.env.monotonic()
        with pytest.raises(PeerError):
            await session.peer(town.key(9), LIAR)
        assert session.env.monotonic() - start < 30

    facing(accept, scenario)


def lying(answer: Callable[[Request], Awaitable[Answer]]) -> Callable[[Stream], Awaitable[None]]:
    """A listener that greets like donor 9 of the town's network and then answers as it likes."""
    network = SmallNetwork(3, Address(Town.host(0), PORT))
    chain = network.donor(9)[1]

    async def accept(stream: Stream) -> None:
        responder = Responder(stream)
        await responder.greet(lambda hello: records.Hello(1, chain))

        def prepare(request: Request) -> Work:
            async def work() -> Answer:
                return await answer(request)

            return work

        await responder.serve(prepare)

    return accept


def test_lies_are_found_out() -> None:
    network = SmallNetwork(3)

    async def answer(request: Request) -> Answer:
        made = HandMade(network.network_id, b"x" * 1000)
        if request.method is Methods.COMMIT:  # the receipt of another node
            return records.Receipt(made.entry(network.key(4), 0)), ()
        if request.method is Methods.ROSTER:  # an entry of another segment
            hint = records.HolderHint(made.entry(network.key(9), 0), "", 0)
            return records.Roster(bytes(32), (hint,)), ()
        if request.method is Methods.READ:  # too many bytes
            return records.ReadProofs((b"",)), (bytes(32769),)
        return records.Done(), ()  # not what was asked

    async def scenario(town: Town, session: Session) -> None:
        made = town.made(1000)
        now = session.env.utc()
        peer = await session.peer(town.key(9), LIAR)
        with pytest.raises(IntegrityError):
            await peer.commit(1, made.descriptor.encode(), made.lease(now))
        with pytest.raises(IntegrityError):
            await peer.roster(bytes(32))
        with pytest.raises(PeerError, match="more bytes"):
            await peer.read(bytes(32), 0, [(0, 1)])
        assert peer.closed
        peer = await session.peer(town.key(9), LIAR)
        with pytest.raises(PeerError, match="garbage"):
            await peer.descriptor(bytes(32))

    facing(lying(answer), scenario)


# --- sessions -------------------------------------------------------------------------------------


def test_a_node_is_dialled_once_whoever_asks() -> None:
    dialled = 0

    async def answer(request: Request) -> Answer:
        return records.Done(), ()

    greet = lying(answer)

    async def accept(stream: Stream) -> None:
        nonlocal dialled
        dialled += 1
        await greet(stream)

    async def scenario(town: Town, session: Session) -> None:
        asked = [asyncio.ensure_future(session.peer(town.key(9), LIAR)) for _ in range(10)]
        await asyncio.sleep(0.001)
        asked[0].cancel()
        peers = await asyncio.gather(*asked[1:])
        assert len({id(peer) for peer in peers}) == 1
        assert dialled == 1
        session.drop(town.key(9))
        await session.peer(town.key(9), LIAR)
        assert dialled == 2

    facing(accept, scenario)


def test_an_address_that_never_answers_is_left_alone_for_a_while() -> None:
    dialled = 0

    async def accept(stream: Stream) -> None:
        nonlocal dialled
        dialled += 1
        stream.abort()

    async def scenario(town: Town, session: Session) -> None:
        for _ in range(40):
            with pytest.raises(PeerError):
                await session.peer(town.key(9), LIAR)
        assert dialled == 16
        await asyncio.sleep(60)
        with pytest.raises(PeerError):
            await session.peer(town.key(9), LIAR)
        assert dialled == 17

    facing(accept, scenario)


def test_a_session_keeps_a_bounded_number_of_connections() -> None:
    async def scenario(town: Town) -> None:
        async with await town.session() as session:
            session._peers_max = 2
            peers = [await session.peer(town.key(i)) for i in range(4)]
            assert [peer.closed for peer in peers] == [True, True, False, False]
            await asyncio.sleep(1)
            assert town.nodes[0].status().server.connections == 0
        with pytest.raises(UnreachableError):
            await session.peer(town.key(0))

    in_town(4, scenario)


def test_a_broken_connection_is_dialled_anew() -> None:
    async def scenario(town: Town, session: Session, peer: Peer) -> None:
        peer.abort()
        with pytest.raises(PeerError):
            await peer.status()
        again = await session.peer(peer.key)
        assert again is not peer
        await again.status()

    with_peer(scenario)


def test_a_request_before_hello_is_not_served() -> None:
    async def scenario(town: Town) -> None:
        env = town.world.env("rude", "10.6.0.2")
        identity, _ = town.network.client(60, env.utc())
        stream = await env.net.dial(town.address(0), identity, town.key(0), timeout_s=5)
        caller = Caller(stream)
        caller.start()
        with pytest.raises(PeerError):
            await caller.call(Methods.STATUS, records.NodeStatusQuery())
        await caller.close()
        assert town.nodes[0].status().server.requests == 0

    in_town(1, scenario)

"""Deep verification on a virtual network: honest holders, rot, liars, the dead and the late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from challenge_book import by_the_book
from node_town import Town, in_town, push_all, push_one

from potsherd.erasure.layout import CELL_SIZE
from potsherd.errors import IntegrityError, LimitError, NotFoundError, PotsherdError, RefusedError
from potsherd.node import deep
from potsherd.node.challenge import TAG_SIZE
from potsherd.node.client import Peer
from potsherd.node.reader import Holder, SegmentReader
from potsherd.node.session import Session
from potsherd.node.store import ShardStore
from potsherd.node.testing import HandMade, seed_of
from potsherd.ports import Buffer
from potsherd.simulations.world.streams import WorldStream

K, N, ROWS = 3, 10, 21
SPANS = 3
Runs = tuple[tuple[int, int], ...]
Troubles = dict[int, PotsherdError | None]
Play = Callable[["Scene"], Awaitable[None]]


class Scene:
    """A segment on ten holders and a client that verifies it."""

    def __init__(
        self, town: Town, session: Session, made: HandMade, keys: dict[int, bytes]
    ) -> None:
        self.town, self.session, self.made, self.keys = town, session, made, keys
        self.numbers = {town.key(number): number for number in town.nodes}

    def node(self, index: int) -> int:
        return self.numbers[self.keys[index]]

    def rot(self, index: int, row: int) -> None:
        """Flip one bit of one cell on the holder's disk."""
        name = self.town.name(self.node(index))
        [(path, _, _)] = self.town.world.env(name).disk.walk("shards")
        self.town.world.disk(name).rot(path, row * CELL_SIZE + 1234, 4)

    async def verify(self) -> Troubles:
        holders = [Holder(i, key, self.town.address(self.node(i))) for i, key in self.keys.items()]
        reader = SegmentReader.of(self.session, self.made.descriptor, holders)
        windows = asyncio.Semaphore(deep.WINDOWS_AT_ONCE)
        found = await deep.prove_all(self.session.env, reader, windows)
        assert set(found) == set(holders)
        return {holder.index: error for holder, error in found.items()}


def on_stage(play: Play, *, size: int = ROWS * K * CELL_SIZE - 99) -> None:
    stream = random.Random(size).randbytes(size)

    async def scenario(town: Town) -> None:
        made = HandMade(town.network.network_id, stream, K, N)
        async with await town.session() as session:
            keys = await push_all(session, made)
            scene = Scene(town, session, made, keys)
            await play(scene)

    in_town(11, scenario)


@pytest.fixture(autouse=True)
def several_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows each, so that a segment of 21 rows has six, the last one short; two in each challenge."""
    monkeypatch.setattr(deep, "WINDOW_BYTES", 4 * K * CELL_SIZE)
    monkeypatch.setattr(deep, "SPAN_ROWS_MAX", 9)
    monkeypatch.setattr(deep, "PORTION_BYTES", 3 * CELL_SIZE)


class Wire:
    """Counts what all streams of the world carry, both ways."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        write = WorldStream.write

        async def counted(stream: WorldStream, *buffers: bytes) -> None:
            self.bytes += sum(memoryview(part).nbytes for part in buffers)
            await write(stream, *buffers)

        monkeypatch.setattr(WorldStream, "write", counted)


def test_all_is_proven_for_little_more_than_the_ciphertext(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play(scene: Scene) -> None:
        wire = Wire(monkeypatch)
        assert await scene.verify() == dict.fromkeys(range(N))
        stream = len(scene.made.stream)
        assert stream <= wire.bytes < 1.2 * stream

    on_stage(play)


def test_one_challenge_goes_over_several_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request costs both sides a good part of a millisecond."""
    asked: dict[int, list[Runs]] = {}
    honest = ShardStore.challenge

    async def challenge(
        store: ShardStore, segment_id: bytes, index: int, runs: Runs, nonce: bytes
    ) -> tuple[bytes, ...]:
        asked.setdefault(index, []).append(runs)
        return await honest(store, segment_id, index, runs, nonce)

    monkeypatch.setattr(ShardStore, "challenge", challenge)

    async def play(scene: Scene) -> None:
        assert await scene.verify() == dict.fromkeys(range(N))
        assert sum(map(len, asked.values())) == SPANS * (N - K)
        spans = {((0, 4), (4, 4)), ((8, 4), (12, 4)), ((16, 4), (20, 1))}
        assert {runs for found in asked.values() for runs in found} == spans

    on_stage(play)


def test_who_answers_for_one_window_only_is_read_for_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rot in the second window of a span: the right tag of the first is of no help."""

    async def play(scene: Scene) -> None:
        honest_read, read = ShardStore.read, []

        async def counted(
            store: ShardStore, segment_id: bytes, index: int, runs: Runs
        ) -> tuple[Buffer, list[bytes]]:
            read.append((index, tuple(runs)))
            return await honest_read(store, segment_id, index, runs)

        monkeypatch.setattr(ShardStore, "read", counted)
        scene.rot(9, 6)
        found = await scene.verify()
        assert isinstance(found.pop(9), IntegrityError)
        assert set(found.values()) == {None}
        assert [runs for index, runs in read if index == 9] == [((4, 4),)]

    on_stage(play)


@pytest.mark.parametrize("size", [1, 3 * 32768 - 200])
def test_small_segments_too(size: int) -> None:
    async def play(scene: Scene) -> None:
        assert scene.made.descriptor.cell_size < CELL_SIZE
        assert await scene.verify() == dict.fromkeys(range(N))

    on_stage(play, size=size)


def test_one_flipped_bit_is_found_wherever_it_is() -> None:
    rotten = {0: 0, 2: 8, 4: 9, 6: ROWS - 1, 9: 3}

    async def play(scene: Scene) -> None:
        for index, row in rotten.items():
            scene.rot(index, row)
        found = await scene.verify()
        assert {i for i, error in found.items() if error is not None} == set(rotten)
        assert all(isinstance(found[i], IntegrityError) for i in rotten)

    on_stage(play)


def test_who_invents_answers_is_read_and_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One liar has lost its bytes, the other has them: only its answers are nonsense."""
    liars: set[ShardStore] = set()
    honest = ShardStore.challenge

    async def challenge(
        store: ShardStore, segment_id: bytes, index: int, runs: Runs, nonce: bytes
    ) -> tuple[bytes, ...]:
        if store in liars:
            return (seed_of("lie", nonce)[:TAG_SIZE],) * len(runs)
        return await honest(store, segment_id, index, runs, nonce)

    monkeypatch.setattr(ShardStore, "challenge", challenge)

    async def play(scene: Scene) -> None:
        for index in (5, 6):
            liars.add(scene.town.nodes[scene.node(index)].store)
        for row in range(ROWS):
            scene.rot(5, row)
        found = await scene.verify()
        assert isinstance(found.pop(5), IntegrityError)
        assert set(found.values()) == {None}

    on_stage(play)


def test_an_answer_of_yesterday_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that remembers its answers and no bytes: the nonce is another each time."""
    honest = ShardStore.challenge
    seen: dict[tuple[int, Runs], tuple[bytes, ...]] = {}
    nonces: set[bytes] = set()
    forgetful: list[ShardStore] = []

    async def challenge(
        store: ShardStore, segment_id: bytes, index: int, runs: Runs, nonce: bytes
    ) -> tuple[bytes, ...]:
        assert nonce not in nonces
        nonces.add(nonce)
        if store in forgetful:
            return seen[index, runs]
        seen[index, runs] = await honest(store, segment_id, index, runs, nonce)
        return seen[index, runs]

    monkeypatch.setattr(ShardStore, "challenge", challenge)

    async def play(scene: Scene) -> None:
        assert await scene.verify() == dict.fromkeys(range(N))
        for index in range(N):
            if len([place for place in seen if place[0] == index]) == SPANS:
                forgetful.append(scene.town.nodes[scene.node(index)].store)
                for row in range(ROWS):
                    scene.rot(index, row)
                break
        found = await scene.verify()
        assert sum(isinstance(error, IntegrityError) for error in found.values()) == 1

    on_stage(play)


@pytest.mark.parametrize("alive", [K + 1, K])
def test_with_dead_holders_the_others_are_proven(alive: int) -> None:
    async def play(scene: Scene) -> None:
        for index in range(N - alive):
            scene.town.kill(scene.node(index))
        found = await scene.verify()
        assert {i for i, error in found.items() if error is None} == set(range(N - alive, N))
        assert not any(isinstance(error, IntegrityError) for error in found.values())

    on_stage(play)


def test_with_fewer_than_k_each_is_read_for_itself() -> None:
    async def play(scene: Scene) -> None:
        for index in range(N - 2):
            scene.town.kill(scene.node(index))
        scene.rot(N - 1, 17)
        found = await scene.verify()
        assert found.pop(N - 2) is None
        assert isinstance(found.pop(N - 1), IntegrityError)
        assert None not in found.values()

    on_stage(play)


def test_holders_that_die_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, left = ShardStore.challenge, [14]

    async def play(scene: Scene) -> None:
        victims = [0, 1, 8]

        async def challenge(
            store: ShardStore, segment_id: bytes, index: int, runs: Runs, nonce: bytes
        ) -> tuple[bytes, ...]:
            left[0] -= 1
            if not left[0]:
                for victim in victims:
                    scene.town.kill(scene.node(victim))
            return await honest(store, segment_id, index, runs, nonce)

        monkeypatch.setattr(ShardStore, "challenge", challenge)
        found = await scene.verify()
        assert {i for i, error in found.items() if error is not None} == set(victims)

    on_stage(play)


def test_who_never_answers_is_away_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    honest_challenge, honest_read = ShardStore.challenge, ShardStore.read
    silent: list[ShardStore] = []

    async def challenge(store: ShardStore, *rest: object) -> tuple[bytes, ...]:
        if store in silent:
            await asyncio.sleep(10_000)
        return await honest_challenge(store, *rest)  # type: ignore[arg-type] # passed on as it came

    async def read(store: ShardStore, *rest: object) -> tuple[Buffer, list[bytes]]:
        if store in silent:
            await asyncio.sleep(10_000)
        return await honest_read(store, *rest)  # type: ignore[arg-type] # passed on as it came

    monkeypatch.setattr(ShardStore, "challenge", challenge)
    monkeypatch.setattr(ShardStore, "read", read)

    async def play(scene: Scene) -> None:
        silent.extend(scene.town.nodes[scene.node(index)].store for index in (2, 7))
        before = scene.session.env.monotonic()
        found = await scene.verify()
        assert {i for i, error in found.items() if error is not None} == {2, 7}
        assert "in time" in str(found[7])
        assert scene.session.env.monotonic() - before < 100

    on_stage(play)


def test_two_holders_of_one_index_are_both_asked() -> None:
    async def play(scene: Scene) -> None:
        [spare] = set(scene.town.nodes) - {scene.numbers[key] for key in scene.keys.values()}
        await push_one(scene.session, scene.made, 4, scene.town.key(spare))
        scene.rot(4, 3)
        holders = [
            Holder(i, key, scene.town.address(scene.node(i))) for i, key in scene.keys.items()
        ]
        holders.append(Holder(4, scene.town.key(spare), scene.town.address(spare)))
        reader = SegmentReader.of(scene.session, scene.made.descriptor, holders)
        found = await deep.prove_all(scene.session.env, reader, asyncio.Semaphore(2))
        wrong = [holder for holder, error in found.items() if error is not None]
        assert [(holder.index, holder.key) for holder in wrong] == [(4, scene.keys[4])]

    on_stage(play)


def test_a_segment_that_was_coded_wrong_is_not_called_whole() -> None:
    """Its holders keep what the descriptor names; but one shard does not follow from the others."""
    stream = random.Random(4).randbytes(6 * K * CELL_SIZE)

    async def scenario(town: Town) -> None:
        made = HandMade(town.network.network_id, stream, K, 6)
        other = HandMade(town.network.network_id, stream[::-1], K, 6)
        made.shards = (*made.shards[:5], other.shards[5])
        roots = (*made.descriptor.roots[:5], other.descriptor.roots[5])
        made.descriptor = replace(made.descriptor, roots=roots)
        async with await town.session() as session:
            keys = await push_all(session, made)
            reader = SegmentReader.of(
                session, made.descriptor, [Holder(i, key, None) for i, key in keys.items()]
            )
            found = await deep.prove_all(session.env, reader, asyncio.Semaphore(1))
            assert any(isinstance(error, IntegrityError) for error in found.values())

    in_town(7, scenario)


def test_what_a_holder_answers_and_what_it_refuses() -> None:
    async def scenario(town: Town) -> None:
        large, small = town.made(2 * 40 * CELL_SIZE), town.made(3000)
        nonce = seed_of("challenge")
        async with await town.session() as session:
            peer = await session.peer(town.key(0))
            for made in (large, small):
                await push_one(session, made, 3, peer.key)
                d, shard = made.descriptor, made.shards[3]
                whole = await peer.challenge(d.segment_id, 3, [(0, d.rows)], nonce)
                assert whole == (by_the_book(nonce, 0, shard),)
            runs = [(5, 34), (0, 1), (39, 1)]
            parts = [shard_of(large, first, count) for first, count in runs]
            book = [
                by_the_book(nonce, first, part)
                for (first, _), part in zip(runs, parts, strict=True)
            ]
            assert await peer.challenge(large.segment_id, 3, runs, nonce) == tuple(book)
            await refused(peer, NotFoundError, large.segment_id, 2, (0, 1))
            await refused(peer, NotFoundError, seed_of("other"), 3, (0, 1))
            await refused(peer, RefusedError, large.segment_id, 3, (0, 1), (40, 1))
            await refused(peer, RefusedError, small.segment_id, 3, (0, 2))
            await refused(peer, LimitError, large.segment_id, 3, (0, 384), (0, 1))

    in_town(1, scenario)


def shard_of(made: HandMade, first: int, count: int) -> bytes:
    """Rows of shard 3."""
    return bytes(made.shards[3][first * CELL_SIZE : (first + count) * CELL_SIZE])


async def refused(
    peer: Peer, error: type[PotsherdError], segment_id: bytes, index: int, *runs: tuple[int, int]
) -> None:
    with pytest.raises(error):
        await peer.challenge(segment_id, index, runs, bytes(32))

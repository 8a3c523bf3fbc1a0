"""Pusher and reader on a virtual network: placed, degraded, replaced, resumed, refused."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import replace

import pytest
from town import Town, in_town

from potsherd.crypto.signing import SigningKey
from potsherd.erasure.layout import CELL_SIZE, Geometry
from potsherd.erasure.merkle import cell_leaves
from potsherd.erasure.segment import Remake, StreamPart
from potsherd.errors import (
    ChangedError,
    NotEnoughShards,
    PeerError,
    PotsherdError,
    QuotaError,
    RefusedError,
)
from potsherd.node import pusher as pusher_module
from potsherd.node.client import Peer
from potsherd.node.push_pace import PACE_LIFE_S
from potsherd.node.pusher import CommittedSegment, PushPlan, SegmentPusher
from potsherd.node.reader import SegmentReader
from potsherd.node.session import Session
from potsherd.node.testing import seed_of
from potsherd.ports import Buffer

K, N, R, W = 3, 7, 5, 6


def plan(rows: int = 40, name: str = "segment", preferred: tuple[bytes, ...] = ()) -> PushPlan:
    return PushPlan(
        K, N, R, W,
        owner=SigningKey(seed_of("owner")),
        placement_key=seed_of(name)[:20],
        shard_bytes_max=rows * CELL_SIZE,
        spool_path=f"spool/{name}",
        preferred=preferred,
    )  # fmt: skip


def stream_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def push(
    session: Session, stream: bytes, *, batch_rows: int = 8, name: str = "segment"
) -> CommittedSegment:
    pusher = SegmentPusher(session, plan(name=name))
    await pusher.open()
    step = batch_rows * K * CELL_SIZE
    for start in range(0, len(stream), step):
        await pusher.push_rows(stream[start : start + step])
    committed = await pusher.commit(stream_length=len(stream), entry=None)
    await pusher.share_roster(committed)
    return committed


def reader_of(session: Session, committed: CommittedSegment) -> SegmentReader:
    return SegmentReader(session, committed.segment_id, committed.descriptor.placement_key)


async def announce(session: Session, committed: CommittedSegment) -> None:
    for shard in committed.shards:
        peer = await session.peer(shard.key, shard.address)
        await peer.announce([committed.segment_id])


def test_n_distinct_holders_and_every_range_reads_back() -> None:
    stream = stream_of(33 * K * CELL_SIZE - 17)

    async def scenario(town: Town) -> None:
        session = await town.session()
        committed = await push(session, stream)
        assert sorted(s.index for s in committed.shards) == list(range(N))
        assert len({s.key for s in committed.shards}) == N
        await announce(session, committed)
        other = await town.session(2)
        reader = reader_of(other, committed)
        rng = random.Random(1)
        ranges = [(0, len(stream)), (0, 0), (len(stream), 0), (len(stream) - 1, 1)]
        for _ in range(20):
            start = rng.randrange(len(stream))
            ranges.append((start, rng.randrange(len(stream) - start + 1) // 8))
        for (start, length), data in zip(ranges, await reader.read_many(ranges), strict=True):
            assert data == stream[start : start + length]
        await other.close()
        await session.close()

    in_town(scenario)


@pytest.mark.parametrize("survivors", [(3, 4, 5), (0, 1, 2), (2, 4, 6)])
def test_any_k_holders_are_enough_and_fewer_are_not(survivors: tuple[int, ...]) -> None:
    stream = stream_of(11 * K * CELL_SIZE)

    async def scenario(town: Town) -> None:
        session = await town.session()
        committed = await push(session, stream)
        await announce(session, committed)
        await session.close()
        other = await town.session(2)  # before the bootstrap node dies with the others
        by_index = {s.index: s for s in committed.shards}
        for index, shard in by_index.items():
            if index not in survivors:
                town.crash(shard.key)
        assert await reader_of(other, committed).read(5, len(stream) - 5) == stream[5:]
        town.crash(by_index[survivors[0]].key)
        with pytest.raises((NotEnoughShards, PotsherdError)):
            await reader_of(other, committed).read(0, len(stream))
        await other.close()

    in_town(scenario, donors=10)


def test_a_holder_that_dies_during_the_push_is_replaced() -> None:
    stream = stream_of(40 * K * CELL_SIZE)

    async def scenario(town: Town) -> None:
        session = await town.session()
        pusher = SegmentPusher(session, plan())
        await pusher.open()
        step = 8 * K * CELL_SIZE
        for number, start in enumerate(range(0, len(stream), step)):
            if number == 2:
                for index in (0, 5):
                    town.crash(pusher.holders[index])
            await pusher.push_rows(stream[start : start + step])
        committed = await pusher.commit(stream_length=len(stream), entry=None)
        assert {s.index for s in committed.shards} == set(range(N))
        assert len({s.key for s in committed.shards}) == N
        await announce(session, committed)
        assert await reader_of(session, committed).read(0, len(stream)) == stream
        await session.close()

    in_town(scenario, donors=10)


async def push_from_source(
    town: Town, session: Session, source: bytearray, dying: tuple[int, ...], *, gone: bool
) -> CommittedSegment:
    """Bytes that can be made again from `source`; holders die half-way, the source perhaps too."""
    pusher = SegmentPusher(session, plan())
    await pusher.open()
    step = 8 * K * CELL_SIZE
    for start in range(0, len(source), step):
        if start == len(source) // step // 2 * step:
            await asyncio.sleep(
                30
            )  # what was given is sent, and the window will not have it any more
            pusher._window.clear()
            pusher._window_bytes = 0
            for index in dying:
                town.crash(pusher.holders[index])
        data = bytes(source[start : start + step])
        remake = Remake(lambda at, size: bytes(source[at : at + size]), start)
        await pusher.push_parts([StreamPart(data, cell_leaves(data, CELL_SIZE), remake)])
        if gone:
            source[start] ^= 1
    assert pusher._spool.kept_bytes == 0
    try:
        committed = await pusher.commit(stream_length=len(source), entry=None)
    except PotsherdError:
        await pusher.abort()
        raise
    await pusher.share_roster(committed)
    return committed


def test_what_a_new_holder_needs_is_made_again_from_the_source() -> None:
    stream = stream_of(40 * K * CELL_SIZE)

    async def scenario(town: Town) -> None:
        session = await town.session()
        committed = await push_from_source(town, session, bytearray(stream), (0, 5), gone=False)
        assert {s.index for s in committed.shards} == set(range(N))
        await announce(session, committed)
        assert await reader_of(session, committed).read(0, len(stream)) == stream
        await session.close()

    in_town(scenario, donors=10)


def test_a_source_that_changed_meanwhile_costs_a_shard_and_not_the_put() -> None:
    stream = stream_of(40 * K * CELL_SIZE)

    async def scenario(town: Town) -> None:
        session = await town.session()
        committed = await push_from_source(town, session, bytearray(stream), (2,), gone=True)
        assert {s.index for s in committed.shards} == set(range(N)) - {2}
        await announce(session, committed)
        assert await reader_of(session, committed).read(0, len(stream)) == stream
        with pytest.raises(ChangedError):  # too few are left, and that is why
            await push_from_source(town, session, bytearray(stream), (0, 3), gone=True)
        await session.close()

    in_town(scenario, donors=12)


def test_a_holder_that_hangs_in_a_large_push_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there and answers nothing: no connection breaks, and the time for a payload is many minutes."""
    stream = stream_of(40 * K * CELL_SIZE)
    hung: list[bytes] = []

    async def scenario(town: Town) -> None:
        original = Peer.push

        async def hanging(self: Peer, stage: int, offset: int, *buffers: Buffer) -> None:
            if offset > 0 and (not hung or hung[0] == self.key):
                hung[:] = [self.key]
                await asyncio.Event().wait()
            await original(self, stage, offset, *buffers)

        monkeypatch.setattr(Peer, "push", hanging)
        async with await town.session() as session:
            before = session.env.monotonic()
            pusher = SegmentPusher(session, replace(plan(), w=N))
            await pusher.open()
            for start in range(0, len(stream), 4 * K * CELL_SIZE):
                await pusher.push_rows(stream[start : start + 4 * K * CELL_SIZE])
            committed = await pusher.commit(stream_length=len(stream), entry=None)
            assert session.env.monotonic() - before < 150
        assert hung
        assert hung[0] not in {shard.key for shard in committed.shards}
        assert len({shard.key for shard in committed.shards}) == N

    in_town(scenario)


@pytest.mark.parametrize("seed", [1, 6])
def test_holders_that_stall_now_and_then_take_no_more_memory(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push that was under way kept whole batches in memory, also when the window had gone on."""
    print("seed", seed)
    rng, row = random.Random(seed), N * CELL_SIZE
    monkeypatch.setattr(pusher_module, "WINDOW_BYTES", 12 * row)
    monkeypatch.setattr(pusher_module, "PUSHES_BYTES", 8 * row)
    monkeypatch.setattr(pusher_module, "PUSH_BYTES_MIN", CELL_SIZE)
    stream = stream_of(240 * K * CELL_SIZE)
    under_way: dict[int, tuple[Buffer, ...]] = {}
    seen, stalls = [0], 0

    async def scenario(town: Town) -> None:
        session = await town.session()
        pusher = SegmentPusher(session, plan(rows=240))
        original = Peer.push

        async def stalling(self: Peer, stage: int, offset: int, *buffers: Buffer) -> None:
            nonlocal stalls
            under_way[id(buffers)] = buffers
            try:
                if rng.random() < 0.25:
                    stalls += 1
                    await asyncio.sleep(rng.uniform(5, 40))
                await original(self, stage, offset, *buffers)
            finally:
                del under_way[id(buffers)]

        def in_memory() -> int:
            held = [column.cells for batch in pusher._window for column in batch.columns]
            views = [
                memoryview(buffer) for buffer in (*held, *itertools.chain(*under_way.values()))
            ]
            return sum({id(v.obj): memoryview(v.obj).nbytes for v in views}.values())

        monkeypatch.setattr(Peer, "push", stalling)
        await pusher.open()
        for start in range(0, len(stream), 2 * K * CELL_SIZE):
            await pusher.push_rows(stream[start : start + 2 * K * CELL_SIZE])
            seen.append(in_memory())
        committed = await pusher.commit(stream_length=len(stream), entry=None)
        await announce(session, committed)
        assert await reader_of(session, committed).read(0, len(stream)) == stream
        await session.close()

    in_town(scenario)
    assert stalls > 10
    # the window, and what is under way beyond it
    assert 12 * row < max(seen) <= (12 + 8) * row


def test_pushes_are_whole_cells_whatever_the_number_of_holders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A holder's disk takes blocks of 4 KiB as they are, and copies what is not."""
    monkeypatch.setattr(pusher_module, "PUSHES_BYTES", 33 * CELL_SIZE + 1)  # of 7 holders
    stream = stream_of(40 * K * CELL_SIZE)
    sizes: list[int] = []
    original = Peer.push

    async def counted(self: Peer, stage: int, offset: int, *buffers: Buffer) -> None:
        size = sum(memoryview(buffer).nbytes for buffer in buffers)
        sizes.append(size)
        if size == 4 * CELL_SIZE:
            await asyncio.sleep(3)  # the next one is half as large
        await original(self, stage, offset, *buffers)

    async def scenario(town: Town) -> None:
        async with await town.session() as session:
            await push(session, stream)

    monkeypatch.setattr(Peer, "push", counted)
    in_town(scenario)
    assert sum(sizes) == 40 * N * CELL_SIZE
    assert {size % CELL_SIZE for size in sizes} == {0}
    assert max(sizes) == 4 * CELL_SIZE


@pytest.mark.parametrize("later", [False, True])
def test_what_a_line_carries_is_known_to_the_next_segment(
    monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    """Each began with a small push, and one eight times as large."""
    stream = stream_of(40 * K * CELL_SIZE)
    pushes = 0
    original = Peer.push

    async def counted(self: Peer, stage: int, offset: int, *buffers: Buffer) -> None:
        nonlocal pushes
        pushes += 1
        await original(self, stage, offset, *buffers)

    async def scenario(town: Town) -> None:
        async with await town.session() as session:
            await push(session, stream, batch_rows=40)
            assert pushes == 3 * N
            if later:
                await asyncio.sleep(PACE_LIFE_S + 1)
            await push(session, stream, batch_rows=40, name="next")
            assert pushes == (6 if later else 4) * N

    monkeypatch.setattr(Peer, "push", counted)
    in_town(scenario, donors=N)


def test_an_interrupted_push_sends_only_what_is_missing() -> None:
    stream = stream_of(24 * K * CELL_SIZE)
    half = len(stream) // 2

    async def scenario(town: Town) -> None:
        first = await town.session()
        pusher = SegmentPusher(first, plan())
        await pusher.open()
        await pusher.push_rows(stream[:half])
        await asyncio.sleep(30)
        holders = pusher.holders
        await pusher.close()
        await first.close()
        sent = 0

        async def counted(self: Peer, stage: int, offset: int, *buffers: bytes) -> None:
            nonlocal sent
            sent += sum(map(len, buffers))
            await original(self, stage, offset, *buffers)

        original = Peer.push
        again = await town.session(2)
        try:
            Peer.push = counted  # type: ignore[method-assign, assignment] # counts, and does the real thing
            pusher = SegmentPusher(again, plan(preferred=holders))
            await pusher.open()
            assert pusher.holders == holders
            await pusher.push_rows(stream[:half])
            await pusher.push_rows(stream[half:])
            committed = await pusher.commit(stream_length=len(stream), entry=None)
        finally:
            Peer.push = original  # type: ignore[method-assign]
        assert sent == (len(stream) - half) // K * N
        await announce(again, committed)
        assert await reader_of(again, committed).read(0, len(stream)) == stream
        await again.close()

    in_town(scenario)


def test_what_changed_since_the_interruption_is_sent_anew() -> None:
    old, new = stream_of(12 * K * CELL_SIZE), stream_of(12 * K * CELL_SIZE + 1)[:-1]

    async def scenario(town: Town) -> None:
        first = await town.session()
        pusher = SegmentPusher(first, plan())
        await pusher.open()
        await pusher.push_rows(old)
        await asyncio.sleep(30)
        holders = pusher.holders
        await pusher.close()
        pusher = SegmentPusher(first, plan(preferred=holders))
        await pusher.open()
        await pusher.push_rows(new)
        committed = await pusher.commit(stream_length=len(new), entry=None)
        assert len(committed.shards) == N
        await announce(first, committed)
        assert await reader_of(first, committed).read(0, len(new)) == new
        await first.close()

    in_town(scenario)


def test_full_donors_refuse_and_nothing_is_kept() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        pusher = SegmentPusher(session, plan(rows=3000))
        with pytest.raises(QuotaError, match="room"):
            await pusher.open()
        await pusher.abort()
        await session.close()

    in_town(scenario, quota=2**24)


def test_too_few_donors_are_refused() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        with pytest.raises(RefusedError, match=f"{W} holders"):
            await SegmentPusher(session, plan()).open()
        await session.close()

    in_town(scenario, donors=W - 1)


def test_a_small_stream_is_one_row_of_small_cells() -> None:
    stream = stream_of(1000)
    cell = Geometry.of(K, N, len(stream), small=True).cell_size

    async def scenario(town: Town) -> None:
        session = await town.session()
        pusher = SegmentPusher(session, plan(rows=1))
        await pusher.open()
        await pusher.push_rows(stream, cell_size=cell)
        committed = await pusher.commit(stream_length=len(stream), entry=None)
        assert committed.descriptor.cell_size == cell == 384
        await announce(session, committed)
        for shard in committed.shards[:3]:
            town.crash(shard.key)
        assert await reader_of(session, committed).read(100, 900) == stream[100:]
        await session.close()

    in_town(scenario)


def test_wrong_bytes_from_a_holder_never_reach_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stream_of(9 * K * CELL_SIZE)

    async def scenario(town: Town) -> None:
        session = await town.session()
        committed = await push(session, stream)
        await announce(session, committed)
        liars = {s.key for s in committed.shards if s.index in (0, 1, 4)}
        original = Peer.read

        async def lying(
            self: Peer, segment_id: bytes, index: int, runs: list[tuple[int, int]]
        ) -> tuple[memoryview, tuple[bytes, ...]]:
            data, proofs = await original(self, segment_id, index, runs)
            if self.key not in liars:
                return data, proofs
            changed = bytearray(data)
            changed[len(changed) // 2] ^= 1
            return memoryview(changed), proofs

        monkeypatch.setattr(Peer, "read", lying)
        assert await reader_of(session, committed).read(0, len(stream)) == stream
        liars |= {s.key for s in committed.shards if s.index in (2, 3)}
        with pytest.raises((NotEnoughShards, PeerError)):
            await reader_of(session, committed).read(0, len(stream))
        await session.close()

    in_town(scenario)

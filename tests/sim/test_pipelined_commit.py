"""The commit of a shard goes behind its last push, whose answer has not come: what is so, and what goes wrong then."""

from __future__ import annotations

import asyncio
import random

import pytest
from town import Town, in_town

from potsherd.crypto.signing import SigningKey
from potsherd.erasure.layout import CELL_SIZE
from potsherd.errors import PeerError, RefusedError
from potsherd.node.client import Peer
from potsherd.node.pusher import CommittedSegment, PushPlan, SegmentPusher
from potsherd.node.reader import SegmentReader
from potsherd.node.records import RosterEntry
from potsherd.node.session import Session
from potsherd.node.testing import seed_of
from potsherd.ports import Buffer

K, N, R, W = 3, 7, 5, 6
STREAM = random.Random(1).randbytes(20 * K * CELL_SIZE)


async def opened(session: Session, w: int = W) -> SegmentPusher:
    """Everything given to the pusher but the end."""
    plan = PushPlan(
        K, N, R, w,
        owner=SigningKey(seed_of("owner")),
        placement_key=seed_of("segment")[:20],
        shard_bytes_max=20 * CELL_SIZE,
        spool_path="spool/segment",
    )  # fmt: skip
    pusher = SegmentPusher(session, plan)
    await pusher.open()
    await pusher.push_rows(STREAM)
    return pusher


async def committed_by(pusher: SegmentPusher) -> CommittedSegment:
    committed = await pusher.commit(stream_length=len(STREAM), entry=None)
    await pusher.share_roster(committed)
    return committed


async def check(session: Session, committed: CommittedSegment) -> None:
    """Every shard has a holder of its own, which has it whole, and the whole can be read."""
    assert {shard.index for shard in committed.shards} == set(range(N))
    assert len({shard.key for shard in committed.shards}) == N
    for shard in committed.shards:
        peer = await session.peer(shard.key, shard.address)
        await peer.announce([committed.segment_id])
    reader = SegmentReader(session, committed.segment_id, committed.descriptor.placement_key)
    assert await reader.read(0, len(STREAM)) == STREAM


def test_no_commit_waits_for_the_answer_to_the_last_push(monkeypatch: pytest.MonkeyPatch) -> None:
    under_way: dict[bytes, int] = {}
    behind: list[bool] = []
    push, commit = Peer.push, Peer.commit

    async def noted_push(self: Peer, stage: int, offset: int, *buffers: Buffer) -> None:
        under_way[self.key] = offset + sum(map(len, buffers))
        await push(self, stage, offset, *buffers)
        del under_way[self.key]

    async def noted_commit(self: Peer, stage: int, descriptor: bytes, lease: bytes) -> bytes:
        behind.append(under_way.get(self.key) == len(STREAM) // K)
        return await commit(self, stage, descriptor, lease)

    async def scenario(town: Town) -> None:
        async with await town.session() as session:
            await check(session, await committed_by(await opened(session)))

    monkeypatch.setattr(Peer, "push", noted_push)
    monkeypatch.setattr(Peer, "commit", noted_commit)
    in_town(scenario, donors=N)
    assert behind == [True] * N


@pytest.mark.parametrize("tenths", range(0, 16, 2))
def test_a_holder_that_dies_at_the_end_is_replaced(tenths: int) -> None:
    """At any time of the end, of which ten tenths is what it takes when nobody dies."""
    took: list[float] = []

    async def undisturbed(town: Town) -> None:
        async with await town.session() as session:
            pusher = await opened(session)
            start = session.env.monotonic()
            await committed_by(pusher)
            took.append(session.env.monotonic() - start)

    async def disturbed(town: Town) -> None:
        async with await town.session() as session:
            pusher = await opened(session, w=N)
            doomed = pusher.holders[tenths % N]
            loop = asyncio.get_running_loop()
            loop.call_later(took[0] * tenths / 10, town.crash, doomed)
            committed = await committed_by(pusher)
            if doomed in {shard.key for shard in committed.shards}:
                assert tenths >= 5, "it has acknowledged its shard before it died"
            else:
                await check(session, committed)

    in_town(undisturbed, donors=10)
    in_town(disturbed, donors=10)


def test_a_commit_whose_answer_is_lost_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same holder: it has the shard, and says so."""
    asked: list[bytes] = []
    commit = Peer.commit

    async def unheard(self: Peer, stage: int, descriptor: bytes, lease: bytes) -> bytes:
        asked.append(self.key)
        entry = await commit(self, stage, descriptor, lease)
        if asked.count(self.key) == 1:
            raise PeerError("no answer to commit")
        return entry

    async def scenario(town: Town) -> None:
        async with await town.session() as session:
            pusher = await opened(session)
            holders = pusher.holders
            committed = await committed_by(pusher)
            assert tuple(shard.key for shard in committed.shards) == holders
            await check(session, committed)

    monkeypatch.setattr(Peer, "commit", unheard)
    in_town(scenario, donors=N + 2)
    assert len(asked) == 2 * N


def test_a_holder_that_refuses_the_last_push_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commit is refused too: both have to lead to one replacement."""
    push = Peer.push
    refusing: list[bytes] = []

    async def refused(self: Peer, stage: int, offset: int, *buffers: Buffer) -> None:
        last = offset + sum(map(len, buffers)) == len(STREAM) // K
        if last and (not refusing or self.key in refusing):
            refusing.append(self.key)
            await asyncio.sleep(1.0)
            raise RefusedError("the disk is full")
        await push(self, stage, offset, *buffers)

    async def scenario(town: Town) -> None:
        async with await town.session() as session:
            committed = await committed_by(await opened(session, w=N))
            assert refusing
            assert refusing[0] not in {shard.key for shard in committed.shards}
            await check(session, committed)

    monkeypatch.setattr(Peer, "push", refused)
    in_town(scenario, donors=N + 2)
    assert len(refusing) == 1


def test_who_has_signed_for_its_shard_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it answers to the push afterwards: the receipt is for its key."""
    push, commit = Peer.push, Peer.commit
    signed: list[bytes] = []
    contrary: list[bytes] = []
    again: list[bytes] = []

    async def late_push(self: Peer, stage: int, offset: int, *buffers: Buffer) -> None:
        if self.key in signed:
            again.append(self.key)
        await push(self, stage, offset, *buffers)
        if offset + sum(map(len, buffers)) == len(STREAM) // K and not contrary:
            contrary.append(self.key)
            await asyncio.sleep(0.5)
            assert self.key in signed
            raise RefusedError("I have changed my mind")

    async def late_commit(self: Peer, stage: int, descriptor: bytes, lease: bytes) -> bytes:
        if self.key not in contrary:
            await asyncio.sleep(2.0)
        entry = await commit(self, stage, descriptor, lease)
        signed.append(self.key)
        return entry

    async def scenario(town: Town) -> None:
        async with await town.session() as session:
            pusher = await opened(session, w=N)
            holders = pusher.holders
            committed = await committed_by(pusher)
            assert tuple(shard.key for shard in committed.shards) == holders
            assert all(RosterEntry.decode(s.entry[64:]).node == s.key for s in committed.shards)
            await check(session, committed)

    monkeypatch.setattr(Peer, "push", late_push)
    monkeypatch.setattr(Peer, "commit", late_commit)
    in_town(scenario, donors=N + 2)
    assert contrary
    assert again == []


def test_a_receipt_of_who_has_been_replaced_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was slower than the failure of its push: another has the shard by then, or will have it."""
    push, commit = Peer.push, Peer.commit
    slow: list[bytes] = []

    async def failing(self: Peer, stage: int, offset: int, *buffers: Buffer) -> None:
        await push(self, stage, offset, *buffers)
        if offset + sum(map(len, buffers)) == len(STREAM) // K and not slow:
            slow.append(self.key)
            await asyncio.sleep(1.0)
            raise RefusedError("I have changed my mind")

    async def slow_commit(self: Peer, stage: int, descriptor: bytes, lease: bytes) -> bytes:
        entry = await commit(self, stage, descriptor, lease)
        await asyncio.sleep(3.0)
        return entry

    async def scenario(town: Town) -> None:
        async with await town.session() as session:
            committed = await committed_by(await opened(session, w=N))
            assert slow[0] not in {shard.key for shard in committed.shards}
            assert all(RosterEntry.decode(s.entry[64:]).node == s.key for s in committed.shards)

    monkeypatch.setattr(Peer, "push", failing)
    monkeypatch.setattr(Peer, "commit", slow_commit)
    in_town(scenario, donors=N + 2)


@pytest.mark.parametrize("late_s", [0.5, 0.9, 1.0, 1.1, 1.2, 1.5])
@pytest.mark.parametrize("w", [W, N])
def test_one_is_replaced_while_others_are_late(
    w: int, late_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it is not among those who have come so far, at the moment, does not end the put; nor does the new one
    get the commit before its last push."""
    push, commit = Peer.push, Peer.commit
    refusing: list[bytes] = []
    late: list[bytes] = []
    given: dict[tuple[bytes, int], int] = {}
    early: list[bytes] = []

    async def troubled(self: Peer, stage: int, offset: int, *buffers: Buffer) -> None:
        last = offset + sum(map(len, buffers)) == len(STREAM) // K
        if len(late) <= N - w and not last and self.key not in late:
            late.append(self.key)
            await asyncio.sleep(late_s)
        elif last and self.key not in late and not refusing:
            refusing.append(self.key)
            await asyncio.sleep(0.8)
            raise RefusedError("the disk is full")
        given[self.key, stage] = offset + sum(map(len, buffers))
        await push(self, stage, offset, *buffers)

    async def noted(self: Peer, stage: int, descriptor: bytes, lease: bytes) -> bytes:
        if given[self.key, stage] < len(STREAM) // K and self.key not in refusing:
            early.append(self.key)
        return await commit(self, stage, descriptor, lease)

    async def scenario(town: Town) -> None:
        async with await town.session() as session:
            committed = await committed_by(await opened(session, w=w))
            assert refusing[0] not in {shard.key for shard in committed.shards}
            await check(session, committed)

    monkeypatch.setattr(Peer, "push", troubled)
    monkeypatch.setattr(Peer, "commit", noted)
    in_town(scenario, donors=N + 2)
    assert early == []


def test_who_stops_waiting_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: Peer, stage: int, offset: int, *buffers: Buffer) -> None:
        await asyncio.Event().wait()

    async def scenario(town: Town) -> None:
        async with await town.session() as session:
            before = asyncio.all_tasks()
            pusher = await opened(session)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5.0):
                    await committed_by(pusher)
            await pusher.abort()
            left = [str(task.get_coro()) for task in asyncio.all_tasks() - before]
            assert [text for text in left if "SegmentPusher" in text] == []

    monkeypatch.setattr(Peer, "push", never)
    in_town(scenario, donors=N)


def test_an_error_of_ours_in_a_push_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: Peer, stage: int, offset: int, *buffers: Buffer) -> None:
        await asyncio.sleep(1.0)
        raise ZeroDivisionError

    async def scenario(town: Town) -> None:
        async with await town.session() as session:
            pusher = await opened(session)
            with pytest.raises(ZeroDivisionError):
                await committed_by(pusher)
            await pusher.abort()

    monkeypatch.setattr(Peer, "push", broken)
    in_town(scenario, donors=N)


def test_with_fewer_than_w_nothing_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that is not acknowledged is not to be announced and repaired by those who have taken a shard."""
    commits: list[bytes] = []
    push, commit = Peer.push, Peer.commit
    quick: list[bytes] = []

    async def hopeless(self: Peer, stage: int, offset: int, *buffers: Buffer) -> None:
        if self.key not in quick and len(quick) == W - 1:
            await asyncio.sleep(0.5)
            raise RefusedError("the disk is full")
        if self.key not in quick:
            quick.append(self.key)
        await push(self, stage, offset, *buffers)

    async def noted(self: Peer, stage: int, descriptor: bytes, lease: bytes) -> bytes:
        commits.append(self.key)
        return await commit(self, stage, descriptor, lease)

    async def scenario(town: Town) -> None:
        async with await town.session() as session:
            pusher = await opened(session)
            with pytest.raises(RefusedError, match="only 5 of the 6"):
                await committed_by(pusher)
            await pusher.abort()

    monkeypatch.setattr(Peer, "push", hopeless)
    monkeypatch.setattr(Peer, "commit", noted)
    in_town(scenario, donors=N)
    assert commits == []

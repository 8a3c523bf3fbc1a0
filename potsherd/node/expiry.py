"""Drops what nobody wants kept any more, after asking others (docs/spec/retention.md, section 5).

All segments are gone through once in a *round*, a batch a step; after a start without long pauses. Of every
segment one other holder is asked what it knows, so that renewals, extensions and withdrawals reach holders
that were away; of one that may have to go, several, whose clocks count. What is decided is decided by
`retention`, which is pure.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from statistics import median_low

from potsherd.classes import dataclass
from potsherd.errors import PotsherdError, StorageError
from potsherd.node import retention
from potsherd.node.lease_exchange import learn
from potsherd.node.lease_records import KEEPING_SEGMENTS_MAX, KeepingReply, Withdrawal
from potsherd.node.records import RosterEntry
from potsherd.node.retention import Scope, Verdict
from potsherd.node.store import Kept, ShardStore
from potsherd.ports import Env

__all__ = ["Ask", "Donors", "Expiry", "ExpiryStatistics"]

WITNESSES_MAX = 8
"""Other nodes asked about a segment that may have to go."""
POOL_MAX = 16
"""Donors looked for near a segment whose holders do not answer."""
ASKED_PARALLEL = 8
"""Nodes asked at a time."""
QUICK_PAUSE_S = 1.0
"""Seconds between two steps of the first round after a start."""
OFFSETS_MAX = 33
"""Clocks of others compared with our own, the latest: their median is what `status` tells."""
SIGNATURE_SIZE = 64
DATE_SHOWN_MAX = 253_402_300_799
"""The last second of the year 9999."""

_LOG = logging.getLogger(__name__)

Ask = Callable[[bytes, bytes, Sequence[bytes]], Awaitable[KeepingReply]]
"""(node key, placement key near which it stands, segment ids) → its answer. Raises PotsherdError."""
Donors = Callable[[bytes, int], Awaitable[Sequence[bytes]]]
"""(placement key, how many) → keys of donors with a fresh presence, without this node."""


@dataclass(frozen=True)
class ExpiryStatistics:
    """Counts since start, and two facts of the last round."""

    rounds: int
    dropped: int
    learned: int
    """Statements that others knew and we did not."""
    ending: int
    """Segments whose keeping has ended and whose grace runs."""
    waiting: int
    """Segments that this node would drop, while too few others say that it is time."""
    clock_ahead_s: int | None
    """By how much our clock is ahead of the median of those asked lately; None when nobody was."""


@dataclass(frozen=True)
class _Heard:
    """What one node answered about one segment."""

    utc: float
    withdrawals: Mapping[Scope, int]
    """Scope → when it first saw the withdrawal."""


class Expiry:
    """`run` is a task of the node's; `step` may be called by tests."""

    def __init__(
        self,
        env: Env,
        store: ShardStore,
        *,
        network_id: bytes,
        node_key: bytes,
        ask: Ask,
        donors: Donors,
        alive: Callable[[bytes], bool],
        round_s: float,
        tick_s: float,
        batch: int,
        grace_min_s: int,
    ) -> None:
        """`alive(node key)`: whether it has given a sign of life lately."""
        self._env = env
        self._store = store
        self._network_id = network_id
        self._node_key = node_key
        self._ask = ask
        self._donors = donors
        self._alive = alive
        self._round_s = round_s
        self._tick_s = tick_s
        self._batch = batch
        self._grace_min_s = grace_min_s
        self._cursor = b""
        self._rounds = self._dropped = self._learned = 0
        self._ending = self._waiting = self._ending_now = self._waiting_now = 0
        self._offsets: deque[int] = deque(maxlen=OFFSETS_MAX)
        self._quick = True
        self._wake = asyncio.Event()

    def statistics(self) -> ExpiryStatistics:
        """A snapshot."""
        return ExpiryStatistics(
            rounds=self._rounds,
            dropped=self._dropped,
            learned=self._learned,
            ending=self._ending,
            waiting=self._waiting,
            clock_ahead_s=median_low(self._offsets) if self._offsets else None,
        )

    def ask_again(self) -> None:
        """The clock has changed: compare it with others' soon, and forget what they said before."""
        self._offsets.clear()
        self._cursor, self._quick = b"", True
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        pause = QUICK_PAUSE_S
        while True:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause * self._env.rng.uniform(0.5, 1.5)):
                    await self._wake.wait()
            try:
                pause = await self.step()
            except PotsherdError as error:
                _LOG.warning("looking at what is to be kept failed: %s", error)
                pause = self._tick_s

    async def step(self) -> float:
        """Look at one batch; how many seconds to wait before the next."""
        page = await self._store.kept_page(self._cursor, self._batch)
        await self._look_at(page)
        if len(page) < self._batch:
            self._end_round()
        else:
            self._cursor = page[-1].segment_id
        return self._pause()

    def _end_round(self) -> None:
        self._cursor, self._quick = b"", False
        self._rounds += 1
        self._ending, self._waiting = self._ending_now, self._waiting_now
        self._ending_now = self._waiting_now = 0

    def _pause(self) -> float:
        if self._quick:
            return min(QUICK_PAUSE_S, self._tick_s)
        batches = max(1, -(-self._store.usage().shards // self._batch))
        return max(self._tick_s, self._round_s / batches)

    # --- asking ------------------------------------------------------------------------------------

    async def _look_at(self, page: Sequence[Kept]) -> None:
        now = self._env.utc()
        suspects = [k for k in page if retention.hasty(k, now, grace_min_s=self._grace_min_s)]
        asked = {k.segment_id for k in suspects}
        plan: dict[bytes, list[Kept]] = {}
        known: dict[bytes, set[bytes]] = {}
        for kept in page:
            others = await self._others(kept.segment_id)
            known[kept.segment_id] = {key for key in others if self._alive(key)}
            count = WITNESSES_MAX if kept.segment_id in asked else 1
            for key in self._draw(others, count):
                plan.setdefault(key, []).append(kept)
        heard = await self._ask_all(plan)
        for kept in suspects:
            answers = heard.setdefault(kept.segment_id, {})
            await self._settle(kept.segment_id, answers, known[kept.segment_id])
        ends = [retention.judge(k, grace_min_s=self._grace_min_s).ends for k in page]
        self._ending_now += sum(end <= now for end in ends)

    async def _others(self, segment_id: bytes) -> list[bytes]:
        """Nodes that hold or held the segment: whoever dropped it knows the time, too."""
        entries = await self._store.roster(segment_id)
        nodes = (RosterEntry.decode(data[SIGNATURE_SIZE:]).node for data in entries)
        return [key for key in nodes if key != self._node_key]

    def _draw(self, keys: Sequence[bytes], count: int) -> list[bytes]:
        """Some at random, those that are alive first."""
        shuffled = self._env.rng.sample(keys, len(keys))
        return sorted(shuffled, key=lambda key: not self._alive(key))[:count]

    async def _ask_all(
        self, plan: Mapping[bytes, Sequence[Kept]]
    ) -> dict[bytes, dict[bytes, _Heard]]:
        """Ask every node about its segments; segment id → node key → what it said."""
        heard: dict[bytes, dict[bytes, _Heard]] = {}
        gate = asyncio.Semaphore(ASKED_PARALLEL)

        async def one(key: bytes, part: Sequence[Kept]) -> None:
            async with gate:
                ids = [kept.segment_id for kept in part]
                try:
                    reply = await self._ask(key, part[0].placement_key, ids)
                except PotsherdError:
                    return
            try:
                answer = await self._take(reply)
            except StorageError as error:  # a group of errors would end the node
                _LOG.warning("what %s says is not taken in: %s", key.hex()[:12], error)
                return
            for segment_id in ids:
                heard.setdefault(segment_id, {})[key] = answer

        parts = [
            (key, segments[at : at + KEEPING_SEGMENTS_MAX])
            for key, segments in plan.items()
            for at in range(0, len(segments), KEEPING_SEGMENTS_MAX)
        ]
        async with asyncio.TaskGroup() as tasks:
            for key, part in parts:
                tasks.create_task(one(key, part))
        return heard

    async def _take(self, reply: KeepingReply) -> _Heard:
        now = self._env.utc()
        self._offsets.append(int(now) - reply.utc)
        self._learned += await learn(self._store, self._network_id, reply, now)
        withdrawals = {}
        for data, seen in reply.withdrawals:
            record = Withdrawal.decode(data[SIGNATURE_SIZE:])
            withdrawals[record.owner, record.archive] = seen
        return _Heard(reply.utc, withdrawals)

    # --- deciding and doing ------------------------------------------------------------------------

    async def _settle(
        self, segment_id: bytes, answers: dict[bytes, _Heard], known: set[bytes]
    ) -> None:
        """Drop a segment if what has been learned and the clocks of others agree."""
        kept = await self._store.kept(segment_id)
        now = self._env.utc()
        if kept is None or not retention.hasty(kept, now, grace_min_s=self._grace_min_s):
            return
        candidates = set(known)
        if len(answers) < retention.WITNESSES_MIN:
            near = await self._donors(kept.placement_key, POOL_MAX)
            candidates |= set(near)
            fresh = [key for key in near if key not in answers][:WITNESSES_MAX]
            more = await self._ask_all({key: [kept] for key in fresh})
            answers |= more.get(segment_id, {})
            kept = await self._store.kept(segment_id) or kept
        verdict = retention.agreed(
            kept,
            self._env.utc(),
            [answer.utc for answer in answers.values()],
            len(candidates),
            grace_min_s=self._grace_min_s,
            seen=_seen(kept, list(answers.values())),
        )
        if verdict is None:
            self._waiting_now += 1
        elif await self._store.drop(segment_id, *_reason(verdict, len(answers))):
            self._dropped += 1
            _LOG.info("dropped segment %s: %s", segment_id.hex()[:16], verdict.reason)


def _seen(kept: Kept, answers: Sequence[_Heard]) -> dict[Scope, int]:
    """Per withdrawn scope, since when the withdrawal could be seen."""
    seen: dict[Scope, int] = {}
    for state in kept.leases:
        scope = (state.lease.owner, state.lease.archive)
        if state.withdrawal is not None:
            others = [answer.withdrawals.get(scope) for answer in answers]
            seen[scope] = retention.agreed_seen(state.seen, others)
    return seen


def _reason(verdict: Verdict, clocks: int) -> tuple[str, str, Scope | None]:
    """Reason, details for people, and the scope of a withdrawal."""
    day = datetime.fromtimestamp(min(verdict.ends, DATE_SHOWN_MAX), UTC).date().isoformat()
    agreed = f"the clocks of {clocks} other nodes agreed"
    if verdict.scope is None:
        return verdict.reason, f"no lease came until {day}; {agreed}", None
    owner, archive = verdict.scope
    text = f"archive {archive} of {owner.hex()[:16]}, {verdict.reason} on {day}; {agreed}"
    return verdict.reason, text, verdict.scope if verdict.reason == "withdrawn" else None

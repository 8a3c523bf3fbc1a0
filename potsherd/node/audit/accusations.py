"""Telling others of a wrong shard, and looking into what others tell.

Nothing that is told counts before this node has got a wrong answer itself. Who accuses wrongly a few
times is not listened to for a day: each accusation costs reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from potsherd.classes import dataclass
from potsherd.erasure.descriptor import Descriptor
from potsherd.erasure.merkle import cell_leaf, verify_range
from potsherd.errors import IntegrityError, LimitError, PotsherdError, RefusedError
from potsherd.node.audit.auditor import Auditor
from potsherd.node.audit.records import Accusation, Evidence
from potsherd.node.audit.settings import AuditSettings
from potsherd.node.client import Dial
from potsherd.node.records import ReadAnswer, RosterEntry
from potsherd.node.repair.checks import WrongAnswer
from potsherd.node.repair.claiming import ASK_TIMEOUT_S, Gossip
from potsherd.node.repair.doubts import Doubts, Reason
from potsherd.node.repair.journal import Journal
from potsherd.node.repair.plan import Standing
from potsherd.node.repair.view import Seen, View
from potsherd.node.statements import open_read_answer
from potsherd.node.store import Held, ShardStore
from potsherd.ports import Env

__all__ = ["Accusations", "AccusationsStatistics", "open_evidence"]

WAITING_MAX = 256
"""Accusations that wait to be looked into, and wrong answers that wait to be told; further ones are dropped."""
REMEMBERED_MAX = 4096
"""Accusations looked into lately, and accusers that were wrong."""
FALSE_MAX = 3
"""Accusations not confirmed, after which a node is not listened to for IGNORED_S."""
IGNORED_S = 86_400.0
RECHECKS = 2
"""Random cells read besides the one that is said to be wrong."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class AccusationsStatistics:
    """Counts since start."""

    told: int = 0
    """Wrong shards told to others."""
    heard: int = 0
    confirmed: int = 0
    refuted: int = 0
    ignored: int = 0
    """Of nodes that were wrong several times."""


@dataclass(frozen=True)
class _Heard:
    segment_id: bytes
    node: bytes
    row: int
    accuser: bytes


def open_evidence(held: Held, data: bytes, network_id: bytes) -> tuple[bytes, int, int]:
    """(node key, index, row) of a wrong answer that its node has signed.

    Raises MalformedError, IntegrityError for what is no such thing: another segment, a wrong signature, or
    an answer that was right.
    """
    evidence = Evidence.decode(data)
    said = open_read_answer(evidence.answer, network_id, evidence.cell, evidence.proof)
    d = held.descriptor
    if said.segment_id != held.segment_id or said.index >= d.n or said.row >= d.rows:
        raise IntegrityError("evidence about another segment")
    if _is_right(d, said, evidence):
        raise IntegrityError("the answer was right")
    return said.node, said.index, said.row


def _is_right(d: Descriptor, said: ReadAnswer, evidence: Evidence) -> bool:
    if len(evidence.cell) != d.cell_size:
        return False
    leaf = cell_leaf(evidence.cell)
    try:
        verify_range(d.roots[said.index], d.rows, said.row, leaf, evidence.proof)
    except IntegrityError:
        return False
    return True


class Accusations:
    """`run` is a task of the node's."""

    def __init__(
        self,
        env: Env,
        store: ShardStore,
        view: View,
        auditor: Auditor,
        doubts: Doubts,
        gossip: Gossip,
        journal: Journal,
        *,
        node_key: bytes,
        network_id: bytes,
        dial: Dial,
        suspect: Callable[[bytes], None],
        settings: AuditSettings,
    ) -> None:
        """`suspect(segment id)`: somebody says that our own shard is wrong."""
        self._env = env
        self._store = store
        self._view = view
        self._auditor = auditor
        self._doubts = doubts
        self._gossip = gossip
        self._journal = journal
        self._me = node_key
        self._network_id = network_id
        self._dial = dial
        self._suspect = suspect
        self._settings = settings
        self._heard: deque[_Heard] = deque()
        self._found: deque[tuple[Held, RosterEntry, WrongAnswer]] = deque()
        self._lately: OrderedDict[tuple[bytes, bytes], float] = OrderedDict()
        self._wrong: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._looking_at: tuple[bytes, bytes] | None = None
        """(segment id, node key): who accused it has told everybody else too."""
        self._wake = asyncio.Event()
        self._counts = AccusationsStatistics()

    def statistics(self) -> AccusationsStatistics:
        """A snapshot."""
        return self._counts

    def found(self, held: Held, entry: RosterEntry, error: WrongAnswer) -> None:
        """This node has got a wrong answer itself: tell the others, and the one that gave it."""
        told_by_others = self._looking_at == (held.segment_id, entry.node)
        if len(self._found) < WAITING_MAX and not told_by_others:
            self._found.append((held, entry, error))
            self._wake.set()

    async def hear(self, accusation: Accusation, accuser: bytes) -> None:
        """Another holder accuses one. Raises RefusedError, IntegrityError, LimitError."""
        held = await self._store.held(accusation.segment_id)
        if held is None:
            raise RefusedError("the segment is not held here")
        seen = await self._view.look(held)
        if accuser not in {e.node for e in seen.holding(Standing.UNKNOWN)}:
            raise RefusedError("the accuser does not hold the segment")
        if accusation.evidence:
            node, _, row = open_evidence(held, accusation.evidence, self._network_id)
            if (node, row) != (accusation.node, accusation.row):
                raise IntegrityError("the evidence is about another accusation")
        if accusation.node == self._me:
            self._suspect(accusation.segment_id)
        elif not self._is_idle_talk(accusation, accuser):
            heard = _Heard(accusation.segment_id, accusation.node, accusation.row, accuser)
            self._heard.append(heard)
            self._wake.set()

    def _is_idle_talk(self, accusation: Accusation, accuser: bytes) -> bool:
        """Known, looked into lately, or by one that was wrong several times."""
        now = self._env.monotonic()
        self._count(heard=1)
        times, last = self._wrong.get(accuser, (0, now))
        if times >= FALSE_MAX and now - last < IGNORED_S:
            self._count(ignored=1)
            return True
        if len(self._heard) >= WAITING_MAX:
            raise LimitError("too many accusations", remedy="try again later")
        place = (accusation.segment_id, accusation.node)
        looked = self._lately.get(place)
        if looked is not None and now - looked < self._settings.recheck_s:
            return True
        _remember(self._lately, place, now)
        return False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.step()
            except PotsherdError as error:
                _LOG.warning("looking into accusations failed: %s", error)
                await asyncio.sleep(self._settings.tick_s)

    async def step(self) -> None:
        """Tell all that is to be told, look into all that was heard."""
        while self._found:
            await self._tell(*self._found.popleft())
        while self._heard:
            await self._look_into(self._heard.popleft())

    async def _tell(self, held: Held, entry: RosterEntry, error: WrongAnswer) -> None:
        accusation = Accusation(held.segment_id, entry.node, error.row, error.evidence)
        seen = await self._view.look(held)
        await self._gossip.ask_all(seen, partial(self._tell_one, held, accusation))
        try:  # it does not count among the live ones any more
            async with asyncio.timeout(ASK_TIMEOUT_S):
                await self._tell_one(held, accusation, entry.node)
        except (PotsherdError, TimeoutError) as silence:
            _LOG.debug("the accused does not listen: %s", silence)
        self._count(told=1)

    async def _tell_one(self, held: Held, accusation: Accusation, node: bytes) -> None:
        peer = await self._dial(node, held.descriptor.placement_key)
        await peer.accuse(accusation)

    async def _look_into(self, heard: _Heard) -> None:
        held = await self._store.held(heard.segment_id)
        seen = await self._view.look(held) if held is not None else None
        entry = next((e for e in seen.entries if e.node == heard.node), None) if seen else None
        if seen is None or entry is None or not entry.held:
            return
        if self._doubts.about(entry) is Reason.WRONG:
            return
        self._looking_at = heard.segment_id, heard.node
        try:
            refuted = await self._recheck(seen, entry, heard.row)
        finally:
            self._looking_at = None
        if refuted:
            self._refute(seen, entry, heard)
        elif self._doubts.about(entry) is Reason.WRONG:
            self._count(confirmed=1)

    async def _recheck(self, seen: Seen, entry: RosterEntry, row: int) -> bool:
        """Whether the cell in question and some others were proven; not if it was wrong, silent, or too much for today."""
        first = row if row < seen.held.descriptor.rows else None
        for wanted in (first, *[None] * RECHECKS):
            if not self._auditor.budget.take(self._auditor.cost(seen), self._env.monotonic()):
                return False
            if not await self._auditor.audit(seen, entry, wanted):
                return False
        return True

    def _refute(self, seen: Seen, entry: RosterEntry, heard: _Heard) -> None:
        self._count(refuted=1)
        times, last = self._wrong.get(heard.accuser, (0, 0.0))
        now = self._env.monotonic()
        times = 0 if now - last >= IGNORED_S else times
        _remember(self._wrong, heard.accuser, (times + 1, now))
        text = (
            f"{heard.accuser.hex()[:16]} says that index {entry.index} at "
            f"{entry.node.hex()[:16]} is wrong: {RECHECKS + 1} cells of it are right"
        )
        self._journal.note(self._env.utc(), seen.held.segment_id, text)

    def _count(self, **more: int) -> None:
        now = vars(self._counts)
        self._counts = replace(self._counts, **{name: now[name] + by for name, by in more.items()})


def _remember(table: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > REMEMBERED_MAX:
        table.popitem(last=False)

"""Reading random cells of others' shards, one auditor for each shard and period (docs/design/audit.md).

What is sent is an ordinary read of one cell. A wrong answer counts at once and is told to the other
holders, who look for themselves; no answer only means that the node is away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from potsherd.classes import dataclass
from potsherd.errors import PotsherdError
from potsherd.node.audit.plan import Budget, due
from potsherd.node.audit.settings import AuditSettings
from potsherd.node.records import RosterEntry
from potsherd.node.repair.checks import Checker, Outdated
from potsherd.node.repair.plan import Standing
from potsherd.node.repair.view import Seen, View
from potsherd.node.store import ShardStore
from potsherd.ports import Env

__all__ = ["Auditor", "AuditorStatistics"]

PROOFS_KEPT_PERIODS = 8
"""Periods after which the last proof of a shard is forgotten; others have audited it since."""
OVERHEAD_BYTES = 1024
"""Bytes of an audit besides its cell: proof, signature, frames."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class AuditorStatistics:
    """Counts since start; dates in seconds UTC, 0 for none."""

    passed: int = 0
    failed: int = 0
    silent: int = 0
    """Audits that were not answered."""
    outdated: int = 0
    """Audits of shards that their holders had let go of before; this node had not heard of it."""
    bytes: int = 0
    deferred: int = 0
    """Audits put off because the day's budget was spent."""
    rounds: int = 0
    proofs: int = 0
    """Shards of others whose last proof is remembered, when last looked."""
    oldest: int = 0
    """Of these proofs."""
    newest: int = 0


class Auditor:
    """`run` is a task of the node's."""

    def __init__(
        self,
        env: Env,
        store: ShardStore,
        view: View,
        checker: Checker,
        *,
        node_key: bytes,
        settings: AuditSettings,
        changed: Callable[[], None],
    ) -> None:
        """`changed`: a shard was found wrong."""
        self._env = env
        self._store = store
        self._view = view
        self._checker = checker
        self._me = node_key
        self._settings = settings
        self._changed = changed
        self._salt = env.rng.randbytes(32)
        self.budget = Budget(settings.bytes_per_day, env.monotonic())
        self._cursor = b""
        self._counts = AuditorStatistics()

    async def load(self) -> None:
        """See what was proven before the restart. Raises StorageError."""
        await self._look_at_proofs()

    def statistics(self) -> AuditorStatistics:
        """A snapshot."""
        return self._counts

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pages = max(1, -(-self._store.usage().shards // self._settings.batch))
            pause = max(self._settings.tick_s, self._settings.round_s / pages)
            await asyncio.sleep(pause * self._env.rng.uniform(0.5, 1.5))
            try:
                await self.step()
            except PotsherdError as error:
                _LOG.warning("auditing failed: %s", error)

    async def step(self) -> None:
        """Look at one page of segments and audit what is due; ends early when the budget is spent."""
        page = await self._store.segments(self._cursor, self._settings.batch)
        for held in page:
            seen = await self._view.look(held)
            if seen.wanted and not await self._audit_due(seen):
                return  # the cursor stays behind the last segment that was done
            self._cursor = held.segment_id
        if len(page) < self._settings.batch:
            self._cursor = b""
            await self._end_round()

    async def _end_round(self) -> None:
        before = self._env.utc() - PROOFS_KEPT_PERIODS * self._settings.period_s
        await self._store.audits.prune_proofs(int(before))
        await self._look_at_proofs()
        self._count(rounds=1)

    async def _look_at_proofs(self) -> None:
        count, oldest, newest = await self._store.audits.proof_dates()
        self._counts = replace(self._counts, proofs=count, oldest=oldest, newest=newest)

    async def _audit_due(self, seen: Seen) -> bool:
        """Whether the budget sufficed."""
        known = await self._store.audits.proofs(seen.held.segment_id)
        found = due(
            seen.holding(Standing.LIVE),
            me=self._me,
            utc=self._env.utc(),
            period_s=self._settings.period_s,
            proven={proof.node: proof.date for proof in known},
            salt=self._salt,
        )
        for entry in found:
            if not self.budget.take(self.cost(seen), self._env.monotonic()):
                self._count(deferred=1)
                return False
            await self.audit(seen, entry)
        return True

    @staticmethod
    def cost(seen: Seen) -> int:
        """Bytes that one audit moves."""
        return seen.held.descriptor.cell_size + OVERHEAD_BYTES

    async def audit(self, seen: Seen, entry: RosterEntry, row: int | None = None) -> bool:
        """One audit; whether the shard was proven. Silence counts as nothing."""
        try:
            passed = await self._checker.examine(seen.held, entry, row)
        except Outdated as error:
            _LOG.debug("nothing to audit at %s: %s", entry.node.hex()[:12], error)
            self._count(outdated=1)
            return False
        except PotsherdError as error:
            _LOG.debug("%s does not answer an audit: %s", entry.node.hex()[:12], error)
            self._count(silent=1)
            return False
        self._count(passed=int(passed), failed=int(not passed), bytes=self.cost(seen))
        if passed:
            date = int(self._env.utc())
            self._counts = replace(self._counts, newest=date, oldest=self._counts.oldest or date)
        else:
            self._changed()
        return passed

    def _count(self, **more: int) -> None:
        now = vars(self._counts)
        self._counts = replace(self._counts, **{name: now[name] + by for name, by in more.items()})

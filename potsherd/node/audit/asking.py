"""Somebody asks for a repair: begin it, and say how it stands or what is in its way (`potsherd repair`)."""

from __future__ import annotations

from collections import Counter

from potsherd.node.audit.encodings import Encodings
from potsherd.node.audit.records import REASON_MAX, RepairState
from potsherd.node.liveness import PeerTable
from potsherd.node.repair.claiming import Claiming
from potsherd.node.repair.plan import Standing
from potsherd.node.repair.repairer import Repairer
from potsherd.node.repair.view import Seen, View
from potsherd.node.store import ShardStore

__all__ = ["RUNNING", "STUCK", "WAITING", "WHOLE", "Asking"]

WHOLE, WAITING, RUNNING, STUCK = range(4)
"""RepairState.state."""


class Asking:
    """Answers for one node."""

    def __init__(
        self,
        store: ShardStore,
        view: View,
        peers: PeerTable,
        repairer: Repairer,
        claiming: Claiming,
        encodings: Encodings,
        *,
        node_key: bytes,
    ) -> None:
        self._store = store
        self._view = view
        self._peers = peers
        self._repairer = repairer
        self._claiming = claiming
        self._encodings = encodings
        self._me = node_key

    async def ask(self, segment_id: bytes) -> RepairState | None:
        """Begin what can be begun; None when the segment is not held here."""
        held = await self._store.held(segment_id)
        if held is None:
            return None
        seen = await self._view.look(held)
        if seen.health.missing and not self._encodings.is_bad(segment_id):
            self._repairer.ask_for(segment_id)
        state, rows, reason = self._judge(seen)
        health = seen.health
        text = reason.encode()[:REASON_MAX].decode(errors="ignore")
        return RepairState(segment_id, state, health.live, health.distinct, rows, text)

    def _judge(self, seen: Seen) -> tuple[int, int | None, str]:
        """(state, rows sent, reason)."""
        health, segment_id = seen.health, seen.held.segment_id
        if self._encodings.is_bad(segment_id):
            return STUCK, None, "its owner has coded it wrongly: what is missing cannot be rebuilt"
        if not health.missing:
            return self._nothing_missing(seen)
        trouble = self._in_the_way(seen)
        if trouble:
            return STUCK, None, trouble
        claim = self._claiming.standing(segment_id)
        if claim is not None:
            who = "we" if claim.repairer == self._me else claim.repairer.hex()[:16]
            return RUNNING, claim.rows, f"{len(claim.indices)} pieces are being rebuilt by {who}"
        return self._waiting(seen)

    @staticmethod
    def _nothing_missing(seen: Seen) -> tuple[int, int | None, str]:
        standings = Counter(seen.health.standings.values())
        if standings[Standing.UNKNOWN]:
            count = standings[Standing.UNKNOWN]
            return WAITING, None, f"{count} pieces have new holders, who have to prove them first"
        if not standings[Standing.AWAY]:
            return WHOLE, None, ""
        reason = (
            f"{standings[Standing.AWAY]} pieces are on nodes that are away: "
            "what is not given up is not rebuilt"
        )
        return STUCK, None, reason

    def _in_the_way(self, seen: Seen) -> str:
        health = seen.health
        if not health.is_readable:
            return f"{health.live} pieces are live, {health.k} are needed to rebuild others"
        if not seen.wanted:
            return "no lease wants it to be kept"
        if self._peers.isolated:
            return "this node reaches too few others to judge who is lost"
        plight = self._repairer.plight(seen.held.segment_id)
        if plight is not None and plight.trouble and not plight.running:
            return plight.trouble
        return ""

    def _waiting(self, seen: Seen) -> tuple[int, int | None, str]:
        rank = self._claiming.rank(seen)(self._me)
        text = f"{len(seen.health.missing)} pieces are missing; this node is number {rank + 1} to repair"
        return WAITING, None, text

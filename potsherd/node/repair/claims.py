"""Who is repairing which segment, as far as this node has heard. Pure: `now` is an argument.

A claim stands until it ends or lapses: without progress after `lapse_s`, whatever it says after
`total_s`. Of two that begin together the better rank stands; one that has made progress is not pushed
aside. Who let a claim lapse comes last in that segment's order for a while, and its claims on it keep
nobody away.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from potsherd.classes import dataclass
from potsherd.node.repair.records import RepairClaim

__all__ = ["CLAIMS_MAX", "ClaimBook", "ClaimPolicy"]

CLAIMS_MAX = 4096
"""Claims remembered; the one heard of longest ago goes first."""
FAILURES_MAX = 4096
"""Repairers that come last, per segment; the oldest note goes first."""


@dataclass(frozen=True)
class ClaimPolicy:
    """How long a claim keeps others away. Seconds; settings scale them together."""

    lapse_s: float = 3600.0
    """Without progress for so long a claim lapses."""
    total_s: float = 3600.0
    """A claim may take this long in all …"""
    slowest_bytes_per_s: float = 65_536.0
    """… and as long as its shards take at this rate: who only says that it makes progress lapses too."""
    frozen_s: float = 7200.0
    """A claim of somebody who vanished together with others stands this much longer."""
    rest_s: float = 3600.0
    """After a claim has ended, another one of the same repairer on that segment keeps nobody away for so
    long: who claims and ends in turns, and repairs nothing, holds up nothing."""
    passed_over_s: float = 86_400.0
    """A repairer that let a claim lapse comes last for so long, for this segment."""


@dataclass
class _Standing:
    claim: RepairClaim
    signed: bytes
    bytes: int
    begun: float
    progressed: float


class ClaimBook:
    """Claims of all segments. `rank(claim)` is smaller for the better one."""

    def __init__(
        self,
        policy: ClaimPolicy,
        *,
        frozen: Callable[[bytes], bool],
        lapsed: Callable[[bytes, bytes], None] = lambda segment_id, repairer: None,
    ) -> None:
        """`frozen(node key)`: whether it vanished together with others; `lapsed(segment id, repairer)`: a
        claim has ended without being done."""
        self._lapsed = lapsed
        self._policy = policy
        self._frozen = frozen
        self._claims: OrderedDict[bytes, _Standing] = OrderedDict()
        self._failures: OrderedDict[tuple[bytes, bytes], float] = OrderedDict()
        self._ended: OrderedDict[tuple[bytes, bytes], float] = OrderedDict()

    def offer(
        self,
        claim: RepairClaim,
        signed: bytes,
        now: float,
        *,
        segment_bytes: int,
        rank: Callable[[bytes], int],
    ) -> bytes:
        """A verified claim has come in; the signed claim that stands now, empty if none does.

        `segment_bytes`: what a repair of one index moves; `rank(node key)` in the order of repairers.
        """
        known = self._current(claim.segment_id, now)
        if known is None or known.claim.repairer == claim.repairer:
            self._take(known, claim, signed, now, segment_bytes)
        elif claim.indices and self._beats(claim, known.claim, rank):
            self._take(None, claim, signed, now, segment_bytes)
        standing = self._current(claim.segment_id, now)
        return b"" if standing is None else standing.signed

    @staticmethod
    def _beats(claim: RepairClaim, known: RepairClaim, rank: Callable[[bytes], int]) -> bool:
        if known.rows:
            return False
        return rank(claim.repairer) < rank(known.repairer)

    def _take(
        self, known: _Standing | None, claim: RepairClaim, signed: bytes, now: float, size: int
    ) -> None:
        if self.is_passed_over(claim.segment_id, claim.repairer, now):
            return  # it may go on, but keeps nobody away any more
        if known is not None and claim.number <= known.claim.number:
            return
        if not claim.indices:
            if known is not None:
                del self._claims[claim.segment_id]
                self._rest(claim.segment_id, claim.repairer, now)
            return
        if known is None and self._rests(claim.segment_id, claim.repairer, now):
            return
        work = size * len(claim.indices)
        if known is None:
            self._claims[claim.segment_id] = _Standing(claim, signed, work, now, now)
            if len(self._claims) > CLAIMS_MAX:
                self._claims.popitem(last=False)
            return
        fewer = len(claim.indices) < len(known.claim.indices)
        if claim.rows > known.claim.rows or fewer:
            known.progressed = now
        known.claim, known.signed, known.bytes = claim, signed, max(known.bytes, work)

    def _current(self, segment_id: bytes, now: float) -> _Standing | None:
        known = self._claims.get(segment_id)
        if known is None:
            return None
        policy = self._policy
        extra = policy.frozen_s if self._frozen(known.claim.repairer) else 0.0
        total = policy.total_s + known.bytes / policy.slowest_bytes_per_s
        stalled = now - known.progressed >= policy.lapse_s + extra
        if not stalled and now - known.begun < total + extra:
            return known
        del self._claims[segment_id]
        self.pass_over(segment_id, known.claim.repairer, now)
        self._lapsed(segment_id, known.claim.repairer)
        return None

    def _rest(self, segment_id: bytes, repairer: bytes, now: float) -> None:
        self._ended[segment_id, repairer] = now
        self._ended.move_to_end((segment_id, repairer))
        if len(self._ended) > FAILURES_MAX:
            self._ended.popitem(last=False)

    def _rests(self, segment_id: bytes, repairer: bytes, now: float) -> bool:
        ended = self._ended.get((segment_id, repairer))
        return ended is not None and now - ended < self._policy.rest_s

    def pass_over(self, segment_id: bytes, repairer: bytes, now: float) -> None:
        """This repairer has failed at this segment."""
        self._failures[segment_id, repairer] = now
        self._failures.move_to_end((segment_id, repairer))
        if len(self._failures) > FAILURES_MAX:
            self._failures.popitem(last=False)

    def is_passed_over(self, segment_id: bytes, repairer: bytes, now: float) -> bool:
        """Whether it let a claim on the segment lapse lately."""
        failed = self._failures.get((segment_id, repairer))
        return failed is not None and now - failed < self._policy.passed_over_s

    def standing(self, segment_id: bytes, now: float) -> RepairClaim | None:
        """The claim that stands."""
        known = self._current(segment_id, now)
        return None if known is None else known.claim

    def all(self, now: float) -> list[RepairClaim]:
        """Every claim that stands."""
        return [c for s in list(self._claims) if (c := self.standing(s, now)) is not None]

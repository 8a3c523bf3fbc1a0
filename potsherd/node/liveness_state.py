"""What is known of a peer, in the compact form that outlives a restart (docs/spec/store.md, table watched)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from potsherd.classes import dataclass
from potsherd.dht.addresses import AddressField
from potsherd.errors import MalformedError
from potsherd.node.habits import ABSENCES_MAX, HOURS_PER_WEEK, Absence, Habits
from potsherd.node.liveness import Watched
from potsherd.node.records import DATE_MAX
from potsherd.ports import Address
from potsherd.wire import Bool, Bytes, ListOf, Opt, Record, Tuple, Uint

__all__ = ["PeerState", "state_of", "watched_of"]

SECONDS_MAX = 2**32 - 1
WEEKS_MAX = 2**24 - 1


@dataclass(frozen=True)
class PeerState(Record):
    """One peer's liveness: times in whole seconds, about 470 bytes, 640 while it is silent."""

    SIZE_MAX: ClassVar[int] = 768
    near: Annotated[bytes, Bytes(max=20)]
    address: Annotated[Address | None, Opt(AddressField())]
    """Where it was last met: a node finds its peers again without the DHT."""
    answered: Annotated[bool, Bool()]
    presented: Annotated[bool, Bool()]
    seen: Annotated[int, Uint(DATE_MAX)]
    """Date of the last sign of life."""
    away: Annotated[bool, Bool()]
    gone: Annotated[bool, Bool()]
    silent: Annotated[int, Uint(SECONDS_MAX)]
    vouched: Annotated[int, Uint(SECONDS_MAX)]
    frozen: Annotated[int, Uint(SECONDS_MAX)]
    freeze_left: Annotated[int, Uint(SECONDS_MAX)]
    missed: Annotated[int, Uint(SECONDS_MAX)]
    patience: Annotated[int, Uint(SECONDS_MAX)]
    passed: Annotated[int, Uint(255)]
    failed: Annotated[int, Uint(255)]
    observed: Annotated[int, Uint(SECONDS_MAX)]
    absences: Annotated[
        tuple[tuple[int, int], ...],
        ListOf(Tuple(Uint(SECONDS_MAX), Uint(WEEKS_MAX)), max=ABSENCES_MAX),
    ]
    up: Annotated[bytes, Bytes(HOURS_PER_WEEK)]
    tries: Annotated[bytes, Bytes(HOURS_PER_WEEK)]
    pending: Annotated[bytes | None, Opt(Bytes(HOURS_PER_WEEK))]

    def check(self) -> None:
        if any(up > tries for up, tries in zip(self.up, self.tries, strict=True)):
            raise MalformedError("PeerState.up: more than was tried")


def _whole(seconds: float) -> int:
    return min(SECONDS_MAX, max(0, int(seconds)))


def state_of(peer: Watched) -> PeerState:
    """What is to be written down."""
    habits = peer.habits
    return PeerState(
        near=peer.near,
        address=peer.met_at,
        answered=peer.answered,
        presented=peer.presented,
        seen=min(DATE_MAX, max(0, int(peer.seen_utc))),
        away=peer.away,
        gone=peer.gone,
        silent=_whole(peer.silent_s),
        vouched=_whole(peer.vouched_s),
        frozen=_whole(peer.frozen_s),
        freeze_left=_whole(peer.freeze_left_s),
        missed=_whole(peer.missed_s),
        patience=_whole(peer.patience_s),
        passed=peer.passed,
        failed=peer.failed,
        observed=_whole(habits.observed_s),
        absences=tuple(
            (_whole(a.length_s), min(WEEKS_MAX, max(0, a.week))) for a in habits.absences
        ),
        up=bytes(habits.up),
        tries=bytes(habits.tries),
        pending=None if habits.pending is None else bytes(habits.pending),
    )


def watched_of(state: PeerState, now: float, utc: float, interval_s: float) -> Watched:
    """The peer as it goes on being watched from `now` on: due at once, silence as it was.

    The time between the two runs was not observed and counts as nothing.
    """
    habits = Habits(
        up=bytearray(state.up),
        tries=bytearray(state.tries),
        pending=None if state.pending is None else bytearray(state.pending),
        observed_s=float(state.observed),
        absences=[Absence(float(length), week) for length, week in state.absences],
    )
    due = now - interval_s
    return Watched(
        seen=now - max(0.0, utc - state.seen),
        seen_utc=float(state.seen),
        asked=due,
        counted=due,
        near=state.near,
        address=state.address,
        met_at=state.address,
        answered=state.answered,
        presented=state.presented,
        fails=int(state.away),
        away=state.away,
        gone=state.gone,
        silent_s=float(state.silent),
        vouched_s=float(state.vouched),
        frozen_s=float(state.frozen),
        freeze_left_s=float(state.freeze_left),
        missed_s=float(state.missed),
        spoken_s=float(state.silent),
        patience_s=float(state.patience),
        passed=state.passed,
        failed=state.failed,
        habits=habits,
    )

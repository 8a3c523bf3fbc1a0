"""Who of those that share segments with us is there, away, or lost (docs/design/liveness.md). Pure.

*Away*: does not answer now. *Gone* (lost): silent for longer than its habits explain. Silence is counted
in observed time: not while this node was down or stopped, nor while it could not reach most of its peers.
When many vanish together, their timers freeze for a while: a cut cable is no mass grave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import field
from typing import NamedTuple

from potsherd.classes import dataclass
from potsherd.node.attendance import Attendance
from potsherd.node.churn import AVAILABILITY_WHOLE, ChurnCounts, ChurnSeen, typical
from potsherd.node.habits import Habits, LossPolicy
from potsherd.ports import Address

__all__ = ["FreezePolicy", "PeerCounts", "PeerTable", "Watched"]

WEEK_S = 7 * 86_400.0
HEARSAY_FACTOR = 2.0
"""Beyond so many times a peer's patience nobody's word that it was seen counts against our own silence."""
SILENT_ASK_S = 86_400.0
"""A peer silent for so long is asked less often."""
SILENT_INTERVALS = 6
"""Heartbeat intervals between two questions to such a peer."""
SILENT_PAUSE_MAX_S = 4 * 3600.0
"""No longer than that, unless the interval is: asked once a day, a sleeper would always be asked in its sleep."""
QUESTION_SPEAKS_S = 3600.0
"""For so much of the time before it a question in vain speaks at most: habits are known by the hour."""
PROVEN_RECORD_S = 14 * 86_400.0
"""Observed time after which a peer with a passed audit has a proven record."""
EXPECTED_SHARE = 0.5
"""A peer whose chance to be there at this hour is smaller is not missed when it leaves."""
ACQUAINTANCES_MAX = 2048
"""Nodes known from the DHT by which it is judged whether we reach the network."""


@dataclass(frozen=True)
class FreezePolicy:
    """When and for how long silence is not believed. Seconds; settings scale them together."""

    window_s: float = 3600.0
    """Peers that vanish within so long vanish together."""
    share: float = 0.2
    """More than this share of those that were there: it is the network, not they."""
    together_min: int = 3
    """Fewer never freeze anything by their share."""
    domain_min: int = 2
    """Peers that a failure domain must have, to freeze when all of it vanishes."""
    freeze_max_s: float = 72 * 3600.0
    """A peer's timer stands still for so long at most, each time that it vanishes."""
    reach_share: float = 0.5
    """With fewer of those that should be there within reach, nobody is given up."""
    memory_s: float = 7 * 86_400.0
    """Nodes silent for longer no longer count among those that should be there."""


class PeerCounts(NamedTuple):
    """How many peers are watched, and how many of them are away, gone, frozen (away, timer stopped)."""

    watched: int
    away: int
    gone: int = 0
    frozen: int = 0
    isolated: bool = False
    """Whether this node reaches too few of its peers to judge anybody."""


@dataclass
class Watched:
    """What is known of one peer. Times of the loop's clock unless said otherwise."""

    seen: float
    """Last sign of life; at first when watching began."""
    seen_utc: float
    """The same as a date, for others and across restarts."""
    asked: float
    """When a heartbeat was last sent or saved by other traffic."""
    counted: float
    """When its habits last counted; traffic in between says nothing new."""
    near: bytes
    """Placement key of a segment that we share: in its pool the node's presence is found."""
    address: Address | None = None
    """Where to ask it; None when it did not answer there."""
    met_at: Address | None = None
    """Where it last answered a heartbeat."""
    domains: tuple[tuple[str, str], ...] = ()
    """Failure domains, as its presence says (placement.domains_of)."""
    answered: bool = False
    """Whether it ever gave a sign of life: members only can."""
    presented: bool = False
    """Whether a presence of it, with its credential, has been seen."""
    fails: int = 0
    """Heartbeats without an answer since `seen`."""
    away: bool = False
    gone: bool = False
    silent_s: float = 0.0
    """Observed silence since `seen`."""
    vouched_s: float = 0.0
    """Of it, up to when others say that they have seen it."""
    frozen_s: float = 0.0
    """Of the rest, time that did not count."""
    freeze_left_s: float = 0.0
    """How long the timer stands still yet."""
    missed_s: float = 0.0
    """Silence for which questions in vain speak, weighted with the chance that it should have been there."""
    spoken_s: float = 0.0
    """Of `silent_s`, up to where questions have spoken."""
    patience_s: float = 0.0
    """What its habits were worth when the silence began; 0 while it is there."""
    passed: int = 0
    """Audits passed, at most 255."""
    failed: int = 0
    """Audits failed, at most 255."""
    habits: Habits = field(default_factory=Habits)

    def silence_s(self, *, urgent: bool = False) -> float:
        """Silence that counts towards loss; of urgent segments also while the timer stands still."""
        return max(0.0, self.silent_s - self.vouched_s - (0.0 if urgent else self.frozen_s))


class PeerTable:
    """At most `peers_max` nodes. `now`: seconds of the loop's clock; `utc`: dates and hours of the week."""

    def __init__(
        self,
        *,
        interval_s: float,
        away_after_s: float,
        peers_max: int,
        loss: LossPolicy | None = None,
        freeze: FreezePolicy | None = None,
    ) -> None:
        self._interval_s = interval_s
        self._away_after_s = away_after_s
        self._peers_max = peers_max
        self._loss = loss or LossPolicy()
        self._freeze = freeze or FreezePolicy()
        self._peers: dict[bytes, Watched] = {}
        self._others: dict[bytes, float] = {}
        self._vanished: deque[tuple[float, bytes]] = deque()
        self._advanced: float | None = None
        self._isolated = False
        self._watched_s, self._gone, self._returned = 0.0, 0, 0
        self._attendance = Attendance()

    # who is watched

    def watch(
        self, key: bytes, now: float, *, near: bytes = b"", address: Address | None = None
    ) -> bool:
        """Begin to watch a node, or learn more of it; False when the table is full.

        In a full table a newcomer takes the place of one that is away and has never answered.
        """
        known = self._peers.get(key)
        if known is None:
            if len(self._peers) >= self._peers_max and not self._forget_one():
                return False
            # due at once: an address given by somebody else is worth nothing before it answered
            due = now - self._interval_s
            known = self._peers[key] = Watched(now, 0.0, due, due, near)
        known.near = near or known.near
        known.address = known.address or address
        return True

    def _forget_one(self) -> bool:
        for key, peer in self._peers.items():
            if not peer.answered and peer.away:
                del self._peers[key]
                return True
        return False

    def keep_only(self, keys: Iterable[bytes]) -> None:
        """Forget all others."""
        wanted = set(keys)
        for key in [key for key in self._peers if key not in wanted]:
            del self._peers[key]

    def describe(
        self, key: bytes, address: Address | None, domains: Sequence[tuple[str, str]]
    ) -> None:
        """What a presence says about a node; nodes not watched are ignored."""
        peer = self._peers.get(key)
        if peer is not None:
            peer.presented = True
            peer.domains = tuple(domains)
            peer.address = peer.address or address

    def restore(self, key: bytes, peer: Watched) -> None:
        """Go on watching a node with what was known of it before a restart (liveness_state)."""
        if len(self._peers) < self._peers_max:
            self._peers[key] = peer

    def items(self) -> list[tuple[bytes, Watched]]:
        """All that are watched."""
        return list(self._peers.items())

    # signs of life

    def seen(self, key: bytes, now: float, utc: float, address: Address | None = None) -> bool:
        """A sign of life; True if it is the first one, or the node had counted as away.

        Nodes not watched are ignored.
        """
        peer = self._peers.get(key)
        if peer is None:
            return False
        news = peer.away or not peer.answered
        if peer.away and peer.answered:
            peer.habits.returned(peer.silent_s, utc)
            self._returned += peer.silent_s >= self._loss.floor_s
            self._gone -= peer.gone  # the shards are back
        peer.seen = peer.asked = now
        peer.seen_utc = utc
        peer.answered = True
        peer.address = address or peer.address
        peer.met_at = address or peer.met_at
        peer.away = peer.gone = False
        peer.fails = 0
        peer.silent_s = peer.vouched_s = peer.frozen_s = peer.freeze_left_s = 0.0
        peer.missed_s = peer.spoken_s = peer.patience_s = 0.0
        if now - peer.counted >= self._interval_s:
            peer.counted = now
            peer.habits.answered(utc)
        return news

    def failed(self, key: bytes, now: float, utc: float) -> None:
        """A heartbeat without an answer; its address is not trusted any more."""
        peer = self._peers.get(key)
        if peer is None:
            return
        if not peer.fails:
            peer.patience_s = self._patience_s(peer.habits, utc)
        speaks = min(QUESTION_SPEAKS_S, peer.silent_s - peer.spoken_s)
        peer.missed_s += speaks * peer.habits.availability(utc)
        peer.spoken_s = peer.silent_s
        peer.asked, peer.address = now, None
        peer.fails += 1
        peer.counted = now
        peer.habits.missed(utc)

    def vouched(self, key: bytes, age_s: float) -> bool:
        """Somebody else has seen it so many seconds ago; whether that was news.

        Our own silence of HEARSAY_FACTOR times its patience outweighs what others say: a liar delays
        a loss, but does not prevent it.
        """
        peer = self._peers.get(key)
        if peer is None or peer.silent_s >= HEARSAY_FACTOR * peer.patience_s:
            return False
        upto = peer.silent_s - max(0.0, age_s)
        if upto <= peer.vouched_s:
            return False
        peer.vouched_s, peer.frozen_s = upto, 0.0
        peer.missed_s = min(peer.missed_s, age_s)
        back = peer.gone and not self._is_lost(peer, urgent=False)
        peer.gone = peer.gone and not back
        self._gone -= back and peer.answered
        return True

    def audited(self, key: bytes, passed: bool) -> None:
        """One proved read was right or wrong."""
        peer = self._peers.get(key)
        if peer is not None:
            peer.passed = min(255, peer.passed + passed)
            peer.failed = min(255, peer.failed + (not passed))

    def acquaint(self, keys: Iterable[bytes], now: float) -> None:
        """These nodes of the network answer the DHT; they tell whether it is us who is cut off."""
        for key in keys:
            if key not in self._peers:
                self._others.pop(key, None)
                self._others[key] = now
        while len(self._others) > ACQUAINTANCES_MAX:
            del self._others[next(iter(self._others))]

    # time

    def advance(self, now: float, utc: float, *, step_max_s: float) -> bool:
        """Count the time since the last call; whether anybody went away or is given up.

        At most `step_max_s` counts: longer means that this process stood still, and saw nothing.
        """
        before = self._advanced
        self._advanced = now
        elapsed = 0.0 if before is None else min(max(0.0, now - before), step_max_s)
        changed = self._note_away(now, utc)
        self._isolated = self._is_isolated(now, utc)
        self._attendance.count(0.0 if self._isolated else elapsed, utc)
        if self._isolated:
            return changed
        for peer in self._peers.values():
            if peer.answered:
                peer.habits.observed_s += elapsed
                self._watched_s += 0.0 if peer.gone else elapsed
            if peer.fails:
                self._count_silence(peer, elapsed)
                changed |= self._note_gone(peer)
        return changed

    def _note_away(self, now: float, utc: float) -> bool:
        left: list[bytes] = []
        for key, peer in self._peers.items():
            if not peer.away and peer.fails and now - peer.seen >= self._away_after_s:
                peer.away = True
                left.append(key)
                if peer.answered and peer.habits.availability(utc) >= EXPECTED_SHARE:
                    self._vanished.append((now, key))
        while self._vanished and self._vanished[0][0] < now - self._freeze.window_s:
            self._vanished.popleft()
        if left:
            self._freeze_together()
        return bool(left)

    def _freeze_together(self) -> None:
        """Stop the timers of those that vanished together, unless each for itself may well be lost."""
        policy = self._freeze
        together = {key for _, key in self._vanished if key in self._peers}
        together = {key for key in together if self._peers[key].away}
        there = sum(p.answered and not p.away for p in self._peers.values()) + len(together)
        frozen: Collection[bytes] = ()
        if self.together(len(together), there):
            frozen = together
        else:
            frozen = [key for key in together if self._whole_domain_left(key, together)]
        for key in frozen:
            peer = self._peers[key]
            if not peer.freeze_left_s and not peer.frozen_s:
                peer.freeze_left_s = policy.freeze_max_s

    def _whole_domain_left(self, key: bytes, together: Collection[bytes]) -> bool:
        for domain in self._peers[key].domains:
            members = [k for k, p in self._peers.items() if domain in p.domains and p.answered]
            there = [k for k in members if not self._peers[k].away]
            left = [k for k in members if k in together]
            if not there and len(left) >= self._freeze.domain_min:
                return True
        return False

    @staticmethod
    def _count_silence(peer: Watched, elapsed: float) -> None:
        peer.silent_s += elapsed
        still = min(elapsed, peer.freeze_left_s)
        peer.freeze_left_s -= still
        peer.frozen_s += still

    def _note_gone(self, peer: Watched) -> bool:
        if peer.gone or not self._is_lost(peer, urgent=False):
            return False
        peer.gone = True
        self._gone += peer.answered
        return True

    def _is_lost(self, peer: Watched, *, urgent: bool) -> bool:
        if not peer.away:
            return False
        silence = peer.silence_s(urgent=urgent)
        if silence >= self._loss.ceiling_s:
            return True
        return silence >= peer.patience_s and peer.missed_s >= min(
            self._loss.missed_s, peer.patience_s
        )

    def _is_isolated(self, now: float, utc: float) -> bool:
        """Whether fewer than a share of those that should be there are within reach."""
        memory = self._freeze.memory_s
        recent = [
            p for p in self._peers.values() if p.answered and not p.gone and now - p.seen < memory
        ]
        others = [
            at for k, at in self._others.items() if now - at < memory and k not in self._peers
        ]
        expected = sum(p.habits.availability(utc) for p in recent)
        share = expected / len(recent) if recent else 1.0
        reached = sum(not p.away for p in recent)
        reached += sum(now - at < self._away_after_s for at in others)
        expected += share * len(others)
        if not recent and not others:
            return bool(self._peers) and all(p.away for p in self._peers.values())
        return reached < self._freeze.reach_share * expected

    # what is counted

    @property
    def churn(self) -> ChurnCounts:
        """What has been seen of coming and going."""
        known = self._attendance
        return ChurnCounts(
            int(self._watched_s),
            max(0, self._gone),
            self._returned,
            int(known.observed_s),
            int(known.calendar_s),
            None if known.at is None else max(0, int(known.at)),
        )

    def go_on(self, counts: ChurnCounts) -> None:
        """Go on counting from what was written down before a restart."""
        self._watched_s, self._gone = float(counts.watched), counts.gone
        self._returned = counts.returned
        if counts.calendar:
            self._attendance = Attendance(counts.observed, counts.calendar, counts.at)

    def report(self, nodes: Sequence[bytes], utc: float, round_s: float) -> ChurnSeen:
        """For others, in time of the calendar.

        After silence long enough it takes half a round of repair until it is looked at. Who died while this node was
        off is found gone all the same, so `watched` is of the calendar too.
        """
        counts, share = self.churn, self._attendance.share
        return ChurnSeen(
            int(counts.watched / share),
            counts.gone,
            counts.returned,
            max(1, int((self.noticed_s(utc) + round_s / 2) / share)),
            tuple(self._thousandths(key) for key in nodes),
        )

    def _thousandths(self, key: bytes) -> int | None:
        peer = self._peers.get(key)
        if peer is None or not peer.answered:
            return None
        return int(AVAILABILITY_WHOLE * peer.habits.overall())

    def noticed_s(self, utc: float) -> float:
        """Observed silence after which a peer is given up: the median over those that are watched."""
        known = [p.habits for p in self._peers.values() if p.answered and not p.gone]
        patience = [int(self._patience_s(habits, utc)) for habits in known]
        return float(typical(patience) or self._patience_s(Habits(), utc))

    def _patience_s(self, habits: Habits, utc: float) -> float:
        return habits.patience_s(self._loss, int(utc // WEEK_S), self._attendance.share)

    # who is asked

    def due(self, now: float, count: int) -> list[bytes]:
        """Up to `count` nodes whose heartbeat is due, the longest not asked first."""
        late = [k for k, p in self._peers.items() if p.asked + self._pause(p) <= now]
        return sorted(late, key=lambda key: self._peers[key].asked)[:count]

    def _pause(self, peer: Watched) -> float:
        rare = peer.silent_s >= SILENT_ASK_S and not self._isolated
        if not rare:
            return self._interval_s
        return max(self._interval_s, min(SILENT_INTERVALS * self._interval_s, SILENT_PAUSE_MAX_S))

    # what others want to know

    @property
    def isolated(self) -> bool:
        """Whether this node reaches too few of its peers to judge anybody."""
        return self._isolated

    def alive(self, key: bytes, now: float) -> bool:
        """Whether the node is not away; one that is not watched (yet) gets the benefit of the doubt."""
        peer = self._peers.get(key)
        return peer is None or not peer.away

    def lost(self, key: bytes, *, urgent: bool = False) -> bool:
        """Whether the node is given up; `urgent`: for segments that cannot wait for frozen timers.

        A node that has shown neither a sign of life nor a presence is lost as soon as it is away: it
        may not exist.
        """
        peer = self._peers.get(key)
        if peer is None:
            return False
        if not peer.answered and not peer.presented:
            return peer.away and not self._isolated
        if peer.gone:
            return True
        return urgent and not self._isolated and self._is_lost(peer, urgent=True)

    def silent(self, key: bytes) -> bool:
        """Whether it has not answered its last heartbeat; it need not count as away yet."""
        peer = self._peers.get(key)
        return peer is not None and peer.fails > 0

    def together(self, vanished: int, there: int) -> bool:
        """Whether so many of `there` that vanish at once are too many to have left each for itself."""
        return vanished >= self._freeze.together_min and vanished > self._freeze.share * there

    def frozen(self, key: bytes) -> bool:
        """Whether the node vanished together with others and its timer stands still."""
        peer = self._peers.get(key)
        return peer is not None and peer.away and peer.freeze_left_s > 0

    def away(self, now: float) -> frozenset[bytes]:
        """All nodes that count as away."""
        return frozenset(key for key, peer in self._peers.items() if peer.away)

    def gone(self) -> frozenset[bytes]:
        """All nodes that are given up."""
        return frozenset(key for key, peer in self._peers.items() if peer.gone)

    def proven(self, key: bytes) -> bool:
        """Whether a node of this key has given a sign of life or shown a presence: only members can."""
        peer = self._peers.get(key)
        return peer is not None and (peer.answered or peer.presented)

    def has_record(self, key: bytes) -> bool:
        """Whether it has been seen for 14 days and has passed an audit: for placement."""
        peer = self._peers.get(key)
        return peer is not None and peer.passed > 0 and peer.habits.observed_s >= PROVEN_RECORD_S

    def age_s(self, key: bytes, now: float) -> float | None:
        """Seconds since its last sign of life; None when there was none."""
        peer = self._peers.get(key)
        return max(0.0, now - peer.seen) if peer is not None and peer.answered else None

    def address_of(self, key: bytes) -> Address | None:
        """Where the node was last met, or is said to be."""
        peer = self._peers.get(key)
        return peer.address if peer else None

    def met_at(self, key: bytes) -> Address | None:
        """Where the node last answered, even if it does not any more."""
        peer = self._peers.get(key)
        return peer.met_at if peer else None

    def near(self, key: bytes) -> bytes:
        """Placement key of a segment that we share with the node; empty when unknown."""
        peer = self._peers.get(key)
        return peer.near if peer else b""

    def domains_of(self, key: bytes) -> tuple[tuple[str, str], ...]:
        """Failure domains of the node, as far as its presence has been seen."""
        peer = self._peers.get(key)
        return peer.domains if peer else ()

    def availability(self, key: bytes) -> float:
        """Share of heartbeats answered, over all hours of the week; 1.0 for a node never asked."""
        peer = self._peers.get(key)
        return peer.habits.overall() if peer else 1.0

    def habitual(self, key: bytes) -> float:
        """The same of a node that has been watched long enough to have habits; 1.0 of any other."""
        peer = self._peers.get(key)
        known = peer is not None and peer.habits.observed_s >= self._loss.learned_s
        return self.availability(key) if known else 1.0

    @property
    def attendance(self) -> float:
        """Share of the calendar in which this node itself is there, 0.02 to 1."""
        return self._attendance.share

    def reached(self, now: float) -> int:
        """Nodes that answer: watched peers, and others that the DHT knows."""
        watched = sum(p.answered and not p.away for p in self._peers.values())
        others = (
            k not in self._peers and now - at < self._away_after_s for k, at in self._others.items()
        )
        return watched + sum(others)

    def counts(self, now: float) -> PeerCounts:
        """For people and tests."""
        peers = self._peers.values()
        return PeerCounts(
            watched=len(peers),
            away=sum(p.away for p in peers),
            gone=sum(p.gone for p in peers),
            frozen=sum(p.away and p.freeze_left_s > 0 for p in peers),
            isolated=self._isolated,
        )

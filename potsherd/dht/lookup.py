"""Which contacts a look-up asks next, and when it is at its end. Sans-IO.

A look-up first runs over disjoint paths: each starts from other contacts, asks the nearest it knows,
and takes new candidates only from those it asked itself, so that a liar on one path does not lead the
others. Then the paths are merged and everybody among the nearest is asked.

Ids of candidates are claims until they answer with their chain; a claim that proves wrong counts as a
failure. A contact that is silent for the first waiting time is passed over at once, while its request
is still repeated; an answer that comes late is used.
"""

from __future__ import annotations

import enum
from bisect import insort
from collections.abc import Sequence

from potsherd.classes import dataclass
from potsherd.dht.addresses import Contact
from potsherd.dht.config import DhtConfig
from potsherd.dht.routing import capped, number

__all__ = ["Candidate", "Lookup", "State"]

CLAIMS_MAX = 3
"""Candidates that may claim one id, with other keys or addresses: a liar cannot hide the true one."""


LAST_PAGES = 3
"""Nodes whose cut answers are completed at the end of a look-up."""


class State(enum.Enum):
    """Where a candidate stands."""

    NEW = 0
    ASKED = 1
    SILENT = 2
    ANSWERED = 3
    FAILED = 4


@dataclass(slots=True, eq=False)
class Candidate:
    """Somebody to ask."""

    contact: Contact
    distance: int
    hops: int
    """How many contacts led to it, one to the next; 1 for those we started from."""
    path: int
    """The path that asked it."""
    state: State = State.NEW
    token: bytes | None = None
    """For storing, from its answer."""
    told: int = 0
    """Contacts it has named."""
    confirming: bool = False
    """Asked when the nearest had answered, only to know that nobody is missed: it holds no search back."""
    rest: int | None = None
    """Where its answer goes on that was cut to a datagram; None when we have all of it."""

    def __lt__(self, other: Candidate) -> bool:
        return self.distance < other.distance


class Lookup:
    """One search for the `width` nearest nodes to `target`."""

    def __init__(
        self,
        target: bytes,
        seeds: Sequence[Contact],
        config: DhtConfig,
        *,
        width: int | None = None,
    ) -> None:
        self.target = target
        self.asked = 0
        self._target = number(target)
        self._config = config
        self._width = width or config.keepers
        self._candidates: dict[Contact, Candidate] = {}
        self._claims: dict[bytes, int] = {}
        paths = min(config.paths, len(seeds) // config.path_seeds_min)
        self._paths: list[list[Candidate]] = [[] for _ in range(max(1, paths))]
        self._merged = len(self._paths) == 1
        self._stopped = False
        self._patient = True
        self._needs_one = True
        self._answers = 0
        for place, contact in enumerate(seeds):
            self._add(contact, place % len(self._paths), 1)

    # What happened

    def told(self, by: Candidate, contacts: Sequence[Contact]) -> None:
        """`by` named these contacts."""
        by.told += len(contacts)
        for contact in contacts:
            self._add(contact, by.path if not self._merged else 0, by.hops + 1)

    def answered(self, candidate: Candidate) -> None:
        """It answered, and its chain proves the id it was known by."""
        candidate.state = State.ANSWERED
        self._answers += 1

    def silent(self, candidate: Candidate) -> None:
        """The first waiting time has passed."""
        if candidate.state is State.ASKED:
            candidate.state = State.SILENT

    def failed(self, candidate: Candidate) -> None:
        """No answer, a wrong id, or not a donor."""
        candidate.state = State.FAILED

    def stop(self) -> None:
        """Enough was found."""
        self._stopped = True

    def hurry(self) -> None:
        """Something was found: do not wait for silent contacts at the end."""
        self._patient = self._needs_one = False

    def wait_for_one(self) -> None:
        """Do not wait for silent contacts at the end, unless nobody has answered."""
        self._patient = False

    def ask_again(self, candidates: Sequence[Candidate]) -> None:
        """These were given up without being asked, and nobody else has answered."""
        for candidate in candidates:
            candidate.state = State.ASKED
        self.asked += len(candidates)

    # What to do

    def next_asks(self) -> list[Candidate]:
        """Those to be asked now; they are marked as asked."""
        if self._stopped:
            return []
        if not self._merged:
            asks = [c for path in range(len(self._paths)) for c in self._path_asks(path)]
            if asks or not self._paths_ended():
                return asks
            self._merge()
        return self._ask(self._paths[0], 0, self._width, self._merged_alpha())

    def done(self) -> bool:
        """Whether there is nothing left to ask or to wait for."""
        if self._stopped:
            return True
        if not self._merged:
            return False
        patient = self._patient or (self._needs_one and not self._answers)
        window = self._window(self._paths[0], self._width, patient=patient)
        if self.asked >= self._config.asks_max:
            return not any(c.state in (State.ASKED, State.SILENT) for c in window)
        return all(c.state is State.ANSWERED for c in window)

    def last_asks(self) -> list[Candidate]:
        """At the end: those of the nearest few whose answers were cut shorter than our `width`.

        A datagram has room for 17 contacts, so the last ones of the nearest 20 are often in no first
        page. Marked as asked; each goes on at its `rest`.
        """
        if self._stopped or not self._patient:
            return []
        nearest = self.nearest()[:LAST_PAGES]
        asks = [c for c in nearest if c.rest is not None and c.told < self._width]
        for candidate in asks:
            candidate.state = State.ASKED
        return asks

    def nearest(self) -> list[Candidate]:
        """The `width` nearest that answered, nearest first; capped per prefix in an open network."""
        found = sorted(c for c in self._candidates.values() if c.state is State.ANSWERED)
        kept = capped([c.contact for c in found], self._config.prefix_nodes_max)
        return [self._candidates[contact] for contact in kept[: self._width]]

    @property
    def alone(self) -> bool:
        """Whether nobody has answered, and nothing was found that would make up for it."""
        return self._needs_one and not self._answers and not self._stopped

    @property
    def known(self) -> int:
        """How many contacts were named, whether they answered or not."""
        return len(self._candidates)

    def hops(self) -> int:
        """How many contacts led to the nearest that answered; 0 when none did."""
        nearest = self.nearest()
        return nearest[0].hops if nearest else 0

    # Details

    def _add(self, contact: Contact, path: int, hops: int) -> None:
        candidate = self._candidates.get(contact)
        if candidate is None:
            claims = self._claims.get(contact.dht_id, 0)
            if claims >= CLAIMS_MAX:
                return
            self._claims[contact.dht_id] = claims + 1
            distance = number(contact.dht_id) ^ self._target
            candidate = self._candidates[contact] = Candidate(contact, distance, hops, path)
        elif candidate in self._paths[path]:
            return
        insort(self._paths[path], candidate)
        self._trim(path)

    def _trim(self, path: int) -> None:
        """Forget the farthest candidate that was not asked, when those are too many."""
        candidates = self._paths[path]
        if len(candidates) <= self._config.candidates_max:
            return
        fresh = [c for c in candidates if c.state is State.NEW]
        if len(fresh) <= self._config.candidates_max:
            return
        candidates.remove(fresh[-1])
        if not any(fresh[-1] in other for other in self._paths):
            del self._candidates[fresh[-1].contact]
            self._claims[fresh[-1].contact.dht_id] -= 1

    def _window(
        self, candidates: list[Candidate], width: int, *, patient: bool = False
    ) -> list[Candidate]:
        """The nearest `width` that are not given up, with the silent ones between them if `patient`."""
        window: list[Candidate] = []
        counted = 0
        for candidate in candidates:
            if counted >= width:
                break
            if candidate.state is State.SILENT and patient:
                window.append(candidate)
            elif candidate.state not in (State.FAILED, State.SILENT):
                window.append(candidate)
                counted += 1
        return window

    def _path_width(self) -> int:
        return -(-self._width // len(self._paths))

    def _merged_alpha(self) -> int:
        return self._config.alpha * max(1, self._config.paths)

    def _path_asks(self, path: int) -> list[Candidate]:
        return self._ask(self._paths[path], path, self._path_width(), self._config.alpha)

    def _ask(
        self, candidates: list[Candidate], path: int, width: int, alpha: int
    ) -> list[Candidate]:
        """So many that `alpha` are in flight; all at once when the nearest has answered and nothing is found.

        That one has named whom it knows to be nearer, and there are none: the others only have to confirm it, and
        one round trip does (section 2.3 of the Kademlia paper: all of the k closest are asked then).
        """
        window = self._window(candidates, width)
        confirming = self._needs_one and bool(window) and window[0].state is State.ANSWERED
        if confirming:
            width = self._width
            window = self._window(candidates, width)
        in_flight = sum(
            c.state is State.ASKED and c.path == path and not c.confirming for c in candidates
        )
        count = min(width if confirming else alpha - in_flight, self._config.asks_max - self.asked)
        asks = [c for c in window if c.state is State.NEW][: max(0, count)]
        for candidate in asks:
            candidate.state = State.ASKED
            candidate.path = path
            candidate.confirming = confirming
        self.asked += len(asks)
        return asks

    def _paths_ended(self) -> bool:
        """Nobody in any path's window is being waited for."""
        if self.asked >= self._config.asks_max:
            return True
        width = self._path_width()
        return not any(
            c.state in (State.NEW, State.ASKED)
            for candidates in self._paths
            for c in self._window(candidates, width)
        )

    def _merge(self) -> None:
        self._merged = True
        self._paths = [sorted(self._candidates.values())]
        for candidate in self._paths[0]:
            candidate.path = 0

"""The asyncio shell: moves datagrams and timers to and from `Exchange`, runs look-ups.

Decisions are in `exchange`, `lookup`, `routing`, `keeper`; here is what waits.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import field
from functools import partial
from typing import TypeVar

from potsherd.classes import dataclass
from potsherd.dht.addresses import Contact, diallable
from potsherd.dht.config import DhtConfig
from potsherd.dht.exchange import Answer, Exchange, Failure, Request, Target
from potsherd.dht.keeper import Keeper
from potsherd.dht.lookup import Candidate, Lookup
from potsherd.dht.membrane import Membrane, Role
from potsherd.dht.records import (
    Admissions,
    Announcement,
    Presence,
    open_announcement,
    open_presence,
)
from potsherd.dht.routing import Table
from potsherd.dht.statistics import Counters, Drop
from potsherd.dht.wire import Find, Found, Kind, Ping, Pong
from potsherd.errors import (
    LimitError,
    MembershipError,
    PeerError,
    PotsherdError,
    RefusedError,
    UnreachableError,
)
from potsherd.ports import Datagrams, Env
from potsherd.wire import Record

__all__ = ["Engine", "Search"]

CONTACTS_MIN = 8
"""Contacts that an answer should give before it is not paged any further."""

KeptRecord = Announcement | Presence
K = TypeVar("K")


class Engine:
    """One node's socket, table and look-ups. Made before, started by `start`, ended by `close`."""

    def __init__(
        self, env: Env, datagrams: Datagrams, membrane: Membrane, config: DhtConfig
    ) -> None:
        self.env = env
        self.membrane = membrane
        self.config = config
        self.counters = Counters()
        self.role: Role = "client"
        self.admissions = Admissions(
            membrane, entries_max=config.sessions_max, ttl_s=config.admission_s
        )
        self.table = Table(membrane.my_id, config, env.monotonic())
        self.keeper = Keeper(membrane, config, env.rng, self.table, self.admissions)
        self.exchange = Exchange(membrane, config, env.rng, self.admissions, self, self.counters)
        self.on_newcomer: Callable[[Contact], None] = lambda _: None
        """Called with each donor that is new in the table, or has started again."""
        self._silent: OrderedDict[Contact, float] = OrderedDict()
        self._failed: OrderedDict[Contact, float] = OrderedDict()
        self._greeted: OrderedDict[bytes, float] = OrderedDict()  # by id, when it last counted
        self._anew: OrderedDict[bytes, float] = (
            OrderedDict()
        )  # of these, who has not answered since
        self._datagrams = datagrams
        self._slots = asyncio.Semaphore(config.lookups_parallel)
        self._probed: dict[Contact, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._receiver: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to receive. Raises MembershipError when our own chain is not admitted."""
        membrane = self.membrane
        me = self.admissions.admit(membrane.my_chain, membrane.my_key, self.env.utc())
        if me.role == "donor" and me.dht_id != membrane.my_id:
            raise MembershipError("the node's DHT id is not the one its chain names")
        self.role = me.role
        self._receiver = asyncio.create_task(self._receive())

    async def close(self) -> None:
        """End all requests and free the socket."""
        self._closed = True
        self.exchange.abandon()
        if self._timer is not None:
            self._timer.cancel()
        self._datagrams.close()
        if self._receiver is not None:
            self._receiver.cancel()
            await asyncio.gather(self._receiver, return_exceptions=True)

    # Datagrams and timers

    async def _receive(self) -> None:
        """Drain the socket; it is the one place that reads from it."""
        exchange, monotonic, utc = self.exchange, self.env.monotonic, self.env.utc
        while True:
            try:
                data, sender = await self._datagrams.receive()
            except UnreachableError:
                return
            exchange.receive(data, sender, monotonic(), utc())
            self._flush()

    def _flush(self) -> None:
        """Send what is waiting and set the timer."""
        for data, to in self.exchange.drain():
            self._datagrams.send(data, to)
        wakeup = self.exchange.wakeup_at()
        if self._closed or wakeup is None or wakeup >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = wakeup
        delay = max(0.0, wakeup - self.env.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        self.exchange.tick(self.env.monotonic())
        self._flush()

    # Requests of others

    def answer(self, request: Request, now: float, utc: float) -> Record | None:
        """See `exchange.Handler`. A client answers pings only: it keeps and tells nothing."""
        if self.role == "client":
            return Pong() if isinstance(request.message, Ping) else None
        return self.keeper.answer(request, now, utc)

    def heard(self, contact: Contact, now: float, *, greets: bool) -> None:
        """See `exchange.Handler`: ping a donor that could enter the table, to prove its address.

        One that is in the table and shows its chain once more has started again, without the records
        that it kept: when it answers, it counts as new.
        """
        if (greets and self._greets_anew(contact, now)) or self.table.wants(contact):
            self.probe(contact)

    def _greets_anew(self, contact: Contact, now: float) -> bool:
        last = self._greeted.get(contact.dht_id, float("-inf"))
        if now - last < self.config.regreet_s:
            return False
        _remember(self._greeted, contact.dht_id, now, self.config.sessions_max)
        _remember(self._anew, contact.dht_id, now, self.config.sessions_max)
        return True

    def suspect(self, contact: Contact, *, thorough: bool) -> bool:
        """Whether it has been silent just now; then it is pinged, and nobody waits for it.

        For a `thorough` look-up only who did not answer any transmission: one lost datagram is no reason
        to store a record with 19 instead of 20.
        """
        known = self._failed if thorough else self._silent
        if not self._is_recent(known, contact):
            return False
        self.probe(contact)
        return True

    def has_failed(self, contact: Contact) -> bool:
        """Whether it did not answer any transmission just now."""
        return self._is_recent(self._failed, contact)

    def _is_recent(self, known: OrderedDict[Contact, float], contact: Contact) -> bool:
        since = known.get(contact, float("-inf"))
        return self.env.monotonic() - since <= self.config.suspect_s

    def fell_silent(self, contact: Contact) -> None:
        """It has not answered in the first waiting time."""
        _remember(self._silent, contact, self.env.monotonic(), self.config.suspects_max)

    def probe(self, contact: Contact) -> None:
        """Ping without waiting; at most `probes_max` at a time."""
        if contact in self._probed or len(self._probed) >= self.config.probes_max:
            return
        self._probed[contact] = None
        self.request(contact, Ping(), lambda _: self._probed.pop(contact, None))

    # Requests of ours

    def request(
        self,
        contact: Contact,
        message: Record,
        on_end: Callable[[Answer | Failure], object],
        on_silent: Callable[[], None] | None = None,
    ) -> None:
        """Ask somebody whose id is known or claimed, and let the table learn from the outcome."""
        sent_at = self.env.monotonic()

        def ended(outcome: Answer | Failure) -> None:
            self._learn(contact, outcome, sent_at)
            on_end(outcome)

        if self._closed:
            on_end("timeout")
            return
        target = Target(contact.key, contact.address)
        self.exchange.request(target, message, sent_at, ended, on_silent)
        self._flush()

    def _learn(self, contact: Contact, outcome: Answer | Failure, sent_at: float) -> None:
        now = self.env.monotonic()
        if isinstance(outcome, Answer):
            self._silent.pop(contact, None)
            self._failed.pop(contact, None)
            if outcome.peer.role == "donor":
                self._met(Contact(outcome.peer.dht_id, contact.key, contact.address), now)
        elif outcome in ("timeout", "membership") and not self.exchange.deaf_since(sent_at):
            self.table.failed(contact, now)
            self.fell_silent(contact)
            _remember(self._failed, contact, now, self.config.suspects_max)

    def _met(self, contact: Contact, now: float) -> None:
        is_new, doubtful = self.table.seen(contact, now)
        anew = self._anew.pop(contact.dht_id, None) is not None
        if is_new or anew:
            self.on_newcomer(contact)
        if doubtful is not None:
            self.probe(doubtful)

    async def ask(self, contact: Contact, message: Record) -> Answer:
        """Ask and wait. Raises PeerError, MembershipError, LimitError, RefusedError."""
        future: asyncio.Future[Answer | Failure] = asyncio.get_running_loop().create_future()

        def ended(outcome: Answer | Failure) -> None:
            if not future.done():
                future.set_result(outcome)

        self.request(contact, message, ended)
        outcome = await future
        if isinstance(outcome, Answer):
            return outcome
        raise _error(outcome)

    # Look-ups

    async def look_up(
        self,
        target: bytes,
        *,
        kind: Kind = Kind.NODES,
        want: int = 0,
        width: int | None = None,
        patient: bool = True,
        thorough: bool = False,
    ) -> Search:
        """Find the nearest nodes, and with `kind` records until `want` distinct ones are found.

        Not `patient`: silent contacts are not waited for at the end if anybody has answered. `thorough`: before storing.
        """
        async with self._slots:
            now = self.env.monotonic()
            self.table.touch(target, now)
            seeds = self.table.nearest(target, self.config.keepers)
            lookup = Lookup(target, seeds, self.config, width=width)
            if not patient:
                lookup.wait_for_one()
            search = Search(self, lookup, kind, want, thorough)
            await search.run()
        self.counters.lookups += 1
        self.counters.lookup_asks += lookup.asked
        self.counters.lookup_hops += lookup.hops()
        return search


def _remember(table: OrderedDict[K, float], key: K, when: float, entries_max: int) -> None:
    table[key] = when
    table.move_to_end(key)
    if len(table) > entries_max:
        table.popitem(last=False)


def _error(failure: Failure) -> PotsherdError:
    match failure:
        case "timeout":
            return PeerError("no answer")
        case "membership":
            return MembershipError("one of the two is not a member of the other's network")
        case "refused":
            return RefusedError("the peer refused the request")
        case "busy":
            return LimitError("too many requests to one address, or in all")
        case "address":
            return PeerError("not an address and key that can be asked")


@dataclass
class Search:
    """One look-up as it runs, and its outcome: `nearest`, `hops`, `records`."""

    engine: Engine
    lookup: Lookup
    kind: Kind
    want: int
    thorough: bool
    records: dict[bytes, KeptRecord] = field(default_factory=dict)
    """Verified records by node key and segment, in the order in which they came."""
    _given_up: list[Candidate] = field(default_factory=list)
    """Suspects that were not asked."""
    _judged: dict[bytes, None] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def nearest(self) -> list[Candidate]:
        """Those who answered, nearest first."""
        return self.lookup.nearest()

    def nearest_with_tokens(self) -> list[tuple[Contact, bytes]]:
        """The same, each with the token for storing there."""
        return [(c.contact, c.token) for c in self.nearest() if c.token is not None]

    @property
    def hops(self) -> int:
        """How many contacts led to the nearest."""
        return self.lookup.hops()

    async def run(self) -> None:
        """Until the look-up is at its end or its time is over."""
        self._search_at_home()
        try:
            async with asyncio.timeout(self.engine.config.lookup_timeout_s):
                while not self.lookup.done() or self._complete() or self._ask_suspects():
                    self._wake.clear()
                    self._ask_next()
                    if not self.lookup.done():
                        await self._wake.wait()
        except TimeoutError:
            self.lookup.stop()

    def _ask_next(self) -> None:
        """Ask whom the look-up wants asked; those who were silent just now are given up at once."""
        while asks := self.lookup.next_asks():
            given_up = [c for c in asks if self.engine.suspect(c.contact, thorough=self.thorough)]
            for candidate in asks:
                if candidate in given_up:
                    self.lookup.failed(candidate)
                    self._given_up.append(candidate)
                else:
                    self._ask(candidate, 0, 0)
            if not given_up:
                return

    def _complete(self) -> bool:
        """Ask the nearest few for what was cut from their answers; whether there was any."""
        asks = self.lookup.last_asks()
        for candidate in asks:
            self._ask(candidate, candidate.rest or 0, 1)
        return bool(asks)

    def _ask_suspects(self) -> bool:
        """Nobody has answered: ask those who have only lost a datagram lately; whether there was any."""
        again = [c for c in self._given_up if not self.engine.has_failed(c.contact)]
        self._given_up.clear()
        if not again or not self.lookup.alone:
            return False
        self.lookup.ask_again(again)
        for candidate in again:
            self._ask(candidate, 0, 0)
        return True

    def _search_at_home(self) -> None:
        store = self.engine.keeper.records(self.kind)
        if store is not None:
            self._take([e.data for e in store.get(self.lookup.target, self.engine.env.utc())])

    def _ask(self, candidate: Candidate, cursor: int, page: int) -> None:
        self.engine.request(
            candidate.contact,
            Find(int(self.kind), self.lookup.target, cursor),
            partial(self._ended, candidate, cursor, page),
            partial(self._silent, candidate),
        )

    def _silent(self, candidate: Candidate) -> None:
        self.engine.fell_silent(candidate.contact)
        self.lookup.silent(candidate)
        self._wake.set()

    def _ended(
        self, candidate: Candidate, cursor: int, page: int, outcome: Answer | Failure
    ) -> None:
        self._wake.set()
        candidate.rest = None
        found = self._checked(candidate, outcome)
        if found is None:
            # a later page that fails does not undo the first one
            (self.lookup.answered if page else self.lookup.failed)(candidate)
            return
        candidate.token = found.token
        self.lookup.told(candidate, self._usable(candidate, found.contacts))
        self._take(found.records)
        if self._goes_on(found, candidate, cursor, page) and found.next is not None:
            self._ask(candidate, found.next, page + 1)
            return
        if found.next is not None and found.next > cursor:
            candidate.rest = found.next
        self.lookup.answered(candidate)

    def _checked(self, candidate: Candidate, outcome: Answer | Failure) -> Found | None:
        if not isinstance(outcome, Answer) or not isinstance(outcome.message, Found):
            return None
        if outcome.peer.role != "donor" or outcome.peer.dht_id != candidate.contact.dht_id:
            self.engine.counters.drop(Drop.LIAR)
            return None
        return outcome.message

    def _usable(self, teller: Candidate, contacts: Sequence[Contact]) -> list[Contact]:
        me = self.engine.membrane
        at = teller.contact.address
        return [
            contact
            for contact in contacts
            if contact.key != me.my_key
            and contact.dht_id != me.my_id
            and diallable(contact.address, at)
        ]

    def _goes_on(self, found: Found, candidate: Candidate, cursor: int, page: int) -> bool:
        """Whether the next page is worth a request, and the cursor moves (or the page was empty)."""
        if found.next is None or page + 1 >= self.engine.config.pages_max or self.lookup.done():
            return False
        if found.next < cursor or (found.next == cursor and page > 0):
            return False
        lacks_records = self.want > len(self.records) and not found.contacts
        return lacks_records or candidate.told < CONTACTS_MIN

    def _take(self, records: Sequence[bytes]) -> None:
        """Verify each record once and keep the newest of each identity."""
        for data in records:
            if data in self._judged:
                continue
            self._judged[data] = None
            try:
                self._merge(data)
            except PotsherdError:
                self.engine.counters.drop(Drop.RECORD)
        if self.want and len(self.records) >= self.want:
            self.lookup.stop()
        elif self.records:
            self.lookup.hurry()

    def _merge(self, data: bytes) -> None:
        engine, utc = self.engine, self.engine.env.utc()
        record: KeptRecord
        if self.kind is Kind.PRESENCE:
            record = open_presence(data, engine.membrane, engine.admissions, utc)
            key, identity, version = record.dht_id, record.key, record.issued
        else:
            record = open_announcement(data, engine.membrane, utc)
            key, identity = record.key, record.node_key + record.segment
            version = record.expires
        if key != self.lookup.target:
            raise RefusedError("a record of another key")
        known = self.records.get(identity)
        if known is None or _version(known) < version:
            self.records[identity] = record


def _version(record: KeptRecord) -> int:
    return record.issued if isinstance(record, Presence) else record.expires

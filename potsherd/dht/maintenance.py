"""What a donor node does unasked: refresh, sweep, publish again, hand records to new neighbours."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import field
from typing import NamedTuple

from potsherd.classes import dataclass
from potsherd.dht.addresses import Contact
from potsherd.dht.engine import Engine
from potsherd.dht.exchange import Answer
from potsherd.dht.publisher import Item, Publisher, Reached, batches
from potsherd.dht.records import Announcement, PresenceRecord, sign_record
from potsherd.dht.routing import random_id_in
from potsherd.dht.store import Entry
from potsherd.dht.wire import Find, Found, Kind
from potsherd.errors import PotsherdError
from potsherd.ports import Address

__all__ = ["Maintenance", "OwnPresence"]

KEYS_PER_SLICE = 500
"""Keys looked through at a time when records are handed over; others run in between."""


class OwnPresence(NamedTuple):
    """What the own presence says; signed anew each time it is stored."""

    address: Address | None
    relay: bytes | None
    operator: str
    site: str
    free_class: int


@dataclass
class _Due:
    """When periodic work comes next, by the loop's clock."""

    presence: float = float("inf")
    restore: float = float("inf")


@dataclass
class _Handover:
    records: int = 0
    items: dict[tuple[int, bytes], list[Entry]] = field(default_factory=dict)
    """By kind and publisher: a Store carries one chain. Presences have their own, and no publisher here."""


class Maintenance:
    """Periodic work of one donor node; a client has none."""

    def __init__(self, engine: Engine, publisher: Publisher) -> None:
        self._engine = engine
        self._publisher = publisher
        self._config = engine.config
        self._presence: OwnPresence | None = None
        self._retry_s = self._config.presence_retry_s
        self._known = 0
        """Nodes that could keep it, when it was stored last."""
        self._wake = asyncio.Event()
        self._last_issued = 0
        self._own: OrderedDict[tuple[bytes, bytes], tuple[Announcement, bytes]] = OrderedDict()
        self._due = _Due()
        self._newcomers: asyncio.Queue[Contact] = asyncio.Queue(self._config.handover_queue_max)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, if this node is a donor and the configuration wants it."""
        if self._engine.role == "donor" and self._config.maintenance:
            self._engine.on_newcomer = self._newcomer
            self._tasks = [
                asyncio.create_task(self._run()),
                asyncio.create_task(self._hand_over_for_ever()),
            ]

    async def close(self) -> None:
        """End; raises what a task ended with by mistake."""
        for task in self._tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    # The own presence and announcements

    async def publish_presence(self, presence: OwnPresence) -> Reached:
        """Sign and store it now, and from now on again and again; soon, while too few keep it."""
        if presence != self._presence:
            self._retry_s = self._config.presence_retry_s
        self._presence = presence
        self._due.presence = self._in(self._config.presence_period_s, 0.1)
        engine = self._engine
        issued = max(int(engine.env.utc()), self._last_issued + 1)
        self._last_issued = issued
        record = PresenceRecord(
            dht_id=engine.membrane.my_id,
            key=engine.membrane.my_key,
            address=presence.address,
            relay=presence.relay,
            operator=presence.operator,
            site=presence.site,
            free_class=presence.free_class,
            issued=issued,
            expires=issued + int(self._config.presence_lifetime_s),
            chain=engine.membrane.my_chain,
        )
        data = sign_record(record, engine.membrane)
        reached = (await self._publisher.store(Kind.PRESENCE, [Item(record.dht_id, data)]))[0]
        engine.counters.rivals += reached.taken + reached.rivals
        self._note_reached(reached)
        return reached

    def _note_reached(self, reached: Reached) -> None:
        """Who has just joined knows few, and datagrams get lost: until enough keep it, it is stored again.

        Enough: all that should, as far as they are known, and no more have become known since the last time;
        who refuses it is not asked again for that.
        """
        config, before = self._config, self._known
        self._known = min(config.keepers, 1 + len(self._engine.table.contacts()))
        answered = reached.keepers + reached.taken + reached.refused
        if answered >= self._known and self._known <= before:
            self._retry_s = config.presence_retry_s
        elif self._retry_s < config.presence_period_s:
            self._due.presence = self._in(self._retry_s, 0.5)
            self._retry_s *= 2
        self._wake.set()

    async def announce(self, announcements: Sequence[Announcement]) -> list[Reached]:
        """Sign and store them now, and again from time to time until they expire."""
        items = []
        for record in announcements:
            data = sign_record(record, self._engine.membrane)
            items.append(Item(record.key, data))
            self._remember(record, data)
        if self._due.restore == float("inf"):
            self._due.restore = self._in(self._config.restore_period_s, 0.1)
        return await self._publisher.store(Kind.ANNOUNCEMENTS, items)

    def _remember(self, record: Announcement, data: bytes) -> None:
        name = (record.key, record.segment)
        self._own.pop(name, None)
        if len(self._own) < self._config.own_announcements_max:
            self._own[name] = (record, data)

    async def _restore(self) -> None:
        utc = self._engine.env.utc()
        for name in [n for n, (record, _) in self._own.items() if record.expires <= utc]:
            del self._own[name]
        items = [Item(record.key, data) for record, data in self._own.values()]
        await self._publisher.store(Kind.ANNOUNCEMENTS, items)

    # Periodic work

    def _in(self, period_s: float, jitter: float) -> float:
        env = self._engine.env
        return env.monotonic() + period_s * env.rng.uniform(1 - jitter, 1 + jitter)

    async def _run(self) -> None:
        monotonic = self._engine.env.monotonic
        while True:
            due = self._in(self._config.tick_s, 0.25)
            while (now := monotonic()) < due:
                await self._sleep(min(due, self._due.presence) - now)
                await self._publish_due()
            await self.tick()

    async def _sleep(self, seconds: float) -> None:
        """So long, or until the own presence has been stored from outside."""
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _publish_due(self) -> None:
        if self._engine.env.monotonic() >= self._due.presence and self._presence is not None:
            await self.publish_presence(self._presence)

    async def tick(self) -> None:
        """Do what is due now."""
        engine, config = self._engine, self._config
        now = engine.env.monotonic()
        engine.keeper.announcements.sweep(engine.env.utc())
        engine.keeper.presences.sweep(engine.env.utc())
        for contact in engine.table.silent(now, config.contact_ping_s, config.pings_per_tick):
            engine.probe(contact)
        await self._publish_due()
        if now >= self._due.restore:
            self._due.restore = self._in(config.restore_period_s, 0.1)
            await self._restore()
        bucket = engine.table.stalest(now)
        if bucket is not None:
            await engine.look_up(random_id_in(bucket, engine.env.rng))

    # Handing over

    def _newcomer(self, contact: Contact) -> None:
        kept = len(self._engine.keeper.announcements) + len(self._engine.keeper.presences)
        if kept and not self._newcomers.full():
            self._newcomers.put_nowait(contact)

    async def _hand_over_for_ever(self) -> None:
        while True:
            contact = await self._newcomers.get()
            if self._is_neighbour(contact):
                await self.hand_over(contact)

    def _is_neighbour(self, contact: Contact) -> bool:
        """Whether any record of ours could be due to it: others are too far for both to keep one."""
        near = self._engine.table.nearest(self._engine.membrane.my_id, 2 * self._config.keepers)
        return contact in near

    async def hand_over(self, newcomer: Contact) -> int:
        """Give a new node the records that it should keep and that are ours to give; how many."""
        handover = await self._collect(newcomer)
        token = await self._token(newcomer) if handover.items else None
        if token is None:
            return 0
        pause = 1.0 / self._config.handover_datagrams_per_s
        for (kind, _), entries in handover.items.items():
            chain = entries[0].chain if kind == Kind.ANNOUNCEMENTS else None
            for batch in batches([entry.data for entry in entries], len(chain or b"") + 3):
                records = [data for _, data in batch]
                await self._publisher.store_at(newcomer, Kind(kind), token, chain, records)
                await asyncio.sleep(pause)
        return handover.records

    async def _collect(self, newcomer: Contact) -> _Handover:
        engine, handover = self._engine, _Handover()
        for kind in (Kind.PRESENCE, Kind.ANNOUNCEMENTS):
            store = engine.keeper.records(kind)
            keys = store.keys() if store is not None else []
            for start in range(0, len(keys), KEYS_PER_SLICE):
                for key in engine.keeper.due_to(newcomer, keys[start : start + KEYS_PER_SLICE]):
                    for entry in store.get(key, engine.env.utc()) if store is not None else []:
                        if handover.records >= self._config.handover_records_max:
                            return handover
                        publisher = b"" if kind is Kind.PRESENCE else entry.publisher
                        handover.items.setdefault((int(kind), publisher), []).append(entry)
                        handover.records += 1
                await asyncio.sleep(0)
        return handover

    async def _token(self, contact: Contact) -> bytes | None:
        try:
            answer: Answer = await self._engine.ask(
                contact, Find(int(Kind.NODES), contact.dht_id, 0)
            )
        except PotsherdError:
            return None
        return answer.message.token if isinstance(answer.message, Found) else None

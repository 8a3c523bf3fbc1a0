"""Stores records at the nodes nearest to their keys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import field
from functools import partial
from typing import NamedTuple

from potsherd.classes import dataclass
from potsherd.dht.addresses import Contact
from potsherd.dht.engine import Engine
from potsherd.dht.routing import number
from potsherd.dht.wire import BODY_MAX, RECORDS_PER_STORE, Kind, Store, StoreCode, Stored
from potsherd.errors import PotsherdError

__all__ = ["Item", "Publisher", "Reached", "batches"]

_STORE_FIXED = 32
"""Bytes of a Store without chain and records."""


class Item(NamedTuple):
    """One signed record and its key."""

    key: bytes
    data: bytes


@dataclass
class Reached:
    """What became of one record."""

    keepers: int = 0
    """Nodes that keep it now."""
    taken: int = 0
    """Nodes that keep another key's record in this place."""
    rivals: int = 0
    """Nodes at which another key has asked for this place."""
    refused: int = 0
    """Nodes that do not keep it for another reason: no room, too far, not acceptable."""


@dataclass
class _Plan:
    """Who gets what."""

    tokens: dict[Contact, bytes] = field(default_factory=dict)
    items: dict[Contact, list[int]] = field(default_factory=dict)
    at_home: list[int] = field(default_factory=list)


class _Everybody(NamedTuple):
    """All nodes of a small network, as a look-up found them."""

    since: float
    places: tuple[tuple[Contact, bytes], ...]
    """Each with the token for storing there."""


class Publisher:
    """Stores own records; one for each node."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._slots = asyncio.Semaphore(engine.config.stores_parallel)
        self._everybody: _Everybody | None = None

    async def store(self, kind: Kind, items: Sequence[Item]) -> list[Reached]:
        """Store each item at the nearest nodes of its key, in batches; outcomes in the items' order."""
        order = sorted(range(len(items)), key=lambda i: items[i].key)
        outcomes = [Reached() for _ in items]
        size = self._engine.config.announce_batch
        for start in range(0, len(order), size):
            await self._store_batch(kind, items, order[start : start + size], outcomes)
        return outcomes

    async def _store_batch(
        self, kind: Kind, items: Sequence[Item], chosen: list[int], outcomes: list[Reached]
    ) -> None:
        keys = list(dict.fromkeys(items[i].key for i in chosen))
        known = None if kind is Kind.PRESENCE else self._known_to_be_all()
        if known is not None:
            if await self._store_at_nearest(kind, items, chosen, outcomes, _near(keys, known)):
                return
            self._everybody = None  # somebody has gone, or started again and forgotten the token
            for i in chosen:
                outcomes[i] = Reached()
        await self._store_at_nearest(kind, items, chosen, outcomes, await self._nearest(keys))

    async def _store_at_nearest(
        self,
        kind: Kind,
        items: Sequence[Item],
        chosen: list[int],
        outcomes: list[Reached],
        nearest: dict[bytes, list[tuple[Contact, bytes]]],
    ) -> bool:
        """Whether all who were asked have answered."""
        places: dict[bytes, list[int]] = {key: [] for key in nearest}
        for i in chosen:
            places[items[i].key].append(i)
        plan = _Plan()
        for key in nearest:
            self._assign(plan, key, nearest[key], places[key])
        for i in plan.at_home:
            _count(outcomes[i], self._keep_at_home(kind, items[i].data))
        answered = await asyncio.gather(
            *(
                self._send(kind, contact, plan.tokens[contact], items, mine, outcomes)
                for contact, mine in plan.items.items()
            )
        )
        return all(answered)

    def _known_to_be_all(self) -> Sequence[tuple[Contact, bytes]] | None:
        """What a look-up of the last `everybody_s` found, while nobody is known who was not there, or is gone."""
        engine, known = self._engine, self._everybody
        if known is None:
            return None
        there = {contact for contact, _ in known.places}
        if (
            engine.env.monotonic() - known.since < engine.config.everybody_s
            and there.issuperset(engine.table.contacts())
            and not any(engine.has_failed(contact) for contact in there)
        ):
            return known.places
        self._everybody = None
        return None

    async def _nearest(self, keys: Sequence[bytes]) -> dict[bytes, list[tuple[Contact, bytes]]]:
        """Nodes nearest to each key with tokens, nearest first.

        A look-up that finds fewer nodes than it could has found the whole network: the other keys
        need none of their own, nor do those that are announced soon after it.
        """
        engine, since = self._engine, self._engine.env.monotonic()
        small = len(engine.table) < engine.config.keepers
        found = await self._look_up(keys[:1] if small else keys)
        if len(found[0]) < engine.config.keepers:
            self._everybody = _Everybody(since, tuple(found[0]))
            return _near(keys, found[0])
        found += await self._look_up(keys[len(found) :])
        return dict(zip(keys, found, strict=True))

    async def _look_up(self, keys: Sequence[bytes]) -> list[list[tuple[Contact, bytes]]]:
        """At the same time: `_nearest` each."""
        looking = (self._engine.look_up(key, thorough=True) for key in keys)
        return [search.nearest_with_tokens() for search in await asyncio.gather(*looking)]

    def _assign(
        self, plan: _Plan, key: bytes, nearest: Sequence[tuple[Contact, bytes]], mine: list[int]
    ) -> None:
        """The nearest `keepers` keep it, ourselves among them when we are a donor that near."""
        keepers = self._engine.config.keepers
        if self._engine.role == "donor":
            own = number(self._engine.membrane.my_id) ^ number(key)
            nearer = sum(number(c.dht_id) ^ number(key) < own for c, _ in nearest)
            if nearer < keepers:
                plan.at_home += mine
                keepers -= 1
        for contact, token in nearest[:keepers]:
            plan.tokens[contact] = token
            plan.items.setdefault(contact, []).extend(mine)

    def _keep_at_home(self, kind: Kind, data: bytes) -> StoreCode:
        engine, now = self._engine, self._engine.env.monotonic()
        try:
            if kind is Kind.PRESENCE:
                return engine.keeper.keep_presence(data, None, now, engine.env.utc())
            chain = engine.membrane.my_chain
            return engine.keeper.keep_announcement(data, chain, None, now, engine.env.utc())
        except PotsherdError:
            return StoreCode.REFUSED

    async def _send(
        self,
        kind: Kind,
        contact: Contact,
        token: bytes,
        items: Sequence[Item],
        mine: list[int],
        outcomes: list[Reached],
    ) -> bool:
        """Whether it has answered."""
        answered = True
        async with self._slots:
            for batch in batches([items[i].data for i in mine], 0):
                codes = await self.store_at(contact, kind, token, None, [d for _, d in batch])
                answered = answered and bool(codes)
                for (place, _), code in zip(batch, codes, strict=False):
                    _count(outcomes[mine[place]], code)
        return answered

    async def store_at(
        self,
        contact: Contact,
        kind: Kind,
        token: bytes,
        chain: bytes | None,
        records: Sequence[bytes],
    ) -> Sequence[int]:
        """One Store; the codes of the answer, none when there was no answer."""
        try:
            answer = await self._engine.ask(contact, Store(token, int(kind), chain, tuple(records)))
        except PotsherdError:
            return ()
        return answer.message.codes if isinstance(answer.message, Stored) else ()


def batches(records: Sequence[bytes], chain_size: int) -> list[list[tuple[int, bytes]]]:
    """(place, record) in groups that fit one datagram each."""
    result: list[list[tuple[int, bytes]]] = []
    room = 0
    for place, data in enumerate(records):
        size = len(data) + 3
        if not result or room < size or len(result[-1]) >= RECORDS_PER_STORE:
            result.append([])
            room = BODY_MAX - _STORE_FIXED - chain_size
        result[-1].append((place, data))
        room -= size
    return result


def _near(
    keys: Sequence[bytes], nodes: Sequence[tuple[Contact, bytes]]
) -> dict[bytes, list[tuple[Contact, bytes]]]:
    """All of them for each key, nearest first."""
    return {key: sorted(nodes, key=partial(_distance, key)) for key in keys}


def _distance(key: bytes, place: tuple[Contact, bytes]) -> int:
    return number(place[0].dht_id) ^ number(key)


def _count(outcome: Reached, code: int) -> None:
    if code in (StoreCode.STORED, StoreCode.OLDER, StoreCode.STORED_RIVAL):
        outcome.keepers += 1
        outcome.rivals += code == StoreCode.STORED_RIVAL
    elif code == StoreCode.TAKEN:
        outcome.taken += 1
    else:
        outcome.refused += 1

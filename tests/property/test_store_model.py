"""The store against a dictionary, with power cuts and kills in the middle of anything.

After a crash each segment and each dataset is as before the call that was under way, or as after it;
as after it if the call had been answered. Shards read back with proofs, the ledger equals the disk.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from store_cases import (
    ME,
    MEMBER,
    Specimen,
    check_readable,
    head_of,
    large_segment,
    lease_over,
    put,
    small_segment,
)

from potsherd.errors import PotsherdError, RefusedError
from potsherd.node.records import RosterEntry
from potsherd.node.store import ShardStore
from potsherd.node.store.ledger import INODE_BYTES
from potsherd.simulations.world import World

QUOTA = 64 * 2**20
_RNG = random.Random(7)
POOL = [
    *(small_segment(_RNG, length=3000 * i) for i in range(3)),
    *(large_segment(_RNG, rows=rows) for rows in (1, 2, 2, 7)),
]
NODES = [ME, b"x" * 32, b"y" * 32]
NAME = "holder"


@dataclass
class Kept:
    """What is known of one held segment."""

    index: int
    provisional: bool = True
    roster: dict[bytes, bytes] = field(default_factory=dict)


@dataclass
class Scope:
    """The lease that counts for one (owner, archive)."""

    lease: bytes
    sequence: int
    over: tuple[bytes, ...]
    covered: set[bytes] = field(default_factory=set)


@dataclass
class Line:
    """What is kept of one dataset."""

    genesis: bytes
    heads: list[tuple[int, bytes]] = field(default_factory=list)
    beside: set[bytes] = field(default_factory=set)


@dataclass
class Model:
    """The obvious store."""

    kept: dict[bytes, Kept] = field(default_factory=dict)
    scopes: dict[tuple[bytes, int], Scope] = field(default_factory=dict)
    lines: dict[bytes, Line] = field(default_factory=dict)

    def put(self, specimen: Specimen, index: int) -> None:
        known = self.kept.setdefault(specimen.id, Kept(index))
        if known.index != index:
            raise RefusedError("another index")
        self.merge(specimen, [specimen.entry(index)])

    def release(self, specimen: Specimen) -> None:
        self.kept.pop(specimen.id, None)
        for scope in self.scopes.values():
            scope.covered.discard(specimen.id)
        for line in self.lines.values():
            line.beside.discard(specimen.id)
        self.scopes = {key: scope for key, scope in self.scopes.items() if scope.covered}
        self.lines = {key: line for key, line in self.lines.items() if line.beside}

    def merge(self, specimen: Specimen, entries: list[bytes]) -> None:
        roster = self._kept(specimen).roster
        for signed in entries:
            node = RosterEntry.decode(signed[64:]).node
            roster[node] = max(signed, roster.get(node, signed), key=_rank)

    def lease(self, over: list[Specimen], sequence: int, held: list[Specimen]) -> None:
        scope = Scope(lease_over(over, sequence=sequence)[0], sequence, tuple(s.id for s in over))
        key = (over[0].owner, 0)
        known = self.scopes.get(key)
        if known is not None and known.over == scope.over:
            scope.covered = known.covered
            if known.sequence >= sequence:
                scope = known
        elif known is not None and known.sequence >= sequence:
            return
        scope.covered |= {s.id for s in held if s.id in self.kept}
        for segment_id in scope.covered:
            self.kept[segment_id].provisional = False
        self.scopes.pop(key, None)
        if scope.covered:
            self.scopes[key] = scope

    def head(self, specimen: Specimen, owner: bytes, number: int, salt: bytes) -> None:
        self._kept(specimen)
        dataset, genesis, head = head_of(owner, number, salt)
        line = self.lines.setdefault(dataset, Line(genesis))
        line.beside.add(specimen.id)
        lowest = sorted({number, *(n for n, _ in line.heads)})[-4:][0]
        same = [h for n, h in line.heads if n == number]
        if number >= lowest and len(same) < 2 and head not in same:
            line.heads = [*((n, h) for n, h in line.heads if n >= lowest), (number, head)]

    def _kept(self, specimen: Specimen) -> Kept:
        if specimen.id not in self.kept:
            raise KeyError(specimen.id)
        return self.kept[specimen.id]

    def view(self) -> dict[bytes, Any]:
        """What a look at the store should show, by segment and dataset."""
        seen: dict[bytes, Any] = {}
        for specimen in POOL:
            known = self.kept.get(specimen.id)
            leases = sorted(s.lease for s in self.scopes.values() if specimen.id in s.covered)
            seen[specimen.id] = known and (
                known.index,
                sorted(known.roster.values()),
                leases,
                specimen.provisional() if known.provisional else None,
            )
            dataset = head_of(specimen.owner)[0]
            line = self.lines.get(dataset)
            seen[dataset] = line and [h for _, h in sorted(line.heads, key=lambda e: -e[0])]
        return seen


def _rank(signed: bytes) -> tuple[int, bytes]:
    return RosterEntry.decode(signed[64:]).counter, signed[64:]


async def look(store: ShardStore) -> dict[bytes, Any]:
    """The same of a store."""
    seen: dict[bytes, Any] = {}
    for specimen in POOL:
        held = await store.held(specimen.id)
        seen[specimen.id] = held and (
            held.index,
            sorted(await store.roster(specimen.id)),
            sorted(lease for lease, _ in await store.leases(specimen.id)),
            await store.provisional_lease(specimen.id),
        )
        dataset = head_of(specimen.owner)[0]
        genesis, heads = await store.heads(dataset)
        seen[dataset] = heads if genesis else None
        if held is not None:
            await check_readable(store, specimen, held.index)
    return seen


Call = Callable[[ShardStore], Coroutine[Any, Any, Any]]
Effect = Callable[[Model], None]
specimens = st.sampled_from(POOL)
moments = st.sampled_from([0.0005 * i for i in range(1, 40)])
"""Seconds of virtual time; a call takes some milliseconds."""
crashes = st.one_of(st.none(), st.tuples(moments, st.sampled_from(("crash", "crash", "kill"))))
seeds = st.lists(st.sampled_from(range(256)), min_size=4, max_size=4).map(bytes)
"""Drawn by the byte: hypothesis would give whole numbers that are mostly 0, and each crash alike."""


class StoreMachine(RuleBasedStateMachine):
    """Calls one after another, or several at once; any of them may be the last before a crash."""

    @initialize(seed=seeds)
    def start(self, seed: bytes) -> None:
        self.world = World(int.from_bytes(seed), log_content=False)
        self.world.env(NAME)
        self.model = Model()
        self.store = self.open()

    def open(self) -> ShardStore:
        opened: ShardStore = self.on_machine(ShardStore.open(self.world.env(NAME), QUOTA))
        assert opened.recovery.lost == ()
        return opened

    def on_machine(self, work: Coroutine[Any, Any, Any]) -> Any:
        task = self.world.spawn(NAME, work)

        async def finished() -> Any:
            return await task

        return self.world.run(finished(), time_max_s=100_000)

    def do(self, calls: list[tuple[Call, Effect]], crash: tuple[float, str] | None) -> None:
        outcomes: list[PotsherdError | bool | None] = [None] * len(calls)

        async def one(number: int, call: Call) -> None:
            try:
                await call(self.store)
                outcomes[number] = True
            except PotsherdError as error:
                outcomes[number] = error

        async def all_of_them() -> None:
            await asyncio.gather(*(one(i, call) for i, (call, _) in enumerate(calls)))

        if crash is None:
            self.on_machine(all_of_them())
            self.settle(calls, outcomes)
        else:
            self.world.spawn(NAME, all_of_them())
            self.world.run(asyncio.sleep(crash[0]))
            getattr(self.world, crash[1])(NAME)
            self.world.restart(NAME)
            self.store = self.open()
            self.judge(calls, outcomes)

    def settle(self, calls: list[tuple[Call, Effect]], outcomes: list[Any]) -> None:
        """Everything was answered: the answers are the model's."""
        for (_, effect), outcome in zip(calls, outcomes, strict=True):
            try:
                effect(self.model)
            except KeyError:
                assert isinstance(outcome, PotsherdError), outcome
            except PotsherdError as error:
                assert type(outcome) is type(error), outcome
            else:
                assert outcome is True, outcome

    def judge(self, calls: list[tuple[Call, Effect]], outcomes: list[Any]) -> None:
        """A crash: what was answered is there; of the rest each thing is as before or as after."""
        for (_, effect), outcome in zip(calls, outcomes, strict=True):
            before = copy.deepcopy(self.model)
            try:
                effect(self.model)
            except (KeyError, PotsherdError):
                self.model = before
                continue
            if outcome is True:
                continue
            seen, old, new = self.on_machine(look(self.store)), before.view(), self.model.view()
            changed = [key for key in old if old[key] != new[key]]
            if any(seen[key] != new[key] for key in changed):
                self.model = before

    @rule(
        chosen=st.lists(st.tuples(specimens, st.integers(0, 2)), min_size=1, max_size=3),
        roomy=st.booleans(),
        crash=crashes,
    )
    def put(self, chosen: list[tuple[Specimen, int]], roomy: bool, crash: Any) -> None:
        by_id = {specimen.id: (specimen, index) for specimen, index in chosen}
        calls: list[tuple[Call, Effect]] = []
        for specimen, index in by_id.values():
            size = 200_000 if roomy and len(specimen.shards[0]) < 200_000 else None

            def call(
                store: ShardStore, s: Specimen = specimen, i: int = index, m: int | None = size
            ) -> Coroutine[Any, Any, None]:
                return put(store, s, i, size_max=m)

            def effect(model: Model, s: Specimen = specimen, i: int = index) -> None:
                model.put(s, i)

            calls.append((call, effect))
        self.do(calls, crash)

    @rule(specimen=specimens, crash=crashes)
    def release(self, specimen: Specimen, crash: Any) -> None:
        self.do([(lambda s: s.release(specimen.id), lambda m: m.release(specimen))], crash)

    @rule(
        specimen=specimens,
        rumours=st.lists(
            st.tuples(st.sampled_from(NODES), st.integers(0, 2), st.integers(0, 3), st.booleans()),
            max_size=4,
        ),
        crash=crashes,
    )
    def merge(self, specimen: Specimen, rumours: list[Any], crash: Any) -> None:
        entries = [specimen.entry(index, node, count, held) for node, index, count, held in rumours]
        self.do(
            [
                (
                    lambda s: s.merge_roster(specimen.id, entries),
                    lambda m: m.merge(specimen, entries),
                )
            ],
            crash,
        )

    @rule(
        over=st.lists(specimens, min_size=1, max_size=3, unique_by=lambda s: s.id),
        part=st.integers(1, 3),
        sequence=st.integers(0, 4),
        crash=crashes,
    )
    def lease(self, over: list[Specimen], part: int, sequence: int, crash: Any) -> None:
        signed, paths = lease_over(over, sequence=sequence)
        self.do(
            [
                (
                    lambda s: s.put_lease(signed, paths[:part]),
                    lambda m: m.lease(over, sequence, over[:part]),
                )
            ],
            crash,
        )

    @rule(
        specimen=specimens,
        number=st.integers(1, 6),
        salt=st.sampled_from((b"", b"fork", b"third")),
        crash=crashes,
    )
    def head(self, specimen: Specimen, number: int, salt: bytes, crash: Any) -> None:
        _, genesis, head = head_of(specimen.owner, number, salt)
        self.do(
            [
                (
                    lambda s: s.put_head(specimen.id, genesis, head),
                    lambda m: m.head(specimen, specimen.owner, number, salt),
                )
            ],
            crash,
        )

    @rule(specimen=specimens, size=st.integers(0, 70_000), crash=crashes)
    def begin(self, specimen: Specimen, size: int, crash: Any) -> None:
        async def call(store: ShardStore) -> None:
            state = await store.stage(specimen.ticket(), 0, MEMBER)
            if state.size == 0:
                await store.append(state.stage, 0, specimen.shards[0][:size])

        self.do([(call, lambda m: None)], crash)

    @rule()
    def sweep(self) -> None:
        self.on_machine(asyncio.sleep(90_000))
        self.on_machine(self.store.sweep(self.world.env(NAME).monotonic()))
        assert self.store.usage().staged == 0
        assert list(self.world.env(NAME).disk.walk("staging")) == []

    @rule()
    def reopen(self) -> None:
        self.on_machine(self.store.close())
        self.store = self.open()

    @invariant()
    def the_store_shows_what_the_model_says(self) -> None:
        assert self.on_machine(look(self.store)) == self.model.view()

    @invariant()
    def the_ledger_equals_the_disk(self) -> None:
        disk, ledger = self.world.env(NAME).disk, self.store._ledger
        shards = list(disk.walk("shards"))
        large = [s for s in POOL if len(s.shards[0]) >= 65536 and s.id in self.model.kept]
        assert len(shards) == len(large)
        assert ledger.files == sum(allocated + INODE_BYTES for _, _, allocated in shards)
        staged = sum(allocated + INODE_BYTES for _, _, allocated in disk.walk("staging"))
        assert staged <= ledger.staged_files
        assert ledger.shards == len(self.model.kept)
        assert ledger.held <= ledger.index and ledger.used <= ledger.quota

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()


TestStoreModel = StoreMachine.TestCase
TestStoreModel.settings = settings(max_examples=40, stateful_step_count=20)

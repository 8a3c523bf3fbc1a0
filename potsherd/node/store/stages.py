"""Open stages: what is being pushed, who is charged for it, and the leaves of its cells."""

from __future__ import annotations

import asyncio
from dataclasses import field
from hashlib import blake2b
from typing import Any

from potsherd.classes import dataclass
from potsherd.erasure.layout import CELL_SIZE
from potsherd.erasure.merkle import HASH_SIZE, cell_leaves_light
from potsherd.errors import NotFoundError, QuotaError
from potsherd.node.store.ledger import Reservation
from potsherd.node.store.types import StoreConfig
from potsherd.ports import Buffer, Rng

__all__ = ["LeafHasher", "Stage", "StageKey", "Stages"]

STAGE_NUMBERS = 2**32
StageKey = tuple[bytes, bytes, int]
"""Owner, placement key, index."""


class LeafHasher:
    """Leaves of full-size cells from bytes that come in any portions."""

    def __init__(self) -> None:
        self._leaves = bytearray()
        self._partial: Any = None  # hashlib has no public name for the type of its objects
        self._missing = CELL_SIZE

    def update(self, data: Buffer) -> None:
        """Add the next bytes of the shard."""
        view = memoryview(data).cast("B")
        at = 0
        while at < len(view):
            whole = (len(view) - at) // CELL_SIZE * CELL_SIZE
            if self._missing == CELL_SIZE and whole:
                self._leaves += cell_leaves_light(view[at : at + whole], CELL_SIZE)
                at += whole
                continue
            part = view[at : at + self._missing]
            self._partial = self._partial or blake2b(digest_size=HASH_SIZE)
            self._partial.update(part)
            self._missing -= len(part)
            at += len(part)
            if not self._missing:
                self._leaves += self._partial.digest()
                self._partial, self._missing = None, CELL_SIZE

    def leaves(self) -> bytes:
        """Concatenated leaves of the cells so far; a short cell at the end has one too."""
        return bytes(self._leaves) + (self._partial.digest() if self._partial else b"")


@dataclass(eq=False)
class Stage:
    """One shard on its way in; `memory` holds it when it is small, else the file at `path`."""

    number: int
    key: StageKey
    member: bytes
    size_max: int
    reservation: Reservation
    memory: bytearray | None
    touched: float
    size: int = 0
    hasher: LeafHasher = field(default_factory=LeafHasher)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_open: bool = True
    counted: bool = False
    """Whether what it becomes counts for the member's share."""

    @property
    def index(self) -> int:
        """The shard's number."""
        return self.key[2]

    @property
    def path(self) -> str:
        """Of the staging file, below the disk's root."""
        return f"staging/{self.number:08x}"

    @property
    def charge(self) -> int:
        """Bytes charged to the member."""
        return self.reservation.total


class Stages:
    """The table of open stages and its limits."""

    def __init__(self, config: StoreConfig, rng: Rng) -> None:
        self._config = config
        self._rng = rng
        self._by_number: dict[int, Stage] = {}
        self._by_key: dict[StageKey, Stage] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def get(self, number: int) -> Stage:
        """The open stage of that number. Raises NotFoundError."""
        stage = self._by_number.get(number)
        if stage is None:
            raise NotFoundError("no such stage: expired, given up or committed")
        return stage

    def find(self, key: StageKey) -> Stage | None:
        """The open stage for one shard of one owner."""
        return self._by_key.get(key)

    def number(self) -> int:
        """A fresh one, not to be guessed: who knows it may append."""
        number = self._rng.randrange(STAGE_NUMBERS)
        while number in self._by_number:
            number = self._rng.randrange(STAGE_NUMBERS)
        return number

    def fits_memory(self, size: int) -> bool:
        """Whether a stage of this size is kept in memory."""
        used = sum(s.size_max for s in self._by_number.values() if s.memory is not None)
        return (
            size < self._config.small_shard_max and used + size <= self._config.staging_memory_max
        )

    def check(self, member: bytes, charge: int, besides: Stage | None = None) -> None:
        """Raises QuotaError when a stage of `charge` bytes would exceed a limit; `besides` not counted."""
        others = [stage for stage in self._by_number.values() if stage is not besides]
        own = [stage for stage in others if stage.member == member]
        config = self._config
        if len(others) >= config.stages_max or len(own) >= config.stages_member_max:
            raise QuotaError("too many pushes are open; try another node or later")
        total = sum(stage.charge for stage in others)
        if total + charge > config.staging_bytes_max:
            raise QuotaError("too much is being pushed here; try another node or later")
        if sum(stage.charge for stage in own) + charge > config.staging_member_bytes_max:
            raise QuotaError("this member pushes too much here at once; commit or abort first")

    def counted(self, member: bytes) -> int:
        """Bytes of the member's open stages that count for its share."""
        own = (s for s in self._by_number.values() if s.member == member and s.counted)
        return sum(stage.charge for stage in own)

    def add(self, stage: Stage) -> None:
        """Enter an open stage."""
        self._by_number[stage.number] = stage
        self._by_key[stage.key] = stage

    def drop(self, stage: Stage) -> None:
        """Strike a stage off; it takes no more bytes."""
        stage.is_open = False
        self._by_number.pop(stage.number, None)
        if self._by_key.get(stage.key) is stage:
            del self._by_key[stage.key]

    def idle(self, now: float) -> list[Stage]:
        """Stages that nobody has touched for the configured time and nobody works on."""
        limit = now - self._config.staging_idle_s
        return [s for s in self._by_number.values() if s.touched <= limit and not s.lock.locked()]

    def all(self) -> list[Stage]:
        """Every open stage, oldest first."""
        return list(self._by_number.values())

"""Records a node keeps for others: caps, expiry, and who stays when a key is full."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator

from potsherd.classes import dataclass
from potsherd.dht.wire import StoreCode

__all__ = ["Entry", "RecordStore", "StoreLimits"]


@dataclass(frozen=True)
class StoreLimits:
    """Caps; None is no cap."""

    total: int
    per_key: int
    per_member: int
    per_member_and_key: int | None = None
    per_prefix_and_key: int | None = None
    per_prefix: int | None = None


@dataclass(slots=True)
class Entry:
    """One verified record."""

    data: bytes
    """Exact signed bytes, as they are passed on."""
    version: int
    """Of two entries of one identity the higher counts: date of issue or of expiry."""
    expires: int
    publisher: bytes
    """Node key."""
    member: bytes | int
    prefix: str | None
    """Where it came from; None when it is our own."""
    chain: bytes
    """The publisher's chain, for handing the record over."""


class RecordStore:
    """Entries by key and identity, oldest continuously renewed first.

    A full key, member or prefix refuses newcomers: nothing is ever evicted, entries leave by expiry
    only. So who keeps renewing cannot be pushed out, however many newcomers there are.
    """

    def __init__(self, limits: StoreLimits) -> None:
        self._limits = limits
        self._keys: dict[bytes, dict[bytes, Entry]] = {}
        self._members: Counter[bytes | int] = Counter()
        self._prefixes: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def keys(self) -> list[bytes]:
        """All keys that have entries."""
        return list(self._keys)

    def __iter__(self) -> Iterator[tuple[bytes, Entry]]:
        return ((key, entry) for key, entries in self._keys.items() for entry in entries.values())

    def put(self, key: bytes, identity: bytes, entry: Entry, utc: float) -> StoreCode:
        """Keep or renew an entry; says why not."""
        self._expire(key, utc)
        entries = self._keys.get(key, {})
        old = entries.get(identity)
        if old is not None and old.version > entry.version:
            return StoreCode.OLDER
        if old is None and not self._room(entries, entry):
            return StoreCode.FULL
        if old is not None:
            self._account(old, -1)
        self._keys.setdefault(key, entries)[identity] = entry  # a renewed one keeps its place
        self._account(entry, 1)
        return StoreCode.STORED

    def get(self, key: bytes, utc: float) -> list[Entry]:
        """Unexpired entries, the longest kept first."""
        self._expire(key, utc)
        return list(self._keys.get(key, {}).values())

    def nearest(self, distance: Callable[[bytes], int], count: int) -> list[bytes]:
        """The `count` keys with the least distance, expired or not."""
        return heapq.nsmallest(count, self._keys, key=distance)

    def sweep(self, utc: float) -> None:
        """Drop what has expired."""
        for key in list(self._keys):
            self._expire(key, utc)

    def _room(self, entries: dict[bytes, Entry], new: Entry) -> bool:
        limits = self._limits
        if self._count >= limits.total or len(entries) >= limits.per_key:
            return False
        if self._members[new.member] >= limits.per_member:
            return False
        if limits.per_member_and_key is not None:
            same = sum(entry.member == new.member for entry in entries.values())
            if same >= limits.per_member_and_key:
                return False
        return new.prefix is None or self._room_for_prefix(entries, new.prefix)

    def _room_for_prefix(self, entries: dict[bytes, Entry], prefix: str) -> bool:
        limits = self._limits
        if limits.per_prefix is not None and self._prefixes[prefix] >= limits.per_prefix:
            return False
        if limits.per_prefix_and_key is None:
            return True
        same = sum(entry.prefix == prefix for entry in entries.values())
        return same < limits.per_prefix_and_key

    def _account(self, entry: Entry, sign: int) -> None:
        self._count += sign
        _count(self._members, entry.member, sign)
        if entry.prefix is not None:
            _count(self._prefixes, entry.prefix, sign)

    def _expire(self, key: bytes, utc: float) -> None:
        entries = self._keys.get(key)
        if entries is None:
            return
        for identity in [i for i, entry in entries.items() if entry.expires <= utc]:
            self._account(entries.pop(identity), -1)
        if not entries:
            del self._keys[key]


def _count(counter: Counter, name: bytes | int | str, sign: int) -> None:  # type: ignore[type-arg]
    counter[name] += sign
    if not counter[name]:
        del counter[name]

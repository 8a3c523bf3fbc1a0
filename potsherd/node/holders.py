"""Who keeps a segment, put together from what several nodes say."""

from __future__ import annotations

from collections.abc import Iterable

from potsherd.classes import dataclass
from potsherd.node.records import RosterEntry
from potsherd.ports import Address

__all__ = ["Holder", "HolderTable"]


@dataclass(frozen=True)
class Holder:
    """A node that says it keeps one index, and where it was last met."""

    index: int
    key: bytes
    address: Address | None


class HolderTable:
    """Per node the entry with the highest counter counts, whoever has shown it.

    Entries are signed by the node that they speak of, so nobody who shows a roster can add or take back for
    another; he can only leave out, and somebody else will not.
    """

    def __init__(self) -> None:
        self._entries: dict[bytes, tuple[RosterEntry, Address | None]] = {}

    def add(self, roster: Iterable[tuple[RosterEntry, Address | None]]) -> None:
        """Take in a roster whose signatures were checked."""
        for entry, address in roster:
            known = self._entries.get(entry.node)
            if known is None or known[0].counter < entry.counter:
                self._entries[entry.node] = entry, address

    def holders(self, n: int) -> dict[int, list[Holder]]:
        """By index below n."""
        found: dict[int, list[Holder]] = {}
        for entry, address in self._entries.values():
            if entry.held and entry.index < n:
                found.setdefault(entry.index, []).append(Holder(entry.index, entry.node, address))
        return found

"""From a read capability to the segment that ends with its root page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

from potsherd.crypto.eris import ReadCapability
from potsherd.crypto.hashing import entry_locator
from potsherd.erasure.descriptor import Entry
from potsherd.errors import NotEnoughShards, NotFoundError
from potsherd.node.reader import SegmentReader
from potsherd.node.session import Session

__all__ = ["find_entry"]


async def find_entry(
    session: Session, capability: ReadCapability
) -> AsyncIterator[tuple[SegmentReader, Entry]]:
    """Segments that claim to end with this capability's root page, each located, and where it lies.

    They are candidates: the caller tries the next when a root block does not verify. Raises
    NotFoundError when nobody announces one, NotEnoughShards when nobody who does answers.
    """
    locator = entry_locator(capability.root_reference, capability.root_key)
    announced = await session.announcements(locator)
    seen: set[bytes] = set()
    found = False
    for announcement in announced:
        if announcement.segment in seen:
            continue
        seen.add(announcement.segment)
        reader = SegmentReader(session, announcement.segment, locator, announced=announced)
        with suppress(NotFoundError, NotEnoughShards):
            await reader.locate()
            entry = reader.entry
            if entry is not None and entry.locator == locator:
                found = True
                yield reader, entry
    if found:
        return
    if announced:
        raise NotEnoughShards(
            "the nodes that announced this dataset do not answer",
            remedy="wait for them to come back (`potsherd peers` shows who answers)",
        )
    raise NotFoundError(
        "no node of this network knows that dataset",
        remedy="check the network (`potsherd config show`) and that nodes answer (`potsherd peers`)",
    )

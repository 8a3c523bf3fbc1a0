"""`verify` over a network, and the examination of all segments that other verbs begin with."""

from __future__ import annotations

from collections.abc import Sequence

from potsherd.classes import dataclass
from potsherd.crypto.eris import ReadCapability
from potsherd.datasets import get as local
from potsherd.datasets.context import Context
from potsherd.datasets.health import Health, examine
from potsherd.datasets.manifest import SegmentRef
from potsherd.datasets.reader import ArchiveReader
from potsherd.datasets.retrieving import open_dataset
from potsherd.datasets.whole import check_files

__all__ = ["VerifyReport", "examine_all", "verify"]


@dataclass(frozen=True)
class VerifyReport:
    """What a verification proved."""

    health: Health
    contents: local.VerifyResult | None
    """The files: with `contents` read whole and compared with their hashes, with `deep` alone all their blocks in
    readable segments; None with neither."""


async def verify(
    context: Context, capability: ReadCapability, *, deep: bool = False, contents: bool = False
) -> VerifyReport:
    """Have every holder prove a random cell, or with `deep` all of them (docs/design/verify.md).

    With `contents` every file is also read, decrypted and compared with both of its hashes.
    Damage is reported, not raised. Raises NotFoundError, NotEnoughShards when not even the root page is there.
    """
    archive = await open_dataset(context, capability)
    health = await examine_all(context, archive, deep=deep)
    found = None
    if contents:
        found = await local.verify(context.env, archive)
    elif deep:
        found = await check_files(archive, health)
    return VerifyReport(health, found)


async def examine_all(context: Context, archive: ArchiveReader, *, deep: bool) -> Health:
    """Ask all holders of all segments that the root page names. Damage is reported, not raised."""
    segments: Sequence[SegmentRef] = archive.manifest.segments
    total = len(segments)
    return await examine(
        context.session,
        segments,
        deep=deep,
        progress=lambda done: context.on_progress("segments", done, total),
    )

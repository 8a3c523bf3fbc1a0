"""The library of a person rebuilt from the network (`init --recover`)."""

from __future__ import annotations

from potsherd.crypto.boxes import secret_open
from potsherd.crypto.eris import ReadCapability
from potsherd.crypto.hashing import head_locator
from potsherd.crypto.keys import DatasetKeys, Genesis, Master
from potsherd.datasets.context import Context
from potsherd.datasets.health import Health
from potsherd.datasets.library import Archive, Dataset, Library, StoredSegment
from potsherd.datasets.pages import RootInfo
from potsherd.datasets.reader import ArchiveReader
from potsherd.datasets.retrieving import open_dataset
from potsherd.datasets.verifying import examine_all
from potsherd.erasure.descriptor import defaults
from potsherd.errors import IntegrityError, NotFoundError, PotsherdError
from potsherd.node.records import Head
from potsherd.node.statements import open_head

__all__ = ["recover"]

UNKNOWN_NUMBERS_MAX = 20
"""Recovery ends after so many dataset numbers in a row that nobody knows (design.md section 5)."""


async def recover(context: Context, master: Master) -> list[Dataset]:
    """Rebuild the library from the heads of datasets 0, 1, 2 … until 20 in a row are unknown.

    What the library has already stays as it is. Raises what the network raises; a dataset whose root page
    cannot be read now is passed over and found again by the next call.
    """
    recovered: list[Dataset] = []
    unknown, number = 0, 0
    with Library(context.home.library_path) as library:
        while unknown < UNKNOWN_NUMBERS_MAX:
            keys = master.dataset(number)
            head = await _newest_head(context, keys)
            if head is None:
                unknown += 1
            else:
                unknown = 0
                dataset = await _recover_one(context, library, keys, head)
                if dataset is not None:
                    recovered.append(dataset)
            number += 1
            context.on_progress("datasets", len(recovered), 0)
    return recovered


async def _newest_head(context: Context, keys: DatasetKeys) -> Head | None:
    """The highest valid head that any keeper of the dataset's heads has; None when nobody knows it."""
    session, dataset_id = context.session, keys.dataset_id
    locator = head_locator(dataset_id)
    newest: Head | None = None
    for announcement in await session.announcements(locator):
        try:
            peer = await session.peer(announcement.node_key, near=locator)
            genesis, signed = await peer.heads(dataset_id)
            for data in signed:
                head = _own_head(context, keys, genesis, data)
                if newest is None or head.number > newest.number:
                    newest = head
        except PotsherdError:
            continue  # another keeper may be better
    return newest


def _own_head(context: Context, keys: DatasetKeys, genesis: bytes, data: bytes) -> Head:
    network_id = context.session.identity.network_id
    root, head = open_head(genesis, data, network_id, context.env.utc())
    if root != Genesis(keys.owner.verify_key):
        raise IntegrityError("a head of another dataset")
    return head


async def _recover_one(
    context: Context, library: Library, keys: DatasetKeys, head: Head
) -> Dataset | None:
    """Put one dataset into the library; None when it is there, or cannot be read now."""
    offload = context.env.offload
    known = await offload(library.by_number, keys.number)
    if known is not None and known.archives:
        return None
    sealed = secret_open(keys.read(head.epoch), head.nonce, head.sealed)
    if sealed is None:
        return None
    capability = ReadCapability.from_bytes(sealed)
    try:
        archive = await open_dataset(context, capability)
        health = await examine_all(context, archive, deep=False)
    except (NotFoundError, PotsherdError):
        return None
    info = archive.manifest.info
    if known is None:
        await offload(_reserve, context, library, keys, info)
    record, segments = _library_rows(archive, capability, health)
    await offload(library.add_archive, keys.number, record, segments)
    return await offload(library.by_number, keys.number)


def _reserve(context: Context, library: Library, keys: DatasetKeys, info: RootInfo) -> None:
    library.reserve(
        library.free_name(info.title or f"dataset-{keys.number}"),
        lambda _: keys.dataset_id,
        network=context.network.name,
        public=False,
        spool="",
        now=info.created,
        number=keys.number,
    )


def _library_rows(
    archive: ArchiveReader, capability: ReadCapability, health: Health
) -> tuple[Archive, list[StoredSegment]]:
    info, weakest = archive.manifest.info, health.weakest
    w = defaults(weakest.k, weakest.n)[1]
    stream_bytes = sum(segment.stream_length for segment in health.segments)
    record = Archive(
        info.archive,
        capability,
        info.created,
        info.epoch,
        *(weakest.k, weakest.n, weakest.r, w),
        *(info.totals.files, info.totals.content_bytes, stream_bytes),
    )
    segments = [
        StoredSegment(
            name.segment_id, name.placement_key, name.k, name.n, found.stream_length, found.live
        )
        for name, found in zip(archive.manifest.segments, health.segments, strict=True)
    ]
    return record, segments

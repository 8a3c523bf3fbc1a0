"""`ls`, `get`, `cat`, `stat`, `verify` and recovery over a network."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from potsherd.crypto.boxes import secret_open
from potsherd.crypto.eris import ReadCapability
from potsherd.crypto.hashing import head_locator
from potsherd.crypto.keys import DatasetKeys, Genesis, Master
from potsherd.datasets import get as local
from potsherd.datasets.audits import Audited, audited
from potsherd.datasets.context import Context
from potsherd.datasets.health import Health, examine
from potsherd.datasets.library import Archive, Dataset, Library, StoredSegment
from potsherd.datasets.manifest import Node, SegmentRef
from potsherd.datasets.network import NetworkSource
from potsherd.datasets.outlook import outlook
from potsherd.datasets.pages import Kind, RootInfo
from potsherd.datasets.reader import ArchiveReader, open_archive
from potsherd.datasets.standing import Standing, donors_near, look
from potsherd.datasets.whole import check_files
from potsherd.durability.forecast import Forecast
from potsherd.erasure.descriptor import defaults
from potsherd.errors import IntegrityError, NotFoundError, PotsherdError
from potsherd.node.records import Head
from potsherd.node.retention import FOREVER, Verdict
from potsherd.node.statements import open_head
from potsherd.ports import Buffer

__all__ = [
    "Listed",
    "StatReport",
    "VerifyReport",
    "cat",
    "get",
    "ls",
    "ls_many",
    "open_dataset",
    "recover",
    "stat",
    "verify",
]

DEAD_S = 15.0
"""Seconds for which a node that could not be reached is not dialled again; a dial takes up to 5."""
UNKNOWN_NUMBERS_MAX = 20
"""Recovery ends after so many dataset numbers in a row that nobody knows (design.md section 5)."""
NUMBERS_AT_ONCE = 20
KINDS = {Kind.FILE: "file", Kind.FOLDER: "folder", Kind.SYMLINK: "link"}


async def open_dataset(context: Context, capability: ReadCapability) -> ArchiveReader:
    """Find the root page and verify it. Raises NotFoundError, NotEnoughShards, IntegrityError."""
    context.session.remember_dead(DEAD_S)
    return await open_archive(context.env, NetworkSource(context.session), capability)


class Listed(NamedTuple):
    """One line of `ls`."""

    path: bytes
    kind: str
    """file, folder or link."""
    size: int
    mode: int
    mtime_ns: int
    target: bytes
    """Of a link; else empty."""
    blake2b: bytes
    """Of a file's content; else empty."""

    @classmethod
    def of(cls, node: Node) -> Listed:
        """What a manifest entry shows."""
        entry, content = node.entry, node.entry.content
        return cls(
            node.path,
            KINDS[entry.kind],
            content.length if content else 0,
            entry.mode,
            entry.mtime_ns,
            entry.target or b"",
            content.blake2b if content else b"",
        )


async def ls(
    context: Context, capability: ReadCapability, path: bytes = b"", *, recurse: bool = True
) -> AsyncIterator[Listed]:
    """Entries at and below a path, without the dataset's own root. Raises NotFoundError."""
    async with aclosing(ls_many(context, capability, path, recurse=recurse)) as found:
        async for entries in found:
            for entry in entries:
                yield entry


async def ls_many(
    context: Context, capability: ReadCapability, path: bytes = b"", *, recurse: bool = True
) -> AsyncGenerator[list[Listed], None]:
    """The same, as many at a time as come together."""
    archive = await open_dataset(context, capability)
    async with aclosing(archive.manifest.walk_many(path, recurse=recurse)) as found:
        async for nodes in found:
            yield [Listed.of(node) for node in nodes if node.path]


async def cat(
    context: Context,
    capability: ReadCapability,
    path: bytes,
    start: int = 0,
    stop: int | None = None,
) -> AsyncIterator[Buffer]:
    """See potsherd.datasets.get.cat."""
    archive = await open_dataset(context, capability)
    async for piece in local.cat(archive, path, start, stop):
        yield piece


async def get(
    context: Context,
    capability: ReadCapability,
    destination: Path,
    paths: Sequence[bytes] = (),
    *,
    overwrite: bool = False,
) -> local.GetResult:
    """See potsherd.datasets.get.get."""
    archive = await open_dataset(context, capability)
    return await local.get(
        context.env,
        archive,
        destination,
        paths,
        overwrite=overwrite,
        on_progress=lambda p: context.on_progress("bytes", p.content_bytes, p.content_bytes_total),
    )


@dataclass(frozen=True)
class StatReport:
    """What is known of a dataset: from its root page, and from its holders just now."""

    info: RootInfo
    capability: ReadCapability
    entry_segment: bytes
    health: Health
    forecast: Forecast | None
    """Chance of loss within a year; None when a segment could not even be described."""
    standing: Standing
    audits: Audited
    """What holders say of audits among themselves."""

    @property
    def stream_bytes(self) -> int:
        """Ciphertext before coding."""
        return sum(segment.stream_length for segment in self.health.segments)

    def as_json(self) -> dict[str, Any]:
        """Plain facts, no secrets."""
        weakest, totals = self.health.weakest, self.info.totals
        return {
            "title": self.info.title,
            "created": self.info.created,
            "dataset_id": self.info.dataset_id.hex(),
            "archive": self.info.archive,
            "files": totals.files,
            "folders": totals.folders,
            "symlinks": totals.symlinks,
            "content_bytes": totals.content_bytes,
            "stream_bytes": self.stream_bytes,
            "k": weakest.k,
            "n": weakest.n,
            "r": weakest.r,
            "w": defaults(weakest.k, weakest.n)[1],
            "live": weakest.live,
            "away": weakest.count("away"),
            "gone": weakest.count("gone"),
            "wrong": weakest.count("wrong"),
            "state": self.standing.state,
            "attainable": self.standing.attainable,
            "donors": self.standing.donors,
            "spread": [vars(spread) for spread in self.standing.spread],
            "keeping": _keeping_json(self.standing.keeping),
            "survives": weakest.survives,
            "on_target": self.health.on_target,
            "readable": self.health.readable,
            "wrong_shards": self.health.wrong,
            "proven_at": self.health.proven_at,
            "cells": self.health.cells,
            "cells_proven": self.health.cells_proven,
            "proof": "every cell" if self.health.deep else "one random cell of each piece",
            "audits": vars(self.audits),
            "forecast": _forecast_json(self.forecast),
            "segments": [
                {
                    "segment": segment.segment_id.hex(),
                    "entry": segment.segment_id == self.entry_segment,
                    "k": segment.k,
                    "n": segment.n,
                    "live": segment.live,
                    "stream_bytes": segment.stream_length,
                    "pieces": [shard.facts() for shard in segment.shards],
                }
                for segment in self.health.segments
            ],
        }


def _keeping_json(verdict: Verdict | None) -> dict[str, Any] | None:
    """Dates; None for an end that never comes."""
    if verdict is None:
        return None
    ends, gone = (None if date >= FOREVER else date for date in (verdict.ends, verdict.gone))
    return {"ends": ends, "gone": gone, "reason": verdict.reason if ends is not None else None}


def _forecast_json(found: Forecast | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "loss_probability": found.probability,
        "low": found.low,
        "high": found.high,
        "years": found.years,
        "survives": found.survives,
        "share_lost": found.share_lost,
        "readable": found.readable,
        "words": found.words(),
    }


async def stat(context: Context, capability: ReadCapability) -> StatReport:
    """Root page and a sampled examination. Raises NotFoundError, NotEnoughShards."""
    archive = await open_dataset(context, capability)
    health = await _examine(context, archive, deep=False)
    domains = await donors_near(context.session, archive.manifest.segments)
    expected = await outlook(context.session, health, domains)
    entry = archive.entry.segment
    standing = await look(context.session, entry, health, domains)
    told = await audited(context.session, health)
    info = archive.manifest.info
    return StatReport(info, capability, entry.segment_id, health, expected, standing, told)


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
    health = await _examine(context, archive, deep=deep)
    found = None
    if contents:
        found = await local.verify(context.env, archive)
    elif deep:
        found = await check_files(archive, health)
    return VerifyReport(health, found)


async def _examine(context: Context, archive: ArchiveReader, *, deep: bool) -> Health:
    """Ask all holders of all segments that the root page names."""
    segments: Sequence[SegmentRef] = archive.manifest.segments
    total = len(segments)
    return await examine(
        context.session,
        segments,
        deep=deep,
        progress=lambda done: context.on_progress("segments", done, total),
    )


# --- recovery ----------------------------------------------------------------------------------------


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
        health = await _examine(context, archive, deep=False)
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

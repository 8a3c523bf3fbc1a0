"""`put` over a network: scan, plan, store, finish, record; and going on where one stopped."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from potsherd.classes import dataclass
from potsherd.crypto.eris import NULL_SECRET
from potsherd.crypto.hashing import placement_key
from potsherd.crypto.keys import DatasetKeys, Master
from potsherd.datasets import put as local
from potsherd.datasets.context import Context
from potsherd.datasets.finish import ArchiveHolders, Finisher, sign_head
from potsherd.datasets.home import Home
from potsherd.datasets.library import (
    Archive,
    Dataset,
    Keeping,
    Library,
    StoredSegment,
    name_from,
)
from potsherd.datasets.network import CodeChoice, NetworkSink
from potsherd.datasets.networks import Network
from potsherd.datasets.outlook import Seen
from potsherd.datasets.prospects import advice_for, look_around
from potsherd.datasets.scan import Summary
from potsherd.datasets.small_files import private_folder
from potsherd.datasets.spool import Spool
from potsherd.durability.advice import Advice
from potsherd.erasure.descriptor import default_code, defaults
from potsherd.errors import PeerError, PotsherdError, RefusedError, UsageError

__all__ = ["Desk", "PutOptions", "PutReport", "choose_code", "put"]


COUNTS_MAX = 3
"""Times that donors are counted before a put is refused for want of them."""
COUNT_EXACT_TO = 64
"""Donors up to which a put counts them, at least: more than the largest default code asks for."""
COUNT_PAUSE_S = 1.0


@dataclass(frozen=True)
class PutOptions:
    """What the person asked for; None is the default for the network as it is."""

    name: str | None = None
    k: int | None = None
    n: int | None = None
    r: int | None = None
    """Repair starts when fewer pieces are left."""
    public: bool = False
    dry_run: bool = False
    until: int = 0
    """Date until which it is to be kept; 0: without end."""
    keep_s: int = 0
    """Seconds that this is from now, when a duration was asked for: remembered for `renew`."""
    keepers: tuple[bytes, ...] = ()
    """Keys of people who may lengthen the keeping."""


@dataclass(frozen=True)
class PutReport:
    """What a put stored, or with `dry_run` what it would store."""

    name: str
    urn: str
    """The key link; empty for a dry run. Secret unless the dataset is public."""
    number: int
    k: int
    n: int
    r: int
    w: int
    donors: int
    """Live ones that were seen; estimated where there are more than COUNT_EXACT_TO, and than n."""
    files: int
    folders: int
    content_bytes: int
    stream_bytes: int
    """Ciphertext before coding; with `dry_run` at most so much."""
    stored_bytes: int
    """On all holders together."""
    sent_bytes: int
    """Ciphertext before coding that was sent in this run: less when an interrupted put went on."""
    segments: int
    placed: int
    """Distinct durable shards of the segment that has fewest."""
    seconds: float
    """Taken, or with `dry_run` estimated."""
    compromises: tuple[str, ...]
    """Rules of placement that this network could not keep."""
    until: int
    """Date until which holders are asked to keep it; 0: without end."""
    passed_over: tuple[str, ...]
    """Sockets, FIFOs and devices, which have no content."""
    dry_run: bool
    advice: Advice | None = None
    """Why the default code will not do on these donors, and what would; None where it does, where another code was
    asked for, and where too little is known.
    """

    @property
    def complete(self) -> bool:
        """Whether every segment has all n shards."""
        return self.placed >= self.n

    @property
    def survives(self) -> int:
        """Holders of any one segment that may go before it cannot be read."""
        return self.placed - self.k


def choose_code(donors: int, k: int | None, n: int | None, r: int | None = None) -> CodeChoice:
    """The code asked for, or the default for so many live donors; with `r` repair starts below that.

    Raises UsageError for an impossible code, RefusedError when there are fewer donors than n: nothing is placed
    twice to make up the number.
    """
    if (k is None) != (n is None):
        raise UsageError("--k and --n go together")
    if donors < 1:
        raise RefusedError(
            "no donor of this network answers", remedy="see `potsherd peers`; try again later"
        )
    if k is None or n is None:
        chosen = default_code(donors)
        return _with_repair(chosen.k, chosen.n, chosen.r if r is None else r)
    if n > donors:
        defaults(k, n)  # an impossible code is that, whoever answers
        fitting = default_code(donors)
        raise RefusedError(
            f"{n} pieces need {n} donors, and only {donors} answer",
            remedy=f"with the default for {donors} donors: --k {fitting.k} --n {fitting.n}",
        )
    return _with_repair(k, n, defaults(k, n)[0] if r is None else r)


def _with_repair(k: int, n: int, r: int) -> CodeChoice:
    if not k <= r <= n:
        raise UsageError(
            f"repair below {r} pieces of a {k}-of-{n} code",
            remedy=f"--r is from {k}, where nothing may go any more, to {n}: repair at the first loss",
        )
    return CodeChoice(k, n, r, -(-(r + n) // 2))


async def put(
    context: Context,
    paths: Sequence[str | bytes | Path],
    options: PutOptions,
    *,
    on_plan: Callable[[PutReport], None] | None = None,
) -> PutReport:
    """Store what lies below `paths` as a new dataset, or go on with the same put that was interrupted.

    When it returns, every segment has at least w durable shards on distinct holders, a lease, a head, and
    can be found; the library has it. `on_plan` gets what is going to be sent, before it is. Raises
    ChangedError, QuotaError, RefusedError, UsageError, StorageError …; then nothing is acknowledged, and
    where some of it is stored already, the same call goes on there.
    """
    start = context.env.monotonic()
    told = on_plan is not None or options.dry_run
    judged = told and options.k is None
    counting = asyncio.ensure_future(_choose_code(context, options))
    looking = asyncio.ensure_future(look_around(context.session)) if judged else None
    desk = None
    try:
        desk = await context.env.offload(Desk.open, context.home, context.network, paths, options)
        summary, code, planned = await _prepare(context, desk, paths, options, counting)
        if looking is not None:
            advice = await context.env.offload(_advice, planned, await looking)
            planned = replace(planned, advice=advice)
        if options.dry_run:
            await context.env.offload(desk.remove)
            return planned
        if on_plan is not None:
            on_plan(planned)
        stored = await _Put(context, desk, code, summary, options).run()
        await context.env.offload(desk.remove)
    finally:
        for task in (counting, looking):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if desk is not None:
            await context.env.offload(desk.close)
    seconds = context.env.monotonic() - start
    await context.env.offload(context.home.measured, stored.result.bytes_sent, seconds)
    return _report(planned, stored, seconds)


async def _choose_code(context: Context, options: PutOptions) -> tuple[CodeChoice, int]:
    """The code, and for how many donors. Raises what `choose_code` does."""
    donors = await _count_donors(context, options.n or 0)
    return choose_code(donors, options.k, options.n, options.r), donors


async def _count_donors(context: Context, wanted: int) -> int:
    """Live donors; asked again before there are said to be too few, for a datagram can get lost."""
    exact_to = max(COUNT_EXACT_TO, wanted + 1)
    donors = await context.session.network_size(exact_to, anew=False)
    for _ in range(COUNTS_MAX - 1):
        if donors >= wanted:
            break
        await asyncio.sleep(COUNT_PAUSE_S)
        donors = max(donors, await context.session.network_size(exact_to))
    return donors


async def _prepare(
    context: Context,
    desk: Desk,
    paths: Sequence[str | bytes | Path],
    options: PutOptions,
    counting: asyncio.Future[tuple[CodeChoice, int]],
) -> tuple[Summary, CodeChoice, PutReport]:
    """Scan, beside the counting of donors, and plan.

    An error leaves nothing behind, unless an earlier run had stored something. One that the count ends with also
    ends the scan, and leaves what an earlier run had begun.
    """

    def go_on(_: Summary) -> None:
        if counting.done():
            counting.result()

    try:
        summary, _ = await local.scan(context.env, desk.spool, paths, go_on)
        code, donors = await counting
        return summary, code, _planned(context, options, desk.name, code, donors, summary)
    except PotsherdError as error:
        counted_out = counting.done() and counting.exception() is error
        earlier = desk.has_begun if counted_out else desk.spool.committed
        if not await context.env.offload(earlier):
            await context.env.offload(desk.remove)
        raise


def _planned(
    context: Context,
    options: PutOptions,
    name: str,
    code: CodeChoice,
    donors: int,
    summary: Summary,
) -> PutReport:
    plan = local.plan(summary, code.k, code.n)
    rate = context.home.put_rate()
    return PutReport(
        name=name,
        urn="",
        number=-1,
        k=code.k,
        n=code.n,
        r=code.r,
        w=code.w,
        donors=donors,
        files=summary.files,
        folders=summary.folders,
        content_bytes=summary.content_bytes,
        stream_bytes=plan.stream_bytes,
        stored_bytes=plan.stored_bytes,
        sent_bytes=plan.stream_bytes,
        segments=plan.segments,
        placed=code.n,
        seconds=plan.stream_bytes / rate,
        compromises=(),
        until=options.until,
        passed_over=tuple(summary.passed_over_examples),
        dry_run=True,
    )


def _advice(planned: PutReport, seen: Seen) -> Advice | None:
    code = (planned.k, planned.n, planned.r)
    return advice_for(seen, planned.donors, code, planned.segments, planned.stream_bytes)


def _report(planned: PutReport, stored: _Stored, seconds: float) -> PutReport:
    result, holders = stored.result, stored.holders.holders
    k = planned.k
    return replace(
        planned,
        name=stored.dataset.name,
        urn=result.capability.urn,
        number=stored.dataset.number,
        stream_bytes=result.stream_bytes,
        stored_bytes=sum(
            -(-segment.stream_length // k) * len(kept)
            for segment, kept in zip(result.segments, holders, strict=True)
        ),
        sent_bytes=result.bytes_sent,
        segments=len(result.segments),
        placed=min(map(len, holders)),
        seconds=seconds,
        compromises=stored.compromises,
        dry_run=False,
    )


class Desk:
    """The spool folder of one put: named by what is put, locked while it runs. All methods block."""

    def __init__(self, folder: Path, name: str, wanted: str | None, lock: int) -> None:
        self.folder, self.name, self.wanted = folder, name, wanted
        self._lock = lock
        self.spool = Spool.open(folder / "spool.sqlite")

    @classmethod
    def open(
        cls,
        home: Home,
        network: Network,
        paths: Sequence[str | bytes | Path],
        options: PutOptions,
    ) -> Desk:
        """The same arguments lead to the same folder. Raises RefusedError while another process has it."""
        if not paths:
            raise UsageError("nothing to put")
        state = blake2b(digest_size=10)
        absolute = [os.fsencode(Path(os.fsdecode(path)).absolute()) for path in paths]
        facts: tuple[object, ...] = (network.config.network_id, options.name)
        facts += (options.k, options.n, options.public, *([options.r] if options.r else []))
        if options.until:
            # a duration is the same wish whenever it is said; a day is one by itself
            facts += (options.keep_s or options.until,)
        facts += options.keepers
        for part in (repr(facts).encode(), repr(options.dry_run).encode(), *absolute):
            state.update(len(part).to_bytes(8, "big") + part)
        folder = private_folder(home.spool_folder / state.hexdigest())
        lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise RefusedError("the same put is running already") from None
        return cls(folder, options.name or name_from(paths[0]), options.name, lock)

    @property
    def identity(self) -> str:
        """What the library calls this put."""
        return self.folder.name

    def has_begun(self) -> bool:
        """Whether a run of this put has come as far as sending."""
        return self.spool.recall("fingerprint") is not None

    def close(self) -> None:
        """Let other processes have it; may be called twice."""
        self.spool.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """The put is done or given up: nothing to go on with."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class _Stored:
    """A finished put."""

    dataset: Dataset
    result: local.PutResult
    holders: ArchiveHolders
    compromises: tuple[str, ...]


class _Put:
    """One run of a put after its scan."""

    def __init__(
        self,
        context: Context,
        desk: Desk,
        code: CodeChoice,
        summary: Summary,
        options: PutOptions,
    ) -> None:
        self.context, self.desk, self.code = context, desk, code
        self.summary, self.options = summary, options
        self.env, self.session = context.env, context.session

    async def run(self) -> _Stored:
        """Reserve, store, finish, record; gives up what cannot be gone on with."""
        home = self.context.home
        master = await self.env.offload(home.make_master, self.env.rng)
        library = await self.env.offload(Library, home.library_path)
        try:
            try:
                dataset = await self.env.offload(self._reserve, library, master)
            except PotsherdError:
                await self.env.offload(self.desk.remove)
                raise
            keys = master.dataset(dataset.number)
            prefix = f"{self.desk.identity}/segments"
            sink = NetworkSink(self.session, keys, self.code, self.desk.spool, prefix)
            try:
                return await self._store(library, dataset, keys, sink)
            except BaseException as error:
                await self._after(error, library, dataset, sink)
                raise
        finally:
            await self.env.offload(library.close)

    def _reserve(self, library: Library, master: Master) -> Dataset:
        """The dataset that an interrupted run of this put had begun, or a new one."""
        for dataset in library.datasets():
            if dataset.spool == self.desk.identity and not dataset.archives:
                return dataset
        wanted = self.desk.wanted
        return library.reserve(
            wanted if wanted is not None else library.free_name(self.desk.name),
            lambda number: master.dataset(number).dataset_id,
            network=self.context.network.name,
            public=self.options.public,
            spool=self.desk.identity,
            now=int(self.env.utc()),
        )

    async def _store(
        self, library: Library, dataset: Dataset, keys: DatasetKeys, sink: NetworkSink
    ) -> _Stored:
        settings = local.PutSettings(
            k=self.code.k,
            n=self.code.n,
            title=dataset.name,
            dataset_id=keys.dataset_id,
            secret=NULL_SECRET if self.options.public else keys.convergence(0),
            placement_key=lambda segment: placement_key(keys.placement, 0, segment),
            created=int(self.env.utc()),
        )
        result = await local.put(
            self.env, self.desk.spool, self.summary, sink, settings, on_progress=self._progress
        )
        holders = await sink.holders(result.segments)
        await self._finish(keys, result, holders, sink)
        record = self._archive(result)
        segments = self._segments(result, holders)
        await self.env.offload(library.add_archive, dataset.number, record, segments)
        keeping = Keeping(self.options.keep_s, await self._until(), 0)
        await self.env.offload(library.set_keeping, dataset.number, 0, keeping)
        compromises = {c for s in sink.committed.values() for c in s.compromises}
        return _Stored(dataset, result, holders, tuple(sorted(compromises)))

    async def _finish(
        self,
        keys: DatasetKeys,
        result: local.PutResult,
        holders: ArchiveHolders,
        sink: NetworkSink,
    ) -> None:
        """Lease and head, then announcements; all the same bytes again when a run goes on."""
        number, signed = await self.env.offload(self._head, keys, result)
        finisher = Finisher(self.session, keys, holders)
        lease = finisher.lease(
            number=0,
            total_bytes=result.stream_bytes,
            until=await self._until(),
            sequence=number,
            keepers=self.options.keepers,
        )
        outcomes = await asyncio.gather(
            lease, finisher.head(signed), sink.shared(), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        await finisher.announce()

    def _head(self, keys: DatasetKeys, result: local.PutResult) -> tuple[int, bytes]:
        """The head of this put, kept in the spool before anybody gets it.

        Where an earlier run may have given away a head of other content, because the source has changed
        since, this one follows it: two heads of one number would prove a fork.
        """
        spool, capability = self.desk.spool, result.capability.to_bytes()
        number, signed, before = spool.recall("head") or (0, b"", b"")
        if capability != before:
            signed = sign_head(
                keys,
                self.session.identity.network_id,
                result.capability,
                number=number + 1,
                previous=signed,
                date=result.created,
                nonce=self.env.rng.randbytes(24),
            )
            number += 1
            spool.remember("head", [number, signed, capability])
        return number, signed

    async def _until(self) -> int:
        """The end of the lease: that of the first run, so that all holders get the same lease."""
        spool = self.desk.spool
        known = await self.env.offload(spool.recall, "until")
        if known is None:
            known = self.options.until
            await self.env.offload(spool.remember, "until", known)
        return int(known)

    def _archive(self, result: local.PutResult) -> Archive:
        return Archive(
            archive=0,
            capability=result.capability,
            date=result.created,
            epoch=0,
            k=self.code.k,
            n=self.code.n,
            r=self.code.r,
            w=self.code.w,
            files=result.totals.files,
            content_bytes=result.totals.content_bytes,
            stream_bytes=result.stream_bytes,
        )

    def _segments(self, result: local.PutResult, holders: ArchiveHolders) -> list[StoredSegment]:
        return [
            StoredSegment(
                *(segment.segment_id, segment.placement_key, self.code.k, self.code.n),
                stream_length=segment.stream_length,
                placed=len(kept),
            )
            for segment, kept in zip(result.segments, holders.holders, strict=True)
        ]

    async def _after(
        self, error: BaseException, library: Library, dataset: Dataset, sink: NetworkSink
    ) -> None:
        """Keep what the same call can go on with; else leave no trace."""
        committed = await self.env.offload(self.desk.spool.committed)
        passing = not isinstance(error, PotsherdError) or isinstance(error, PeerError)
        keep = bool(committed) or passing
        await sink.close(give_up=not keep)
        if not keep:
            await self.env.offload(library.give_up, dataset.number)
            await self.env.offload(self.desk.remove)

    def _progress(self, progress: local.Progress) -> None:
        self.context.on_progress("bytes", progress.content_bytes, progress.content_bytes_total)

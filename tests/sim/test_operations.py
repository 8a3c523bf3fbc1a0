"""The data verbs on a virtual network: stored, degraded, refused, recovered."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from town import Town, in_town

from potsherd.crypto.eris import ReadCapability
from potsherd.crypto.hashing import digest, head_locator
from potsherd.datasets import operations
from potsherd.datasets.home import Home
from potsherd.datasets.library import Library
from potsherd.datasets.operations import Context, PutOptions
from potsherd.errors import NotFoundError, QuotaError, RefusedError, UsageError
from potsherd.node.records import Head
from potsherd.node.session import Session

pytestmark = pytest.mark.slow


def home_at(folder: Path, town: Town) -> Home:
    home = Home(folder)
    home.networks.add(town.network.invitation.encode())
    return home


async def context_of(home: Home, town: Town, number: int) -> Context:
    session = await town.session(number)
    return Context(session.env, home, home.networks.choose(None), session)


def tree(folder: Path, *, large: int = 3_000_000) -> Path:
    source = folder / "source"
    (source / "inner" / "empty").mkdir(parents=True)
    (source / "one.txt").write_bytes(b"x" * 1000)
    (source / "inner" / "large.bin").write_bytes(random.Random(1).randbytes(large))
    (source / "inner" / "none").write_bytes(b"")
    return source


async def content(context: Context, capability: ReadCapability, path: bytes) -> bytes:
    return b"".join([piece async for piece in operations.cat(context, capability, path)])


def test_stored_listed_read_and_examined_with_holders_gone(tmp_path: Path) -> None:
    source = tree(tmp_path)
    large = (source / "inner" / "large.bin").read_bytes()

    async def scenario(town: Town) -> None:
        home = home_at(tmp_path / "home", town)
        context = await context_of(home, town, 1)
        report = await operations.put(context, [source], PutOptions(name="first"))
        assert (report.k, report.n, report.placed) == (4, 9, 9)
        assert report.stored_bytes < 1.1 * 9 / 4 * report.stream_bytes
        with Library(home.library_path) as library:
            capability = library.dataset("first").newest.capability
        assert capability.urn == report.urn
        assert not list(home.spool_folder.iterdir())
        found = await operations.stat(context, capability)
        assert found.health.on_target and found.health.weakest.live == 9
        outlook = found.forecast
        assert outlook is not None and outlook.survives == 5
        assert 0 < outlook.low <= outlook.probability <= outlook.high <= 1
        about, survives, assumes = outlook.clauses()
        assert about.endswith(")") and " this year (between " in about
        assert survives == "survives 5 more machines gone"
        assert "fail independently" in assumes or "leave independently" in assumes
        assert "a guess: holders have watched for hardly any time yet" in assumes, "they were asked"
        assert len({s.key for s in found.health.segments[0].shards}) == 9
        for shard in found.health.segments[0].shards:
            if shard.index < 4 and town.keys[shard.key] != 0:  # not the bootstrap node
                town.crash(shard.key)
        again = await context_of(home, town, 2)
        paths = [line.path async for line in operations.ls(again, capability)]
        assert paths == [b"inner", b"inner/empty", b"inner/large.bin", b"inner/none", b"one.txt"]
        assert await content(again, capability, b"inner/large.bin") == large
        assert await content(again, capability, b"one.txt") == b"x" * 1000
        assert await content(again, capability, b"inner/none") == b""
        with pytest.raises(NotFoundError):
            await content(again, capability, b"inner/nothing")
        with pytest.raises(UsageError):
            await content(again, capability, b"inner")
        after = await operations.stat(again, capability)
        assert after.health.readable
        assert not after.health.on_target
        assert after.health.weakest.live in (5, 6)
        assert after.forecast is not None and after.forecast.probability > outlook.probability
        deep = await operations.verify(again, capability, deep=True)
        assert deep.health.weakest.live == after.health.weakest.live
        assert deep.health.cells_proven == deep.health.cells * deep.health.weakest.live // 9
        read = await operations.verify(again, capability, contents=True)
        for contents in (deep.contents, read.contents):
            assert contents is not None and not contents.failures
            assert (contents.files, contents.content_bytes) == (3, len(large) + 1000)
        await context.session.close()
        await again.session.close()

    in_town(scenario, donors=10)


def test_a_donor_that_has_come_since_the_last_put_counts_when_it_is_needed(tmp_path: Path) -> None:
    """Who were counted half a minute ago are all that there are, unless more are asked for."""
    source = tree(tmp_path, large=50_000)

    async def scenario(town: Town) -> None:
        context = await context_of(home_at(tmp_path / "home", town), town, 1)
        first = await operations.put(context, [source], PutOptions(name="first", k=2, n=5))
        assert (first.donors, first.placed) == (5, 5)
        await town.start_node(5)
        again = await operations.put(context, [source], PutOptions(name="again", k=2, n=5))
        assert (again.donors, again.placed) == (5, 5)
        wider = await operations.put(context, [source], PutOptions(name="wider", k=2, n=6))
        assert (wider.donors, wider.placed) == (6, 6)
        with pytest.raises(RefusedError, match="only 6 answer"):
            await operations.put(context, [source], PutOptions(name="too wide", k=2, n=7))
        await context.session.close()

    in_town(scenario, donors=5)


def test_too_few_donors_for_a_moment_cost_an_interrupted_put_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had begun waits in the spool; a put that had not begun leaves nothing there."""
    source = tree(tmp_path)
    options = PutOptions(name="resumed", k=2, n=5)

    async def few(self: Session, exact_to: int = 0, *, anew: bool = True) -> int:
        return 3

    async def scenario(town: Town) -> None:
        home = home_at(tmp_path / "home", town)
        context = await context_of(home, town, 1)
        running = asyncio.ensure_future(operations.put(context, [source], options))
        while not any(p.startswith("staging") for p, _ in town.world.disk("node1").files()):
            assert not running.done()
            await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        (begun,) = home.spool_folder.iterdir()
        with monkeypatch.context() as patch:
            patch.setattr(Session, "network_size", few)
            for again in (options, PutOptions(name="new", k=2, n=5)):
                with pytest.raises(RefusedError, match="only 3 answer"):
                    await operations.put(context, [source], again)
        assert list(home.spool_folder.iterdir()) == [begun]
        assert (await operations.put(context, [source], options)).placed == 5
        assert not list(home.spool_folder.iterdir())
        await context.session.close()

    in_town(scenario, donors=5)


def test_the_master_alone_brings_the_library_back(tmp_path: Path) -> None:
    source = tree(tmp_path, large=50_000)

    async def scenario(town: Town) -> None:
        home = home_at(tmp_path / "home", town)
        context = await context_of(home, town, 1)
        urns = {}
        for name in ("first", "second", "third"):
            urns[name] = (await operations.put(context, [source], PutOptions(name=name))).urn
        assert len(set(urns.values())) == 3
        empty = home_at(tmp_path / "new", town)
        empty.keep_master(home.master())
        again = await context_of(empty, town, 2)
        recovered = await operations.recover(again, empty.master())
        assert {d.name: d.newest.capability.urn for d in recovered} == urns
        assert await operations.recover(again, empty.master()) == []
        assert await content(again, recovered[0].newest.capability, b"one.txt") == b"x" * 1000
        await context.session.close()
        await again.session.close()

    in_town(scenario, donors=5)


def test_refusals_leave_no_trace(tmp_path: Path) -> None:
    source = tree(tmp_path, large=9_000_000)

    async def scenario(town: Town) -> None:
        home = home_at(tmp_path / "home", town)
        context = await context_of(home, town, 1)
        with pytest.raises(QuotaError):
            await operations.put(context, [source], PutOptions())
        with pytest.raises(RefusedError, match="12 pieces need 12 donors, and only 5"):
            await operations.put(context, [source], PutOptions(k=4, n=12))
        with pytest.raises(UsageError):
            await operations.put(context, [source], PutOptions(k=4))
        with pytest.raises(NotFoundError):
            await operations.put(context, [tmp_path / "missing"], PutOptions())
        with Library(home.library_path) as library:
            assert library.datasets() == []
        assert [path for path in home.spool_folder.rglob("*") if path.is_file()] == []
        await context.session.close()

    in_town(scenario, donors=5, quota=2**22)


def test_a_dry_run_stores_nothing(tmp_path: Path) -> None:
    source = tree(tmp_path, large=100_000)

    async def scenario(town: Town) -> None:
        home = home_at(tmp_path / "home", town)
        context = await context_of(home, town, 1)
        report = await operations.put(context, [source], PutOptions(dry_run=True))
        assert report.dry_run and not report.urn
        assert report.content_bytes == 101_000
        assert report.stored_bytes >= report.stream_bytes * 2
        assert not home.exists()
        await context.session.close()

    in_town(scenario, donors=5)


@pytest.mark.parametrize("changed", [False, True])
def test_a_put_that_died_before_it_was_recorded_makes_no_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    """Two heads of one number and different content would prove that the owner lies."""
    source = tree(tmp_path, large=50_000)

    async def scenario(town: Town) -> None:
        home = home_at(tmp_path / "home", town)
        context = await context_of(home, town, 1)

        def dies(*_: object) -> None:
            raise ConnectionAbortedError("the machine was switched off")

        with monkeypatch.context() as patch, pytest.raises(ConnectionAbortedError):
            patch.setattr(Library, "add_archive", dies)
            await operations.put(context, [source], PutOptions(name="first"))
        if changed:
            (source / "one.txt").write_bytes(b"other")
        report = await operations.put(context, [source], PutOptions(name="first"))
        keys = home.master().dataset(report.number)
        heads: dict[int, set[bytes]] = {}
        for announcement in await context.session.announcements(head_locator(keys.dataset_id)):
            peer = await context.session.peer(announcement.node_key)
            for data in (await peer.heads(keys.dataset_id))[1]:
                heads.setdefault(Head.decode(data[64:]).number, set()).add(data)
        assert sorted(heads) == ([1, 2] if changed else [1])
        assert all(len(signed) == 1 for signed in heads.values())
        if changed:
            (first,), (second,) = heads[1], heads[2]
            assert Head.decode(second[64:]).previous == digest(first)
        with Library(home.library_path) as library:
            assert [d.name for d in library.datasets()] == ["first"]
        again = home_at(tmp_path / "new", town)
        again.keep_master(home.master())
        [recovered] = await operations.recover(await context_of(again, town, 2), again.master())
        assert recovered.newest.capability.urn == report.urn

    in_town(scenario, donors=5)

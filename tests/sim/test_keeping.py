"""`put --keep`, `renew`, `withdraw` on a virtual network: what holders keep afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from town import Town, in_town

from potsherd.cli.retrieve import segment_rows
from potsherd.crypto.signing import SigningKey
from potsherd.datasets import keeping, operations
from potsherd.datasets.context import Context
from potsherd.datasets.home import Home
from potsherd.datasets.library import Dataset, Library
from potsherd.datasets.operations import PutOptions
from potsherd.errors import NotFoundError, RefusedError, UsageError
from potsherd.node.reader import SegmentReader
from potsherd.node.records import LEASE_GRACE_S
from potsherd.node.retention import FOREVER
from potsherd.node.testing import seed_of

pytestmark = pytest.mark.slow

DAY = 86_400


async def context_at(folder: Path, town: Town, number: int) -> Context:
    home = Home(folder)
    home.networks.add(town.network.invitation.encode())
    session = await town.session(number)
    home.make_master(session.env.rng)
    return Context(session.env, home, home.networks.choose(None), session)


def source(folder: Path) -> Path:
    path = folder / "source"
    path.mkdir()
    (path / "a.bin").write_bytes(bytes(range(256)) * 800)
    return path


def dataset(context: Context, name: str = "one") -> Dataset:
    with Library(context.home.library_path) as library:
        return library.dataset(name)


async def facts(context: Context, found: Dataset) -> keeping.Facts:
    with Library(context.home.library_path) as library:
        last = library.segments(found.number, 0)[-1]
    reader = SegmentReader(context.session, last.segment_id, last.placement_key)
    await reader.locate()
    return await keeping.keeping_of(context.session, reader)


def test_put_keeps_as_long_as_asked_and_renew_changes_it(tmp_path: Path) -> None:
    async def scenario(town: Town) -> None:
        context = await context_at(tmp_path / "home", town, 1)
        now = int(context.env.utc())
        options = PutOptions(name="one", until=now + 90 * DAY, keep_s=90 * DAY)
        report = await operations.put(context, [source(tmp_path)], options)
        assert report.until == now + 90 * DAY
        found = dataset(context)
        with Library(context.home.library_path) as library:
            known = library.keeping(found.number, 0)
        assert known is not None
        assert (known.keep_s, known.until, known.gone) == (90 * DAY, now + 90 * DAY, 0)
        assert (await facts(context, found)).verdict.ends == now + 90 * DAY
        longer = await keeping.renew(context, found, now + 900 * DAY, keep_s=900 * DAY)
        assert (longer.before, longer.sequence) == (now + 90 * DAY, 2)
        assert longer.told == longer.holders == 9
        assert (await facts(context, found)).verdict.ends == now + 900 * DAY
        forever = await keeping.renew(context, found, 0)
        assert (forever.before, forever.sequence) == (now + 900 * DAY, 3)
        assert (await facts(context, found)).verdict.ends == FOREVER
        await context.session.close()

    in_town(scenario)


def test_an_end_is_the_first_runs_when_a_put_goes_on(tmp_path: Path) -> None:
    """Holders that got a lease of the first run must not get another of the same sequence."""
    folder = source(tmp_path)

    async def scenario(town: Town) -> None:
        context = await context_at(tmp_path / "home", town, 1)
        now = int(context.env.utc())
        options = PutOptions(name="one", until=now + 90 * DAY, keep_s=90 * DAY)

        def stop(what: str, done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(BaseException):  # noqa: B017 (whatever interrupts it)
            await operations.put(replace(context, on_progress=stop), [folder], options)
        later = replace(options, until=options.until + 3600)
        await operations.put(context, [folder], later)
        ends = (await facts(context, dataset(context))).verdict.ends
        assert ends in (options.until, later.until)
        assert not list(context.home.spool_folder.iterdir())
        await context.session.close()

    in_town(scenario)


def test_withdrawn_cancelled_and_withdrawn_again(tmp_path: Path) -> None:
    async def scenario(town: Town) -> None:
        context = await context_at(tmp_path / "home", town, 1)
        await operations.put(context, [source(tmp_path)], PutOptions(name="one"))
        found = dataset(context)
        with pytest.raises(UsageError):
            await keeping.withdraw(context, found, cancel=True)
        with pytest.raises(RefusedError, match="another key"):
            stranger = SigningKey(seed_of("stranger"))
            await keeping.withdraw(context, found, key=stranger)
        now = int(context.env.utc())
        report = await keeping.withdraw(context, found)
        assert (report.told, report.holders) == (9, 9)
        assert now + LEASE_GRACE_S <= report.gone <= now + LEASE_GRACE_S + 600
        with Library(context.home.library_path) as library:
            known = library.keeping(found.number, 0)
        assert known is not None
        assert known.gone == report.gone
        again = await keeping.withdraw(context, found)  # the same statement once more
        assert abs(again.gone - report.gone) < 60
        with pytest.raises(RefusedError, match="withdrawn"):
            await keeping.renew(context, found, 0)
        assert (await facts(context, found)).verdict.reason == "withdrawn"
        cancelled = await keeping.withdraw(context, found, cancel=True)
        assert (cancelled.gone, cancelled.told) == (0, 9)
        assert (await facts(context, found)).verdict.ends == FOREVER
        await keeping.withdraw(context, found)
        state = (await facts(context, found)).kept.leases[0]
        assert state.withdrawal is not None
        assert state.withdrawal.number == 3
        await context.session.close()

    in_town(scenario)


def test_a_keeper_lengthens_with_the_key_link_and_a_reader_does_not(tmp_path: Path) -> None:
    async def scenario(town: Town) -> None:
        owner = await context_at(tmp_path / "owner", town, 1)
        keeper = await context_at(tmp_path / "keeper", town, 2)
        reader = await context_at(tmp_path / "reader", town, 3)
        now = int(owner.env.utc())
        key = keeper.home.master().identity_sign().verify_key
        options = PutOptions(name="one", until=now + 9 * DAY, keepers=(key,))
        await operations.put(owner, [source(tmp_path)], options)
        capability = dataset(owner).newest.capability
        archive = await operations.open_dataset(keeper, capability)
        segments = archive.manifest.segments
        with pytest.raises(RefusedError, match="keeper"):
            await keeping.extend(reader, segments, now + 99 * DAY)
        report = await keeping.extend(keeper, segments, now + 99 * DAY)
        assert (report.before, report.told, report.sequence) == (now + 9 * DAY, 9, 0)
        assert (await facts(owner, dataset(owner))).verdict.ends == now + 99 * DAY
        await keeping.renew(owner, dataset(owner), now + 20 * DAY)  # does not undo it
        assert (await facts(owner, dataset(owner))).verdict.ends == now + 99 * DAY
        await keeping.renew(owner, dataset(owner), now + 20 * DAY, keepers=())
        assert (await facts(owner, dataset(owner))).verdict.ends == now + 20 * DAY
        for context in (owner, keeper, reader):
            await context.session.close()

    in_town(scenario)


def test_stat_says_what_is_true(tmp_path: Path) -> None:
    async def scenario(town: Town) -> None:
        context = await context_at(tmp_path / "home", town, 1)
        now = int(context.env.utc())
        options = PutOptions(name="one", until=now + 90 * DAY)
        await operations.put(context, [source(tmp_path)], options)
        capability = dataset(context).newest.capability
        whole = (await operations.stat(context, capability)).as_json()
        assert (whole["state"], whole["attainable"], whole["donors"]) == ("complete", True, 9)
        assert (whole["live"], whole["away"], whole["gone"], whole["wrong"]) == (9, 0, 0, 0)
        [site] = whole["spread"]
        assert (site["kind"], site["places"], site["most"], site["survived"]) == (
            "site",
            9,
            1,
            True,
        )
        assert whole["keeping"] == {
            "ends": now + 90 * DAY,
            "gone": now + 90 * DAY + LEASE_GRACE_S,
            "reason": "expired",
        }
        assert 0 < whole["cells_proven"] == 9 * len(whole["segments"]) <= whole["cells"]
        await asyncio.sleep(1200)  # holders get to know one another
        victims = [key for key, number in town.keys.items() if number in (3, 6, 8)]
        for key in victims:
            town.crash(key)
        await asyncio.sleep(60)
        report = await operations.stat(context, capability)
        less = report.as_json()
        assert [row["pieces"] for row in segment_rows(report.health)] == [
            segment["pieces"] for segment in less["segments"]
        ], "stat and verify say the same of a piece"
        assert (less["state"], less["live"], less["away"]) == ("short", 6, 3)
        away = [p for p in less["segments"][0]["pieces"] if not p["live"]]
        assert {p["state"] for p in away} == {"away"}
        assert all(p["seen_ago_s"] is not None and 30 < p["seen_ago_s"] < 2000 for p in away)
        await context.session.close()

    in_town(scenario)


def test_nobody_answers(tmp_path: Path) -> None:
    async def scenario(town: Town) -> None:
        context = await context_at(tmp_path / "home", town, 1)
        await operations.put(context, [source(tmp_path)], PutOptions(name="one"))
        for key in list(town.keys):
            town.crash(key)
        with pytest.raises(NotFoundError):
            await keeping.withdraw(context, dataset(context))
        await context.session.close()

    in_town(scenario)

"""After days with machines that sleep, a put says that the default code will not do, and what would."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from potsherd.cli.output import Output
from potsherd.cli.store import _advise, _fields
from potsherd.datasets import operations
from potsherd.datasets.home import Home
from potsherd.datasets.operations import Context, PutOptions, PutReport
from potsherd.simulations.world import World
from potsherd.simulations.world.office import DAY, HOUR, WEEK, Office, OfficePlan


async def planned(office: Office, folder: Path, options: PutOptions) -> PutReport:
    home = Home(folder)
    home.networks.add(office.town.network.invitation.encode())
    session = await office.town.session()
    async with session:
        context = Context(session.env, home, home.networks.choose(None), session)
        return await operations.put(context, [__file__], options)


@pytest.mark.slow
def test_days_of_sleepers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(office: Office) -> None:
        await office.settle()
        young = await planned(office, tmp_path / "young", PutOptions(dry_run=True))
        assert young.advice is None, "nobody has watched for long"
        await asyncio.sleep(3 * DAY + 12 * HOUR)
        report = await planned(office, tmp_path / "home", PutOptions(dry_run=True))
        print("up", report.advice and report.advice.up, "of", report.donors)
        assert (report.k, report.n) == (2, 4), "the default is not changed"
        advice = report.advice
        assert advice is not None
        assert 0.4 < advice.up < 0.9
        assert advice.given.code.n == 4 and advice.given.readable < 0.999
        assert advice.better is not None
        assert advice.better.readable > advice.given.readable
        asked_for = await planned(office, tmp_path / "own", PutOptions(k=2, n=4, dry_run=True))
        assert asked_for.advice is None, "who names a code has decided"
        capsys.readouterr()
        _advise(Output(as_json=False), report)
        told = capsys.readouterr().err
        assert told.startswith("advice: nodes here are up ") and told.count("\n") == 1
        code = advice.better.code
        assert f"--k {code.k} --n {code.n}," in told
        assert _fields(report)["advice"]["better"]["code"]["k"] == code.k
        _advise(Output(as_json=False), replace(report, advice=None))
        assert capsys.readouterr().err == ""

    with World(5, log_content=False) as world:
        print("seed 5")
        # everybody holds a piece, so everybody watches everybody
        office = Office(world, OfficePlan(nodes=8, segments=1, k=2, n=8, r=2))
        world.run(scenario(office), time_max_s=WEEK)
        assert office.observer.broken == []

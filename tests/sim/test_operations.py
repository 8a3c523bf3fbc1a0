"""The data verbs on a virtual network: whole puts and gets, interrupted, refused, recovered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from town import Town, in_town

from potsherd.datasets import operations
from potsherd.datasets.home import Home
from potsherd.datasets.library import Library
from potsherd.datasets.operations import Context, PutOptions

pytestmark = pytest.mark.slow


def home_at(folder: Path, town: Town) -> Home:
    home = Home(folder)
    home.networks.add(town.network.invitation.encode())
    return home


async def context_of(home: Home, town: Town, number: int) -> Context:
    session = await town.session(number)
    network = home.networks.choose(None)
    return Context(session.env, home, network, session)


def tree(folder: Path) -> Path:
    source = folder / "source"
    (source / "inner" / "empty").mkdir(parents=True)
    (source / "one.txt").write_bytes(b"x" * 1000)
    (source / "inner" / "large.bin").write_bytes(os.urandom(3_000_000))
    (source / "inner" / "none").write_bytes(b"")
    return source


def test_put(tmp_path: Path) -> None:
    source = tree(tmp_path)

    async def scenario(town: Town) -> None:
        home = home_at(tmp_path / "home", town)
        context = await context_of(home, town, 1)
        report = await operations.put(context, [source], PutOptions(name="first"))
        print(report)
        assert (report.k, report.n) == (4, 9)
        with Library(home.library_path) as library:
            assert library.dataset("first").newest.capability.urn == report.urn
        await context.session.close()

    in_town(scenario, donors=10)

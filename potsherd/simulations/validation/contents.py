"""The page as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from potsherd.simulations.montecarlo.replicates import Engine, engines
from potsherd.simulations.validation import (
    calibration,
    closed,
    codex,
    figures,
    pkarr,
    sampled,
    sites,
    storj,
    tahoe,
    traced,
)
from potsherd.simulations.validation.page import Table

__all__ = ["exact_tables", "page", "sampled_tables"]

HEAD = """# Validation: our models beside published tables and each other

Made by `python -m potsherd.simulations.validation --towns {towns} --offices FILE ... --traces FOLDER > docs/validation.md`; do not edit.
The same comparisons are tests (`tests/unit/simulations/`), so that a number here cannot drift from the code.
Real nodes on sockets, TLS and disks beside the same nodes in virtual time: `tests/loopback/test_world_and_loopback.py`.
"""


def exact_tables() -> list[Table]:
    """Those that need no sampling: within a few seconds, the same everywhere."""
    return [
        *closed.tables(),
        *storj.tables(),
        *codex.tables(),
        *tahoe.tables(),
        *pkarr.tables(),
        *figures.tables(),
    ]


def sampled_tables() -> list[Table]:
    """Those that need sampling: two minutes with the compiled engine, several without."""
    engine: Engine = "compiled" if "compiled" in engines() else "numpy"
    return [*sampled.tables(engine), *sites.tables(engine), *calibration.tables()]


def page(*, towns: int = 0, offices: Sequence[Path] = (), traces: Path | None = None) -> str:
    """docs/validation.md; with so many virtual towns, offices played before, and the traces of a folder."""
    tables = [*exact_tables(), *sampled_tables()]
    if towns:
        from potsherd.simulations.validation.common_ground import tables as played

        tables += played(towns)
    if offices:
        from potsherd.simulations.validation import office

        tables += office.tables([office.read(path) for path in offices])
    if traces is not None:
        tables += traced.tables(traces)
    return "\n".join([HEAD.format(towns=towns), *(table.markdown() for table in tables)])

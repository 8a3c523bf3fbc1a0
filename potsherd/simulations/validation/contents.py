"""The page as a whole."""

from __future__ import annotations

from potsherd.simulations.montecarlo.replicates import engines
from potsherd.simulations.validation import closed, codex, pkarr, sampled, storj, tahoe
from potsherd.simulations.validation.page import Table

__all__ = ["exact_tables", "page", "sampled_tables"]

HEAD = """# Validation: our models beside published tables and each other

Made by `python -m potsherd.simulations.validation > docs/validation.md`; do not edit.
The same comparisons are tests (`tests/unit/simulations/test_validation.py`), so that a number here cannot drift from
the code.
"""


def exact_tables() -> list[Table]:
    """Those that need no sampling: within a few seconds, the same everywhere."""
    return [
        *closed.tables(),
        *storj.tables(),
        *codex.tables(),
        *tahoe.tables(),
        *pkarr.tables(),
    ]


def sampled_tables() -> list[Table]:
    """Those that need sampling: half a minute with the compiled engine, several without."""
    return sampled.tables("compiled" if "compiled" in engines() else "numpy")


def page() -> str:
    """docs/validation.md."""
    tables = [*exact_tables(), *sampled_tables()]
    return "\n".join([HEAD, *(table.markdown() for table in tables)])

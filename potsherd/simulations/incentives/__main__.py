"""Makes the tables and plots of docs/studies/incentives.md anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from potsherd.simulations.incentives.study import Effort, write

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m potsherd.simulations.incentives", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="where incentives.md is")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    write(given.folder, Effort(processes=given.processes))

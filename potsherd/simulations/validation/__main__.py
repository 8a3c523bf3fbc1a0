"""Prints docs/validation.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from potsherd.simulations.validation.contents import page

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m potsherd.simulations.validation", description=__doc__
    )
    parser.add_argument(
        "--towns",
        type=int,
        default=0,
        help="virtual towns of real nodes to play beside the engine; some CPU-minutes each",
    )
    parser.add_argument(
        "--offices",
        type=Path,
        nargs="*",
        default=(),
        help="what python -m potsherd.simulations.validation.office has written; hours each",
    )
    parser.add_argument(
        "--traces",
        type=Path,
        help="folder of traces; potsherd.simulations.validation.traced names them",
    )
    given = parser.parse_args()
    sys.stdout.write(page(towns=given.towns, offices=given.offices, traces=given.traces))

"""Prints docs/validation.md."""

from __future__ import annotations

import sys

from potsherd.simulations.validation.contents import page

if __name__ == "__main__":
    sys.stdout.write(page())

"""How the process `potsherd` begins and ends. Nothing of what its verbs need is imported here."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from contextlib import suppress
from typing import NoReturn

__all__ = ["DEBUG_VARIABLE", "little_garbage", "start"]

DEBUG_VARIABLE = "POTSHERD_DEBUG"
"""Set: tracebacks of errors, and the process ends as Python usually does, for profilers and coverage."""
_GC_ALLOCATIONS = 50_000
"""Container objects made before the youngest of them are looked through; Python's own figure is 700."""
_GC_GENERATIONS = 20, 50
"""Such rounds until the next older ones are looked through, and rounds of these until all are."""


def little_garbage() -> None:
    """Have garbage looked for seldom: the modules that a command imports are none."""
    gc.set_threshold(_GC_ALLOCATIONS, *_GC_GENERATIONS)


def start() -> NoReturn:
    """Run the command line of this process and exit with its code.

    The process ends when threads have been joined and all that is registered with `atexit` has been called; Python
    would then take each module apart, object by object, before the kernel frees the memory anyway.
    """
    little_garbage()
    code = 1

    def end() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # `main` has flushed, and said what went wrong
                stream.flush()
        os._exit(code)

    if not os.environ.get(DEBUG_VARIABLE):
        atexit.register(end)  # the first that is registered is the last that is called
    from potsherd.cli.main import main

    try:
        main()
    except SystemExit as ended:
        code = (ended.code or 0) if isinstance(ended.code, int | None) else 1
        raise

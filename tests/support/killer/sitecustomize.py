"""Kills a node at a chosen step of its disk. In front of PYTHONPATH, Python imports it at every start.

KILLER_ARM: a file; steps count from the moment at which it exists. KILLER_TRACE: a file that gets a line for every
step. KILLER_AT: `NUMBER before`, `NUMBER half` or `NUMBER after`: die there, as by a power cut for the process.
Only processes of `node run` are touched; the product knows nothing of this.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

STEPS = ("create", "write", "truncate", "sync", "sync_folder", "rename", "remove")


def die() -> None:
    """As nobody expects it."""
    os.kill(os.getpid(), signal.SIGKILL)


class Killer:
    """Counts the steps of this process."""

    def __init__(self, arm: str, trace: str, at: str) -> None:
        number, _, phase = at.partition(" ")
        self._number, self._phase = int(number or 0), phase
        self._arm, self._trace = arm, trace
        self._count = 0
        self._lock = threading.Lock()

    def next(self, name: str) -> str:
        """The phase in which this step is to die, or nothing."""
        if not os.path.exists(self._arm):
            return ""
        with self._lock:
            self._count += 1
            with open(self._trace, "a") as file:
                file.write(name + "\n")
            return self._phase if self._count == self._number else ""

    def wrap(self, owner: Any, name: str) -> None:
        """Make a function of a class or module count."""
        before: Callable[..., Any] = getattr(owner, name)

        @wraps(before)
        def step(*arguments: Any, **more: Any) -> Any:
            phase = self.next(name.strip("_"))
            if phase == "before":
                die()
            if phase == "half" and name == "write":
                disk, path, offset, data = arguments
                before(disk, path, offset, bytes(data)[: len(bytes(data)) // 2])
                die()
            result = before(*arguments, **more)
            if phase:
                die()
            return result

        setattr(owner, name, step)


def install() -> None:
    """Wrap the disk port and the commits of the index."""
    from potsherd.node.real.disk import RealDisk
    from potsherd.node.store import index

    killer = Killer(
        os.environ["KILLER_ARM"], os.environ["KILLER_TRACE"], os.environ.get("KILLER_AT", "")
    )
    for name in STEPS:
        killer.wrap(RealDisk, name)
    killer.wrap(index, "_execute")


if "KILLER_ARM" in os.environ and sys.orig_argv[-2:] == ["node", "run"]:
    install()

"""Processes we have started, told apart from strangers that got their number later.

A process id is reused; a process id together with the time at which that process started is not.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from potsherd.classes import dataclass

__all__ = ["Process"]


@dataclass(frozen=True)
class Process:
    """One process of this machine, whether it still lives or not."""

    pid: int
    started: str
    """When it started, in the system's own words: clock ticks since boot on Linux, a date elsewhere."""

    @classmethod
    def current(cls) -> Process:
        """This very process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this id now; `started` is empty when there is none."""
        return cls(pid, _started(pid))

    def alive(self) -> bool:
        """Whether that process, and not another with its number, runs; a zombie does not."""
        return self.started != "" and _started(self.pid) == self.started

    def stopped(self) -> bool:
        """Whether it runs, but was stopped by a signal (SIGSTOP) and not continued yet."""
        return self.alive() and _state(self.pid).startswith("T")

    def kill(self, signal_number: int = signal.SIGKILL) -> bool:
        """Send a signal, to this process only; false when it was not there any more."""
        if not self.alive():
            return False
        try:
            os.kill(self.pid, signal_number)
        except ProcessLookupError:
            return False
        return True


def _started(pid: int) -> str:
    """When it started, in the system's words; empty for none and for a zombie."""
    state, started = _facts(pid)
    return "" if state[:1] in ("", "Z", "X") else started


def _state(pid: int) -> str:
    """The system's letter for its state; `T`: stopped."""
    return _facts(pid)[0]


def _facts(pid: int) -> tuple[str, str]:
    if pid <= 0:
        return "", ""
    if Path("/proc/self/stat").exists():
        return _facts_linux(pid)
    # BSD and macOS have no /proc/PID/stat; ps is in POSIX.
    line = subprocess.run(
        ["/bin/ps", "-o", "state=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    state, _, started = line.partition(" ")
    return state, started.strip()


def _facts_linux(pid: int) -> tuple[str, str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", ""
    # proc(5): the name in parentheses may hold anything, so count from the last one.
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]

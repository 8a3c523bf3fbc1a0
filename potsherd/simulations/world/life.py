"""One run of a machine: from its start to its crash.

Every port that a node holds belongs to a life. When the life ends the ports are fenced: whatever the
cancelled tasks of the node still do in their `finally` blocks reaches neither network nor disk.
"""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
from collections.abc import Callable
from typing import Any

from potsherd.errors import StorageError, UnreachableError

__all__ = ["CURRENT_LIFE", "Life"]


class Life:
    """Who runs: the machine's name and address, and what ends when it ends."""

    def __init__(self, name: str, host: str, number: int) -> None:
        self.name = name
        self.host = host
        self.number = number
        self.alive = True
        self.plugged = True
        self.group = 0
        """Machines reach each other only within one group (partitions)."""
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.at_end: dict[Callable[[bool], None], None] = {}
        """Called when the life ends, with True for a power cut and False for a killed process."""
        self.indexes: list[sqlite3.Connection] = []

    def reaches(self, other: Life) -> bool:
        """Whether packets get through from one to the other now."""
        if not (self.alive and other.alive):
            return False
        if self is other or self.host == other.host:
            return True
        return self.plugged and other.plugged and self.group == other.group

    def check_network(self) -> None:
        """Raises UnreachableError after the end."""
        if not self.alive:
            raise UnreachableError(f"{self.name} is not running")

    def check_disk(self) -> None:
        """Raises StorageError after the end."""
        if not self.alive:
            raise StorageError(f"{self.name} is not running")

    def end(self, *, power_cut: bool) -> None:
        """Fence all ports, then cancel all tasks."""
        self.alive = False
        for callback in list(self.at_end):
            callback(power_cut)
        self.at_end.clear()
        for index in self.indexes:
            index.close()
        self.indexes.clear()
        for task in list(self.tasks):
            task.cancel()


CURRENT_LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)
"""Whose task is running: inherited by the tasks that a task makes."""

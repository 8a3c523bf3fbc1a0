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

__all__ = ["CURRENT_LIFE", "NAT_HOLD_S", "Life"]

NAT_HOLD_S = 120.0
"""Seconds for which a translator lets answers of a host through after a datagram to it (RFC 4787: 120)."""


class Life:
    """Who runs: the machine's name and address, and what ends when it ends."""

    def __init__(self, name: str, host: str, number: int) -> None:
        self.name = name
        self.host = host
        self.number = number
        self.alive = True
        self.plugged = True
        self.asleep = False
        """Its tasks stand still; see `World.sleep`."""
        self.parked: list[asyncio.Handle] = []
        """Steps of its tasks that wait for it to wake."""
        self.nat = False
        """Nobody gets through to it who was not sent a datagram lately; see `World.nat`."""
        self.holes: dict[str, float] = {}
        """When it last sent a datagram to a host; only with `nat`."""
        self.group = 0
        """Machines reach each other only within one group (partitions)."""
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.at_end: dict[Callable[[bool], None], None] = {}
        """Called when the life ends, with True for a power cut and False for a killed process."""
        self.indexes: list[sqlite3.Connection] = []

    @property
    def online(self) -> bool:
        """Whether its network card would take a packet."""
        return self.plugged and not self.asleep

    def has_path_to(self, other: Life) -> bool:
        """Whether packets get through from one to the other now, whoever of the two still runs."""
        if self is other or self.host == other.host:
            return not self.asleep and not other.asleep
        return self.online and other.online and self.group == other.group

    def reaches(self, other: Life) -> bool:
        """Whether both run and packets get through."""
        return self.alive and other.alive and self.has_path_to(other)

    def lets_dial(self, other: Life) -> bool:
        """Whether a connection from the other gets through to us."""
        return not self.nat or self.host == other.host

    def has_hole_for(self, host: str, now: float) -> bool:
        """Whether a datagram from a host gets through the address translation."""
        return not self.nat or now - self.holes.get(host, -NAT_HOLD_S) < NAT_HOLD_S

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

"""The virtual world: the same node code on a clock that jumps, with network, disk and crashes from a seed."""

from potsherd.simulations.world.disk import Platter, WorldDisk
from potsherd.simulations.world.log import EventLog
from potsherd.simulations.world.loop import DeadlockError, VirtualLoop
from potsherd.simulations.world.net import Weather
from potsherd.simulations.world.world import World

__all__ = [
    "DeadlockError",
    "EventLog",
    "Platter",
    "VirtualLoop",
    "Weather",
    "World",
    "WorldDisk",
]

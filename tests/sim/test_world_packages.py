"""Packages built on asyncio's datagram endpoints run in the world unmodified."""

from __future__ import annotations

import asyncio

import asyncio_dgram
import pytest

from potsherd.errors import UsageError
from potsherd.simulations.world import World


def test_asyncio_dgram_runs_unmodified() -> None:
    with World(1) as world:
        world.env("server", "10.9.0.1")
        world.env("client", "10.9.0.2")

        async def serve() -> None:
            stream = await asyncio_dgram.bind(("10.9.0.1", 7))
            while True:
                data, source = await stream.recv()
                await stream.send(data[::-1], source)

        async def ask() -> list[bytes]:
            stream = await asyncio_dgram.connect(("10.9.0.1", 7))
            answers = []
            for question in (b"abc", b"def"):
                await stream.send(question)
                answers.append((await stream.recv())[0])
            stream.close()
            with pytest.raises(asyncio_dgram.TransportClosed):
                await stream.recv()
            return answers

        async def scenario() -> list[bytes]:
            world.spawn("server", serve())
            await asyncio.sleep(0.1)
            return await world.spawn("client", ask())

        assert world.run(scenario()) == [b"cba", b"fed"]


def test_who_belongs_to_no_machine_has_no_network() -> None:
    with World(1) as world, pytest.raises(UsageError):
        world.run(asyncio_dgram.bind(("10.9.0.1", 7)))

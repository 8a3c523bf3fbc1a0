"""The node process: one node, its local API, and signals.

SIGTERM and Ctrl-C stop the node in order: it says goodbye to nobody (silence means away, not lost), finishes what
it is committing, and leaves its home as a restart expects it.  A second signal gives up waiting.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Callable

from potsherd.datasets.peer_cache import PeerCache
from potsherd.node.node import Node
from potsherd.node.settings import NodeSettings
from potsherd.ports import Address, Env
from potsherd.service.jsonable import jsonable
from potsherd.service.local import LocalServer
from potsherd.service.nodehome import NodeHome

__all__ = ["serve"]

PEER_CACHE_FIRST_S = 30.0
"""Seconds until the peer cache is written for the first time."""
PEER_CACHE_PERIOD_S = 600.0
"""Seconds between two writings of it after that."""


async def serve(
    home: NodeHome, env: Env, settings: NodeSettings, *, ready: Callable[[Node], None]
) -> int:
    """Run the node of `home` until a signal stops it; the signal's number.

    `env.disk` is the node home's folder. Raises RefusedError when another process runs this node.
    """
    stopped = _Stop()
    with home.locked():
        membership = home.membership(env.utc())
        cache = PeerCache(home.folder / "peers")
        settings = dataclasses.replace(settings, bootstrap=(*settings.bootstrap, *cache.load()))
        with stopped.on_signals():
            node = await Node.start(
                env, membership.identity, membership.config, membership.chain, settings
            )
            try:
                await _serve(home, node, cache, stopped, ready)
            finally:
                await node.stop()
    return stopped.signal_number


async def _serve(
    home: NodeHome, node: Node, cache: PeerCache, stopped: _Stop, ready: Callable[[Node], None]
) -> None:
    methods = {
        "status": lambda: jsonable(node.status()),
        "peers": lambda: {"peers": [[k.hex(), a.host, a.port] for k, a in _peers(node)]},
    }
    where = node.listening
    async with LocalServer(
        home.folder, methods, host=where.host, port=where.port, key=node.identity.key.hex()
    ):
        ready(node)
        keeping = asyncio.create_task(_keep_cache(node, cache))
        failing = asyncio.create_task(node.wait_failed())
        stopping = asyncio.create_task(stopped.wait())
        tasks = (keeping, failing, stopping)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            cache.save(node.dht.peer_cache())


def _peers(node: Node) -> list[tuple[bytes, Address]]:
    """Whom to ask first in this network: this node itself, and those it knows.

    Its own address is the one that others are told: a loopback address among public ones would make a client
    stay on loopback.
    """
    own = [(node.identity.key, node.address)] if node.address is not None else []
    return [*own, *node.dht.peer_cache()]


async def _keep_cache(node: Node, cache: PeerCache) -> None:
    pause = PEER_CACHE_FIRST_S
    while True:
        await asyncio.sleep(pause)
        cache.save(node.dht.peer_cache())
        pause = PEER_CACHE_PERIOD_S


class _Stop:
    """The wish to stop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._task: asyncio.Task[object] | None = None
        self.signal_number = 0

    def stop(self, signal_number: int) -> None:
        """The second time cancels the process's task, whatever it waits for."""
        if self._event.is_set() and self._task is not None:
            self._task.cancel()
        self.signal_number = signal_number
        self._event.set()

    def on_signals(self) -> _Signals:
        """A context in which SIGTERM and SIGINT call `stop`."""
        self._task = asyncio.current_task()
        return _Signals(self)

    async def wait(self) -> None:
        """Until the wish comes."""
        await self._event.wait()


class _Signals:
    def __init__(self, stop: _Stop) -> None:
        self._stop = stop

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.stop, int(number))

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

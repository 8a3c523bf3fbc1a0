"""The node process: one node, its local API, and signals.

SIGTERM and Ctrl-C stop the node in order: it says goodbye to nobody (silence means away, not lost), finishes what
it is committing, and leaves its home as a restart expects it.  A second signal gives up waiting.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from potsherd.datasets.peer_cache import PeerCache
from potsherd.errors import UsageError
from potsherd.node.node import Node
from potsherd.node.settings import NodeSettings
from potsherd.ports import Address, Env
from potsherd.service.explaining import explain
from potsherd.service.jsonable import jsonable
from potsherd.service.local import Handler, LocalServer
from potsherd.service.nodehome import NodeHome

__all__ = ["serve"]

PEER_CACHE_FIRST_S = 2.0
"""Seconds until the peer cache is written for the first time: a node that is killed young finds back too."""
PEER_CACHE_PERIOD_S = 600.0
"""Seconds between two writings of it later on; until then each pause is twice the one before."""


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
    methods: dict[str, Handler] = {
        "status": lambda: _status(node),
        "peers": lambda: {"peers": [[k.hex(), a.host, a.port] for k, a in _peers(node)]},
        "dropped": lambda: _dropped(node),
        "leaving": lambda: _leaving(node),
        "stop": lambda: stopped.ask(),
    }
    where = node.listening
    async with LocalServer(
        home.folder,
        methods,
        host=where.host,
        port=where.port,
        key=node.identity.key.hex(),
        commands={
            "quota": partial(_quota, node),
            "intent": partial(_intent, node),
            "why": partial(_why, node),
        },
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


async def _status(node: Node) -> dict[str, Any]:
    leaving = jsonable(await node.leaving.status())
    return {**jsonable(node.status()), "leaving": leaving}


async def _dropped(node: Node) -> dict[str, Any]:
    return {"dropped": jsonable(await node.store.dropped())}


async def _leaving(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = jsonable(await node.leaving.status())
    return {**found, "quota_now": node.store.usage().quota, "used": node.store.usage().used}


async def _quota(node: Node, parameters: Mapping[str, Any]) -> dict[str, Any]:
    size = parameters.get("bytes")
    if not isinstance(size, int) or isinstance(size, bool) or size >= 2**63:
        raise UsageError("a quota is a number of bytes")
    await node.leaving.set_quota(size)
    return await _leaving(node)


async def _why(node: Node, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return await explain(node, str(parameters.get("segment")))


async def _intent(node: Node, parameters: Mapping[str, Any]) -> dict[str, Any]:
    leaving = node.leaving
    asked = {"pause": leaving.pause, "resume": leaving.resume, "leave": leaving.leave}
    work = asked.get(str(parameters.get("to")))
    if work is None:
        raise UsageError("a node is asked to pause, to resume or to leave")
    await work()
    return await _leaving(node)


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
        pause = min(2 * pause, PEER_CACHE_PERIOD_S)


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

    def ask(self) -> dict[str, bool]:
        """The wish from the local API: the process ends with exit code 0."""
        self._event.set()
        return {"stopping": True}

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

"""A person's home and a session in one network: what every data verb starts from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import field

from potsherd.classes import dataclass
from potsherd.datasets.home import Home
from potsherd.datasets.networks import Network
from potsherd.datasets.window_pace import WindowPace
from potsherd.node.session import Session
from potsherd.ports import Env

__all__ = ["Context", "connect"]


@dataclass(frozen=True)
class Context:
    """A person's home and a session in one of the networks."""

    env: Env
    home: Home
    network: Network
    session: Session
    on_progress: Callable[[str, int, int], None] = field(default=lambda what, done, total: None)
    """(what is counted, done, total); called often, must be quick."""
    windows: WindowPace = field(default_factory=WindowPace)
    """How quickly what was read has come."""


@asynccontextmanager
async def connect(
    env: Env,
    home: Home,
    network: Network,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> AsyncIterator[Context]:
    """Join a network as a client with a key of one use; remembers who answered for the next time.

    Raises UnreachableError when no node answers, MembershipError when the invitation is over.
    """
    access = await env.offload(network.client, env)
    session = await Session.open(
        env, access.config, access.chain, access.identity, bootstrap=access.bootstrap
    )
    async with session:
        yield Context(env, home, network, session, on_progress or (lambda what, done, total: None))
        await env.offload(network.peers.save, session.dht.peer_cache())

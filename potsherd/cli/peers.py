"""Who gives disk to a network, as a client sees it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from potsherd.cli.context import Command, real

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from potsherd.datasets.networks import Network
    from potsherd.node.session import Session

__all__ = ["borrow_peers", "client_session", "donors"]

DONORS_MAX = 1000
"""Nodes listed; of a larger network only these are shown."""


async def borrow_peers(command: Command, network: Network) -> None:
    """Take over what a running node of the same network knows; without one nothing happens."""
    from potsherd.errors import PotsherdError
    from potsherd.ports import Address
    from potsherd.service.local import call

    serving = command.node_home.network()
    if serving is None or serving.network_id != network.config.network_id:
        return
    try:
        found = (await call(command.node_home.folder, "peers"))["peers"]
        peers = [(bytes.fromhex(key), Address(host, port)) for key, host, port in found]
    except (PotsherdError, KeyError, ValueError, TypeError):
        return
    network.peers.save(peers)


@asynccontextmanager
async def client_session(command: Command, network: Network) -> AsyncIterator[Session]:
    """A joined client; the peers it met are kept for the next one."""
    from potsherd.node.session import Session

    await borrow_peers(command, network)
    env = real(command.home.folder)
    access = network.client(env)
    async with await Session.open(
        env, access.config, access.chain, access.identity, bootstrap=access.bootstrap
    ) as session:
        yield session
        network.peers.save(session.dht.peer_cache())


async def donors(command: Command, network: Network) -> list[dict[str, Any]]:
    """One row for each node whose presence is published."""
    from potsherd.cli.units import format_address

    async with client_session(command, network) as session:
        found = await session.donors(network.config.network_id[:20], DONORS_MAX)
    return [
        {
            "operator": donor.operator,
            "site": donor.site,
            "address": format_address(donor.address) if donor.address else "",
            "key": donor.key.hex(),
            "free_class": donor.free_class,
        }
        for donor in sorted(found, key=lambda donor: (donor.operator, donor.site, donor.key))
    ]

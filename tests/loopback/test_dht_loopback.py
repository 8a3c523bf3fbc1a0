"""The DHT on real sockets, clocks and randomness, all nodes on one host."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain_membrane import PlainMembrane

from potsherd.dht import Announcement, Dht, DhtConfig
from potsherd.errors import PeerError, UnreachableError
from potsherd.node.real.env import real_env
from potsherd.ports import Address, Env

NETWORK = bytes(32)
LOCAL = Address("127.0.0.1", 0)
QUICK = DhtConfig(retry_timeouts_s=(0.1, 0.2, 0.4))


async def node(
    env: Env, serial: int, bootstrap: list[tuple[bytes, Address]], *, client: bool = False
) -> tuple[Dht, PlainMembrane, Address]:
    membrane = PlainMembrane(NETWORK, serial, 0, "client" if client else "donor")
    datagrams = await env.net.bind(LOCAL)
    dht = Dht(env, datagrams, membrane, QUICK)
    await dht.start(bootstrap)
    return dht, membrane, datagrams.address


@pytest.mark.slow
async def test_eight_nodes_on_one_host(tmp_path: Path) -> None:
    env = real_env(tmp_path)
    nodes = [await node(env, 0, [])]
    known = [(nodes[0][1].my_key, nodes[0][2])]
    for serial in range(1, 8):
        nodes.append(await node(env, serial, known))
        await nodes[-1][0].publish_presence(
            address=nodes[-1][2], operator="", site=str(serial), free_class=1
        )
    dht, membrane, _ = nodes[5]
    key = b"k" * 20
    ends = int(env.utc()) + 3600
    announcement = Announcement(key, bytes(32), 0, membrane.my_id, membrane.my_key, ends)
    assert await dht.announce([announcement]) == 8

    gone, _, address = nodes[1]
    await gone.close()
    client, *_ = await node(env, 99, [(nodes[7][1].my_key, nodes[7][2])], client=True)
    assert await client.find_announcements(key) == [announcement]
    assert {p.site for p in await client.pool(key, 50)} == set("1234567")
    with pytest.raises(PeerError):  # its port refuses now
        await client.ping(nodes[1][1].my_key, address)
    assert await client.ping(nodes[2][1].my_key, nodes[2][2]) < 1.0
    for each in [client, *(n[0] for n in nodes)]:
        await each.close()


async def test_a_dead_port_is_unreachable(tmp_path: Path) -> None:
    env = real_env(tmp_path)
    dead = await env.net.bind(LOCAL)
    address = dead.address
    dead.close()
    with pytest.raises(UnreachableError):
        await node(env, 1, [(PlainMembrane(NETWORK, 2).my_key, address)])

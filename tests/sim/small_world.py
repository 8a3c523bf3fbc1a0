"""A small world in which a little of everything happens; prints the digest of its log.

Started by test_determinism.py in processes of their own: `python small_world.py SEED [LOGFILE]`.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potsherd.errors import PotsherdError
from potsherd.ports import Address, Datagrams, Env, Identity, Stream
from potsherd.simulations.world import World

PORT = 4800
MACHINES = 8


def identity(number: int) -> Identity:
    seed = bytes([number]) * 32
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return Identity(seed, key, bytes(32))


class Node:
    """Gossips datagrams, stores what streams bring, and notes both in its index."""

    def __init__(self, world: World, number: int, env: Env) -> None:
        self.world = world
        self.number = number
        self.env = env
        self.index = env.disk.open_index("index")
        self.index.execute("CREATE TABLE IF NOT EXISTS seen (name TEXT PRIMARY KEY, size)")

    async def run(self) -> None:
        socket = await self.env.net.bind(Address("127.0.0.1", PORT))
        me = Address("127.0.0.1", PORT)
        await self.env.net.listen(me, identity(self.number), self.accept)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.gossip(socket))
            group.create_task(self.push())
            while True:
                data, source = await socket.receive()
                if data[:1] == b"?":
                    socket.send(b"!" + hashlib.sha256(data).digest(), source)

    async def gossip(self, socket: Datagrams) -> None:
        topics = {f"topic {i}".encode() for i in range(9)}  # a set of bytes: its order differs
        while True:
            await asyncio.sleep(self.env.rng.uniform(0.1, 1))
            peer = self.env.rng.randrange(MACHINES)
            payload = b"?" + self.env.rng.choice(sorted(topics)) + self.env.rng.randbytes(200)
            socket.send(payload, Address(f"10.0.{peer}.1", PORT))

    async def push(self) -> None:
        while True:
            await asyncio.sleep(self.env.rng.uniform(1, 5))
            peers = {self.env.rng.randrange(MACHINES) for _ in range(3)} - {self.number}
            tasks = {asyncio.create_task(self.push_to(peer)) for peer in sorted(peers)}
            if tasks:
                done, rest = await asyncio.wait(tasks, timeout=3)
                for task in rest:
                    task.cancel()
                await asyncio.gather(*done, *rest, return_exceptions=True)

    async def push_to(self, peer: int) -> None:
        them = identity(peer).key
        try:
            stream = await self.env.net.dial(
                Address(f"10.0.{peer}.1", PORT), identity(self.number), them, timeout_s=2
            )
            body = self.env.rng.randbytes(self.env.rng.randrange(1, 200_000))
            await stream.write(len(body).to_bytes(4, "big"), body)
            await stream.read_exactly(2)
            await stream.close()
        except PotsherdError:
            return

    async def accept(self, stream: Stream) -> None:
        size = int.from_bytes(await stream.read_exactly(4), "big")
        body = await stream.read_exactly(size)
        await self.env.offload(self.store, hashlib.sha256(body).hexdigest(), body)
        await stream.write(b"ok")

    def store(self, name: str, body: bytes) -> None:
        disk = self.env.disk
        disk.create(f"new/{name}", len(body))
        disk.write(f"new/{name}", 0, body)
        disk.sync(f"new/{name}")
        disk.rename(f"new/{name}", f"kept/{name[:2]}/{name}")
        disk.sync_folder(f"kept/{name[:2]}")
        self.index.execute("BEGIN IMMEDIATE")
        self.index.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (name, len(body)))
        self.index.execute("COMMIT")


async def scenario(world: World) -> None:
    for number in range(MACHINES):
        node = Node(world, number, world.env(str(number)))
        world.spawn(str(number), node.run())
    await asyncio.sleep(20)
    world.partition([["0", "1", "2"], ["3", "4"]])
    await asyncio.sleep(20)
    world.heal()
    world.crash("5")
    world.kill("6")
    world.unplug("7")
    await asyncio.sleep(20)
    for number in (5, 6):
        node = Node(world, number, world.restart(str(number)))
        check_kept(node)
        world.spawn(str(number), node.run())
    world.plug("7")
    await asyncio.sleep(20)


def check_kept(node: Node) -> None:
    """What the index says is there was synced before, so no crash may take it."""
    for name, size in node.index.execute("SELECT name, size FROM seen ORDER BY name"):
        body = node.env.disk.read(f"kept/{name[:2]}/{name}", 0, size)
        if hashlib.sha256(body).hexdigest() != name:
            raise AssertionError(f"{name} was acknowledged and is damaged")


def main(seed: int, log_file: Path | None = None) -> str:
    """Run it all; the digest and the number of events, in one line."""
    weather = {"loss": 0.02, "duplication": 0.02, "reordering": 0.05}
    with World(seed, log_file=log_file, **weather) as world:  # type: ignore[arg-type]
        world.run(scenario(world))
        return f"{world.log.digest()} {world.log.events} {world.loop.time()!r}"


if __name__ == "__main__":
    print(main(int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))

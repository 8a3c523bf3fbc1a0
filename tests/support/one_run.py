"""A put, four kills and a get on twelve nodes in virtual time; prints the log's digest, or writes the log.

python tests/support/one_run.py SEED FOLDER [LOG]
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from town import Town

from potsherd.datasets import operations
from potsherd.datasets.home import Home
from potsherd.datasets.library import Library
from potsherd.datasets.operations import Context, PutOptions
from potsherd.simulations.world import World


def source_in(folder: Path) -> Path:
    """The same tree in every process: bytes, modes and times."""
    source = folder / "source"
    (source / "notes").mkdir(parents=True)
    (source / "trace.bin").write_bytes(hashlib.shake_256(b"trace").digest(1_500_000))
    for number in range(20):
        (source / "notes" / f"{number}.txt").write_bytes(b"note %d " % number * 40)
    for path in (*sorted(source.rglob("*")), source):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, ns=(10**18, 10**18))
    return source


async def scenario(town: Town, folder: Path, source: Path) -> None:
    """Store, kill the holders of four columns, read everything with a new client."""
    home = Home(folder / "home")
    home.networks.add(town.network.invitation.encode())
    session = await town.session(1)
    context = Context(session.env, home, home.networks.choose(None), session)
    await operations.put(context, [source], PutOptions(name="trace"))
    with Library(home.library_path) as library:
        capability = library.dataset("trace").newest.capability
    report = await operations.stat(context, capability)
    reading = await town.session(2)
    for shard in report.health.segments[0].shards:
        if shard.index < 4:
            town.crash(shard.key)
    context = Context(reading.env, home, home.networks.choose(None), reading)
    for path in ("trace.bin", "notes/7.txt"):
        pieces = [p async for p in operations.cat(context, capability, path.encode())]
        if b"".join(pieces) != (source / path).read_bytes():
            raise SystemExit(f"{path} came back different")
    await session.close()
    await reading.close()


def main(seed: int, folder: Path, log: str | None) -> None:
    """See the module's text."""
    source = source_in(folder)
    with World(seed, loss=0.01, log_file=Path(log) if log else None) as world:
        town = Town(world, 12)

        async def play() -> None:
            await town.start()
            await scenario(town, folder, source)

        world.run(play())
        print(world.log.digest())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)

"""SIGKILL at every step of receiving, moving, repairing and deleting: real processes, real disks.

After the next start nothing acknowledged is missing, nothing half-written is served, and the ledger equals the disk.
A few steps in the normal suite, all of them in the long one.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_support import COMMAND_TIMEOUT_S, Cli
from lab_support import LabCli, wait_for

from potsherd.node.real.env import real_env
from potsherd.node.store import ShardStore
from potsherd.node.store.ledger import INODE_BYTES

pytestmark = pytest.mark.slow

NODES, VICTIM = 4, 4
KILLER = Path(__file__).parent.parent / "support" / "killer"
LARGE, SMALL = 200_000, 20_000
"""Bytes of content: a shard in a file of its own, and one in the index."""
SEED = 11
CALM_LOOKS = 10
"""Seconds after which a victim that goes on with something else is let live, too."""


@dataclass
class Bench:
    """A fast lab, one of whose nodes is killed at chosen steps."""

    cli: LabCli
    folder: Path
    puts: int = 0

    @property
    def arm(self) -> Path:
        """Steps count while it exists."""
        return self.folder / "arm"

    @property
    def trace(self) -> Path:
        """One line for each step."""
        return self.folder / "trace"

    def start(self, at: str = "") -> None:
        """Start the victim anew; it dies at the step `at` once armed."""
        self.cli("lab", "kill", str(VICTIM))
        wait_for("it is dead", lambda: not self.alive)
        self.arm.unlink(missing_ok=True)
        self.trace.unlink(missing_ok=True)
        self.trace.touch()
        paths = os.pathsep.join([str(KILLER), os.environ.get("PYTHONPATH", "")])
        facts = {"KILLER_ARM": str(self.arm), "KILLER_TRACE": str(self.trace), "KILLER_AT": at}
        Cli(self.cli.home, PYTHONPATH=paths, **facts)("lab", "start", str(VICTIM))

    @property
    def alive(self) -> bool:
        """Whether the victim runs."""
        rows = self.cli("lab", "status", "--json").objects
        return any(row["node"] == VICTIM and row["state"] == "up" for row in rows)

    def put(self, size: int, *options: str) -> str:
        """A new dataset; its name."""
        self.puts += 1
        source = self.folder / f"d{self.puts}"
        source.write_bytes(random.Random(self.puts).randbytes(size))
        self.cli("put", source, "--k", "1", *options)
        return source.name

    def steps(self) -> list[str]:
        """What the victim has done since it was armed."""
        return self.trace.read_text().split()

    def disarm(self) -> list[str]:
        """The same once it does nothing more for a second; no step that comes later kills it."""
        for _ in range(CALM_LOOKS):
            steps = self.steps()
            time.sleep(1.0)
            if steps == self.steps():
                break
        self.arm.unlink(missing_ok=True)
        return self.steps()

    def check_disk(self) -> None:
        """On a copy of the victim's home, which is dead now: what a start finds, and the ledger."""
        copy = self.folder / "copy"
        home = self.cli.home / "lab" / f"node{VICTIM:02}" / "node"
        shutil.copytree(home, copy, ignore=shutil.ignore_patterns("run"))
        try:
            asyncio.run(_check_store(copy))
        finally:
            shutil.rmtree(copy)

    def pieces(self, name: str) -> list[dict[str, Any]]:
        """Every piece that a reader is told of, proven cell by cell or not live."""
        _, [segment] = self.cli.verify(name, "--deep")
        found: list[dict[str, Any]] = segment["pieces"]
        return found

    def live_pieces(self, name: str, indices: int) -> list[dict[str, Any]]:
        """These, if all are live and of so many indices; else nothing."""
        pieces = self.pieces(name)
        enough = len({piece["index"] for piece in pieces}) >= indices
        return pieces if enough and all(piece["live"] for piece in pieces) else []

    def check_pieces(self, name: str, indices: int, *, at_once: bool = True) -> None:
        """Every piece that any holder has signed for is proven, none twice on a node.

        Not `at_once`: holders find out from each other in seconds, and each verify asks others of them first.
        """
        if at_once:
            pieces = self.pieces(name)
        else:
            pieces = wait_for("all holders know", lambda: self.live_pieces(name, indices))
        assert [p for p in pieces if not p["live"]] == []
        assert len({p["key"] for p in pieces}) == len(pieces)
        assert len({p["index"] for p in pieces}) >= indices

    def revive(self) -> None:
        """Start the victim as everybody would."""
        self.check_disk()
        self.cli("lab", "start", str(VICTIM))


async def _check_store(folder: Path) -> None:
    env = real_env(folder)
    store = await ShardStore.open(env, 10**9)
    assert store.recovery.lost == ()
    files = [found for found in env.disk.walk("") if found[0].startswith(("shards/", "staging/"))]
    assert [path for path, _, _ in files if path.startswith("staging/")] == []
    assert store._ledger.files == sum(allocated + INODE_BYTES for _, _, allocated in files)
    assert store.usage().staged == 0
    for held in await store.segments(b"", 100):
        d = held.descriptor
        data, _ = await store.read(held.segment_id, held.index, [(0, d.rows)])
        assert len(data) == d.rows * d.cell_size
    await store.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A lab of four nodes."""
    cli = LabCli(tmp_path_factory.mktemp("home"))
    try:
        cli("lab", "up", "--nodes", str(NODES), "--fast", "--quota", "1GB")
        yield Bench(cli, tmp_path_factory.mktemp("work"))
    except BaseException:
        print(cli.logs())
        raise
    finally:
        cli("lab", "down")


def moments(steps: list[str]) -> list[str]:
    """Every step, before and after; the first write also half done."""
    found = [f"{n} {phase}" for n in range(1, len(steps) + 1) for phase in ("before", "after")]
    return found + [f"{n} half" for n, step in enumerate(steps, 1) if step == "write"]


def some(of: list[str], count: int) -> list[str]:
    """A few of them, the same in every run."""
    print(f"seed {SEED}, {count} of {len(of)}")
    return random.Random(SEED).sample(of, min(count, len(of)))


# --- receiving ------------------------------------------------------------------------------------


def receive(bench: Bench, at: str, size: int) -> list[str]:
    """A piece for every node comes in while the victim dies; three of four are enough for a put."""
    bench.start(at)
    bench.arm.touch()
    name = bench.put(size, "--n", str(NODES), "--r", "1")
    steps = bench.steps()
    if bench.alive:
        assert not at or len(steps) < int(at.split()[0])
        return steps
    bench.revive()
    bench.check_pieces(name, NODES - 1)
    return steps


@pytest.mark.timeout(600)
def test_receiving(bench: Bench) -> None:
    steps = receive(bench, "", LARGE)
    assert {"execute", "create", "write", "sync", "rename"} <= set(steps)
    for at in some(moments(steps), 2):
        receive(bench, at, LARGE)


@pytest.mark.nightly
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("size", [LARGE, SMALL])
def test_receiving_every_step(bench: Bench, size: int) -> None:
    for at in moments(receive(bench, "", size)):
        print(size, at)
        receive(bench, at, size)


def test_a_repair_that_is_asked_for_ends_when_nothing_is_missing(bench: Bench) -> None:
    """As soon as the holders have proven each other, which takes a minute or more with the timers of the service."""
    bench.cli("lab", "start")
    name = bench.put(SMALL, "--n", str(NODES))
    assert bench.cli("repair", name, "--json").object["complete"]


# --- moving and deleting --------------------------------------------------------------------------


def on_three(bench: Bench, without: int) -> str:
    """A dataset on all nodes but one, each with a piece."""
    bench.cli.donor(without)("node", "pause")
    name = bench.put(LARGE, "--n", str(NODES - 1), "--r", "2")
    bench.cli.donor(without)("node", "resume")
    return name


def move(bench: Bench, at: str) -> list[str]:
    """The victim leaves, its pieces go to the others and are deleted here; it dies on the way, and goes on."""
    bench.cli("lab", "start")
    name = on_three(bench, 1)
    victim = bench.cli.donor(VICTIM)
    before = bench.cli.node_status(VICTIM)["usage"]["shards"]
    assert before
    bench.start(at)
    bench.arm.touch()
    with victim.start("node", "leave", "--no-wait") as process:
        process.communicate(timeout=COMMAND_TIMEOUT_S)
    accepted = process.returncode == 0

    def ended() -> bool:
        status = bench.cli.node_status(VICTIM)
        leaving = status.get("leaving", {})
        return not status or leaving["safe"] or leaving["stuck"] == leaving["left_shards"]

    def leaves() -> bool:
        """Also when it died after writing it down, and before it could say so."""
        return bool(bench.cli.node_status(VICTIM)["leaving"]["mode"])

    wait_for("it has left, or died", ended)
    # It lets go of the last piece after it has said that it may be switched off.
    steps = bench.disarm()
    if not bench.alive:
        bench.revive()
        assert leaves() or not accepted
        if leaves():
            wait_for("it has left", ended)
    # It tells the others after it has let go. Where it died in between they find out by themselves, in seconds.
    bench.check_pieces(name, NODES - 1, at_once=False)
    victim("node", "resume")
    return steps


@pytest.mark.nightly
@pytest.mark.timeout(3000)
def test_moving_and_deleting(bench: Bench) -> None:
    steps = move(bench, "")
    assert "remove" in steps
    for at in some(moments(steps), 24):
        print(at)
        move(bench, at)


# --- repairing ------------------------------------------------------------------------------------


def repaired(bench: Bench, at: str, dead: int) -> list[str]:
    """A holder is lost, the victim gets its piece, dies on the way, and gets it again."""
    bench.cli("lab", "start")
    bench.cli.donor(VICTIM)("node", "pause")
    name = bench.put(LARGE, "--n", str(NODES - 1), "--r", str(NODES - 1))
    bench.cli.donor(VICTIM)("node", "resume")
    bench.start(at)
    bench.arm.touch()
    bench.cli("lab", "kill", str(dead))

    def whole() -> bool:
        return not bench.alive or len(bench.cli.holders(name)) == NODES - 1

    wait_for("it is repaired, or the victim has died", whole)
    steps = bench.disarm()
    if not bench.alive:
        bench.revive()
        wait_for("it is repaired", lambda: len(bench.cli.holders(name)) == NODES - 1)
    bench.cli("lab", "start", str(dead))

    def trimmed() -> bool:
        _, [segment] = bench.cli.verify(name, "--deep")
        indices = sorted(piece["index"] for piece in segment["pieces"])
        return indices == list(range(NODES - 1)) and all(p["live"] for p in segment["pieces"])

    wait_for("one of two copies is dropped, and all holders know", trimmed)
    bench.check_pieces(name, NODES - 1, at_once=False)
    return steps


@pytest.mark.nightly
@pytest.mark.timeout(3000)
def test_repairing_and_trimming(bench: Bench) -> None:
    steps = repaired(bench, "", 1)
    for number, at in enumerate(some(moments(steps[:40]), 6)):
        print(at)
        repaired(bench, at, 1 + number % 3)
